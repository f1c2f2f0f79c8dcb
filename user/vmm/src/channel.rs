//! A stream of bytes through one shared page: one writer, one reader, no locks.
//!
//! ```text
//! word 0  bytes ever written (the writer's)     word 2  a status word beside the stream
//! word 1  bytes ever read    (the reader's)     words 8..512  4032 bytes, used as a ring
//! ```
//! The other side may be hostile: a counter that makes no sense reads as an empty or a full ring.
use crate::memory::GuestMemory;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes in the ring.
pub const CAPACITY: u64 = (512 - FIRST) * 8;
const FIRST: u64 = 8;

/// One end of the stream. Both ends see the same page.
#[derive(Clone, Copy)]
pub struct Channel<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Channel<'a> {
    /// A stream over a page of 512 words; nothing if there are fewer.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        (words.len() >= 512).then_some(Self { words })
    }

    /// Writes as many of `bytes` as there is room for; how many, and whether the ring was empty
    /// before, so that a reader who sleeps must be woken.
    pub fn write(&self, bytes: &[u8]) -> (usize, bool) {
        let written = self.counter(0, Ordering::Relaxed);
        let used = written.wrapping_sub(self.counter(1, Ordering::Acquire));
        let room = CAPACITY.saturating_sub(used) as usize;
        let count = room.min(bytes.len());
        let data = self.data();
        for (index, byte) in bytes.iter().take(count).enumerate() {
            let at = written.wrapping_add(index as u64) % CAPACITY;
            // Inside the ring by construction.
            let _ = data.write(at, core::slice::from_ref(byte));
        }
        self.set(0, written.wrapping_add(count as u64));
        (count, used == 0)
    }

    /// Takes up to `out.len()` bytes; how many.
    pub fn read(&self, out: &mut [u8]) -> usize {
        let taken = self.counter(1, Ordering::Relaxed);
        let ready = self.counter(0, Ordering::Acquire).wrapping_sub(taken);
        let count = if ready > CAPACITY { 0 } else { (ready as usize).min(out.len()) };
        let data = self.data();
        for (index, byte) in out.iter_mut().take(count).enumerate() {
            let at = taken.wrapping_add(index as u64) % CAPACITY;
            let _ = data.read(at, core::slice::from_mut(byte));
        }
        self.set(1, taken.wrapping_add(count as u64));
        count
    }

    /// Bytes that wait for the reader; at most [`CAPACITY`].
    pub fn waiting(&self) -> u64 {
        let taken = self.counter(1, Ordering::Acquire);
        self.counter(0, Ordering::Relaxed).wrapping_sub(taken).min(CAPACITY)
    }

    /// Whether everything written has been read.
    pub fn is_empty(&self) -> bool {
        self.counter(0, Ordering::Acquire) == self.counter(1, Ordering::Acquire)
    }

    /// Sets the status word.
    pub fn set_status(&self, status: u64) {
        self.set(2, status);
    }

    /// Reads the status word.
    pub fn status(&self) -> u64 {
        self.counter(2, Ordering::Acquire)
    }

    fn data(&self) -> GuestMemory<'a> {
        GuestMemory::new(self.words.get(FIRST as usize..512).unwrap_or_default())
    }

    fn counter(&self, index: usize, order: Ordering) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(order))
    }

    fn set(&self, index: usize, value: u64) {
        if let Some(word) = self.words.get(index) {
            word.store(value, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<AtomicU64> {
        (0..512).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn bytes_come_in_order_over_the_edge() {
        let page = page();
        let channel = Channel::new(&page).unwrap();
        let mut next = 0u8;
        let mut expect = 0u8;
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..97).map(|i| next.wrapping_add(i)).collect();
            assert_eq!(channel.write(&bytes).0, 97);
            next = next.wrapping_add(97);
            let mut out = [0; 97];
            assert_eq!(channel.read(&mut out), 97);
            for byte in out {
                assert_eq!(byte, expect);
                expect = expect.wrapping_add(1);
            }
        }
        assert!(channel.is_empty());
    }

    #[test]
    fn full_is_full_and_nonsense_is_empty() {
        let page = page();
        let channel = Channel::new(&page).unwrap();
        assert_eq!(channel.write(&[1; 5000]), (CAPACITY as usize, true));
        assert_eq!(channel.write(&[1]), (0, false));
        assert_eq!(channel.waiting(), CAPACITY);
        page[1].store(99_999, Ordering::Relaxed);
        assert_eq!(channel.read(&mut [0; 4]), 0);
        page[0].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(channel.read(&mut [0; 4]), 0);
        assert!(Channel::new(&page[..511]).is_none());
    }
}
