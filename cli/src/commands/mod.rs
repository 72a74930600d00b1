//! The subcommands, one file each.

pub(crate) mod completion;
pub(crate) mod crds;
pub(crate) mod inspect;
pub(crate) mod invoke;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod run;
pub(crate) mod validate;
