//! Files: what a guest finds in its file system.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;

/// A folder in a guest's file system.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where the guest finds it, absolute: `/words`.
    pub path: String,
    /// What is in it.
    pub source: MountSource,
}

/// What is in a mounted folder.
#[derive(Clone)]
pub enum MountSource {
    /// Files that can be read and not changed, by name. They may be secrets, and are in memory only.
    ReadOnly(Arc<BTreeMap<String, Bytes>>),
    /// Nothing at first: each instance has a folder of its own to write in.
    Scratch {
        /// The most bytes that it may hold.
        size_limit: u64,
    },
}

/// Without the contents, which are nobody's to log.
impl fmt::Debug for MountSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnly(files) => f.debug_set().entries(files.keys()).finish(),
            Self::Scratch { size_limit } => {
                f.debug_struct("Scratch").field("size_limit", size_limit).finish()
            }
        }
    }
}
