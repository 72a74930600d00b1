//! What a tree may take: its own limit, counted to the byte, and the node's memory, reserved before it is used.

use super::FileError;
use crate::Reservation;

/// The space of one tree.
pub(super) struct Space {
    limit: u64,
    /// What counts toward the limit.
    used: u64,
    /// What is allocated.
    allocated: u64,
    /// What was reserved for that: the most that was ever allocated. It goes back as a whole.
    reserved: u64,
    reservation: Option<Reservation>,
}

impl Space {
    /// So many bytes, reserved from a share as they are used.
    pub(super) fn limited(limit: u64, reservation: Reservation) -> Self {
        Self { limit, used: 0, allocated: 0, reserved: 0, reservation: Some(reservation) }
    }

    /// For what no guest can change.
    pub(super) fn unlimited() -> Self {
        Self { limit: u64::MAX, used: 0, allocated: 0, reserved: 0, reservation: None }
    }

    /// What counts toward the limit.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// What is left of it.
    pub(super) fn remaining(&self) -> u64 {
        self.limit - self.used
    }

    /// Counts what is used and what is allocated for it.
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

    /// Counts what is used and allocated no more.
    pub(super) fn shrink(&mut self, used: u64, allocated: u64) {
        (self.used, self.allocated) = (self.used - used, self.allocated - allocated);
    }

    /// Makes a file that long, with zeros at its end.
    pub(super) fn extend(&mut self, content: &mut Vec<u8>, len: usize) -> Result<(), FileError> {
        let more = (len - content.len()) as u64;
        if len <= content.capacity() {
            self.try_grow(more, 0)?;
            content.resize(len, 0);
            return Ok(());
        }
        // Twice as much, so that a file written in small pieces is not copied for each; never more than could be used.
        let most = content.len().saturating_add(usize::try_from(self.remaining()).unwrap_or(usize::MAX));
        let capacity = content.capacity().saturating_mul(2).min(most).max(len);
        self.try_grow(more, capacity as u64)?;
        // Zeros of the allocator's cost nothing until they are touched: a file can be made long before it is full.
        let mut longer = vec![0; capacity];
        longer[..content.len()].copy_from_slice(content);
        longer.truncate(len);
        let before = std::mem::replace(content, longer);
        self.shrink(0, before.capacity() as u64);
        Ok(())
    }

    /// Makes a file that short.
    pub(super) fn truncate(&mut self, content: &mut Vec<u8>, len: usize) {
        let before = (content.len(), content.capacity());
        content.truncate(len);
        if len < before.1 / 2 {
            content.shrink_to_fit();
        }
        self.shrink((before.0 - len) as u64, (before.1 - content.capacity()) as u64);
    }
}
