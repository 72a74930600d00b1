//! The memory budget of this process: what guests' demand takes is drawn from it first, and given back when it is freed.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::memory::allocator;

/// One budget for all that guests' demand takes: their instances, their stacks, the bodies of their calls.
/// Cheap to clone.
#[derive(Clone)]
pub struct MemoryBudget {
    inner: Arc<Inner>,
}

struct Inner {
    total: u64,
    /// What is drawn, and what was freed and may still be the allocator's.
    used: AtomicU64,
    /// What was freed of that.
    freed: AtomicU64,
    /// Held while freed memory is given back.
    trimming: Mutex<()>,
    /// Evicted, in this order, when a call finds too little left.
    reclaimable: Mutex<Vec<Weak<dyn Reclaim>>>,
}

/// A holder of memory that no call uses, and that can be made again.
pub(crate) trait Reclaim: Send + Sync {
    /// Drops everything that is idle.
    fn drop_idle(&self);
}

/// What one holder has drawn. It goes back when this is dropped, however the call ended.
pub struct Reservation {
    budget: MemoryBudget,
    bytes: AtomicU64,
    is_warm: AtomicBool,
    kind: Kind,
}

/// Where memory goes when it is freed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Back to the system at once: instances, stacks, code, children.
    Mapped,
    /// To the allocator, and from there to the system when that is told to.
    Heap,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has no memory left for another call")]
pub struct NoMemory;

impl MemoryBudget {
    /// A budget of so many bytes; `None`: there is no bound, and what is used is only counted.
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

    /// The whole budget in bytes, where there is one.
    pub fn total(&self) -> Option<u64> {
        (self.inner.total < u64::MAX).then_some(self.inner.total)
    }

    /// The bytes that are drawn now.
    pub fn used(&self) -> u64 {
        let freed = self.inner.freed.load(Ordering::Relaxed);
        self.inner.used.load(Ordering::Relaxed).saturating_sub(freed)
    }

    /// Tells the allocator to give back what was freed; only then others may have it. To be called now and then: a
    /// call that finds nothing left does so only where that is much.
    pub fn trim_freed(&self) {
        // Before the rest, since what is freed meanwhile may not go back this time.
        self.trim_past(0);
    }

    /// The same where more than so many bytes were freed. Whoever comes while another does it waits: then it is done.
    fn trim_past(&self, bytes: u64) {
        let _one_at_a_time = self.inner.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        if self.inner.freed.load(Ordering::Relaxed) > bytes {
            let freed = self.inner.freed.swap(0, Ordering::AcqRel);
            allocator::trim();
            self.inner.used.fetch_sub(freed, Ordering::AcqRel);
        }
    }

    /// An empty share, for what a call allocates.
    pub fn reservation(&self) -> Reservation {
        self.reservation_of(0, false, Kind::Heap)
    }

    /// An empty share, for what a call maps.
    pub(crate) fn mapped_reservation(&self) -> Reservation {
        self.reservation_of(0, false, Kind::Mapped)
    }

    /// An empty share for what is made before any call needs it. A quarter of the budget is out of its reach, so
    /// that readiness for calls that may come takes nothing from those that are here.
    pub(crate) fn warm_reservation(&self) -> Reservation {
        self.reservation_of(0, true, Kind::Mapped)
    }

    /// A share of what is there already and cannot be refused. It leaves less for others.
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
        let drawn = self.inner.used.try_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|&used| used <= most)
        });
        drawn.is_ok()
    }

    /// Draws after giving back what no call holds, as little of it as will do.
    fn evict_and_reserve(&self, bytes: u64) -> bool {
        let total = self.inner.total;
        if bytes > total {
            // No room would do.
            return false;
        }
        // Each time costs a walk over all that was ever allocated: not for a little.
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
    /// Draws more. A call for which too little is left gets what idle instances hold, or is refused.
    pub fn try_grow(&self, bytes: u64) -> Result<(), NoMemory> {
        let total = self.budget.inner.total;
        let drawn = if self.is_warm.load(Ordering::Relaxed) {
            self.budget.try_reserve(bytes, total - total / 4)
        } else {
            self.budget.try_reserve(bytes, total) || self.budget.evict_and_reserve(bytes)
        };
        if !drawn {
            return Err(NoMemory);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// An empty share of the same budget, for what the same call allocates and frees earlier or later.
    pub(crate) fn new_empty(&self) -> Self {
        self.budget.reservation()
    }

    /// Draws for these bytes, and counts them for as long as anybody holds them.
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

    /// What was made ahead of the calls now serves one, and has the same right to memory.
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
    fn what_is_drawn_is_refused_past_the_budget_and_goes_back_when_dropped() {
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
    fn what_the_allocator_has_not_given_back_is_nobodys() {
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
        assert_eq!(budget.reservation().try_grow(152), Ok(()), "much is given back when it is needed");
    }

    #[test]
    fn the_last_quarter_is_for_calls() {
        let budget = MemoryBudget::new(Some(100));
        let is_warm = budget.warm_reservation();
        is_warm.try_grow(75).unwrap();
        assert_eq!(is_warm.try_grow(1), Err(NoMemory));
        is_warm.promote_to_call();
        is_warm.try_grow(25).unwrap();
    }

    #[test]
    fn what_cannot_be_refused_leaves_less_for_others() {
        let budget = MemoryBudget::new(Some(100));
        let code = budget.account(150);
        assert_eq!(budget.reservation().try_grow(1), Err(NoMemory));
        drop(code);
        assert_eq!(budget.reservation().try_grow(100), Ok(()));
    }

    #[test]
    fn without_a_bound_all_is_counted_and_nothing_refused() {
        let budget = MemoryBudget::new(None);
        let reservation = budget.reservation();
        reservation.try_grow(1 << 60).unwrap();
        assert_eq!((budget.total(), budget.used()), (None, 1 << 60));
    }

    #[test]
    fn threads_that_draw_at_once_never_have_more_than_the_budget() {
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
