//! The memory budget of this process: what guests' demand takes is drawn from it first, and given back when it is freed.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::{memory::allocator, pool::Pool};

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
    giving_back: Mutex<()>,
    /// Whose idle instances are given back when a call finds nothing left.
    pools: Mutex<Vec<Weak<Pool>>>,
}

/// What one holder has drawn. It goes back when this is dropped, however the call ended.
pub struct Share {
    budget: MemoryBudget,
    bytes: AtomicU64,
    ahead: AtomicBool,
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
            giving_back: Mutex::default(),
            pools: Mutex::default(),
        };
        allocator::give_back_large();
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
    pub fn give_back_freed(&self) {
        // Before the rest, since what is freed meanwhile may not go back this time.
        self.give_back_past(0);
    }

    /// The same where more than so many bytes were freed. Whoever comes while another does it waits: then it is done.
    fn give_back_past(&self, bytes: u64) {
        let _one_at_a_time = self.inner.giving_back.lock().unwrap_or_else(PoisonError::into_inner);
        if self.inner.freed.load(Ordering::Relaxed) > bytes {
            let freed = self.inner.freed.swap(0, Ordering::AcqRel);
            allocator::trim();
            self.inner.used.fetch_sub(freed, Ordering::AcqRel);
        }
    }

    /// An empty share, for what a call allocates.
    pub fn share(&self) -> Share {
        self.holding(0, false, Kind::Heap)
    }

    /// An empty share, for what a call maps.
    pub(crate) fn share_mapped(&self) -> Share {
        self.holding(0, false, Kind::Mapped)
    }

    /// An empty share for what is made before any call needs it. A quarter of the budget is out of its reach, so
    /// that readiness for calls that may come takes nothing from those that are here.
    pub(crate) fn share_ahead(&self) -> Share {
        self.holding(0, true, Kind::Mapped)
    }

    /// A share of what is there already and cannot be refused. It leaves less for others.
    pub(crate) fn counted(&self, bytes: u64) -> Share {
        self.inner.used.fetch_add(bytes, Ordering::AcqRel);
        self.holding(bytes, false, Kind::Mapped)
    }

    fn holding(&self, bytes: u64, ahead: bool, kind: Kind) -> Share {
        Share { budget: self.clone(), bytes: AtomicU64::new(bytes), ahead: AtomicBool::new(ahead), kind }
    }

    /// From now on the pool's idle instances are given back when a call needs their memory.
    pub(crate) fn lend(&self, pool: &Arc<Pool>) {
        let mut pools = self.inner.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    fn draw(&self, bytes: u64, most: u64) -> bool {
        let drawn = self.inner.used.try_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|&used| used <= most)
        });
        drawn.is_ok()
    }

    /// Draws after giving back what no call holds, as little of it as will do.
    fn draw_from_idle(&self, bytes: u64) -> bool {
        let total = self.inner.total;
        if bytes > total {
            // No room would do.
            return false;
        }
        // Each time costs a walk over all that was ever allocated: not for a little.
        self.give_back_past(total / 16);
        let pools = self.inner.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.draw(bytes, total)
            || pools.iter().filter_map(Weak::upgrade).any(|pool| {
                pool.drop_idle();
                self.draw(bytes, total)
            })
    }
}

impl Share {
    /// Draws more. A call for which too little is left gets what idle instances hold, or is refused.
    pub fn grow(&self, bytes: u64) -> Result<(), NoMemory> {
        let total = self.budget.inner.total;
        let drawn = if self.ahead.load(Ordering::Relaxed) {
            self.budget.draw(bytes, total - total / 4)
        } else {
            self.budget.draw(bytes, total) || self.budget.draw_from_idle(bytes)
        };
        if !drawn {
            return Err(NoMemory);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// An empty share of the same budget, for what the same call allocates and frees earlier or later.
    pub(crate) fn another(&self) -> Self {
        self.budget.share()
    }

    /// Draws for these bytes, and counts them for as long as anybody holds them.
    pub fn hold(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Result<Bytes, NoMemory> {
        struct Held<B> {
            bytes: B,
            _share: Share,
        }
        impl<B: AsRef<[u8]>> AsRef<[u8]> for Held<B> {
            fn as_ref(&self) -> &[u8] {
                self.bytes.as_ref()
            }
        }
        self.grow(bytes.as_ref().len() as u64)?;
        Ok(Bytes::from_owner(Held { bytes, _share: self }))
    }

    /// What was made ahead of the calls now serves one, and has the same right to memory.
    pub(crate) fn serves_a_call(&self) {
        self.ahead.store(false, Ordering::Relaxed);
    }
}

impl Drop for Share {
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
        let (first, second) = (budget.share(), budget.share());
        first.grow(40).unwrap();
        second.grow(60).unwrap();
        assert_eq!(first.grow(1), Err(NoMemory));
        assert_eq!(second.grow(u64::MAX), Err(NoMemory));
        assert_eq!(budget.used(), 100);
        drop(second);
        first.grow(60).unwrap();
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_the_allocator_has_not_given_back_is_nobodys() {
        let budget = MemoryBudget::new(Some(160));
        let little = budget.share();
        little.grow(9).unwrap();
        drop(little);
        assert_eq!(budget.used(), 0);
        assert_eq!(budget.share().grow(152), Err(NoMemory));
        budget.give_back_freed();
        let much = budget.share();
        much.grow(152).unwrap();
        drop(much);
        assert_eq!(budget.share().grow(152), Ok(()), "much is given back when it is needed");
    }

    #[test]
    fn the_last_quarter_is_for_calls() {
        let budget = MemoryBudget::new(Some(100));
        let ahead = budget.share_ahead();
        ahead.grow(75).unwrap();
        assert_eq!(ahead.grow(1), Err(NoMemory));
        ahead.serves_a_call();
        ahead.grow(25).unwrap();
    }

    #[test]
    fn what_cannot_be_refused_leaves_less_for_others() {
        let budget = MemoryBudget::new(Some(100));
        let code = budget.counted(150);
        assert_eq!(budget.share().grow(1), Err(NoMemory));
        drop(code);
        assert_eq!(budget.share().grow(100), Ok(()));
    }

    #[test]
    fn without_a_bound_all_is_counted_and_nothing_refused() {
        let budget = MemoryBudget::new(None);
        let share = budget.share();
        share.grow(1 << 60).unwrap();
        assert_eq!((budget.total(), budget.used()), (None, 1 << 60));
    }

    #[test]
    fn threads_that_draw_at_once_never_have_more_than_the_budget() {
        let budget = MemoryBudget::new(Some(1000));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for bytes in 1..2000 {
                        let share = budget.share();
                        let _ = share.grow(bytes % 400).and_then(|()| share.grow(7));
                        assert!(budget.used() <= 1000);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }
}
