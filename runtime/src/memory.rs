//! How much memory one instance may have: its linear memories and tables together.

use wasmtime::{Error, ResourceLimiter, Result};

/// The bytes that a table's element takes in the host.
const TABLE_ELEMENT: usize = size_of::<usize>();

/// Refusals after which a guest that goes on asking is stopped: it does not look at the answer.
const REFUSALS: u32 = 1000;

/// Counts what an instance has, and refuses growth past its limit.
pub(crate) struct MemoryLimiter {
    limit: usize,
    used: usize,
    refusals: u32,
}

impl MemoryLimiter {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit: usize::try_from(limit).unwrap_or(usize::MAX), used: 0, refusals: 0 }
    }

    /// Whether growth was refused at any time: a trap that follows is the limit's doing.
    pub(crate) fn refused(&self) -> bool {
        self.refusals > 0
    }

    fn grow(&mut self, bytes: usize) -> Result<bool> {
        let used = self.used.saturating_add(bytes);
        if used <= self.limit {
            self.used = used;
            return Ok(true);
        }
        self.refusals += 1;
        if self.refusals > REFUSALS {
            return Err(Error::msg("it went on asking for memory that it was refused"));
        }
        Ok(false)
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        // Growth past the module's own maximum fails anyway, and is not this limit's doing.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired - current)
    }

    fn memory_grow_failed(&mut self, _: Error) -> Result<()> {
        self.refusals += 1;
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow((desired - current).saturating_mul(TABLE_ELEMENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_count_together() {
        let mut limiter = MemoryLimiter::new(2 << 16);
        assert!(limiter.memory_growing(0, 1 << 16, None).unwrap());
        assert!(limiter.table_growing(0, 8192, None).unwrap());
        assert!(!limiter.refused());
        assert!(!limiter.memory_growing(1 << 16, 2 << 16, None).unwrap());
        assert!(limiter.refused());
    }

    #[test]
    fn a_guest_that_ignores_refusals_is_stopped() {
        let mut limiter = MemoryLimiter::new(1);
        for _ in 0..REFUSALS {
            assert!(!limiter.memory_growing(0, 1 << 16, None).unwrap());
        }
        assert!(limiter.memory_growing(0, 1 << 16, None).is_err());
    }

    #[test]
    fn a_modules_own_maximum_is_not_the_limits_doing() {
        let mut limiter = MemoryLimiter::new(1 << 30);
        assert!(!limiter.memory_growing(0, 2 << 16, Some(1 << 16)).unwrap());
        assert!(!limiter.refused());
    }
}
