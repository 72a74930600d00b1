//! Returns freed memory from the allocator to the system, since the memory budget reserves it for others.

#[cfg(target_env = "gnu")]
pub(crate) use gnu::{trim, unmap_large};

/// The allocators of other C libraries decommit freed memory by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn unmap_large() {}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim() {}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc's knobs are C functions")]
mod gnu {
    /// glibc maps each allocation of at least this size separately, and unmaps it when it is freed. This is its initial
    /// threshold; left alone, it raises that up to 32 MiB as large bodies are freed, and then keeps the next ones.
    const MAP_FROM: libc::c_int = 128 << 10;

    /// Fixes the threshold, so that large allocations are unmapped when they are freed.
    pub(crate) fn unmap_large() {
        // SAFETY: it takes two integers, and this parameter has this range. It may be called at any time.
        if unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_FROM) } == 0 {
            tracing::warn!(
                "the allocator keeps large allocations after they are freed, beyond the memory budget"
            );
        }
    }

    /// Trims the heap: returns the pages of freed small allocations to the system.
    pub(crate) fn trim() {
        // SAFETY: it takes an integer, and locks the heaps that it walks.
        unsafe { libc::malloc_trim(0) };
    }
}
