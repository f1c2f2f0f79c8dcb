//! Names physical pages and does the arithmetic between pages, orders and bytes.
//!
//! It does not know which page holds what; see `memory_map` for that.

use core::ops::Range;

pub use abi::cap::USER_TOP;
pub use abi::{PAGE_BITS, PAGE_SIZE};

/// A page of physical memory, by its number (address / 4096).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub u64);

impl Frame {
    /// The frame that contains the physical byte `address`.
    #[must_use]
    pub const fn containing(address: u64) -> Self {
        Self(address >> PAGE_BITS)
    }

    /// The physical address of its first byte.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 << PAGE_BITS
    }

    /// The frame `frames` behind this one; wraps around at the end of numbers.
    #[must_use]
    pub const fn plus(self, frames: u64) -> Self {
        Self(self.0.wrapping_add(frames))
    }

    /// Whether it is the first frame of an aligned block of 2^`order` frames.
    #[must_use]
    pub const fn is_aligned(self, order: u8) -> bool {
        is_aligned(self.0, order)
    }
}

/// Whether `number` is a multiple of 2^`order` (of 2^63 for greater orders).
#[must_use]
pub const fn is_aligned(number: u64, order: u8) -> bool {
    number & (units(order) - 1) == 0
}

/// 2^`order`; orders above 63 count as 63.
#[must_use]
pub const fn units(order: u8) -> u64 {
    1 << (if order > 63 { 63 } else { order })
}

/// The smallest order whose block holds `count` units; 0 for none.
#[must_use]
pub const fn order_for(count: u64) -> u8 {
    if count <= 1 { 0 } else { (u64::BITS - (count - 1).leading_zeros()) as u8 }
}

/// The frames that `bytes` touch, also partly.
#[must_use]
pub const fn frames_touched(bytes: &Range<u64>) -> Range<u64> {
    if bytes.start >= bytes.end {
        return (bytes.start >> PAGE_BITS)..(bytes.start >> PAGE_BITS);
    }
    (bytes.start >> PAGE_BITS)..(((bytes.end - 1) >> PAGE_BITS) + 1)
}

/// The frames that lie within `bytes` as a whole; empty when there are none.
#[must_use]
pub const fn frames_within(bytes: &Range<u64>) -> Range<u64> {
    let first = bytes.start.div_ceil(PAGE_SIZE);
    let end = bytes.end >> PAGE_BITS;
    if first < end { first..end } else { first..first }
}

/// Whether the block of 2^`order` pages at `page` is aligned to its size and lies below
/// [`USER_TOP`]: the rule for all memory windows of users (abi.md 6.2).
///
/// Page 0 may carry any order up to 34, the whole lower half of the address space (2^46 bytes).
#[must_use]
pub const fn is_user_block(page: u64, order: u8) -> bool {
    order <= 34 && page < USER_TOP >> PAGE_BITS && is_aligned(page, order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_byte_ranges() {
        assert_eq!(frames_touched(&(0..0)), 0..0);
        assert_eq!(frames_touched(&(0xfff..0x1001)), 0..2);
        assert_eq!(frames_touched(&(u64::MAX - 1..u64::MAX)), (1 << 52) - 1..1 << 52);
        assert_eq!(frames_within(&(0xfff..0x1fff)), 1..1);
        assert_eq!(frames_within(&(0x1000..0x3001)), 1..3);
        assert!(frames_within(&(u64::MAX - 1..u64::MAX)).is_empty());
    }

    #[test]
    fn orders_hold_their_counts() {
        for count in 0..5000_u64 {
            let order = order_for(count);
            assert!(units(order) >= count);
            assert!(order == 0 || units(order - 1) < count);
        }
    }

    #[test]
    fn user_blocks_end_below_the_hole() {
        assert!(is_user_block(0, 34));
        assert!(!is_user_block(0, 35));
        assert!(!is_user_block(1, 1));
        assert!(is_user_block(0x7_ffff_fffe, 0));
        assert!(!is_user_block(0x7_ffff_ffff, 0));
    }
}
