//! Errors of file operations, which preview 1 and WASI 0.2 turn into their own codes.

use crate::NoMemory;

/// An error of a file operation, with POSIX's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileError {
    #[error("bad file descriptor")]
    BadDescriptor,
    #[error("resource busy")]
    Busy,
    #[error("the target is on another mount")]
    CrossDevice,
    #[error("file exists")]
    Exist,
    #[error("file too large")]
    FileTooLarge,
    #[error("invalid argument")]
    Invalid,
    #[error("is a directory")]
    IsDirectory,
    #[error("too many levels of symbolic links")]
    Loop,
    #[error("file name too long")]
    NameTooLong,
    #[error("no such file or directory")]
    NoEntry,
    #[error("no space left in the scratch folder")]
    NoSpace,
    #[error("not a directory")]
    NotDirectory,
    #[error("directory not empty")]
    NotEmpty,
    #[error("operation not permitted")]
    NotPermitted,
    #[error("read-only file system")]
    ReadOnly,
    #[error("too many open files")]
    TooManyOpen,
    /// The memory budget of the node is used up, though the guest is within its limits: the call ends.
    #[error("{NoMemory}")]
    NodeMemory,
}
