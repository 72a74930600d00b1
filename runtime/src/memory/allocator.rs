//! The allocator: what calls no longer hold goes back to the system, since the memory budget gives it to others.

#[cfg(target_env = "gnu")]
pub(crate) use gnu::{trim, unmap_large};

/// Other C libraries' allocators give back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn unmap_large() {}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim() {}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc's knobs are C functions")]
mod gnu {
    /// From this size on, glibc maps each allocation for itself and unmaps it when it is freed. This is where it
    /// starts; left alone, it raises that to 32 MiB with the first large bodies that are freed, and keeps the next.
    const MAP_FROM: libc::c_int = 128 << 10;

    /// From now on large allocations go back when they are freed.
    pub(crate) fn unmap_large() {
        // SAFETY: it takes two integers, and this parameter has this range. It may be called at any time.
        if unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM) } == 0 {
            tracing::warn!(
                "the allocator keeps large pieces that were freed; they are over the memory budget"
            );
        }
    }

    /// Gives back what small allocations left behind.
    pub(crate) fn trim() {
        // SAFETY: it takes an integer, and locks what it looks at.
        unsafe { libc::malloc_trim(0) };
    }
}
