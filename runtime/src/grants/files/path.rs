//! Path resolution: from a directory and a path to a node, and never above that directory.

use super::{
    FileError,
    tree::{NAME_BYTES, NodeId, NodeKind, PATH_BYTES, ROOT, Tree},
};

/// The most symbolic links in the resolution of one path.
const MAX_SYMLINKS: u32 = 40;

/// The result of resolving a path.
pub(super) struct Resolved<'p> {
    /// The directory and the name in it; `None` if the path ends in `.`, `..` or nothing.
    entry: Option<(NodeId, &'p str)>,
    /// The node there, if any.
    node: Option<NodeId>,
    /// Set if the path ends in a slash, and so must name a directory.
    slash: bool,
}

/// The flags with which a path is opened.
#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are POSIX's flags")]
pub(super) struct OpenOptions {
    pub(super) follow: bool,
    pub(super) create: bool,
    pub(super) exclusive: bool,
    pub(super) directory: bool,
    pub(super) truncate: bool,
    pub(super) write: bool,
}

/// The step that opening a path needs.
pub(super) enum OpenAction<'p> {
    Node(NodeId),
    Truncate(NodeId),
    Create(NodeId, &'p str),
}

impl Tree {
    /// Resolves a path. Neither `..` nor a symbolic link leads above `base`.
    pub(super) fn resolve<'p>(
        &'p self,
        base: NodeId,
        path: &'p str,
        follow: bool,
    ) -> Result<Resolved<'p>, FileError> {
        let mut directories = vec![base];
        self.check_directory(base)?;
        check_path(path)?;
        let (mut rest, mut links) = (vec![path], 0);
        while let (Some(path), Some(&at)) = (rest.pop(), directories.last()) {
            let (name, after) =
                path.split_once('/').map_or((path, None), |(name, after)| (name, Some(after)));
            rest.extend(after);
            match name {
                "" | "." => continue,
                ".." => {
                    directories.pop();
                    if directories.is_empty() {
                        return Err(FileError::NotPermitted);
                    }
                    continue;
                }
                name if name.len() > NAME_BYTES => return Err(FileError::NameTooLong),
                _ => {}
            }
            let slash = !rest.is_empty();
            let last = rest.iter().all(|rest| rest.bytes().all(|byte| byte == b'/'));
            let found = |node| Resolved { entry: Some((at, name)), node, slash };
            let Some(child) = self.child(at, name)? else {
                return if last { Ok(found(None)) } else { Err(FileError::NoEntry) };
            };
            if let Some(target) = self.target(child)?.filter(|_| !last || slash || follow) {
                links += 1;
                if links > MAX_SYMLINKS {
                    return Err(FileError::Loop);
                }
                check_path(target)?;
                rest.push(target);
                continue;
            }
            let is_directory = self.kind(child)? == NodeKind::Directory;
            match (last, is_directory) {
                (true, _) if is_directory || !slash => return Ok(found(Some(child))),
                (false, true) => directories.push(child),
                _ => return Err(FileError::NotDirectory),
            }
        }
        Ok(Resolved { entry: None, node: directories.last().copied(), slash: true })
    }

    fn check_directory(&self, base: NodeId) -> Result<(), FileError> {
        match self.kind(base)? {
            NodeKind::Directory => Ok(()),
            NodeKind::File | NodeKind::Symlink => Err(FileError::NotDirectory),
        }
    }

    /// The node at a path.
    pub(super) fn find(&self, base: NodeId, path: &str, follow: bool) -> Result<NodeId, FileError> {
        self.resolve(base, path, follow)?.node.ok_or(FileError::NoEntry)
    }

    pub(super) fn read_link(&self, base: NodeId, path: &str) -> Result<String, FileError> {
        let node = self.find(base, path, false)?;
        self.target(node)?.map(str::to_owned).ok_or(FileError::Invalid)
    }

    /// The step that opening a path needs, without taking it.
    pub(super) fn open_action<'p>(
        &'p self,
        base: NodeId,
        path: &'p str,
        options: OpenOptions,
    ) -> Result<OpenAction<'p>, FileError> {
        let OpenOptions { follow, create, exclusive, directory, truncate, write } = options;
        if directory && (create || exclusive || truncate) {
            return Err(FileError::Invalid);
        }
        let found = self.resolve(base, path, follow && !(create && exclusive))?;
        let Some(node) = found.node else {
            return match found.entry {
                Some(_) if !create => Err(FileError::NoEntry),
                Some((parent, name)) if !found.slash => Ok(OpenAction::Create(parent, name)),
                _ => Err(FileError::IsDirectory),
            };
        };
        if create && exclusive {
            return Err(FileError::Exist);
        }
        match self.kind(node)? {
            NodeKind::Symlink => Err(FileError::Loop),
            NodeKind::Directory if write || create || truncate => Err(FileError::IsDirectory),
            NodeKind::File if directory => Err(FileError::NotDirectory),
            NodeKind::File if truncate => Ok(OpenAction::Truncate(node)),
            NodeKind::Directory | NodeKind::File => Ok(OpenAction::Node(node)),
        }
    }

    /// The directory and the name of an entry to create.
    fn vacant_entry(&self, base: NodeId, path: &str, directory: bool) -> Result<(NodeId, String), FileError> {
        let found = self.resolve(base, path, false)?;
        match found.entry {
            Some((parent, name)) if found.node.is_none() => {
                let fits = directory || !found.slash;
                if fits { Ok((parent, name.to_owned())) } else { Err(FileError::NoEntry) }
            }
            _ => Err(FileError::Exist),
        }
    }

    pub(super) fn create_directory(&mut self, base: NodeId, path: &str) -> Result<(), FileError> {
        let (parent, name) = self.vacant_entry(base, path, true)?;
        self.make_directory(parent, &name).map(drop)
    }

    /// Creates a symbolic link. An absolute target is refused, since none could ever resolve.
    pub(super) fn create_symlink(&mut self, target: &str, base: NodeId, path: &str) -> Result<(), FileError> {
        check_path(target)?;
        let (parent, name) = self.vacant_entry(base, path, false)?;
        self.make_symlink(parent, &name, target).map(drop)
    }

    pub(super) fn remove_directory(&mut self, base: NodeId, path: &str) -> Result<(), FileError> {
        let found = self.resolve(base, path, false)?;
        match (found.entry, found.node) {
            (None, _) => Err(FileError::Invalid),
            (_, None) => Err(FileError::NoEntry),
            (_, Some(node)) => {
                self.check_directory(node)?;
                self.check_empty(node)?;
                self.remove(node)
            }
        }
    }

    pub(super) fn unlink_file(&mut self, base: NodeId, path: &str) -> Result<(), FileError> {
        let node = self.find(base, path, false)?;
        match self.kind(node)? {
            NodeKind::Directory => Err(FileError::IsDirectory),
            NodeKind::File | NodeKind::Symlink => self.remove(node),
        }
    }

    fn check_empty(&self, directory: NodeId) -> Result<(), FileError> {
        if self.entry(directory, ROOT)?.is_some() { Err(FileError::NotEmpty) } else { Ok(()) }
    }

    /// Moves the node at one path to another, as POSIX's `rename` does.
    pub(super) fn move_to(
        &mut self,
        base: NodeId,
        path: &str,
        to_base: NodeId,
        to_path: &str,
    ) -> Result<(), FileError> {
        let (from, to) = (self.resolve(base, path, false)?, self.resolve(to_base, to_path, false)?);
        let (Some(_), Some((parent, name))) = (from.entry, to.entry) else { return Err(FileError::Busy) };
        let node = from.node.ok_or(FileError::NoEntry)?;
        let is_directory = self.kind(node)? == NodeKind::Directory;
        if to.slash && !is_directory {
            return Err(FileError::NotDirectory);
        }
        if to.node == Some(node) {
            return Ok(());
        }
        if is_directory && self.is_within(parent, node)? {
            return Err(FileError::Invalid);
        }
        if let Some(replaced) = to.node {
            match (is_directory, self.kind(replaced)? == NodeKind::Directory) {
                (true, true) => self.check_empty(replaced)?,
                (true, false) => return Err(FileError::NotDirectory),
                (false, true) => return Err(FileError::IsDirectory),
                (false, false) => {}
            }
        }
        let name = name.to_owned();
        self.rename(node, parent, &name)
    }
}

/// Refuses paths that cannot lie below a directory.
fn check_path(path: &str) -> Result<(), FileError> {
    match path.as_bytes() {
        [] => Err(FileError::NoEntry),
        path if path.len() > PATH_BYTES => Err(FileError::NameTooLong),
        path if path.contains(&0) => Err(FileError::Invalid),
        [b'/', ..] => Err(FileError::NotPermitted),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::{MemoryBudget, grants::files::space::Space};

    /// A tree of `dir/sub/file`, `link -> dir`, and links that do not resolve.
    fn tree() -> Tree {
        let mut tree = Tree::new(Space::limited(1 << 20, MemoryBudget::new(None).reservation()), 0);
        for path in ["dir", "dir/sub"] {
            tree.create_directory(ROOT, path).unwrap();
        }
        let sub = tree.find(ROOT, "dir/sub", false).unwrap();
        tree.make_file(sub, "file").unwrap();
        for (target, path) in
            [("dir", "link"), ("..", "up"), ("loop", "loop"), ("sub/../../dir", "dir/around")]
        {
            tree.create_symlink(target, ROOT, path).unwrap();
        }
        tree
    }

    #[test]
    fn paths_resolve_as_in_posix_and_never_above_their_base() {
        let tree = tree();
        let (dir, sub) = (tree.find(ROOT, "dir", false).unwrap(), tree.find(ROOT, "dir/sub", false).unwrap());
        let file = tree.find(sub, "file", false).unwrap();
        for (path, found) in [
            (".", Ok(ROOT)),
            ("./", Ok(ROOT)),
            ("dir", Ok(dir)),
            ("dir///", Ok(dir)),
            ("./dir/.//sub/", Ok(sub)),
            ("dir/sub/..", Ok(dir)),
            ("dir/..", Ok(ROOT)),
            ("link/sub/file", Ok(file)),
            ("dir/around/sub", Ok(sub)),
            ("dir/sub/file/", Err(FileError::NotDirectory)),
            ("dir/sub/file/.", Err(FileError::NotDirectory)),
            ("dir/sub/file/..", Err(FileError::NotDirectory)),
            ("none", Err(FileError::NoEntry)),
            ("none/..", Err(FileError::NoEntry)),
            ("", Err(FileError::NoEntry)),
            ("..", Err(FileError::NotPermitted)),
            ("dir/../..", Err(FileError::NotPermitted)),
            ("link/../..", Err(FileError::NotPermitted)),
            ("up", Err(FileError::NotPermitted)),
            ("/", Err(FileError::NotPermitted)),
            ("/dir", Err(FileError::NotPermitted)),
            ("loop", Err(FileError::Loop)),
            ("dir\0", Err(FileError::Invalid)),
        ] {
            assert_eq!(tree.find(ROOT, path, true), found, "{path:?}");
        }
        // For a base below the root, its own parent is out of reach too.
        assert_eq!(tree.find(sub, "..", true), Err(FileError::NotPermitted));
        assert_eq!(tree.find(sub, "../sub/file", true), Err(FileError::NotPermitted));
        assert_eq!(tree.find(file, "x", true), Err(FileError::NotDirectory));
        let (name, path) = ("x".repeat(NAME_BYTES + 1), "./".repeat(PATH_BYTES));
        assert_eq!(tree.find(ROOT, &name, true), Err(FileError::NameTooLong));
        assert_eq!(tree.find(ROOT, &path, true), Err(FileError::NameTooLong));
    }

    fn clear(tree: &mut Tree, directory: NodeId) {
        while let Some(entry) = tree.entry(directory, ROOT).unwrap() {
            if entry.kind == NodeKind::Directory {
                clear(tree, entry.id);
            }
            tree.remove(entry.id).unwrap();
        }
    }

    #[test]
    fn random_operations_keep_the_byte_count_exact() {
        let mut random = StdRng::seed_from_u64(7);
        let budget = MemoryBudget::new(None);
        let mut tree = Tree::new(Space::limited(64 << 10, budget.reservation()), 0);
        let names = ["a", "b", "longer-name", "a/b", "a/b/c", "b/a", "b/a/../b"];
        let mut acquired = Vec::new();
        for _ in 0..20_000 {
            let (one, other) = (names[random.random_range(0..names.len())], names[random.random_range(0..7)]);
            let size = random.random_range(0..80_000);
            // Most operations fail for one reason or another; none may leave the count wrong.
            let _ = match random.random_range(0..9) {
                0 => tree.create_directory(ROOT, one),
                1 => tree.create_symlink(other, ROOT, one),
                2 => tree.remove_directory(ROOT, one),
                3 => tree.unlink_file(ROOT, one),
                4 => tree.move_to(ROOT, one, ROOT, other),
                5 => tree.find(ROOT, one, true).and_then(|node| tree.set_size(node, size)),
                6 => tree
                    .find(ROOT, one, true)
                    .and_then(|node| tree.write(node, size / 8, &[1; 999]).map(drop)),
                7 => tree.find(ROOT, one, false).and_then(|node| {
                    acquired.push(node);
                    tree.acquire(node)
                }),
                _ => {
                    let create = OpenOptions { create: true, ..OpenOptions::default() };
                    match tree.open_action(ROOT, one, create) {
                        Ok(OpenAction::Create(parent, name)) => {
                            let name = name.to_owned();
                            tree.make_file(parent, &name).map(drop)
                        }
                        _ => acquired.pop().map(|node| tree.release(node)).ok_or(FileError::NoEntry),
                    }
                }
            };
            assert!(tree.used() <= 64 << 10);
        }
        for node in acquired {
            tree.release(node);
        }
        clear(&mut tree, ROOT);
        assert_eq!((tree.used(), tree.entry(ROOT, ROOT).unwrap().is_some()), (0, false));
        assert!(budget.used() > 0);
        drop(tree);
        assert_eq!(budget.used(), 0);
    }
}
