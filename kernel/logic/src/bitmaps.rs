//! Sets and clears ranges of bits in arrays of shared words: port permissions, event bits.
//!
//! It does not know what a set bit means; in port bitmaps of the hardware it means "denied"
//! (Intel SDM vol. 1, 19.5.2; vol. 3, 25.6.4).

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

const BITS: usize = u64::BITS as usize;

/// An array of words that others may look at while it changes. Indices outside of it read as 0
/// and are not written.
pub trait BitWords {
    /// Word `index`.
    fn read(&self, index: usize) -> u64;
    /// Sets the bits of `mask` in word `index`, atomically.
    fn set(&self, index: usize, mask: u64);
    /// Clears the bits of `mask` in word `index`, atomically.
    fn clear(&self, index: usize, mask: u64);
}

impl BitWords for [AtomicU64] {
    fn read(&self, index: usize) -> u64 {
        self.get(index).map_or(0, |word| word.load(Relaxed))
    }

    fn set(&self, index: usize, mask: u64) {
        if let Some(word) = self.get(index) {
            word.fetch_or(mask, Relaxed);
        }
    }

    fn clear(&self, index: usize, mask: u64) {
        if let Some(word) = self.get(index) {
            word.fetch_and(!mask, Relaxed);
        }
    }
}

/// Sets the bits of a range.
pub fn set_range(words: &(impl BitWords + ?Sized), bits: Range<usize>) {
    masks(bits).for_each(|(index, mask)| words.set(index, mask));
}

/// Clears the bits of a range.
pub fn clear_range(words: &(impl BitWords + ?Sized), bits: Range<usize>) {
    masks(bits).for_each(|(index, mask)| words.clear(index, mask));
}

/// Whether all bits of a range are set; true for the empty range.
#[must_use]
pub fn all_set(words: &(impl BitWords + ?Sized), bits: Range<usize>) -> bool {
    masks(bits).all(|(index, mask)| words.read(index) & mask == mask)
}

/// Whether all bits of a range are clear; true for the empty range.
#[must_use]
pub fn all_clear(words: &(impl BitWords + ?Sized), bits: Range<usize>) -> bool {
    masks(bits).all(|(index, mask)| words.read(index) & mask == 0)
}

/// The words that a range touches, each with the mask of its bits.
fn masks(bits: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let Range { start, end } = if bits.is_empty() { 0..0 } else { bits };
    (start / BITS..end.div_ceil(BITS)).map(move |index| {
        let from = start.saturating_sub(index * BITS);
        let to = (end - index * BITS).min(BITS);
        (index, u64::MAX >> (BITS - (to - from)) << from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_agree_with_single_bits(
            steps in prop::collection::vec((0..300_usize, 0..300_usize, any::<bool>()), 1..20),
            probe in (0..260_usize, 0..260_usize),
        ) {
            let words: [AtomicU64; 4] = Default::default();
            let mut model = [false; 300];
            for (start, end, is_set) in steps {
                if start < end {
                    model[start..end].fill(is_set);
                }
                if is_set {
                    set_range(&words[..], start..end);
                } else {
                    clear_range(&words[..], start..end);
                }
            }
            model[256..].fill(false);
            for (bit, &is_set) in model.iter().enumerate() {
                prop_assert_eq!(all_clear(&words[..], bit..bit + 1), !is_set);
            }
            let (start, end) = (probe.0.min(probe.1), probe.0.max(probe.1));
            prop_assert_eq!(all_set(&words[..], start..end), model[start..end].iter().all(|&set| set));
            prop_assert_eq!(all_clear(&words[..], start..end), !model[start..end].contains(&true));
        }
    }
}
