//! The space of a tree: a limit, counted to the byte, and a reservation that grows before memory is allocated.

use super::FileError;
use crate::Reservation;

/// The space of one tree.
pub(super) struct Space {
    limit: u64,
    /// The bytes that count toward the limit.
    used: u64,
    /// The bytes that are allocated.
    allocated: u64,
    /// The bytes that are reserved: the most that were ever allocated. All of them are released at once.
    reserved: u64,
    reservation: Option<Reservation>,
}

impl Space {
    /// Space of `limit` bytes, for which the reservation grows as they are allocated.
    pub(super) fn limited(limit: u64, reservation: Reservation) -> Self {
        Self { limit, used: 0, allocated: 0, reserved: 0, reservation: Some(reservation) }
    }

    /// Space without a limit and a reservation, for trees that no guest can change.
    pub(super) fn unlimited() -> Self {
        Self { limit: u64::MAX, used: 0, allocated: 0, reserved: 0, reservation: None }
    }

    /// The bytes that count toward the limit.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// The bytes below the limit.
    pub(super) fn remaining(&self) -> u64 {
        self.limit - self.used
    }

    /// Adds used and allocated bytes, unless the limit or the memory budget refuses them.
    pub(super) fn try_grow(&mut self, used: u64, allocated: u64) -> Result<(), FileError> {
        if used > self.remaining() {
            return Err(FileError::NoSpace);
        }
        let allocated = self.allocated + allocated;
        if let Some(reservation) = self.reservation.as_ref().filter(|_| allocated > self.reserved) {
            reservation.try_grow(allocated - self.reserved).map_err(|_| FileError::NodeMemory)?;
            self.reserved = allocated;
        }
        (self.used, self.allocated) = (self.used + used, allocated);
        Ok(())
    }

    /// Subtracts used and allocated bytes.
    pub(super) fn shrink(&mut self, used: u64, allocated: u64) {
        (self.used, self.allocated) = (self.used - used, self.allocated - allocated);
    }

    /// Extends a file to `len` bytes with zeros.
    pub(super) fn extend(&mut self, content: &mut Vec<u8>, len: usize) -> Result<(), FileError> {
        let more = (len - content.len()) as u64;
        if len <= content.capacity() {
            self.try_grow(more, 0)?;
            content.resize(len, 0);
            return Ok(());
        }
        // Doubles the capacity, so that a file written in small pieces is not copied for each, within the limit.
        let most = content.len().saturating_add(usize::try_from(self.remaining()).unwrap_or(usize::MAX));
        let capacity = content.capacity().saturating_mul(2).min(most).max(len);
        self.try_grow(more, capacity as u64)?;
        // `vec!` takes zeroed pages from the allocator, which cost nothing until they are touched: a file may be extended
        // long before it is written.
        let mut longer = vec![0; capacity];
        longer[..content.len()].copy_from_slice(content);
        longer.truncate(len);
        let before = std::mem::replace(content, longer);
        self.shrink(0, before.capacity() as u64);
        Ok(())
    }

    /// Truncates a file to `len` bytes.
    pub(super) fn truncate(&mut self, content: &mut Vec<u8>, len: usize) {
        let before = (content.len(), content.capacity());
        content.truncate(len);
        if len < before.1 / 2 {
            content.shrink_to_fit();
        }
        self.shrink((before.0 - len) as u64, (before.1 - content.capacity()) as u64);
    }
}
