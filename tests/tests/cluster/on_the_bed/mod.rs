//! Tests that need control of the cluster itself: its nodes, its servers, its audit log.

mod helm;
mod memory;
mod nodes;
mod outages;
mod privileges;
mod restore;
