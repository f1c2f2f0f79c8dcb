//! Free addresses of this program: what was never used, and what came back.
//!
//! Nothing here allocates, so that the heap may ask for addresses, too.

use abi::PAGE_SIZE;

/// Ranges that came back and are remembered; more than these are forgotten, smallest first.
const REMEMBERED: usize = 64;

/// Addresses as ranges of (first byte, end), page aligned.
#[derive(Debug)]
pub struct Room {
    /// What was never used: one range.
    fresh: (u64, u64),
    /// What came back; empty ranges are unused places.
    back: [(u64, u64); REMEMBERED],
}

impl Room {
    /// All addresses from `start` to `end`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { fresh: (start, end), back: [(0, 0); REMEMBERED] }
    }

    /// Takes `pages` pages whose first page number is equal to `like` modulo 2^`order`.
    pub fn take(&mut self, pages: u64, like: u64, order: u8) -> Option<u64> {
        let fits = |range: &(u64, u64)| place(range.0, range.1, pages, like, order);
        let found = (0..).zip(&self.back).find_map(|(slot, range)| Some((slot, fits(range)?)));
        if let Some((slot, base)) = found {
            let range = self.back.get_mut(slot)?;
            let after = (base + pages * PAGE_SIZE, range.1);
            range.1 = base;
            self.remember(after);
            return Some(base);
        }
        let base = fits(&self.fresh)?;
        let skipped = (self.fresh.0, base);
        self.fresh.0 = base + pages * PAGE_SIZE;
        self.remember(skipped);
        Some(base)
    }

    /// Takes back what was taken: `pages` pages from `base` on, of which nobody has a name any more.
    pub fn give(&mut self, base: u64, pages: u64) {
        let mut range = (base, base + pages * PAGE_SIZE);
        // Neighbours become one; the new range may close a gap between two.
        for other in &mut self.back {
            if other.0 < other.1 && (other.1 == range.0 || other.0 == range.1) {
                range = (range.0.min(other.0), range.1.max(other.1));
                *other = (0, 0);
            }
        }
        self.remember(range);
    }

    fn remember(&mut self, range: (u64, u64)) {
        let size = |range: &(u64, u64)| range.1.saturating_sub(range.0);
        let smallest = self.back.iter_mut().min_by_key(|other| size(other));
        if let Some(smallest) = smallest.filter(|smallest| size(smallest) < size(&range)) {
            *smallest = range;
        }
    }
}

/// The first address from `start` on that fits before `end`.
fn place(start: u64, end: u64, pages: u64, like: u64, order: u8) -> Option<u64> {
    let align = PAGE_SIZE.checked_shl(u32::from(order)).filter(|align| *align != 0)?;
    let rest = like.checked_mul(PAGE_SIZE)? & (align - 1);
    let base = start.saturating_sub(rest).checked_next_multiple_of(align)? + rest;
    let base = if base < start { base.checked_add(align)? } else { base };
    let last = base.checked_add(pages.checked_mul(PAGE_SIZE)?)?;
    (last <= end).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 1 << 36;
    const END: u64 = 1 << 40;

    #[test]
    fn what_comes_back_is_used_again() {
        let mut room = Room::new(START, END);
        let first = room.take(4096, 5, 9).unwrap();
        room.give(first, 4096);
        for _ in 0..10_000 {
            let base = room.take(4096, 5, 9).unwrap();
            assert_eq!(base, first);
            room.give(base, 4096);
        }
    }

    #[test]
    fn neighbours_become_one_range() {
        let mut room = Room::new(START, START + 3 * PAGE_SIZE);
        let pages: Vec<_> = (0..3).map(|_| room.take(1, 0, 0).unwrap()).collect();
        assert_eq!(room.take(1, 0, 0), None);
        for index in [0, 2, 1] {
            room.give(pages[index], 1);
        }
        assert_eq!(room.take(3, 0, 0), Some(START));
    }

    proptest! {
        #[test]
        fn places_are_congruent(start in START..END, like: u32, order in 0u8..20) {
            if let Some(base) = place(start, END, 3, u64::from(like), order) {
                prop_assert!(base >= start);
                prop_assert_eq!((base >> 12) % (1 << order), u64::from(like) % (1 << order));
            }
        }

        #[test]
        fn no_address_is_given_twice(steps in proptest::collection::vec((1u64..700, 0u64..512, any::<bool>()), 1..200)) {
            let mut room = Room::new(START, END);
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (pages, like, gives) in steps {
                if gives && !held.is_empty() {
                    let (base, pages) = held.swap_remove(like as usize % held.len());
                    room.give(base, pages);
                    continue;
                }
                let base = room.take(pages, like, 9).unwrap();
                let end = base + pages * PAGE_SIZE;
                for (other, count) in &held {
                    prop_assert!(end <= *other || other + count * PAGE_SIZE <= base);
                }
                held.push((base, pages));
            }
        }
    }
}
