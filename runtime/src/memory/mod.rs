//! Memory that guests take: the budget of the process, the limit of an instance, and what the allocator keeps.

pub(crate) mod allocator;
pub(crate) mod budget;
pub(crate) mod limiter;
