//! A split virtqueue seen from the device (virtio 2.7).
//!
//! ```text
//! descriptors  16 bytes each: address 8, length 4, flags 2, next 2
//! driver       flags 2, index 2, chain heads 2 each           (the available ring)
//! device       flags 2, index 2, (head 4, written 4) each     (the used ring)
//! ```

use super::{Broken, Memory};
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

/// Most descriptors of a queue.
pub const LARGEST: u16 = 128;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;

/// A ring, as its driver described it.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// Descriptors, a power of two; 0 before the driver said so.
    size: u16,
    /// The driver says that it may be used.
    pub ready: bool,
    /// Guest-physical address of the descriptors.
    pub descriptors: u64,
    /// Guest-physical address of the available ring.
    pub driver: u64,
    /// Guest-physical address of the used ring.
    pub device: u64,
    /// The next entry of the available ring.
    next: u16,
    /// The next entry of the used ring.
    used: u16,
}

/// One buffer of a chain; it lies in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its guest-physical address.
    pub address: u64,
    /// Its bytes.
    pub length: u32,
}

/// A request: buffers to read, then buffers to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its first descriptor.
    pub head: u16,
    readable: Vec<Piece>,
    writable: Vec<Piece>,
}

impl Queue {
    /// Sets the number of descriptors; what is no power of two up to [`LARGEST`] is not taken, and such
    /// a queue never becomes ready.
    pub fn set_size(&mut self, size: u32) {
        let fits = size.is_power_of_two() && size <= u32::from(LARGEST);
        self.size = if fits { size as u16 } else { 0 };
    }

    /// The driver says whether it may be used; a queue that has just become ready starts anew.
    pub fn set_ready(&mut self, ready: bool) {
        if ready && !self.ready {
            (self.next, self.used) = (0, 0);
        }
        self.ready = ready && self.size != 0;
    }

    /// How many chains wait.
    ///
    /// # Errors
    /// More than the ring has room for, or no ring.
    pub fn waiting(&self, memory: &dyn Memory) -> Result<u16, Broken> {
        if !self.ready {
            return Ok(0);
        }
        let waiting = number(memory, self.driver, 2)?.wrapping_sub(self.next);
        // What the driver wrote before its index is seen from here on.
        fence(Ordering::Acquire);
        if waiting > self.size { Err(Broken::Index) } else { Ok(waiting) }
    }

    /// Takes the next chain.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, memory: &dyn Memory) -> Result<Option<Chain>, Broken> {
        let chain = self.look(memory)?;
        if chain.is_some() {
            self.pass();
        }
        Ok(chain)
    }

    /// The next chain, which stays where it is until [`Queue::pass`]. It is the guest's word each time.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn look(&self, memory: &dyn Memory) -> Result<Option<Chain>, Broken> {
        if self.waiting(memory)? == 0 {
            return Ok(None);
        }
        let slot = self.next & (self.size - 1);
        let head = number(memory, self.driver, 4 + 2 * u64::from(slot))?;
        self.walk(memory, head).map(Some)
    }

    /// Goes on to the chain after the one that was looked at.
    pub fn pass(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    /// Gives a chain back, `written` bytes of whose writable part were written.
    ///
    /// # Errors
    /// The ring is no memory.
    pub fn give(&mut self, memory: &dyn Memory, chain: &Chain, written: u32) -> Result<(), Broken> {
        let slot = self.used & self.size.saturating_sub(1);
        let at = self.device.checked_add(4 + 8 * u64::from(slot)).ok_or(Broken::Outside)?;
        let entry = u64::from(written) << 32 | u64::from(chain.head);
        memory.write(at, &entry.to_le_bytes())?;
        self.used = self.used.wrapping_add(1);
        // The driver sees buffers and entry before the index.
        fence(Ordering::Release);
        let at = self.device.checked_add(2).ok_or(Broken::Outside)?;
        Ok(memory.write(at, &self.used.to_le_bytes())?)
    }

    /// Whether the driver wants to hear of chains given back.
    ///
    /// # Errors
    /// The ring is no memory.
    pub fn wants_interrupt(&self, memory: &dyn Memory) -> Result<bool, Broken> {
        // Our index before the driver's flag: else both could miss the other (virtio 2.7.7.1).
        fence(Ordering::SeqCst);
        Ok(number(memory, self.driver, 0)? & NO_INTERRUPT == 0)
    }

    fn walk(&self, memory: &dyn Memory, head: u16) -> Result<Chain, Broken> {
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let (mut table, mut entries, mut index) = (self.descriptors, u32::from(self.size), head);
        let mut inside = false;
        // Each round adds a buffer or enters the one indirect table.
        while chain.readable.len() + chain.writable.len() < usize::from(self.size) {
            if u32::from(index) >= entries {
                return Err(Broken::Descriptor);
            }
            let at = table.checked_add(16 * u64::from(index)).ok_or(Broken::Outside)?;
            let mut bytes = [0; 16];
            memory.read(at, &mut bytes)?;
            let word = u128::from_le_bytes(bytes);
            let (address, length) = (word as u64, (word >> 64) as u32);
            let flags = (word >> 96) as u16;
            if flags & INDIRECT != 0 {
                let fits = length % 16 == 0 && (1..=u32::from(self.size)).contains(&(length / 16));
                if inside || flags & NEXT != 0 || !fits {
                    return Err(Broken::Indirect);
                }
                (table, entries, index, inside) = (address, length / 16, 0, true);
                continue;
            }
            if !memory.holds(address, length.into()) {
                return Err(Broken::Outside);
            }
            let piece = Piece { address, length };
            if flags & WRITE != 0 {
                chain.writable.push(piece);
            } else if chain.writable.is_empty() {
                chain.readable.push(piece);
            } else {
                return Err(Broken::Order);
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = (word >> 112) as u16;
        }
        Err(Broken::Endless)
    }
}

impl Chain {
    /// Bytes to read.
    #[must_use]
    pub fn readable(&self) -> u64 {
        self.readable.iter().map(|piece| u64::from(piece.length)).sum()
    }

    /// Bytes that may be written.
    #[must_use]
    pub fn writable(&self) -> u64 {
        self.writable.iter().map(|piece| u64::from(piece.length)).sum()
    }

    /// Copies from the readable part, from its byte `from` on.
    ///
    /// # Errors
    /// The part is shorter.
    pub fn read(&self, memory: &dyn Memory, from: u64, out: &mut [u8]) -> Result<(), Broken> {
        let mut rest = out;
        for (address, count) in spans(&self.readable, from, rest.len()) {
            let (now, later) = rest.split_at_mut(count.min(rest.len()));
            memory.read(address, now)?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(Broken::Short) }
    }

    /// Copies into the writable part, from its byte `from` on.
    ///
    /// # Errors
    /// The part is shorter.
    pub fn write(&self, memory: &dyn Memory, from: u64, bytes: &[u8]) -> Result<(), Broken> {
        let mut rest = bytes;
        for (address, count) in spans(&self.writable, from, rest.len()) {
            let (now, later) = rest.split_at(count.min(rest.len()));
            memory.write(address, now)?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(Broken::Short) }
    }
}

/// Where `length` bytes from byte `from` of a list of buffers lie: addresses and counts.
fn spans(pieces: &[Piece], from: u64, length: usize) -> impl Iterator<Item = (u64, usize)> {
    let (mut skip, mut left) = (from, length as u64);
    pieces.iter().filter_map(move |piece| {
        let size = u64::from(piece.length);
        let skipped = skip.min(size);
        skip -= skipped;
        let count = (size - skipped).min(left);
        left -= count;
        (count > 0).then_some((piece.address + skipped, count as usize))
    })
}

/// The 16-bit number at `offset` of a ring.
fn number(memory: &dyn Memory, ring: u64, offset: u64) -> Result<u16, Broken> {
    let mut bytes = [0; 2];
    memory.read(ring.checked_add(offset).ok_or(Broken::Outside)?, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}
