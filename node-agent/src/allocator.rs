//! The allocator: what calls no longer hold goes back to the system, since the memory budget gives it to others.

#[cfg(target_env = "gnu")]
pub(crate) use gnu::give_back;

/// Other C libraries' allocators do so by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) async fn give_back() {}

#[cfg(target_env = "gnu")]
mod gnu {
    use std::time::Duration;

    use tokio::time::{MissedTickBehavior, interval};

    /// From this size on, glibc maps each allocation for itself and unmaps it when it is freed. This is where it
    /// starts; left alone, it raises that to 32 MiB with the first large bodies that are freed, and keeps the next.
    const MAP_FROM: libc::c_int = 128 << 10;
    /// How often what small allocations left behind is given back. Short beside the time that guests take to fill
    /// a node; where nothing was freed, a look costs microseconds.
    const TRIM: Duration = Duration::from_millis(250);

    /// Gives back what is freed for as long as it is polled.
    #[expect(unsafe_code, reason = "glibc's knobs are C functions")]
    pub(crate) async fn give_back() {
        // SAFETY: it takes two integers, and this parameter has this range. It may be called at any time.
        if unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM) } == 0 {
            tracing::warn!(
                "the allocator keeps large pieces that were freed; they are over the memory budget"
            );
        }
        let mut trim = interval(TRIM);
        trim.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            trim.tick().await;
            // SAFETY: it takes an integer, and locks what it looks at.
            unsafe { libc::malloc_trim(0) };
        }
    }
}
