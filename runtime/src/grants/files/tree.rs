//! A tree of files, directories and symbolic links in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use super::{FileError, space::Space};

/// The number of a node. It is never reused, so the number of a removed node names nothing.
pub(super) type NodeId = u64;

/// The root directory of every tree. The cookies of `.` and `..` are less, the numbers of all other nodes greater.
pub(super) const ROOT: NodeId = 2;

/// The bytes that each node counts beside its content and its name: no less than it takes in the host.
pub(super) const NODE_BYTES: u64 = 1 << 10;

/// The longest name and the longest path, in bytes.
pub(super) const NAME_BYTES: usize = 255;
pub(super) const PATH_BYTES: usize = 4096;

/// Files, directories and symbolic links. Only the owner of a tree can change it.
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
    space: Space,
}

struct Node {
    parent: NodeId,
    name: Arc<str>,
    kind: Kind,
    accessed: SystemTime,
    modified: SystemTime,
    /// Set while a directory has an entry for the node. A node without one is removed with its last handle.
    linked: bool,
    handles: u32,
}

enum Kind {
    Directory(Directory),
    File(Vec<u8>),
    Symlink(Box<str>),
}

/// Entries by name, and in the order in which their nodes were created: a listing that continues after some were removed
/// neither repeats nor skips any.
#[derive(Default)]
struct Directory {
    names: BTreeMap<Arc<str>, NodeId>,
    in_order: BTreeSet<NodeId>,
}

/// The kind of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeKind {
    Directory,
    File,
    Symlink,
}

/// The metadata of a node.
pub(super) struct Stat {
    pub(super) id: NodeId,
    pub(super) kind: NodeKind,
    pub(super) size: u64,
    pub(super) links: u64,
    pub(super) accessed: SystemTime,
    pub(super) modified: SystemTime,
}

/// An entry of a directory.
pub(super) struct Entry {
    /// The position in the listing after this entry.
    pub(super) cookie: u64,
    pub(super) id: NodeId,
    pub(super) kind: NodeKind,
    pub(super) name: Arc<str>,
}

impl Tree {
    /// An empty tree, whose nodes are numbered from `next` on.
    pub(super) fn new(space: Space, next: NodeId) -> Self {
        let root = Node::new(ROOT, "".into(), Kind::Directory(Directory::default()));
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: next.max(ROOT + 1), space }
    }

    /// The bytes that its files, their names and its nodes count.
    pub(super) fn used(&self) -> u64 {
        self.space.used()
    }

    /// The number of the next node.
    pub(super) fn next(&self) -> NodeId {
        self.next
    }

    fn node(&self, id: NodeId) -> Result<&Node, FileError> {
        self.nodes.get(&id).ok_or(FileError::BadDescriptor)
    }

    fn node_mut(&mut self, id: NodeId) -> Result<&mut Node, FileError> {
        self.nodes.get_mut(&id).ok_or(FileError::BadDescriptor)
    }

    fn directory(&self, id: NodeId) -> Result<&Directory, FileError> {
        match &self.node(id)?.kind {
            Kind::Directory(directory) => Ok(directory),
            Kind::File(_) | Kind::Symlink(_) => Err(FileError::NotDirectory),
        }
    }

    /// The node of this name, if there is one.
    pub(super) fn child(&self, directory: NodeId, name: &str) -> Result<Option<NodeId>, FileError> {
        Ok(self.directory(directory)?.names.get(name).copied())
    }

    pub(super) fn kind(&self, id: NodeId) -> Result<NodeKind, FileError> {
        Ok(self.node(id)?.kind.node_kind())
    }

    /// The target of a symbolic link; `None` for other nodes.
    pub(super) fn target(&self, id: NodeId) -> Result<Option<&str>, FileError> {
        match &self.node(id)?.kind {
            Kind::Symlink(target) => Ok(Some(target)),
            Kind::Directory(_) | Kind::File(_) => Ok(None),
        }
    }

    pub(super) fn stat(&self, id: NodeId) -> Result<Stat, FileError> {
        let node = self.node(id)?;
        let size = match &node.kind {
            Kind::Directory(_) => 0,
            Kind::File(content) => content.len() as u64,
            Kind::Symlink(target) => target.len() as u64,
        };
        let &Node { accessed, modified, linked, .. } = node;
        Ok(Stat { id, kind: node.kind.node_kind(), size, links: linked.into(), accessed, modified })
    }

    /// The bytes of a file.
    pub(super) fn content(&self, id: NodeId) -> Result<&[u8], FileError> {
        match &self.node(id)?.kind {
            Kind::File(content) => Ok(content),
            Kind::Directory(_) => Err(FileError::IsDirectory),
            Kind::Symlink(_) => Err(FileError::Loop),
        }
    }

    /// The entry after a cookie; 0 stands before the first. `.` and `..` come first.
    pub(super) fn entry(&self, id: NodeId, cookie: u64) -> Result<Option<Entry>, FileError> {
        let directory = self.directory(id)?;
        if cookie < ROOT {
            let (name, of) = if cookie == 0 { (".", id) } else { ("..", self.node(id)?.parent) };
            let entry = Entry { cookie: cookie + 1, id: of, kind: NodeKind::Directory, name: name.into() };
            return Ok(Some(entry));
        }
        let Some(&id) = cookie.checked_add(1).and_then(|from| directory.in_order.range(from..).next()) else {
            return Ok(None);
        };
        let node = self.node(id)?;
        Ok(Some(Entry { cookie: id, id, kind: node.kind.node_kind(), name: Arc::clone(&node.name) }))
    }

    /// Returns `true` if `id` is `directory` or below it.
    pub(super) fn is_within(&self, mut id: NodeId, directory: NodeId) -> Result<bool, FileError> {
        while id != directory {
            if id == ROOT {
                return Ok(false);
            }
            id = self.node(id)?.parent;
        }
        Ok(true)
    }
}

impl Tree {
    /// Creates an empty file.
    pub(super) fn make_file(&mut self, parent: NodeId, name: &str) -> Result<NodeId, FileError> {
        self.make(parent, name, Kind::File(Vec::new()))
    }

    /// Creates an empty directory.
    pub(super) fn make_directory(&mut self, parent: NodeId, name: &str) -> Result<NodeId, FileError> {
        self.make(parent, name, Kind::Directory(Directory::default()))
    }

    /// Creates a symbolic link.
    pub(super) fn make_symlink(
        &mut self,
        parent: NodeId,
        name: &str,
        target: &str,
    ) -> Result<NodeId, FileError> {
        self.make(parent, name, Kind::Symlink(target.into()))
    }

    fn make(&mut self, parent: NodeId, name: &str, kind: Kind) -> Result<NodeId, FileError> {
        if self.directory(parent)?.names.contains_key(name) {
            return Err(FileError::Exist);
        }
        if !self.node(parent)?.linked {
            return Err(FileError::NoEntry);
        }
        let name = Arc::<str>::from(name);
        let bytes = NODE_BYTES + name.len() as u64 + kind.fixed_bytes();
        self.space.try_grow(bytes, bytes)?;
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, Node::new(parent, Arc::clone(&name), kind));
        self.link(parent, name, id)?;
        Ok(id)
    }

    /// Removes a node from its directory. Open handles keep it.
    pub(super) fn remove(&mut self, id: NodeId) -> Result<(), FileError> {
        self.unlink(id)?;
        self.node_mut(id)?.linked = false;
        self.remove_unused(id);
        Ok(())
    }

    /// Renames a node, or moves it to another directory, and replaces the node that has the name there.
    pub(super) fn rename(&mut self, id: NodeId, parent: NodeId, name: &str) -> Result<(), FileError> {
        if !self.node(parent)?.linked {
            return Err(FileError::NoEntry);
        }
        let (name, before) = (Arc::<str>::from(name), self.node(id)?.name.len());
        // Only the difference is added, so files in a full folder can be renamed.
        let added = name.len().saturating_sub(before) as u64;
        self.space.try_grow(added, added)?;
        let removed = before.saturating_sub(name.len()) as u64;
        self.space.shrink(removed, removed);
        if let Some(replaced) = self.child(parent, &name)? {
            self.remove(replaced)?;
        }
        self.unlink(id)?;
        let node = self.node_mut(id)?;
        (node.parent, node.name) = (parent, Arc::clone(&name));
        self.link(parent, name, id)
    }

    fn link(&mut self, parent: NodeId, name: Arc<str>, id: NodeId) -> Result<(), FileError> {
        let parent = self.node_mut(parent)?;
        parent.modified = SystemTime::now();
        let Kind::Directory(directory) = &mut parent.kind else { return Err(FileError::NotDirectory) };
        directory.names.insert(name, id);
        directory.in_order.insert(id);
        Ok(())
    }

    fn unlink(&mut self, id: NodeId) -> Result<(), FileError> {
        let node = self.node(id)?;
        let (parent, name) = (node.parent, Arc::clone(&node.name));
        let parent = self.node_mut(parent)?;
        parent.modified = SystemTime::now();
        let Kind::Directory(directory) = &mut parent.kind else { return Err(FileError::NotDirectory) };
        directory.names.remove(&name);
        directory.in_order.remove(&id);
        Ok(())
    }

    /// Writes as many of the bytes as there is space for. Space for none is an error, unless `bytes` is empty.
    pub(super) fn write(&mut self, id: NodeId, offset: u64, bytes: &[u8]) -> Result<usize, FileError> {
        let remaining = self.space.remaining();
        let (content, space) = self.content_mut(id)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let offset = usize::try_from(offset).map_err(|_| FileError::FileTooLarge)?;
        let most = content.len().saturating_add(usize::try_from(remaining).unwrap_or(usize::MAX));
        let end = offset.checked_add(bytes.len()).ok_or(FileError::FileTooLarge)?.min(most);
        let bytes = &bytes[..end.checked_sub(offset).filter(|&fit| fit > 0).ok_or(FileError::NoSpace)?];
        if end > content.len() {
            space.extend(content, end)?;
        }
        content[offset..end].copy_from_slice(bytes);
        self.node_mut(id)?.modified = SystemTime::now();
        Ok(bytes.len())
    }

    /// Truncates a file, or extends it with zeros.
    pub(super) fn set_size(&mut self, id: NodeId, size: u64) -> Result<(), FileError> {
        let size = usize::try_from(size).map_err(|_| FileError::FileTooLarge)?;
        let (content, space) = self.content_mut(id)?;
        if size > content.len() {
            space.extend(content, size)?;
        } else {
            space.truncate(content, size);
        }
        self.node_mut(id)?.modified = SystemTime::now();
        Ok(())
    }

    fn content_mut(&mut self, id: NodeId) -> Result<(&mut Vec<u8>, &mut Space), FileError> {
        let Self { nodes, space, .. } = self;
        match &mut nodes.get_mut(&id).ok_or(FileError::BadDescriptor)?.kind {
            Kind::File(content) => Ok((content, space)),
            Kind::Directory(_) => Err(FileError::IsDirectory),
            Kind::Symlink(_) => Err(FileError::Loop),
        }
    }

    /// Sets each time that is `Some`.
    pub(super) fn set_times(
        &mut self,
        id: NodeId,
        accessed: Option<SystemTime>,
        modified: Option<SystemTime>,
    ) -> Result<(), FileError> {
        let node = self.node_mut(id)?;
        node.accessed = accessed.unwrap_or(node.accessed);
        node.modified = modified.unwrap_or(node.modified);
        Ok(())
    }

    /// Counts one handle more on a node.
    pub(super) fn acquire(&mut self, id: NodeId) -> Result<(), FileError> {
        self.node_mut(id)?.handles += 1;
        Ok(())
    }

    /// Counts one handle less on a node, unless the node is removed.
    pub(super) fn release(&mut self, id: NodeId) {
        if let Ok(node) = self.node_mut(id) {
            // The root of a new tree has not counted the handles on the root that it replaced.
            node.handles = node.handles.saturating_sub(1);
            self.remove_unused(id);
        }
    }

    fn remove_unused(&mut self, id: NodeId) {
        let unused = self.nodes.get(&id).is_some_and(|node| !node.linked && node.handles == 0);
        if unused && let Some(node) = self.nodes.remove(&id) {
            let fixed = NODE_BYTES + node.name.len() as u64 + node.kind.fixed_bytes();
            self.space.shrink(fixed, fixed);
            if let Kind::File(mut content) = node.kind {
                self.space.truncate(&mut content, 0);
            }
        }
    }
}

impl Node {
    fn new(parent: NodeId, name: Arc<str>, kind: Kind) -> Self {
        let now = SystemTime::now();
        Self { parent, name, kind, accessed: now, modified: now, linked: true, handles: 0 }
    }
}

impl Kind {
    fn node_kind(&self) -> NodeKind {
        match self {
            Self::Directory(_) => NodeKind::Directory,
            Self::File(_) => NodeKind::File,
            Self::Symlink(_) => NodeKind::Symlink,
        }
    }

    /// The bytes that it has from its creation to its removal.
    fn fixed_bytes(&self) -> u64 {
        match self {
            Self::Symlink(target) => target.len() as u64,
            Self::Directory(_) | Self::File(_) => 0,
        }
    }
}
