//! A guest's state as the kernel keeps it: the words of the state page, where nobody else writes them.
//!
//! The monitor may write its page at any time, so nothing of the guest can live there. What an exit tells goes from
//! here to the page in three copies, whatever moved it here; the words between them are the monitor's alone.

use abi::utcb::offset;
use core::ops::Range;
use sync::SharedPage;

/// Words of the state page up to the exit reason.
const WORDS: usize = offset::EXIT_REASON / 8;

/// What every exit tells: the registers and the exit; not the controls, nor CR8 (abi.md 7.2). The rest, from
/// `tsc_aux` on, is told word by word.
const TOLD: [Range<usize>; 3] = [
    offset::MTD / 8..offset::CTRL0 / 8,
    offset::XCR0 / 8..offset::CR8 / 8,
    offset::EFER / 8..offset::TSC_AUX / 8,
];

/// The words of a state page, each at its offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Image([u64; WORDS]);

impl Default for Image {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl Image {
    /// The word at this byte offset; 0 behind the last one.
    #[inline(always)]
    #[must_use]
    pub fn at(&self, at: usize) -> u64 {
        self.0.get(at / 8).copied().unwrap_or(0)
    }

    /// Sets the word at this byte offset, if there is one.
    #[inline(always)]
    pub fn set(&mut self, at: usize, value: u64) {
        if let Some(word) = self.0.get_mut(at / 8) {
            *word = value;
        }
    }

    /// Takes `COUNT` words over from the page, from byte offset `AT` on.
    #[inline(always)]
    pub fn take<const AT: usize, const COUNT: usize>(&mut self, page: &SharedPage) {
        for i in 0..COUNT {
            self.set(AT + 8 * i, page.read_u64(AT + 8 * i));
        }
    }

    /// Writes `COUNT` words to the page, from byte offset `AT` on.
    #[inline(always)]
    pub fn tell<const AT: usize, const COUNT: usize>(&self, page: &SharedPage) {
        for i in 0..COUNT {
            page.write_u64(AT + 8 * i, self.at(AT + 8 * i));
        }
    }

    /// Writes the words that every exit tells.
    #[inline(always)]
    pub fn tell_all(&self, page: &SharedPage) {
        for range in TOLD {
            page.set_words(range.start, self.0.get(range).unwrap_or_default());
        }
    }

    /// Whether `COUNT` words of the page, from byte offset `AT` on, are those here.
    #[inline(always)]
    #[must_use]
    pub fn agrees<const AT: usize, const COUNT: usize>(&self, page: &SharedPage) -> bool {
        for i in 0..COUNT {
            if self.at(AT + 8 * i) != page.read_u64(AT + 8 * i) {
                return false;
            }
        }
        true
    }

    /// Where the words begin, for assembly and for VMREAD.
    #[inline(always)]
    pub fn as_mut_ptr(&mut self) -> *mut u64 {
        self.0.as_mut_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::guest_software::tests::page;

    #[test]
    fn an_exit_tells_all_words_but_the_monitors_own() {
        let mut image = Image::default();
        for at in (0..8 * WORDS).step_by(8) {
            image.set(at, 0x100 + at as u64);
        }
        let to = page();
        image.tell_all(&to);
        let own = [offset::CTRL0, offset::CR8];
        for at in (0..8 * WORDS).step_by(8) {
            let told = (offset::MTD..offset::TSC_AUX).contains(&at) && !own.contains(&at);
            assert_eq!(to.read_u64(at), if told { 0x100 + at as u64 } else { 0 }, "{at:#x}");
        }
        assert!(image.agrees::<{ offset::ES }, 16>(&to));
        to.write_u64(offset::TR, 1);
        assert!(!image.agrees::<{ offset::ES }, 16>(&to));
        image.set(8 * WORDS, 1);
        assert_eq!(image.at(8 * WORDS), 0, "behind the last word");
    }
}
