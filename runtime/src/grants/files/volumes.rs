//! The file system of one instance: a volume for each mount, and the open handles.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::{
    FileError, FilesGrant,
    path::{OpenAction, OpenOptions},
    space::Space,
    tree::{Entry, NodeId, NodeKind, ROOT, Stat, Tree},
};
use crate::Reservation;

/// The most open handles of an instance: descriptors, streams and listings together.
const HANDLES: usize = 1024;

/// The bytes of a handle in the host, including its entry in the guest's table.
const HANDLE_BYTES: u64 = 256;

/// The file system of one instance. Clones share it.
#[derive(Clone)]
pub(crate) struct FileSystem {
    state: Arc<Mutex<State>>,
}

struct State {
    volumes: Vec<Volume>,
    handles: usize,
    /// The handles for which memory is reserved: the most that were ever open.
    reserved_handles: usize,
    reservation: Arc<Reservation>,
}

enum Volume {
    /// A tree that all instances of a plugin share. Nothing can change it, since an `Arc` gives no `&mut Tree`.
    ReadOnly(Arc<Tree>),
    Scratch {
        tree: Tree,
        size_limit: u64,
    },
}

/// An open file or directory, which keeps its node until it is dropped.
pub(super) struct Handle {
    files: FileSystem,
    volume: usize,
    node: NodeId,
}

impl FileSystem {
    /// The mounts of a grant, with empty scratch folders. Reservations in the budget of `reservation` grow with them.
    pub(crate) fn new(grant: &FilesGrant, reservation: &Arc<Reservation>) -> Self {
        let volumes = grant.mounts().map(|(_, content)| match content {
            super::Content::ReadOnly(tree) => Volume::ReadOnly(Arc::clone(tree)),
            super::Content::Scratch { size_limit } => Volume::scratch(*size_limit, reservation, 0),
        });
        let volumes: Vec<_> = volumes.collect();
        // One handle on each mount is part of the memory that every instance reserves.
        let reserved_handles = volumes.len();
        let state = State { volumes, handles: 0, reserved_handles, reservation: Arc::clone(reservation) };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Empties the scratch folders. Handles on their files fail from then on.
    pub(crate) fn empty_scratch(&self) {
        let mut state = self.lock();
        let State { volumes, reservation, .. } = &mut *state;
        for volume in volumes {
            if let Volume::Scratch { tree, size_limit } = volume {
                *volume = Volume::scratch(*size_limit, reservation, tree.next());
            }
        }
    }

    /// The directory of each mount, in the order of the grant.
    pub(super) fn roots(&self) -> Result<Vec<Handle>, FileError> {
        let count = self.lock().volumes.len();
        // Locks for each handle: after a refusal those before it are dropped, and that locks too.
        (0..count).map(|volume| self.handle(&mut self.lock(), volume, ROOT)).collect()
    }

    fn handle(&self, state: &mut State, volume: usize, node: NodeId) -> Result<Handle, FileError> {
        if state.handles >= HANDLES {
            return Err(FileError::TooManyOpen);
        }
        if state.handles == state.reserved_handles {
            state.reservation.try_grow(HANDLE_BYTES).map_err(|_| FileError::NodeMemory)?;
            state.reserved_handles += 1;
        }
        if let Volume::Scratch { tree, .. } = &mut state.volumes[volume] {
            tree.acquire(node)?;
        }
        state.handles += 1;
        Ok(Handle { files: self.clone(), volume, node })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    fn scratch(size_limit: u64, reservation: &Reservation, next: NodeId) -> Self {
        Self::Scratch {
            tree: Tree::new(Space::limited(size_limit, reservation.new_empty()), next),
            size_limit,
        }
    }

    fn tree(&self) -> &Tree {
        match self {
            Self::ReadOnly(tree) => tree,
            Self::Scratch { tree, .. } => tree,
        }
    }

    fn tree_mut(&mut self) -> Result<&mut Tree, FileError> {
        match self {
            Self::ReadOnly(_) => Err(FileError::ReadOnly),
            Self::Scratch { tree, .. } => Ok(tree),
        }
    }
}

impl Handle {
    fn with_tree<T>(&self, look: impl FnOnce(&Tree) -> Result<T, FileError>) -> Result<T, FileError> {
        look(self.files.lock().volumes[self.volume].tree())
    }

    fn with_tree_mut<T>(
        &self,
        change: impl FnOnce(&mut Tree) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        change(self.files.lock().volumes[self.volume].tree_mut()?)
    }

    /// Another handle on the same node.
    pub(super) fn try_clone(&self) -> Result<Self, FileError> {
        self.files.handle(&mut self.files.lock(), self.volume, self.node)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.volume, self.node) == (other.volume, other.node)
    }

    /// The index of the mount.
    pub(super) fn volume(&self) -> usize {
        self.volume
    }

    pub(super) fn kind(&self) -> Result<NodeKind, FileError> {
        self.with_tree(|tree| tree.kind(self.node))
    }

    pub(super) fn stat(&self) -> Result<Stat, FileError> {
        self.with_tree(|tree| tree.stat(self.node))
    }

    /// The metadata, unless it is a directory.
    pub(super) fn file_stat(&self) -> Result<Stat, FileError> {
        let stat = self.stat()?;
        if stat.kind == NodeKind::Directory { Err(FileError::IsDirectory) } else { Ok(stat) }
    }

    pub(super) fn stat_at(&self, path: &str, follow: bool) -> Result<Stat, FileError> {
        self.with_tree(|tree| tree.stat(tree.find(self.node, path, follow)?))
    }

    pub(super) fn is_read_only(&self) -> bool {
        matches!(self.files.lock().volumes[self.volume], Volume::ReadOnly(_))
    }

    pub(super) fn open_at(&self, path: &str, options: OpenOptions) -> Result<Self, FileError> {
        let mut state = self.files.lock();
        let volume = &mut state.volumes[self.volume];
        let node = match volume.tree().open_action(self.node, path, options)? {
            OpenAction::Node(node) => {
                if options.write {
                    volume.tree_mut()?;
                }
                node
            }
            OpenAction::Truncate(node) => {
                volume.tree_mut()?.set_size(node, 0)?;
                node
            }
            OpenAction::Create(parent, name) => {
                let name = name.to_owned();
                volume.tree_mut()?.make_file(parent, &name)?
            }
        };
        self.files.handle(&mut state, self.volume, node)
    }

    /// Reads from an offset as many bytes as there are and fit into the buffer.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
        self.with_tree(|tree| {
            let content = tree.content(self.node)?;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
            let count = buffer.len().min(content.len() - from);
            buffer[..count].copy_from_slice(&content[from..from + count]);
            Ok(count)
        })
    }

    /// Writes at an offset, or at the end with `None`; returns the number of bytes and the offset after them.
    pub(super) fn write(&self, offset: Option<u64>, bytes: &[u8]) -> Result<(usize, u64), FileError> {
        self.with_tree_mut(|tree| {
            let offset =
                offset.map_or_else(|| tree.content(self.node).map(|content| content.len() as u64), Ok)?;
            let count = tree.write(self.node, offset, bytes)?;
            Ok((count, offset.saturating_add(count as u64)))
        })
    }

    pub(super) fn set_size(&self, size: u64) -> Result<(), FileError> {
        self.with_tree_mut(|tree| tree.set_size(self.node, size))
    }

    pub(super) fn set_times(
        &self,
        accessed: Option<SystemTime>,
        modified: Option<SystemTime>,
    ) -> Result<(), FileError> {
        self.with_tree_mut(|tree| tree.set_times(self.node, accessed, modified))
    }

    pub(super) fn set_times_at(
        &self,
        path: &str,
        follow: bool,
        accessed: Option<SystemTime>,
        modified: Option<SystemTime>,
    ) -> Result<(), FileError> {
        self.with_tree_mut(|tree| tree.set_times(tree.find(self.node, path, follow)?, accessed, modified))
    }

    /// The entry of this directory after a cookie; 0 stands before the first.
    pub(super) fn entry(&self, cookie: u64) -> Result<Option<Entry>, FileError> {
        self.with_tree(|tree| tree.entry(self.node, cookie))
    }

    pub(super) fn create_directory_at(&self, path: &str) -> Result<(), FileError> {
        self.with_tree_mut(|tree| tree.create_directory(self.node, path))
    }

    pub(super) fn remove_directory_at(&self, path: &str) -> Result<(), FileError> {
        self.with_tree_mut(|tree| tree.remove_directory(self.node, path))
    }

    pub(super) fn unlink_file_at(&self, path: &str) -> Result<(), FileError> {
        self.with_tree_mut(|tree| tree.unlink_file(self.node, path))
    }

    pub(super) fn symlink_at(&self, target: &str, path: &str) -> Result<(), FileError> {
        self.with_tree_mut(|tree| tree.create_symlink(target, self.node, path))
    }

    pub(super) fn read_link_at(&self, path: &str) -> Result<String, FileError> {
        self.with_tree(|tree| tree.read_link(self.node, path))
    }

    pub(super) fn rename_at(&self, path: &str, to: &Self, to_path: &str) -> Result<(), FileError> {
        if self.volume != to.volume {
            return Err(FileError::CrossDevice);
        }
        self.with_tree_mut(|tree| tree.move_to(self.node, path, to.node, to_path))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.files.lock();
        state.handles -= 1;
        if let Volume::Scratch { tree, .. } = &mut state.volumes[self.volume] {
            tree.release(self.node);
        }
    }
}
