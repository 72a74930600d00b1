//! Operator and agents on a real control plane: each test has a namespace of its own on a shared kube-apiserver.
//!
//! `make test-apiserver` brings the servers and the built programs.

mod chart;
mod control_plane;
mod converge;
mod crds;
mod failures;
mod files_and_hosts;
mod grants;
mod leader;
mod lifecycle;
mod outages;
mod placement;
mod stage;
