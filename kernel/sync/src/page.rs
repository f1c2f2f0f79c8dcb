//! A 4 KiB page that somebody else may write at any time.
//!
//! User programs see UTCBs and kernel pages; guests see their virtual-APIC page; other CPUs and the
//! hardware see page tables. So no Rust reference to plain data ever points into such a page: every
//! access is one relaxed atomic load or store of a word, which compiles to a plain `mov`. Read what you
//! judge once (`read-once`), judge the copy, use the copy.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

const WORDS: usize = 512;

/// A page accessed word by word. Offsets wrap at the page's end, so none of them can miss it.
#[repr(C, align(4096))]
pub struct SharedPage([AtomicU64; WORDS]);

impl SharedPage {
    /// A page of zeros, for statics and host tests.
    #[must_use]
    pub const fn zeroed() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// The 64-bit word number `index` (modulo 512).
    #[inline(always)]
    pub fn word(&self, index: usize) -> u64 {
        self.0[index & (WORDS - 1)].load(Relaxed)
    }

    /// Writes the 64-bit word number `index` (modulo 512).
    #[inline(always)]
    pub fn set_word(&self, index: usize, value: u64) {
        self.0[index & (WORDS - 1)].store(value, Relaxed);
    }

    /// The word itself, for compare-exchange on table entries and atomic bits.
    #[inline(always)]
    pub fn atomic(&self, index: usize) -> &AtomicU64 {
        &self.0[index & (WORDS - 1)]
    }

    /// Reads 64 bits at a byte offset (rounded down to 8, modulo the page).
    #[inline(always)]
    pub fn read_u64(&self, offset: usize) -> u64 {
        self.word(offset >> 3)
    }

    /// Writes 64 bits at a byte offset (rounded down to 8, modulo the page).
    #[inline(always)]
    pub fn write_u64(&self, offset: usize, value: u64) {
        self.set_word(offset >> 3, value);
    }

    /// Reads 32 bits at a byte offset (rounded down to 4, modulo the page).
    #[inline(always)]
    pub fn read_u32(&self, offset: usize) -> u32 {
        self.halves()[(offset >> 2) & (WORDS * 2 - 1)].load(Relaxed)
    }

    /// Writes 32 bits at a byte offset (rounded down to 4, modulo the page).
    #[inline(always)]
    pub fn write_u32(&self, offset: usize, value: u32) {
        self.halves()[(offset >> 2) & (WORDS * 2 - 1)].store(value, Relaxed);
    }

    /// Reads 16 bits at a byte offset (rounded down to 2, modulo the page).
    #[inline(always)]
    pub fn read_u16(&self, offset: usize) -> u16 {
        self.quarters()[(offset >> 1) & (WORDS * 4 - 1)].load(Relaxed)
    }

    /// Writes 16 bits at a byte offset (rounded down to 2, modulo the page).
    #[inline(always)]
    pub fn write_u16(&self, offset: usize, value: u16) {
        self.quarters()[(offset >> 1) & (WORDS * 4 - 1)].store(value, Relaxed);
    }

    /// Reads one byte (offset modulo the page).
    #[inline(always)]
    pub fn read_u8(&self, offset: usize) -> u8 {
        self.bytes()[offset & (WORDS * 8 - 1)].load(Relaxed)
    }

    /// Writes one byte (offset modulo the page).
    #[inline(always)]
    pub fn write_u8(&self, offset: usize, value: u8) {
        self.bytes()[offset & (WORDS * 8 - 1)].store(value, Relaxed);
    }

    /// Copies words `first .. first + count` of `from` to the same place here; stops at the page's end.
    #[inline]
    pub fn copy_words(&self, from: &SharedPage, first: usize, count: usize) {
        let first = first.min(WORDS);
        let count = count.min(WORDS - first);
        let (Some(from), Some(to)) =
            (from.0.get(first..first + count), self.0.get(first..first + count))
        else {
            return;
        };
        // Four at a time: a message word costs two and a half instructions instead of five.
        let mut from = from.chunks_exact(4);
        let mut to = to.chunks_exact(4);
        for (t, f) in to.by_ref().zip(from.by_ref()) {
            if let ([t0, t1, t2, t3], [f0, f1, f2, f3]) = (t, f) {
                t0.store(f0.load(Relaxed), Relaxed);
                t1.store(f1.load(Relaxed), Relaxed);
                t2.store(f2.load(Relaxed), Relaxed);
                t3.store(f3.load(Relaxed), Relaxed);
            }
        }
        for (t, f) in to.remainder().iter().zip(from.remainder()) {
            t.store(f.load(Relaxed), Relaxed);
        }
    }

    /// Writes `words` here from word `first` on; nothing if that goes beyond the page.
    #[inline(always)]
    pub fn set_words(&self, first: usize, words: &[u64]) {
        let Some(to) = self.0.get(first..).and_then(|rest| rest.get(..words.len())) else { return };
        copy_in(to, words);
    }

    /// The number of the first word that [`SharedPage::copy_message`] copies.
    pub const MESSAGE: usize = 4;

    /// Copies `count` words of `from`, from word [`SharedPage::MESSAGE`] on, to the same place here; stops at the
    /// page's end. Eight at a time: a word costs little more than its load and its store.
    #[inline(always)]
    pub fn copy_message(&self, from: &SharedPage, count: usize) {
        let (from, from_rest) = from.message();
        let (to, to_rest) = self.message();
        let whole = count / 8;
        for (t, f) in to.iter().zip(from).take(whole) {
            let [t0, t1, t2, t3, t4, t5, t6, t7] = t;
            let [f0, f1, f2, f3, f4, f5, f6, f7] = f;
            t0.store(f0.load(Relaxed), Relaxed);
            t1.store(f1.load(Relaxed), Relaxed);
            t2.store(f2.load(Relaxed), Relaxed);
            t3.store(f3.load(Relaxed), Relaxed);
            t4.store(f4.load(Relaxed), Relaxed);
            t5.store(f5.load(Relaxed), Relaxed);
            t6.store(f6.load(Relaxed), Relaxed);
            t7.store(f7.load(Relaxed), Relaxed);
        }
        let left = count % 8;
        if left != 0 {
            let to = to.get(whole).map_or(to_rest, |chunk| chunk.as_slice());
            let from = from.get(whole).map_or(from_rest, |chunk| chunk.as_slice());
            for (t, f) in to.iter().zip(from).take(left) {
                t.store(f.load(Relaxed), Relaxed);
            }
        }
    }

    /// The words from [`SharedPage::MESSAGE`] on by eights, and the rest.
    #[inline(always)]
    fn message(&self) -> (&[[AtomicU64; 8]], &[AtomicU64]) {
        let [_, _, _, _, words @ ..] = &self.0;
        words.as_chunks()
    }

    /// Writes zero to every word.
    pub fn clear(&self) {
        self.fill(0);
    }

    /// Writes zero to the first `count` words.
    pub fn clear_words(&self, count: usize) {
        let words = self.0.get(..count.min(WORDS)).unwrap_or_default();
        let (blocks, rest) = words.as_chunks::<8>();
        for words in blocks {
            for word in words {
                word.store(0, Relaxed);
            }
        }
        for word in rest {
            word.store(0, Relaxed);
        }
    }

    /// Writes `value` to every word.
    pub fn fill(&self, value: u64) {
        // Many at a time: hardly more than one instruction for a word.
        for words in self.0.as_chunks::<32>().0 {
            for word in words {
                word.store(value, Relaxed);
            }
        }
    }

    #[inline(always)]
    fn halves(&self) -> &[AtomicU32; WORDS * 2] {
        // SAFETY: same size, smaller alignment, and atomics of either width may alias in memory that
        // is only ever accessed through atomics (mixed sizes are plain moves on x86).
        unsafe { &*(&raw const self.0).cast() }
    }

    #[inline(always)]
    fn quarters(&self) -> &[AtomicU16; WORDS * 4] {
        // SAFETY: as `halves`.
        unsafe { &*(&raw const self.0).cast() }
    }

    #[inline(always)]
    fn bytes(&self) -> &[AtomicU8; WORDS * 8] {
        // SAFETY: as `halves`.
        unsafe { &*(&raw const self.0).cast() }
    }
}

/// Copies word for word, by the instruction made for it: from some twenty words on it is no slower than a load and a
/// store for each, and much shorter.
#[cfg(target_os = "none")]
#[inline(always)]
fn copy_in(to: &[AtomicU64], words: &[u64]) {
    let count = to.len().min(words.len());
    // SAFETY: both slices have so many words; the first is shared memory that is only accessed through atomics, and
    // each word is stored whole. The direction flag is clear in Rust code.
    unsafe {
        core::arch::asm!("rep movsq", inout("rcx") count => _, inout("rdi") to.as_ptr() => _,
            inout("rsi") words.as_ptr() => _, options(nostack, preserves_flags));
    }
}

/// The same where Miri and loom must understand it.
#[cfg(not(target_os = "none"))]
fn copy_in(to: &[AtomicU64], words: &[u64]) {
    for (to, word) in to.iter().zip(words) {
        to.store(*word, Relaxed);
    }
}
