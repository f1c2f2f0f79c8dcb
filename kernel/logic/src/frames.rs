//! Hands out and takes back blocks of kernel page frames: a buddy allocator over frame numbers.
//!
//! It never touches the frames: its lists live in metadata that the caller sets aside. It does not
//! lock and does not know quotas.
//!
//! ```text
//!   state     one byte per frame: USED|order or FREE|order in a block's first frame, 0 elsewhere
//!   next      one word per frame: the next free block of the same order, by index
//!   previous  one word per frame: the one before
//!   heads[order] --> 8 <--> 40 <--> 16 --> NONE
//! ```
//! A block of 2^order frames starts at a multiple of 2^order; its buddy is its number with bit
//! `order` flipped. Every call is a few list operations per order at most.

use crate::Oom;
use crate::addr::{Frame, is_aligned, units};
use core::ops::Range;

/// The largest block has 2^18 frames: 1 GiB.
pub const MAX_ORDER: u8 = 18;

const ORDERS: usize = MAX_ORDER as usize + 1;
const NONE: u32 = u32::MAX;
const ORDER_MASK: u8 = 0x1f;
const FREE: u8 = 0x40;
const USED: u8 = 0x80;
/// Bytes of metadata per frame: two words for the list and the state.
const BYTES_PER_FRAME: usize = 9;

/// Why frames were not taken back. The allocator is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonsense {
    /// The block is not wholly among the frames of this allocator, or not aligned to its size.
    OutOfRange,
    /// The block is not one that `alloc` gave out with this order, or is already free.
    NotAllocated,
    /// The range to be released contains frames that this allocator already had.
    AlreadyGiven,
}

/// Free and used blocks of one contiguous range of frames.
pub struct Buddy<'a> {
    first: u64,
    count: u32,
    free: usize,
    heads: [u32; ORDERS],
    next: &'a mut [u8],
    previous: &'a mut [u8],
    state: &'a mut [u8],
}

impl<'a> Buddy<'a> {
    /// The bytes that `new` wants as metadata for `count` frames.
    #[must_use]
    pub const fn metadata_bytes(count: usize) -> usize {
        count.saturating_mul(BYTES_PER_FRAME)
    }

    /// An allocator for the `count` frames from `first` on, none of which it may give out until
    /// [`Buddy::release`] says so. With less metadata than [`Buddy::metadata_bytes`] it manages
    /// as many frames as the metadata has room for.
    #[must_use]
    pub fn new(first: Frame, count: usize, metadata: &'a mut [u8]) -> Self {
        let count = count.min(metadata.len() / BYTES_PER_FRAME).min(NONE as usize - 1);
        metadata.fill(0);
        let (next, rest) = metadata.split_at_mut_checked(4 * count).unwrap_or_default();
        let (previous, rest) = rest.split_at_mut_checked(4 * count).unwrap_or_default();
        Self {
            first: first.0,
            count: count as u32,
            free: 0,
            heads: [NONE; ORDERS],
            next,
            previous,
            state: rest,
        }
    }

    /// How many frames are free.
    #[must_use]
    pub const fn free_frames(&self) -> usize {
        self.free
    }

    /// Takes a block of 2^`order` frames.
    ///
    /// # Errors
    /// `Oom` when there is no free block that large; orders above [`MAX_ORDER`] never have one.
    pub fn alloc(&mut self, order: u8) -> Result<Frame, Oom> {
        let mut found = order;
        let index = loop {
            match self.heads.get(usize::from(found)) {
                None => return Err(Oom),
                Some(&NONE) => found += 1,
                Some(&index) => break index,
            }
        };
        self.unlink(index, found);
        while found > order {
            found -= 1;
            self.link(index + (1 << found), found);
        }
        self.set_state(index, USED | order);
        self.free = self.free.saturating_sub(1 << order);
        Ok(Frame(self.first.wrapping_add(u64::from(index))))
    }

    /// Gives back a block that `alloc` gave out with the same `order`.
    ///
    /// # Errors
    /// `Nonsense` when it is no such block: freed twice, or with another order or start.
    pub fn free(&mut self, frame: Frame, order: u8) -> Result<(), Nonsense> {
        let index = self.index_of(frame, order)?;
        if self.state(index) != USED | order {
            return Err(Nonsense::NotAllocated);
        }
        self.insert(index, order);
        Ok(())
    }

    /// Adds frames that were never in this allocator's hands: memory found at boot.
    ///
    /// # Errors
    /// `Nonsense` when some of them are outside the managed range or were released before.
    #[inline]
    pub fn release(&mut self, frames: Range<Frame>) -> Result<(), Nonsense> {
        let (start, end) = (frames.start.0, frames.end.0);
        if start < self.first || end > self.first.saturating_add(u64::from(self.count)) {
            return Err(Nonsense::OutOfRange);
        }
        let known = |number: u64| self.block_around((number - self.first) as u32).is_some();
        if (start..end).any(known) {
            return Err(Nonsense::AlreadyGiven);
        }
        let mut at = start;
        while at < end {
            let by_start = at.trailing_zeros().min(u32::from(MAX_ORDER));
            let order = by_start.min((end - at).ilog2()) as u8;
            self.insert((at - self.first) as u32, order);
            at += units(order);
        }
        Ok(())
    }

    /// The block, free or used, that the frame at `index` belongs to.
    #[inline]
    fn block_around(&self, index: u32) -> Option<(u32, u8)> {
        let number = self.first.wrapping_add(u64::from(index));
        (0..=MAX_ORDER).find_map(|order| {
            let start = (number & !(units(order) - 1)).checked_sub(self.first)? as u32;
            let state = self.state(start);
            (state != 0 && state & ORDER_MASK == order).then_some((start, order))
        })
    }

    /// Marks a block free after joining it with its buddies.
    fn insert(&mut self, index: u32, order: u8) {
        self.free += 1 << order;
        self.set_state(index, 0);
        let (mut index, mut order) = (index, order);
        while order < MAX_ORDER {
            let Some(buddy) = self.buddy_of(index, order) else { break };
            if self.state(buddy) != FREE | order {
                break;
            }
            self.unlink(buddy, order);
            index = index.min(buddy);
            order += 1;
        }
        self.link(index, order);
    }

    fn buddy_of(&self, index: u32, order: u8) -> Option<u32> {
        let number = self.first.wrapping_add(u64::from(index)) ^ units(order);
        let buddy = number.checked_sub(self.first)?;
        (buddy < u64::from(self.count)).then_some(buddy as u32)
    }

    fn index_of(&self, frame: Frame, order: u8) -> Result<u32, Nonsense> {
        let index = frame.0.checked_sub(self.first).ok_or(Nonsense::OutOfRange)?;
        let end = index.checked_add(units(order)).ok_or(Nonsense::OutOfRange)?;
        if order > MAX_ORDER || end > u64::from(self.count) || !is_aligned(frame.0, order) {
            return Err(Nonsense::OutOfRange);
        }
        Ok(index as u32)
    }

    /// Puts a block at the head of its list.
    fn link(&mut self, index: u32, order: u8) {
        let old = self.head(order);
        put_word(self.next, index, old);
        put_word(self.previous, index, NONE);
        if old != NONE {
            put_word(self.previous, old, index);
        }
        self.set_head(order, index);
        self.set_state(index, FREE | order);
    }

    /// Takes a block out of its list; its state becomes "not the start of a block".
    fn unlink(&mut self, index: u32, order: u8) {
        let (next, previous) = (word(self.next, index), word(self.previous, index));
        if previous == NONE {
            self.set_head(order, next);
        } else {
            put_word(self.next, previous, next);
        }
        if next != NONE {
            put_word(self.previous, next, previous);
        }
        self.set_state(index, 0);
    }

    fn head(&self, order: u8) -> u32 {
        self.heads.get(usize::from(order)).copied().unwrap_or(NONE)
    }

    fn set_head(&mut self, order: u8, index: u32) {
        if let Some(head) = self.heads.get_mut(usize::from(order)) {
            *head = index;
        }
    }

    fn state(&self, index: u32) -> u8 {
        self.state.get(index as usize).copied().unwrap_or(0)
    }

    fn set_state(&mut self, index: u32, state: u8) {
        if let Some(byte) = self.state.get_mut(index as usize) {
            *byte = state;
        }
    }
}

/// Word `index` of a list; `NONE`, which ends every list, outside of it.
fn word(list: &[u8], index: u32) -> u32 {
    match list.get(4 * index as usize..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => u32::from_ne_bytes(*bytes),
        None => NONE,
    }
}

fn put_word(list: &mut [u8], index: u32, value: u32) {
    if let Some(bytes) = list.get_mut(4 * index as usize..).and_then(<[u8]>::first_chunk_mut) {
        *bytes = value.to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn with_buddy<T>(first: u64, count: usize, test: impl FnOnce(&mut Buddy<'_>) -> T) -> T {
        let mut metadata = vec![0xaa; Buddy::metadata_bytes(count)];
        test(&mut Buddy::new(Frame(first), count, &mut metadata))
    }

    #[test]
    fn starts_with_nothing_to_give() {
        with_buddy(100, 64, |buddy| {
            assert_eq!(buddy.alloc(0), Err(Oom));
            assert_eq!(buddy.free(Frame(100), 0), Err(Nonsense::NotAllocated));
            buddy.release(Frame(100)..Frame(164)).unwrap();
            assert_eq!(buddy.free_frames(), 64);
            assert_eq!(buddy.alloc(6), Err(Oom), "100 is not a multiple of 64");
            assert_eq!(buddy.alloc(5), Ok(Frame(128)));
        });
    }

    #[test]
    fn refuses_nonsense() {
        with_buddy(64, 64, |buddy| {
            buddy.release(Frame(64)..Frame(128)).unwrap();
            assert_eq!(buddy.release(Frame(70)..Frame(71)), Err(Nonsense::AlreadyGiven));
            assert_eq!(buddy.release(Frame(0)..Frame(65)), Err(Nonsense::OutOfRange));
            let block = buddy.alloc(3).unwrap();
            assert_eq!(buddy.free(block, 2), Err(Nonsense::NotAllocated));
            assert_eq!(buddy.free(block.plus(1), 0), Err(Nonsense::NotAllocated));
            assert_eq!(buddy.free(block.plus(1), 3), Err(Nonsense::OutOfRange));
            assert_eq!(buddy.free(Frame(u64::MAX), 0), Err(Nonsense::OutOfRange));
            assert_eq!(buddy.free(Frame(0), 200), Err(Nonsense::OutOfRange));
            assert_eq!(buddy.alloc(255), Err(Oom));
            buddy.free(block, 3).unwrap();
            assert_eq!(buddy.free(block, 3), Err(Nonsense::NotAllocated));
            assert_eq!(buddy.alloc(6), Ok(Frame(64)));
        });
    }

    #[test]
    fn manages_what_its_metadata_holds() {
        let mut metadata = [0; 100];
        let mut buddy = Buddy::new(Frame(0), 1000, &mut metadata);
        assert_eq!(buddy.release(Frame(0)..Frame(12)), Err(Nonsense::OutOfRange));
        buddy.release(Frame(0)..Frame(11)).unwrap();
        assert_eq!(buddy.alloc(3), Ok(Frame(0)));
    }

    proptest! {
        /// Against a map of used blocks: no block is given twice, `Oom` only when no aligned free
        /// block exists, and everything joins again in the end.
        #[test]
        fn agrees_with_a_naive_allocator(
            first in 0..200_u64,
            count in 1..300_usize,
            steps in prop::collection::vec((0..7_u8, any::<prop::sample::Index>(), any::<bool>()), 0..200),
        ) {
            with_buddy(first, count, |buddy| {
                buddy.release(Frame(first)..Frame(first + count as u64)).unwrap();
                let mut used: BTreeMap<u64, u8> = BTreeMap::new();
                let mut taken = vec![false; count];
                let slots = |start: u64, order: u8| {
                    let from = (start - first) as usize;
                    from..from + (1 << order)
                };
                for (order, pick, is_free) in steps {
                    if is_free && !used.is_empty() {
                        let (&start, &order) = used.iter().nth(pick.index(used.len())).unwrap();
                        buddy.free(Frame(start), order).unwrap();
                        used.remove(&start);
                        taken[slots(start, order)].fill(false);
                    } else if let Ok(frame) = buddy.alloc(order) {
                        prop_assert!(frame.is_aligned(order));
                        prop_assert!(taken[slots(frame.0, order)].iter().all(|taken| !taken));
                        taken[slots(frame.0, order)].fill(true);
                        used.insert(frame.0, order);
                    } else {
                        let room = (first..=first + count as u64 - units(order).min(count as u64))
                            .filter(|&start| is_aligned(start, order))
                            .filter(|&start| start + units(order) <= first + count as u64)
                            .any(|start| taken[slots(start, order)].iter().all(|taken| !taken));
                        prop_assert!(!room, "refused order {order} although there is room");
                    }
                    prop_assert_eq!(buddy.free_frames(), taken.iter().filter(|taken| !**taken).count());
                }
                Ok(())
            })?;
        }
    }
}
