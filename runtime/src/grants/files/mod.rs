//! The grant of files: a file system in memory, with no path of the host behind it.

mod descriptors;
mod error;
mod path;
mod preview1;
mod space;
mod streams;
mod tree;
mod volumes;
mod wasi;

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;

use self::{
    error::FileError,
    space::Space,
    tree::{NAME_BYTES, PATH_BYTES, ROOT, Tree},
};

pub(crate) use preview1::Preview1;
pub(crate) use volumes::FileSystem;
pub(crate) use wasi::{FilesView, add_to_linker};

/// The largest size limit of a scratch folder, in bytes.
const SCRATCH_BYTES: u64 = 1 << 30;

/// The most mounts of one plugin.
const MOUNTS: usize = 64;

/// The mounts of a plugin's guests; none by default.
#[derive(Clone, Debug, Default)]
pub struct FilesGrant {
    mounts: Arc<[(String, Content)]>,
}

/// A folder in a guest's file system.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The absolute path of the folder: `/words`.
    pub path: String,
    /// Its content.
    pub source: MountSource,
}

/// The content of a mount.
#[derive(Clone)]
pub enum MountSource {
    /// Read-only files by name. They may be secrets, and are in memory only.
    ReadOnly(Arc<BTreeMap<String, Bytes>>),
    /// A writable folder of the instance's own, empty at the start of each call.
    Scratch {
        /// The most bytes of its files, their names and its nodes.
        size_limit: u64,
    },
}

/// Mounts that no guest can have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMount {
    /// The path is not absolute, or has an empty part, `.` or `..` in it.
    #[error(
        "`{0}` is not a valid mount path: use an absolute path below `/` without `.`, `..` and empty parts, as in `/words`"
    )]
    Path(String),
    /// One mount is inside another.
    #[error("the mount `{inner}` is inside the mount `{outer}`: mount them beside each other")]
    Nested {
        /// The path of the mount inside.
        inner: String,
        /// The path of the mount around it, or the same path.
        outer: String,
    },
    /// A file's name is not valid.
    #[error(
        "`{name}` is not a valid file name in the mount `{path}`: use 1 to 255 bytes without `/` and NUL, and neither `.` nor `..`"
    )]
    FileName {
        /// The path of the mount.
        path: String,
        /// The file's name.
        name: String,
    },
    /// The size limit of a scratch folder is too large.
    #[error(
        "the size limit of the scratch folder `{0}` exceeds 1Gi, and the folder is in memory: lower the limit"
    )]
    Scratch(String),
    /// There are too many mounts.
    #[error("the plugin has more than {MOUNTS} mounts: put more files into fewer mounts")]
    TooMany,
}

#[derive(Clone)]
enum Content {
    ReadOnly(Arc<Tree>),
    Scratch { size_limit: u64 },
}

impl FilesGrant {
    /// A grant of these mounts.
    pub fn new(mounts: &[Mount]) -> Result<Self, InvalidMount> {
        if mounts.len() > MOUNTS {
            return Err(InvalidMount::TooMany);
        }
        for (at, Mount { path, .. }) in mounts.iter().enumerate() {
            let parts = path.strip_prefix('/').map(|parts| parts.split('/'));
            if path.len() > PATH_BYTES || !parts.is_some_and(|mut parts| parts.all(is_file_name)) {
                return Err(InvalidMount::Path(path.clone()));
            }
            for Mount { path: other, .. } in &mounts[..at] {
                let (inner, outer) = if path.len() < other.len() { (other, path) } else { (path, other) };
                if inner
                    .strip_prefix(outer.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                {
                    return Err(InvalidMount::Nested { inner: inner.clone(), outer: outer.clone() });
                }
            }
        }
        mounts
            .iter()
            .map(|mount| Ok((mount.path.clone(), Content::new(mount)?)))
            .collect::<Result<_, _>>()
            .map(|mounts: Vec<_>| Self { mounts: mounts.into() })
    }

    /// Returns `true` if there is no mount.
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }

    /// The bytes of the read-only mounts in memory, which all instances share.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = |content: &Content| match content {
            Content::ReadOnly(tree) => tree.used(),
            Content::Scratch { .. } => 0,
        };
        self.mounts().map(|(_, content)| bytes(content)).sum()
    }

    fn mounts(&self) -> impl Iterator<Item = (&str, &Content)> {
        self.mounts.iter().map(|(path, content)| (path.as_str(), content))
    }
}

impl Content {
    fn new(Mount { path, source }: &Mount) -> Result<Self, InvalidMount> {
        let files = match source {
            MountSource::ReadOnly(files) => files,
            &MountSource::Scratch { size_limit } if size_limit > SCRATCH_BYTES => {
                return Err(InvalidMount::Scratch(path.clone()));
            }
            &MountSource::Scratch { size_limit } => return Ok(Self::Scratch { size_limit }),
        };
        let mut tree = Tree::new(Space::unlimited(), 0);
        for (name, content) in &**files {
            let written = Some(name).filter(|name| is_file_name(name)).and_then(|name| {
                let file = tree.make_file(ROOT, name).ok()?;
                tree.write(file, 0, content).ok()
            });
            written.ok_or_else(|| InvalidMount::FileName { path: path.clone(), name: name.clone() })?;
        }
        Ok(Self::ReadOnly(Arc::new(tree)))
    }
}

fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES && !name.contains(['/', '\0'])
}

/// Omits the contents, which may be secrets and must not reach a log.
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

/// Omits the contents, as that of [`MountSource`] does.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnly(_) => f.write_str("ReadOnly"),
            Self::Scratch { size_limit } => {
                f.debug_struct("Scratch").field("size_limit", size_limit).finish()
            }
        }
    }
}
