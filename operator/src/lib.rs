//! The operator: decides which revision runs on which agent, and says what is true.
//!
//! [`run`] wires one controller; its reconcile is a row of steps, one file each. Only the first and the last of
//! them speak to the API server.

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
pub mod run;
mod status;
mod validate;
