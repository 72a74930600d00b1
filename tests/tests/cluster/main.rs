//! Samovar on a whole Kubernetes: installed by Helm, on real nodes.
//!
//! `make test-cluster` brings the cluster and the built programs. Tests that ask for a [`stage::Stage`] run beside
//! each other; those that change the cluster itself have it for themselves.

mod commands;
mod on_the_bed;
mod serving;
mod stage;
mod tenants;
