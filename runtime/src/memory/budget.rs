//! The memory budget of this process: memory that guests demand is reserved before it is allocated.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::memory::allocator;

/// One budget for all memory that guests demand: instances, stacks, and the bodies of calls. Cheap to clone.
#[derive(Clone)]
pub struct MemoryBudget {
    inner: Arc<Inner>,
}

struct Inner {
    total: u64,
    /// Bytes that are reserved, plus those that were freed and may still be the allocator's.
    used: AtomicU64,
    /// The freed part of `used`.
    freed: AtomicU64,
    /// Held while the allocator is trimmed.
    trimming: Mutex<()>,
    /// Evicted, in this order, when a call finds too little left.
    reclaimable: Mutex<Vec<Weak<dyn Reclaim>>>,
}

/// A holder of memory that no call uses, and that can be made again.
pub(crate) trait Reclaim: Send + Sync {
    /// Drops everything that is idle.
    fn drop_idle(&self);
}

/// Bytes that one holder has reserved. Dropping it releases them, however the call ended.
pub struct Reservation {
    budget: MemoryBudget,
    bytes: AtomicU64,
    is_warm: AtomicBool,
    kind: Kind,
}

/// The way in which freed memory returns to the system.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// At once: instances, stacks, code, children.
    Mapped,
    /// Through the allocator, which keeps it until it is trimmed.
    Heap,
}

/// The budget is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has no memory left for another call")]
pub struct NoMemory;

impl MemoryBudget {
    /// Creates a budget of so many bytes. `None` means no bound: reservations are only counted.
    pub(crate) fn new(bytes: Option<u64>) -> Self {
        let inner = Inner {
            total: bytes.unwrap_or(u64::MAX),
            used: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            trimming: Mutex::default(),
            reclaimable: Mutex::default(),
        };
        allocator::unmap_large();
        Self { inner: Arc::new(inner) }
    }

    /// The budget in bytes, unless it is unbounded.
    pub fn total(&self) -> Option<u64> {
        (self.inner.total < u64::MAX).then_some(self.inner.total)
    }

    /// The bytes that are reserved now.
    pub fn used(&self) -> u64 {
        let freed = self.inner.freed.load(Ordering::Relaxed);
        self.inner.used.load(Ordering::Relaxed).saturating_sub(freed)
    }

    /// Trims the allocator, and so makes freed memory available again. Must be called periodically: a call that
    /// exhausts the budget trims only if much is pending.
    pub fn trim_freed(&self) {
        self.trim_past(0);
    }

    /// Trims the allocator if more than `bytes` are pending. Concurrent callers wait on the lock and find nothing
    /// left to do.
    fn trim_past(&self, bytes: u64) {
        let _one_at_a_time = self.inner.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        if self.inner.freed.load(Ordering::Relaxed) > bytes {
            // Swapped first, since memory that is freed during the trim may miss it.
            let freed = self.inner.freed.swap(0, Ordering::AcqRel);
            allocator::trim();
            self.inner.used.fetch_sub(freed, Ordering::AcqRel);
        }
    }

    /// Creates an empty reservation, for memory that a call allocates.
    pub fn reservation(&self) -> Reservation {
        self.reservation_of(0, false, Kind::Heap)
    }

    /// Creates an empty reservation, for memory that a call maps.
    pub(crate) fn mapped_reservation(&self) -> Reservation {
        self.reservation_of(0, false, Kind::Mapped)
    }

    /// Creates an empty reservation for warm instances. It cannot use the last quarter of the budget, so that
    /// readiness for future calls takes nothing from the current ones.
    pub(crate) fn warm_reservation(&self) -> Reservation {
        self.reservation_of(0, true, Kind::Mapped)
    }

    /// Accounts memory that exists already and cannot be refused. It leaves less for others.
    pub(crate) fn account(&self, bytes: u64) -> Reservation {
        self.inner.used.fetch_add(bytes, Ordering::AcqRel);
        self.reservation_of(bytes, false, Kind::Mapped)
    }

    fn reservation_of(&self, bytes: u64, is_warm: bool, kind: Kind) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: AtomicU64::new(bytes),
            is_warm: AtomicBool::new(is_warm),
            kind,
        }
    }

    /// Registers a holder whose idle memory is evicted when a call needs it, for as long as the holder lives.
    pub(crate) fn register<R: Reclaim + 'static>(&self, holder: &Arc<R>) {
        let holder: Weak<R> = Arc::downgrade(holder);
        let mut reclaimable = self.inner.reclaimable.lock().unwrap_or_else(PoisonError::into_inner);
        reclaimable.retain(|holder| holder.strong_count() > 0);
        reclaimable.push(holder);
    }

    fn try_reserve(&self, bytes: u64, most: u64) -> bool {
        let reserved = self.inner.used.try_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|&used| used <= most)
        });
        reserved.is_ok()
    }

    /// Reserves `bytes`, evicting idle instances pool by pool until the reservation fits.
    fn evict_and_reserve(&self, bytes: u64) -> bool {
        let total = self.inner.total;
        if bytes > total {
            // No eviction would suffice.
            return false;
        }
        // A trim walks the allocator's whole heap, so it must be worth it.
        self.trim_past(total / 16);
        let reclaimable = self.inner.reclaimable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.try_reserve(bytes, total)
            || reclaimable.iter().filter_map(Weak::upgrade).any(|holder| {
                holder.drop_idle();
                self.try_reserve(bytes, total)
            })
    }
}

impl Reservation {
    /// Reserves more. If too little is left, a call evicts idle instances, or is refused.
    pub fn try_grow(&self, bytes: u64) -> Result<(), NoMemory> {
        let total = self.budget.inner.total;
        let reserved = if self.is_warm.load(Ordering::Relaxed) {
            self.budget.try_reserve(bytes, total - total / 4)
        } else {
            self.budget.try_reserve(bytes, total) || self.budget.evict_and_reserve(bytes)
        };
        if !reserved {
            return Err(NoMemory);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Creates an empty reservation in the same budget, for memory that the same call frees at another time.
    pub(crate) fn new_empty(&self) -> Self {
        self.budget.reservation()
    }

    /// Reserves memory for `bytes`, until their last clone is dropped.
    pub fn hold(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Result<Bytes, NoMemory> {
        struct Held<B> {
            bytes: B,
            _reservation: Reservation,
        }
        impl<B: AsRef<[u8]>> AsRef<[u8]> for Held<B> {
            fn as_ref(&self) -> &[u8] {
                self.bytes.as_ref()
            }
        }
        self.try_grow(bytes.as_ref().len() as u64)?;
        Ok(Bytes::from_owner(Held { bytes, _reservation: self }))
    }

    /// Lifts the bound of a warm instance's reservation, since it now serves a call.
    pub(crate) fn promote_to_call(&self) {
        self.is_warm.store(false, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let (inner, bytes) = (&self.budget.inner, *self.bytes.get_mut());
        match self.kind {
            Kind::Mapped => inner.used.fetch_sub(bytes, Ordering::AcqRel),
            Kind::Heap => inner.freed.fetch_add(bytes, Ordering::AcqRel),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn reservations_past_the_budget_are_refused_and_dropped_ones_released() {
        let budget = MemoryBudget::new(Some(100));
        let (first, second) = (budget.reservation(), budget.reservation());
        first.try_grow(40).unwrap();
        second.try_grow(60).unwrap();
        assert_eq!(first.try_grow(1), Err(NoMemory));
        assert_eq!(second.try_grow(u64::MAX), Err(NoMemory));
        assert_eq!(budget.used(), 100);
        drop(second);
        first.try_grow(60).unwrap();
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn freed_memory_is_available_again_after_a_trim() {
        let budget = MemoryBudget::new(Some(160));
        let little = budget.reservation();
        little.try_grow(9).unwrap();
        drop(little);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.reservation().try_grow(152), Err(NoMemory));
        budget.trim_freed();
        let much = budget.reservation();
        much.try_grow(152).unwrap();
        drop(much);
        assert_eq!(budget.reservation().try_grow(152), Ok(()), "a call trims if much is pending");
    }

    #[test]
    fn warm_instances_cannot_use_the_last_quarter() {
        let budget = MemoryBudget::new(Some(100));
        let is_warm = budget.warm_reservation();
        is_warm.try_grow(75).unwrap();
        assert_eq!(is_warm.try_grow(1), Err(NoMemory));
        is_warm.promote_to_call();
        is_warm.try_grow(25).unwrap();
    }

    #[test]
    fn accounted_memory_leaves_less_for_others() {
        let budget = MemoryBudget::new(Some(100));
        let code = budget.account(150);
        assert_eq!(budget.reservation().try_grow(1), Err(NoMemory));
        drop(code);
        assert_eq!(budget.reservation().try_grow(100), Ok(()));
    }

    #[test]
    fn an_unbounded_budget_counts_and_refuses_nothing() {
        let budget = MemoryBudget::new(None);
        let reservation = budget.reservation();
        reservation.try_grow(1 << 60).unwrap();
        assert_eq!((budget.total(), budget.used()), (None, 1 << 60));
    }

    #[test]
    fn concurrent_reservations_never_exceed_the_budget() {
        let budget = MemoryBudget::new(Some(1000));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for bytes in 1..2000 {
                        let reservation = budget.reservation();
                        let _ = reservation.try_grow(bytes % 400).and_then(|()| reservation.try_grow(7));
                        assert!(budget.used() <= 1000);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }
}
