//! Samovar on a whole Kubernetes: installed with Helm, on real nodes.
//!
//! `make test-cluster` brings the cluster and the built programs. Tests on a [`stage::Stage`] run in parallel; those
//! on a [`stage::Alone`] change the cluster itself, and run alone.

mod commands;
mod on_the_bed;
mod serving;
mod stage;
mod tenants;
