//! The descriptors of a core module: a number for each open file or directory, and a position in it.

use std::{collections::BTreeMap, sync::Arc};

use wasmtime_wasi::p1::types::Whence;

use super::{FileError, FileSystem, FilesGrant, volumes::Handle};

/// The first number that is not a program's stdin, stdout or stderr.
pub(super) const FIRST: u32 = 3;

/// The open files and directories of a core module.
pub(super) struct Descriptors {
    open: BTreeMap<u32, Open>,
}

/// An open file or directory.
#[allow(clippy::struct_excessive_bools, reason = "they are POSIX's flags")]
pub(super) struct Open {
    pub(super) handle: Handle,
    pub(super) position: u64,
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) append: bool,
    pub(super) nonblock: bool,
    /// The path of a preopened directory.
    pub(super) preopen: Option<Arc<str>>,
}

impl Descriptors {
    /// Opens the directory of each mount.
    pub(super) fn new(files: &FileSystem, grant: &FilesGrant) -> Result<Self, FileError> {
        let roots = files.roots()?.into_iter().zip(grant.mounts()).map(|(handle, (path, _))| {
            let mut open = Open::new(handle, true, false, false);
            open.preopen = Some(path.into());
            open
        });
        Ok(Self { open: (FIRST..).zip(roots).collect() })
    }

    pub(super) fn get(&mut self, fd: u32) -> Result<&mut Open, FileError> {
        self.open.get_mut(&fd).ok_or(FileError::BadDescriptor)
    }

    pub(super) fn handle(&self, fd: u32) -> Result<&Handle, FileError> {
        self.open.get(&fd).map(|open| &open.handle).ok_or(FileError::BadDescriptor)
    }

    /// Adds a descriptor with the lowest free number.
    pub(super) fn add(&mut self, open: Open) -> u32 {
        let free = (FIRST..).zip(self.open.keys()).find(|(number, used)| number != *used);
        let fd =
            free.map_or_else(|| FIRST + u32::try_from(self.open.len()).unwrap_or(u32::MAX), |(fd, _)| fd);
        self.open.insert(fd, open);
        fd
    }

    pub(super) fn close(&mut self, fd: u32) -> Result<(), FileError> {
        self.open.remove(&fd).map(drop).ok_or(FileError::BadDescriptor)
    }

    /// Moves a descriptor to another number, and closes the one that had it.
    pub(super) fn renumber(&mut self, from: u32, to: u32) -> Result<(), FileError> {
        if !self.open.contains_key(&to) {
            return Err(FileError::BadDescriptor);
        }
        let open = self.open.remove(&from).ok_or(FileError::BadDescriptor)?;
        self.open.insert(to, open);
        Ok(())
    }
}

impl Open {
    pub(super) fn new(handle: Handle, reads: bool, writes: bool, append: bool) -> Self {
        Self { handle, position: 0, reads, writes, append, nonblock: false, preopen: None }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FileError> {
        let count = self.read_at(self.position, buffer)?;
        self.position += count as u64;
        Ok(count)
    }

    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
        if self.reads { self.handle.read(offset, buffer) } else { Err(FileError::BadDescriptor) }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, FileError> {
        let at = (!self.append).then_some(self.position);
        let (count, end) = self.write_to(at, bytes)?;
        self.position = end;
        Ok(count)
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<usize, FileError> {
        Ok(self.write_to(Some(offset), bytes)?.0)
    }

    fn write_to(&self, offset: Option<u64>, bytes: &[u8]) -> Result<(usize, u64), FileError> {
        if self.writes { self.handle.write(offset, bytes) } else { Err(FileError::BadDescriptor) }
    }

    pub(super) fn seek(&mut self, offset: i64, whence: Whence) -> Result<u64, FileError> {
        let stat = self.handle.file_stat()?;
        let from = match whence {
            Whence::Set => 0,
            Whence::Cur => self.position,
            Whence::End => stat.size,
        };
        self.position = from.checked_add_signed(offset).ok_or(FileError::Invalid)?;
        Ok(self.position)
    }

    /// Extends the file to `offset + len` bytes, unless it is longer.
    pub(super) fn allocate(&self, offset: u64, len: u64) -> Result<(), FileError> {
        let stat = self.handle.file_stat()?;
        if !self.writes {
            return Err(FileError::BadDescriptor);
        }
        let end = offset.checked_add(len).filter(|_| len > 0).ok_or(FileError::Invalid)?;
        if end > stat.size { self.handle.set_size(end) } else { Ok(()) }
    }

    pub(super) fn set_size(&self, size: u64) -> Result<(), FileError> {
        if self.writes { self.handle.set_size(size) } else { Err(FileError::BadDescriptor) }
    }
}
