//! The tokio runtime that serves calls and runs guests, apart from the one that controls the agent.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime that stops at once when it is dropped. The drop of tokio's own waits for its threads, and panics in async
/// code, as when the start of an agent fails.
pub(crate) struct GuestRuntime(Option<Runtime>, Handle);

impl GuestRuntime {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().thread_name("guests").enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok(Self(Some(runtime), handle))
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.1
    }
}

impl Drop for GuestRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
