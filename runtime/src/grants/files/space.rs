//! What a tree may take: its own limit, counted to the byte, and the node's memory, drawn before it is used.

use super::FileError;
use crate::Reservation;

/// The space of one tree.
pub(super) struct Space {
    limit: u64,
    /// What counts toward the limit.
    used: u64,
    /// What is allocated.
    held: u64,
    /// What was drawn for that: the most that was ever held. It goes back as a whole.
    drawn: u64,
    reservation: Option<Reservation>,
}

impl Space {
    /// So many bytes, drawn from a share as they are used.
    pub(super) fn limited(limit: u64, reservation: Reservation) -> Self {
        Self { limit, used: 0, held: 0, drawn: 0, reservation: Some(reservation) }
    }

    /// For what no guest can change.
    pub(super) fn unlimited() -> Self {
        Self { limit: u64::MAX, used: 0, held: 0, drawn: 0, reservation: None }
    }

    /// What counts toward the limit.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// What is left of it.
    pub(super) fn left(&self) -> u64 {
        self.limit - self.used
    }

    /// Counts what is used and what is allocated for it.
    pub(super) fn take(&mut self, used: u64, held: u64) -> Result<(), FileError> {
        if used > self.left() {
            return Err(FileError::NoSpace);
        }
        let held = self.held + held;
        if let Some(reservation) = self.reservation.as_ref().filter(|_| held > self.drawn) {
            reservation.try_grow(held - self.drawn).map_err(|_| FileError::NodeMemory)?;
            self.drawn = held;
        }
        (self.used, self.held) = (self.used + used, held);
        Ok(())
    }

    /// Counts what is used and allocated no more.
    pub(super) fn give(&mut self, used: u64, held: u64) {
        (self.used, self.held) = (self.used - used, self.held - held);
    }

    /// Makes a file that long, with zeros at its end.
    pub(super) fn extend(&mut self, content: &mut Vec<u8>, len: usize) -> Result<(), FileError> {
        let more = (len - content.len()) as u64;
        if len <= content.capacity() {
            self.take(more, 0)?;
            content.resize(len, 0);
            return Ok(());
        }
        // Twice as much, so that a file written in small pieces is not copied for each; never more than could be used.
        let most = content.len().saturating_add(usize::try_from(self.left()).unwrap_or(usize::MAX));
        let room = content.capacity().saturating_mul(2).min(most).max(len);
        self.take(more, room as u64)?;
        // Zeros of the allocator's cost nothing until they are touched: a file can be made long before it is full.
        let mut longer = vec![0; room];
        longer[..content.len()].copy_from_slice(content);
        longer.truncate(len);
        let before = std::mem::replace(content, longer);
        self.give(0, before.capacity() as u64);
        Ok(())
    }

    /// Makes a file that short.
    pub(super) fn cut(&mut self, content: &mut Vec<u8>, len: usize) {
        let before = (content.len(), content.capacity());
        content.truncate(len);
        if len < before.1 / 2 {
            content.shrink_to_fit();
        }
        self.give((before.0 - len) as u64, (before.1 - content.capacity()) as u64);
    }
}
