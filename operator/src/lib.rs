//! The operator: decides which revision runs on which agent, and says what is true.
//!
//! [`run`] wires one controller; its reconcile is a row of steps, one file each. Observing reads caches that watches fill.
//! Contents reads ConfigMaps and Secrets from the API server, and resolving asks registries. Applying and the status
//! write to the API server. The other steps, validating, placing and building, need no client.

mod apply;
mod build;
mod contents;
mod events;
mod leader;
mod observe;
pub mod options;
mod place;
mod reconcile;
mod resolve;
mod revision;
pub mod run;
mod status;
mod validate;
