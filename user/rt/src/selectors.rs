//! Numbers for new capabilities.

use crate::sync::Mutex;
use abi::Selector;
use abi::cap::SELECTOR_COUNT;
use alloc::vec::Vec;

/// First selector handed out; those below are the program's to agree on with
/// whoever starts it.
pub const FIRST: Selector = 0x1000;

/// The program's selectors.
static SELECTORS: Mutex<Selectors> = Mutex::new(Selectors::new(FIRST, SELECTOR_COUNT));

/// Hands out selectors, singly or in aligned blocks.
pub struct Selectors {
    next: Selector,
    end: Selector,
    free: Vec<(Selector, u8)>,
}

impl Selectors {
    /// All selectors from `first` up to, not including, `end`.
    #[must_use]
    pub const fn new(first: Selector, end: Selector) -> Self {
        Self { next: first, end, free: Vec::new() }
    }

    /// A block of 2^`order` selectors, aligned to its size; `None` when there
    /// are no more.
    pub fn take(&mut self, order: u8) -> Option<Selector> {
        if let Some(index) = self.free.iter().position(|(_, size)| *size == order) {
            return Some(self.free.swap_remove(index).0);
        }
        let size = 1u64.checked_shl(u32::from(order))?;
        let base = self.next.checked_next_multiple_of(size)?;
        let next = base.checked_add(size)?;
        if next > self.end {
            return None;
        }
        self.next = next;
        Some(base)
    }

    /// Gives a block back. Its capabilities must be gone.
    pub fn give(&mut self, base: Selector, order: u8) {
        self.free.push((base, order));
    }
}

/// A free selector of this program. The space has 2^26; a program that uses
/// them up gets 2^26 - 1 again and again, and the kernel refuses it.
#[must_use]
pub fn allocate() -> Selector {
    allocate_block(0)
}

/// 2^`order` free selectors, aligned to their number.
#[must_use]
pub fn allocate_block(order: u8) -> Selector {
    SELECTORS.lock().take(order).unwrap_or(SELECTOR_COUNT - 1)
}

/// Gives a selector back that holds no capability any more.
pub fn free(selector: Selector) {
    SELECTORS.lock().give(selector, 0);
}

/// Gives a block back that holds no capability any more.
pub fn free_block(base: Selector, order: u8) {
    SELECTORS.lock().give(base, order);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_distinct() {
        let mut space = Selectors::new(3, 64);
        assert_eq!(space.take(0), Some(3));
        assert_eq!(space.take(5), Some(32));
        assert_eq!(space.take(5), None);
        space.give(32, 5);
        assert_eq!(space.take(5), Some(32));
        assert_eq!(space.take(63), None);
        assert_eq!(space.take(64), None);
    }
}
