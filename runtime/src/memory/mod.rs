//! Memory of guests: the budget of the process, the limit of an instance, and trimming of the allocator.

pub(crate) mod allocator;
pub(crate) mod budget;
pub(crate) mod limiter;
