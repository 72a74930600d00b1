//! `samovar` without a cluster: the built program, real files, real HTTP.
//!
//! `make test-standalone` brings the built program.

mod cache;
mod commands;
mod examples;
mod forms;
mod grants;
mod http;
mod https;
mod limits;
mod run;

use samovar_testbed::server;
