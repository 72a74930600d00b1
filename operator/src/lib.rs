//! The operator: decides which revision runs on which agent, and reports the status.
//!
//! [`run`] wires one controller; its reconcile is a row of steps, one file each. Observe reads caches that watches
//! fill. Contents reads ConfigMaps and Secrets from the API server, and resolve asks registries. Apply and status
//! write to the API server. Validate, place and build need no client.

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
