//! Copy on write: a disk image that is never changed, and a store for the blocks that were.
//!
//! ```text
//! store   map: 4 bytes per block of the image, 0 or the slot's number + 1  |  slots of one block each
//! ```
//! The map begins as zeros. A block gets its slot with the first write; slots never come back.

use super::block::{Disk, Failed, SECTOR};
use super::{Memory, Outside};
use alloc::boxed::Box;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Bytes of store that a disk of `image` bytes needs so that `changed` bytes of it, in whole blocks, can
/// differ from the image. Nothing if no store is that large.
#[must_use]
pub fn store_size(image: u64, changed: u64) -> Option<u64> {
    let slots = changed.min(image.checked_next_multiple_of(BLOCK)?).div_ceil(BLOCK);
    map_size(image)?.checked_add(slots.checked_mul(BLOCK)?)
}

fn map_size(image: u64) -> Option<u64> {
    image.div_ceil(BLOCK).checked_mul(4)?.checked_next_multiple_of(BLOCK)
}

/// A disk.
pub struct Overlay<M> {
    image: M,
    size: u64,
    store: M,
    /// Where slots begin.
    slots: u64,
    used: u32,
    /// One block on its way.
    block: Box<[u8; BLOCK as usize]>,
}

impl<M: Memory> Overlay<M> {
    /// A disk of `size` bytes of `image` (rounded up to sectors, with zeros), over a store of zeros.
    pub fn new(image: M, size: u64, store: M) -> Self {
        let slots = map_size(size).unwrap_or(u64::MAX);
        Self { image, size, store, slots, used: 0, block: Box::new([0; BLOCK as usize]) }
    }

    /// Blocks that differ from the image.
    #[must_use]
    pub fn changed(&self) -> u32 {
        self.used
    }

    /// Where the changed copy of a block lies in the store.
    fn slot(&self, block: u64) -> Result<Option<u64>, Failed> {
        let mut entry = [0; 4];
        self.store.read(block * 4, &mut entry)?;
        let number = u64::from(u32::from_le_bytes(entry));
        Ok(number.checked_sub(1).map(|slot| self.slots + slot * BLOCK))
    }

    /// A slot for a block that has none, with the image's bytes in it.
    fn copy(&mut self, block: u64) -> Result<u64, Failed> {
        let slot = self.slots + u64::from(self.used) * BLOCK;
        if !self.store.holds(slot, BLOCK) {
            return Err(Failed);
        }
        read_image(&self.image, self.size, block * BLOCK, self.block.as_mut_slice())?;
        self.store.write(slot, self.block.as_slice())?;
        self.used += 1;
        self.store.write(block * 4, &self.used.to_le_bytes())?;
        Ok(slot)
    }
}

impl From<Outside> for Failed {
    fn from(_: Outside) -> Self {
        Self
    }
}

/// Bytes of an image of `size` bytes from `at` on, zeros past its end.
fn read_image(image: &impl Memory, size: u64, at: u64, out: &mut [u8]) -> Result<(), Failed> {
    let there = size.saturating_sub(at).min(out.len() as u64) as usize;
    let (inside, past) = out.split_at_mut(there);
    past.fill(0);
    if inside.is_empty() { Ok(()) } else { Ok(image.read(at, inside)?) }
}

/// Block, offset in it, and bytes up to its end or `left`.
fn place(at: u64, left: usize) -> (u64, u64, usize) {
    let inside = at % BLOCK;
    (at / BLOCK, inside, ((BLOCK - inside) as usize).min(left))
}

impl<M: Memory> Disk for Overlay<M> {
    fn sectors(&self) -> u64 {
        self.size.div_ceil(SECTOR)
    }

    fn read(&mut self, at: u64, out: &mut [u8]) -> Result<(), Failed> {
        let (mut at, mut rest) = (at, out);
        while !rest.is_empty() {
            let (block, inside, count) = place(at, rest.len());
            let (now, later) = rest.split_at_mut(count);
            match self.slot(block)? {
                Some(slot) => self.store.read(slot + inside, now)?,
                None => read_image(&self.image, self.size, at, now)?,
            }
            (at, rest) = (at + count as u64, later);
        }
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Failed> {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let (block, inside, count) = place(at, rest.len());
            let (now, later) = rest.split_at(count);
            let slot = match self.slot(block)? {
                Some(slot) => slot,
                None => self.copy(block)?,
            };
            self.store.write(slot + inside, now)?;
            (at, rest) = (at + count as u64, later);
        }
        Ok(())
    }
}
