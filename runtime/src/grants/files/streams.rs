//! Streams of WASI 0.2 on files, which are always ready, since files are in memory.

use bytes::Bytes;
use wasmtime_wasi::{
    async_trait,
    p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult},
};

use super::{FileError, volumes::Handle};

/// The most bytes of one read or write.
pub(super) const MAX_IO_BYTES: usize = 64 << 10;

/// Reads a file from a position on.
pub(super) struct Reader {
    pub(super) handle: Handle,
    pub(super) position: u64,
}

/// Writes a file from a position on, or with `None` at its end.
pub(super) struct Writer {
    pub(super) handle: Handle,
    pub(super) position: Option<u64>,
}

#[async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {}
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let left = self.handle.file_stat()?.size.saturating_sub(self.position);
        let mut bytes = vec![0; size.min(MAX_IO_BYTES).min(usize::try_from(left).unwrap_or(usize::MAX))];
        let count = self.handle.read(self.position, &mut bytes)?;
        if count == 0 {
            return Err(StreamError::Closed);
        }
        bytes.truncate(count);
        self.position += count as u64;
        Ok(bytes.into())
    }
}

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {}
}

impl OutputStream for Writer {
    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        while !bytes.is_empty() {
            let (count, end) = self.handle.write(self.position, &bytes)?;
            self.position = self.position.map(|_| end);
            let _written = bytes.split_to(count);
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_IO_BYTES)
    }
}

impl From<FileError> for StreamError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::NodeMemory => Self::Trap(crate::NoMemory.into()),
            error => Self::LastOperationFailed(error.into()),
        }
    }
}
