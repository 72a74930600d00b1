//! Conversions between the types of WASI 0.2 and ours.

use std::time::{Duration, SystemTime};

use wasmtime_wasi::p2::{
    FsError, FsResult,
    bindings::{
        clocks::wall_clock::Datetime,
        filesystem::types::{
            DescriptorStat, DescriptorType, ErrorCode, MetadataHashValue, NewTimestamp, PathFlags,
        },
    },
};

use super::super::{
    FileError,
    tree::{NodeKind, Stat},
    volumes::Handle,
};

pub(super) fn follows(flags: PathFlags) -> bool {
    flags.contains(PathFlags::SYMLINK_FOLLOW)
}

pub(super) fn descriptor_type(kind: NodeKind) -> DescriptorType {
    match kind {
        NodeKind::Directory => DescriptorType::Directory,
        NodeKind::File => DescriptorType::RegularFile,
        NodeKind::Symlink => DescriptorType::SymbolicLink,
    }
}

pub(super) fn descriptor_stat(stat: &Stat) -> DescriptorStat {
    let datetime = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(Datetime { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() })
    };
    DescriptorStat {
        type_: descriptor_type(stat.kind),
        link_count: stat.links,
        size: stat.size,
        data_access_timestamp: datetime(stat.accessed),
        data_modification_timestamp: datetime(stat.modified),
        status_change_timestamp: datetime(stat.modified),
    }
}

pub(super) fn time(time: NewTimestamp) -> FsResult<Option<SystemTime>> {
    match time {
        NewTimestamp::NoChange => Ok(None),
        NewTimestamp::Now => Ok(Some(SystemTime::now())),
        NewTimestamp::Timestamp(Datetime { seconds, nanoseconds }) => Duration::from_secs(seconds)
            .checked_add(Duration::from_nanos(nanoseconds.into()))
            .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since))
            .map(Some)
            .ok_or_else(|| ErrorCode::Overflow.into()),
    }
}

/// The identity of a file: programs compare it as they would a device and an inode.
pub(super) fn hash(stat: &Stat, handle: &Handle) -> MetadataHashValue {
    MetadataHashValue { lower: stat.id, upper: handle.volume() as u64 + 1 }
}

/// The code of an error; `None` if the error ends the call.
pub(super) fn code(error: FileError) -> Option<ErrorCode> {
    Some(match error {
        FileError::BadDescriptor => ErrorCode::BadDescriptor,
        FileError::Busy => ErrorCode::Busy,
        FileError::CrossDevice => ErrorCode::CrossDevice,
        FileError::Exist => ErrorCode::Exist,
        FileError::FileTooLarge => ErrorCode::FileTooLarge,
        FileError::Invalid => ErrorCode::Invalid,
        FileError::IsDirectory => ErrorCode::IsDirectory,
        FileError::Loop => ErrorCode::Loop,
        FileError::NameTooLong => ErrorCode::NameTooLong,
        FileError::NoEntry => ErrorCode::NoEntry,
        FileError::NoSpace => ErrorCode::InsufficientSpace,
        FileError::NotDirectory => ErrorCode::NotDirectory,
        FileError::NotEmpty => ErrorCode::NotEmpty,
        FileError::NotPermitted => ErrorCode::NotPermitted,
        FileError::ReadOnly => ErrorCode::ReadOnly,
        FileError::TooManyOpen => ErrorCode::InsufficientMemory,
        FileError::NodeMemory => return None,
    })
}

impl From<FileError> for FsError {
    fn from(error: FileError) -> Self {
        code(error).map_or_else(|| Self::trap(crate::NoMemory), Self::from)
    }
}
