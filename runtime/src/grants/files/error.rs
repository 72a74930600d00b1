//! What a file operation is refused with, before it is put in the words of one WASI or the other.

use crate::NoMemory;

/// Why a file operation failed: POSIX's reasons, under their plain names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileError {
    #[error("bad descriptor")]
    BadDescriptor,
    #[error("busy")]
    Busy,
    #[error("it is on another mount")]
    CrossDevice,
    #[error("it exists")]
    Exist,
    #[error("file too large")]
    FileTooLarge,
    #[error("invalid argument")]
    Invalid,
    #[error("it is a directory")]
    IsDirectory,
    #[error("too many symbolic links")]
    Loop,
    #[error("name too long")]
    NameTooLong,
    #[error("no such file or directory")]
    NoEntry,
    #[error("no space left")]
    NoSpace,
    #[error("it is no directory")]
    NotDirectory,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("not permitted")]
    NotPermitted,
    #[error("the file system is read-only")]
    ReadOnly,
    #[error("too many open files")]
    TooManyOpen,
    /// The guest is within its limits, and the node has nothing left: its call ends.
    #[error("{NoMemory}")]
    NodeMemory,
}
