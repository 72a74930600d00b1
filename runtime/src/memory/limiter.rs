//! The memory limit of one instance, for its linear memories and tables together.

use std::sync::Arc;

use wasmtime::{Error, ResourceLimiter};

use crate::memory::budget::Reservation;

/// Size of a table's element in the host, in bytes.
const TABLE_ELEMENT: usize = size_of::<usize>();

/// Refusals after which a guest that still requests memory is stopped: it ignores the results.
const REFUSALS: u32 = 1000;

/// Counts an instance's memory, refuses growth past its limit, and reserves the rest from the process's budget.
pub(crate) struct MemoryLimiter {
    limit: usize,
    used: usize,
    refusals: u32,
    reservation: Arc<Reservation>,
    node_is_full: bool,
}

/// The cause of a growth that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The memory budget has too little left.
    Budget,
    /// The instance has reached its limit, of so many bytes.
    Limit(u64),
}

impl MemoryLimiter {
    pub(crate) fn new(limit: u64, reservation: Arc<Reservation>) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { limit, used: 0, refusals: 0, reservation, node_is_full: false }
    }

    /// Sets the limit of the next call, which fails if the instance has more already.
    pub(crate) fn serves(&mut self, limit: u64) -> Result<(), Refusal> {
        self.limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.refusals = 0;
        if self.used > self.limit { Err(Refusal::Limit(limit)) } else { Ok(()) }
    }

    /// The instance's memory, in bytes.
    pub(crate) fn used(&self) -> u64 {
        self.used as u64
    }

    /// The reason why growth was refused in this call, if it was: a trap that follows is due to that refusal.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        if self.node_is_full {
            return Some(Refusal::Budget);
        }
        (self.refusals > 0).then_some(Refusal::Limit(self.limit as u64))
    }

    fn grow(&mut self, bytes: usize) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(bytes);
        if used <= self.limit {
            self.used = used;
            // The guest is within its limit and could only fail on a refusal, so the call ends here.
            return self.reservation.try_grow(bytes as u64).map(|()| true).map_err(|full| {
                self.node_is_full = true;
                full.into()
            });
        }
        self.refusals += 1;
        if self.refusals > REFUSALS {
            return Err(Error::msg("it kept requesting memory after it was refused"));
        }
        Ok(false)
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Growth past the module's own maximum fails anyway, and not because of this limit.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired - current)
    }

    fn memory_grow_failed(&mut self, _: Error) -> wasmtime::Result<()> {
        self.refusals += 1;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow((desired - current).saturating_mul(TABLE_ELEMENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::budget::MemoryBudget;

    fn limiter(limit: u64) -> MemoryLimiter {
        MemoryLimiter::new(limit, Arc::new(MemoryBudget::new(None).reservation()))
    }

    #[test]
    fn memories_and_tables_count_together() {
        let mut limiter = limiter(2 << 16);
        assert!(limiter.memory_growing(0, 1 << 16, None).unwrap());
        assert!(limiter.table_growing(0, 8192, None).unwrap());
        assert!(limiter.refusal().is_none());
        assert!(!limiter.memory_growing(1 << 16, 2 << 16, None).unwrap());
        assert_eq!(limiter.refusal(), Some(Refusal::Limit(131_072)));
    }

    #[test]
    fn a_guest_that_ignores_refusals_is_stopped() {
        let mut limiter = limiter(1);
        for _ in 0..REFUSALS {
            assert!(!limiter.memory_growing(0, 1 << 16, None).unwrap());
        }
        assert!(limiter.memory_growing(0, 1 << 16, None).is_err());
    }

    #[test]
    fn growth_past_a_modules_own_maximum_does_not_count_as_a_refusal() {
        let mut limiter = limiter(1 << 30);
        assert!(!limiter.memory_growing(0, 2 << 16, Some(1 << 16)).unwrap());
        assert!(limiter.refusal().is_none());
    }

    #[test]
    fn growth_past_the_budget_ends_the_call_and_is_not_a_memory_limit_error() {
        let budget = MemoryBudget::new(Some(1 << 16));
        let mut limiter = MemoryLimiter::new(1 << 30, Arc::new(budget.reservation()));
        assert!(limiter.memory_growing(0, 1 << 16, None).unwrap());
        assert!(limiter.memory_growing(1 << 16, 2 << 16, None).is_err());
        assert_eq!(limiter.refusal(), Some(Refusal::Budget));
        assert_eq!(budget.used(), 1 << 16);
        drop(limiter);
        assert_eq!(budget.used(), 0);
    }
}
