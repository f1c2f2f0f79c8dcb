//! Frames from one guest's monitor to another's, through shared memory: one writer, one reader.
//!
//! ```text
//! slot 0   word 0 frames ever written (the writer's), word 8 frames ever read (the reader's)
//! 1..32    each: word 0 the frame's length, then its bytes
//! ```
//! A switch is one such ring for each ordered pair of its ports, so no port waits for another: what
//! finds its ring full is lost. The other side may be hostile: it can spoil its own frames only. The
//! ring outlives both monitors; a counter that makes no sense reads as an empty or a full ring.
use crate::memory::GuestMemory;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use devices::virtio::net::{FRAME, SHORTEST};

/// Bytes of a ring.
pub const RING: u64 = SLOT * (SLOTS + 1);
/// Frames that fit.
pub const SLOTS: u64 = 31;
const SLOT: u64 = 2048;
const WRITTEN: usize = 0;
const READ: usize = 8;
const _: () = assert!(8 + FRAME as u64 <= SLOT);

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It lies in the ring, and the reader, who had read all before it, must be woken.
    First,
    /// It lies in the ring.
    More,
    /// There was no room.
    Lost,
}

/// One end of the ring. Both ends see the same words.
#[derive(Clone, Copy)]
pub struct Ring<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// A ring over [`RING`] bytes; nothing if there are fewer.
    pub fn new(words: &'a [AtomicU64]) -> Option<Self> {
        (words.len() as u64 * 8 >= RING).then_some(Self { words })
    }

    /// Puts a frame in, if there is room.
    pub fn send(&self, frame: &[u8]) -> Sent {
        let written = self.counter(WRITTEN);
        let used = written.wrapping_sub(self.counter(READ));
        if used >= SLOTS || frame.len() > FRAME {
            return Sent::Lost;
        }
        let at = slot(written);
        let memory = GuestMemory::new(self.words);
        let put = memory.write_number(at, 8, frame.len() as u64);
        if put.and_then(|()| memory.write(at + 8, frame)).is_err() {
            return Sent::Lost;
        }
        self.set(WRITTEN, written.wrapping_add(1));
        // The counter before the look at the reader's: else both could miss the other.
        fence(Ordering::SeqCst);
        if self.counter(READ) == written { Sent::First } else { Sent::More }
    }

    /// Whether there is something to read.
    pub fn has_frame(&self) -> bool {
        let ready = self.counter(WRITTEN).wrapping_sub(self.counter(READ));
        (1..=SLOTS).contains(&ready)
    }

    /// Takes the next frame: its bytes, at the start of `frame`. A frame of no possible length is
    /// skipped.
    pub fn receive(&self, frame: &mut [u8; FRAME]) -> Option<usize> {
        for _ in 0..SLOTS {
            if !self.has_frame() {
                return None;
            }
            let taken = self.counter(READ);
            let at = slot(taken);
            let memory = GuestMemory::new(self.words);
            let length = memory.read_number(at, 8).unwrap_or(0);
            let bytes = usize::try_from(length).ok().and_then(|length| frame.get_mut(..length));
            let whole = bytes.filter(|bytes| bytes.len() >= SHORTEST);
            let size =
                whole.and_then(|bytes| memory.read(at + 8, bytes).ok().map(|()| bytes.len()));
            self.set(READ, taken.wrapping_add(1));
            // The counter before the next look at the writer's, as above.
            fence(Ordering::SeqCst);
            if size.is_some() {
                return size;
            }
        }
        None
    }

    /// Forgets what was meant for the reader's earlier life.
    pub fn forget(&self) {
        self.set(READ, self.counter(WRITTEN));
    }

    fn counter(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set(&self, index: usize, value: u64) {
        if let Some(word) = self.words.get(index) {
            word.store(value, Ordering::Release);
        }
    }
}

fn slot(count: u64) -> u64 {
    SLOT * (1 + count % SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..RING / 8).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn frames_come_in_order_and_the_first_wakes() {
        let words = words();
        let ring = Ring::new(&words).unwrap();
        let mut out = [0; FRAME];
        for round in 0..100_u8 {
            assert_eq!(ring.send(&[round; 60]), Sent::First);
            assert_eq!(ring.send(&[round; FRAME]), Sent::More);
            assert_eq!(ring.receive(&mut out), Some(60));
            assert_eq!(out[..60], [round; 60]);
            assert_eq!(ring.receive(&mut out), Some(FRAME));
            assert_eq!(out, [round; FRAME]);
            assert_eq!((ring.receive(&mut out), ring.has_frame()), (None, false));
        }
        assert!(Ring::new(&words[1..]).is_none());
    }

    #[test]
    fn what_finds_no_room_is_lost_and_a_new_life_begins_empty() {
        let words = words();
        let ring = Ring::new(&words).unwrap();
        let sent: Vec<Sent> = (0..40).map(|n| ring.send(&[n; 20])).collect();
        assert_eq!(sent.iter().filter(|sent| **sent == Sent::Lost).count(), 9);
        let mut out = [0; FRAME];
        assert_eq!((ring.receive(&mut out), out[0]), (Some(20), 0));
        ring.forget();
        assert!(!ring.has_frame());
        assert_eq!(ring.send(&[9; 20]), Sent::First);
        assert_eq!((ring.receive(&mut out), out[0]), (Some(20), 9));
        assert_eq!(ring.send(&[0; FRAME + 1]), Sent::Lost);
    }

    #[test]
    fn nonsense_of_the_other_side_is_survived() {
        let words = words();
        let ring = Ring::new(&words).unwrap();
        let mut out = [0; FRAME];
        for (written, read) in [(32, 0), (0, 1), (u64::MAX, 0), (0, u64::MAX - 40)] {
            words[WRITTEN].store(written, Ordering::Relaxed);
            words[READ].store(read, Ordering::Relaxed);
            assert_eq!(ring.receive(&mut out), None);
        }
        ring.forget();
        for length in [0, 13, FRAME as u64 + 1, u64::MAX] {
            ring.send(&[1; 20]);
            let at = slot(words[READ].load(Ordering::Relaxed)) / 8;
            words[at as usize].store(length, Ordering::Relaxed);
            ring.send(&[2; 20]);
            assert_eq!((ring.receive(&mut out), out[0]), (Some(20), 2));
        }
    }
}
