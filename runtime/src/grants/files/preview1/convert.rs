//! Conversions between preview 1's types and ours, and access to buffers in the guest's memory.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use wasmtime_wasi::p1::types::{self, Errno, Error, Fdflags, Filetype, Fstflags, Lookupflags, Rights};
use wiggle::{GuestMemory, GuestPtr};

use super::{
    super::{
        FileError,
        descriptors::Open,
        tree::{Entry, NodeKind, PATH_BYTES, Stat},
    },
    Answer, BUFFERS,
};

/// The most bytes of one read or write, which keeps host calls short.
const MAX_IO_BYTES: u32 = 1 << 20;

/// A path from the guest's memory, unless it exceeds the limit.
pub(super) fn text<'m>(memory: &'m GuestMemory<'_>, path: GuestPtr<str>) -> Answer<Cow<'m, str>> {
    if path.len() as usize > PATH_BYTES {
        return Err(Errno::Nametoolong.into());
    }
    Ok(memory.as_cow_str(path)?)
}

/// Fills the first buffer that is not empty, as POSIX allows.
pub(super) fn read_into(
    memory: &mut GuestMemory<'_>,
    iovs: types::IovecArray,
    read: impl FnOnce(&mut [u8]) -> Result<usize, FileError>,
) -> Answer<u32> {
    if iovs.len() > BUFFERS {
        return Err(Errno::Inval.into());
    }
    for iov in iovs.iter() {
        let types::Iovec { buf, buf_len } = memory.read(iov?)?;
        if buf_len > 0 {
            let buffer =
                memory.as_slice_mut(buf.as_array(buf_len.min(MAX_IO_BYTES)))?.ok_or(Errno::Notsup)?;
            return Ok(u32::try_from(read(buffer)?)?);
        }
    }
    Ok(u32::try_from(read(&mut [])?)?)
}

/// Writes the first buffer that is not empty, as POSIX allows.
pub(super) fn write_from(
    memory: &GuestMemory<'_>,
    ciovs: types::CiovecArray,
    write: impl FnOnce(&[u8]) -> Result<usize, FileError>,
) -> Answer<u32> {
    if ciovs.len() > BUFFERS {
        return Err(Errno::Inval.into());
    }
    for ciov in ciovs.iter() {
        let types::Ciovec { buf, buf_len } = memory.read(ciov?)?;
        if buf_len > 0 {
            return Ok(u32::try_from(write(&memory.as_cow(buf.as_array(buf_len.min(MAX_IO_BYTES)))?)?)?);
        }
    }
    Ok(u32::try_from(write(&[])?)?)
}

pub(super) fn follows(flags: Lookupflags) -> bool {
    flags.contains(Lookupflags::SYMLINK_FOLLOW)
}

pub(super) fn times(
    atim: u64,
    mtim: u64,
    which: Fstflags,
) -> Answer<(Option<SystemTime>, Option<SystemTime>)> {
    let time = |set: Fstflags, now: Fstflags, at| match (which.contains(set), which.contains(now)) {
        (true, true) => Err(Errno::Inval),
        (true, false) => Ok(SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(at))),
        (false, true) => Ok(Some(SystemTime::now())),
        (false, false) => Ok(None),
    };
    Ok((time(Fstflags::ATIM, Fstflags::ATIM_NOW, atim)?, time(Fstflags::MTIM, Fstflags::MTIM_NOW, mtim)?))
}

pub(super) fn filetype(kind: NodeKind) -> Filetype {
    match kind {
        NodeKind::Directory => Filetype::Directory,
        NodeKind::File => Filetype::RegularFile,
        NodeKind::Symlink => Filetype::SymbolicLink,
    }
}

pub(super) fn filestat(stat: &Stat, volume: usize) -> types::Filestat {
    let nanoseconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    };
    types::Filestat {
        dev: volume as u64 + 1,
        ino: stat.id,
        filetype: filetype(stat.kind),
        nlink: stat.links,
        size: stat.size,
        atim: nanoseconds(stat.accessed),
        mtim: nanoseconds(stat.modified),
        ctim: nanoseconds(stat.modified),
    }
}

/// An entry of a directory as `fd_readdir` writes it: a header of 24 bytes, then the name.
pub(super) fn dirent(entry: &Entry) -> Answer<Vec<u8>> {
    let mut bytes = Vec::with_capacity(24 + entry.name.len());
    bytes.extend_from_slice(&entry.cookie.to_le_bytes());
    bytes.extend_from_slice(&entry.id.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(entry.name.len())?.to_le_bytes());
    bytes.extend_from_slice(&u32::from(filetype(entry.kind) as u8).to_le_bytes());
    bytes.extend_from_slice(entry.name.as_bytes());
    Ok(bytes)
}

/// The type, flags and rights of a descriptor, which C libraries check before they open, read or write.
pub(super) fn fdstat(open: &Open) -> Result<types::Fdstat, FileError> {
    let fs_filetype = filetype(open.handle.kind()?);
    let mut fs_flags = Fdflags::empty();
    fs_flags.set(Fdflags::APPEND, open.append);
    fs_flags.set(Fdflags::NONBLOCK, open.nonblock);
    let mut base = Rights::all() & !(Rights::SOCK_ACCEPT | Rights::SOCK_SHUTDOWN);
    let inheriting = if fs_filetype == Filetype::Directory { base } else { Rights::empty() };
    if fs_filetype == Filetype::Directory {
        base &= !(Rights::FD_READ | Rights::FD_WRITE | Rights::FD_SEEK | Rights::FD_TELL);
        base &= !(Rights::FD_FILESTAT_SET_SIZE | Rights::FD_ALLOCATE);
    }
    base.set(Rights::FD_READ, base.contains(Rights::FD_READ) && open.reads);
    base.set(Rights::FD_WRITE, base.contains(Rights::FD_WRITE) && open.writes);
    Ok(types::Fdstat { fs_filetype, fs_flags, fs_rights_base: base, fs_rights_inheriting: inheriting })
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::BadDescriptor => Errno::Badf,
            FileError::Busy => Errno::Busy,
            FileError::CrossDevice => Errno::Xdev,
            FileError::Exist => Errno::Exist,
            FileError::FileTooLarge => Errno::Fbig,
            FileError::Invalid => Errno::Inval,
            FileError::IsDirectory => Errno::Isdir,
            FileError::Loop => Errno::Loop,
            FileError::NameTooLong => Errno::Nametoolong,
            FileError::NoEntry => Errno::Noent,
            FileError::NoSpace => Errno::Nospc,
            FileError::NotDirectory => Errno::Notdir,
            FileError::NotEmpty => Errno::Notempty,
            FileError::NotPermitted => Errno::Perm,
            FileError::ReadOnly => Errno::Rofs,
            FileError::TooManyOpen => Errno::Mfile,
            FileError::NodeMemory => return Self::trap(crate::NoMemory.into()),
        }
        .into()
    }
}
