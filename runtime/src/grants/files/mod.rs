//! Files: what a guest finds in its file system, which is in memory only and has no path of the host behind it.

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

/// The most that a scratch folder may hold, in bytes.
const SCRATCH_BYTES: u64 = 1 << 30;

/// The most mounts of one plugin.
const MOUNTS: usize = 64;

/// What the guests of a plugin find in their file system; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct FilesGrant {
    mounts: Arc<[(String, Content)]>,
}

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
    /// Nothing at the start of each call: a folder of its own to write in.
    Scratch {
        /// The most bytes that it may hold.
        size_limit: u64,
    },
}

/// What cannot be mounted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMount {
    /// It is no path that a mount can have.
    #[error(
        "`{0}` cannot be mounted: give an absolute path below `/`, without `.`, `..` and empty parts, as in `/words`"
    )]
    Path(String),
    /// One mount is in another.
    #[error("`{inner}` is inside `{outer}`: mount them beside each other")]
    Nested {
        /// The one inside.
        inner: String,
        /// The one around it, or the same.
        outer: String,
    },
    /// It is no name that a file can have.
    #[error(
        "a file of `{path}` cannot be called `{name}`: a name has 1 to 255 bytes and no `/`, and is not `.` or `..`"
    )]
    FileName {
        /// The mount.
        path: String,
        /// The file's name.
        name: String,
    },
    /// Its limit is more than a scratch folder can have.
    #[error("the scratch folder `{0}` may hold at most 1Gi, for it is in memory: lower its size limit")]
    Scratch(String),
    /// There are too many.
    #[error("a plugin can have at most {MOUNTS} mounts: put more files into fewer of them")]
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

    /// Whether nothing was granted.
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }

    /// What its read-only mounts take in memory, once for all instances.
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
            let made = Some(name).filter(|name| is_file_name(name)).and_then(|name| {
                let file = tree.make_file(ROOT, name).ok()?;
                tree.write(file, 0, content).ok()
            });
            made.ok_or_else(|| InvalidMount::FileName { path: path.clone(), name: name.clone() })?;
        }
        Ok(Self::ReadOnly(Arc::new(tree)))
    }
}

fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES && !name.contains(['/', '\0'])
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

/// The same.
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
