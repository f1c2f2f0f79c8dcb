//! A narrow door to the guest's memory: bytes in, bytes out, bounds checked.
//!
//! The guest may change its memory at any moment, so nobody here ever holds a reference into it.
//! Storage is a slice of atomic words, which makes every race with the guest defined behaviour.
//! It does not know about devices, holes or page tables.
use crate::layout;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The access would have left the guest's memory; nothing was transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// A region of a guest's memory besides its RAM.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    /// Guest-physical address of its first byte, which begins a page.
    pub start: u64,
    /// Bytes, whole pages.
    pub size: u64,
    /// What it holds; empty if this program cannot see it.
    pub words: &'a [AtomicU64],
    /// The guest may write it.
    pub write: bool,
}

/// The memory of one guest: RAM from guest-physical address 0, what there is of it above the PCI hole, and regions.
#[derive(Clone, Copy)]
pub struct GuestMemory<'a> {
    words: &'a [AtomicU64],
    /// Bytes from address 0; the rest lies from [`layout::HIGH`] on.
    low: u64,
    regions: &'a [Region<'a>],
}

/// Where bytes lie.
struct Place<'a> {
    words: &'a [AtomicU64],
    /// Of the first of them, in bytes from the first word.
    at: u64,
    write: bool,
}

impl<'a> GuestMemory<'a> {
    /// Wraps the words that hold guest-physical memory from address 0.
    pub fn new(words: &'a [AtomicU64]) -> Self {
        Self { words, low: words.len() as u64 * 8, regions: &[] }
    }

    /// Wraps words of which those after the first `low` bytes lie above the PCI hole.
    pub fn with_high(words: &'a [AtomicU64], low: u64) -> Self {
        Self { words, low: low.min(words.len() as u64 * 8), regions: &[] }
    }

    /// The same with regions, which overlap neither RAM nor each other.
    pub fn and(self, regions: &'a [Region<'a>]) -> Self {
        Self { regions, ..self }
    }

    /// The regions besides RAM.
    pub fn regions(&self) -> &'a [Region<'a>] {
        self.regions
    }

    /// Bytes from address 0.
    pub fn size(&self) -> u64 {
        self.low
    }

    /// Bytes above the PCI hole, from [`layout::HIGH`] on.
    pub fn high(&self) -> u64 {
        self.words.len() as u64 * 8 - self.low
    }

    /// True if `length` bytes from `address` are all RAM, or all in one region.
    pub fn holds(&self, address: u64, length: u64) -> bool {
        self.place(address, length).is_some()
    }

    /// Where these bytes lie, if all of them are RAM or in one region.
    fn place(&self, address: u64, length: u64) -> Option<Place<'a>> {
        let end = address.checked_add(length)?;
        let ram = |at| Place { words: self.words, at, write: true };
        if end <= self.low {
            return Some(ram(address));
        }
        if address >= layout::HIGH && end - layout::HIGH <= self.high() {
            return Some(ram(self.low + address - layout::HIGH));
        }
        self.regions.iter().find_map(|region| {
            let at = address.checked_sub(region.start)?;
            let inside = end - region.start <= region.words.len() as u64 * 8;
            inside.then_some(Place { words: region.words, at, write: region.write })
        })
    }

    /// Copies `out.len()` bytes from guest-physical `address`.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), OutOfMemory> {
        let Place { words, mut at, .. } =
            self.place(address, out.len() as u64).ok_or(OutOfMemory)?;
        let mut rest = out;
        while !rest.is_empty() {
            let inside = (at % 8) as usize;
            let count = rest.len().min(8 - inside);
            let bytes = word(words, at / 8)?.load(Relaxed).to_le_bytes();
            let (now, later) = rest.split_at_mut(count);
            for (to, from) in now.iter_mut().zip(bytes.iter().skip(inside)) {
                *to = *from;
            }
            rest = later;
            at += count as u64;
        }
        Ok(())
    }

    /// Copies `bytes` to guest-physical `address`; refused where the guest itself may not write.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), OutOfMemory> {
        let place = self.place(address, bytes.len() as u64).filter(|place| place.write);
        let Place { words, mut at, .. } = place.ok_or(OutOfMemory)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let inside = (at % 8) as usize;
            let count = rest.len().min(8 - inside);
            let (now, later) = rest.split_at(count);
            let word = word(words, at / 8)?;
            match <[u8; 8]>::try_from(now) {
                Ok(whole) => word.store(u64::from_le_bytes(whole), Relaxed),
                Err(_) => {
                    let mut old = word.load(Relaxed).to_le_bytes();
                    for (to, from) in old.iter_mut().skip(inside).zip(now) {
                        *to = *from;
                    }
                    word.store(u64::from_le_bytes(old), Relaxed);
                }
            }
            rest = later;
            at += count as u64;
        }
        Ok(())
    }

    /// Reads a little-endian number of 1 to 8 bytes.
    pub fn read_number(&self, address: u64, size: usize) -> Result<u64, OutOfMemory> {
        let mut bytes = [0u8; 8];
        self.read(address, bytes.get_mut(..size.min(8)).unwrap_or_default())?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes the low `size` bytes (1 to 8) of a little-endian number.
    pub fn write_number(&self, address: u64, size: usize, value: u64) -> Result<(), OutOfMemory> {
        let bytes = value.to_le_bytes();
        self.write(address, bytes.get(..size.min(8)).unwrap_or_default())
    }
}

fn word(words: &[AtomicU64], index: u64) -> Result<&AtomicU64, OutOfMemory> {
    words.get(index as usize).ok_or(OutOfMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_bytes_come_back_and_neighbours_stay() {
        let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(u64::MAX)).collect();
        let memory = GuestMemory::new(&words);
        memory.write(5, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]).unwrap();
        let mut out = [0; 14];
        memory.read(4, &mut out).unwrap();
        assert_eq!(out, [255, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 255]);
        assert_eq!(memory.read_number(5, 4), Ok(0x0403_0201));
    }

    #[test]
    fn what_lies_above_the_hole_is_reached_there_alone() {
        let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        let memory = GuestMemory::with_high(&words, 16);
        assert_eq!((memory.size(), memory.high()), (16, 16));
        memory.write_number(layout::HIGH, 8, 7).unwrap();
        memory.write_number(layout::HIGH + 8, 8, 8).unwrap();
        assert_eq!(words[2].load(Relaxed) + words[3].load(Relaxed), 15);
        assert_eq!(memory.read_number(layout::HIGH, 8), Ok(7));
        for (address, size) in [(16, 1), (12, 8), (layout::HIGH - 1, 2), (layout::HIGH + 9, 8)] {
            assert_eq!(memory.read_number(address, size), Err(OutOfMemory), "{address:#x}");
        }
    }

    #[test]
    fn regions_are_reached_where_they_are_and_written_where_they_may_be() {
        let words: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(9)).collect();
        let (ram, others) = words.split_at(2);
        let region = |start, words, write| Region { start, size: 16, words, write };
        let regions = [
            region(0x1000, &others[..2], true),
            region(0x3000, &others[2..4], false),
            region(0x5000, &[][..], true),
        ];
        let memory = GuestMemory::with_high(ram, 8).and(&regions);
        assert_eq!(memory.write_number(0x1008, 8, 7), Ok(()));
        assert_eq!(others[1].load(Relaxed), 7);
        assert_eq!((memory.read_number(0x3000, 8), memory.holds(0x3000, 16)), (Ok(9), true));
        assert_eq!(memory.write_number(0x3000, 8, 7), Err(OutOfMemory));
        assert_eq!(memory.read_number(layout::HIGH, 8), Ok(9));
        for (address, size) in [(0x100c, 8), (0xfff, 8), (0x3008, 9), (0x5000, 1), (8, 1)] {
            assert!(!memory.holds(address, size), "{address:#x}");
        }
    }

    #[test]
    fn the_edge_is_the_edge() {
        let words: Vec<AtomicU64> = (0..2).map(|_| AtomicU64::new(0)).collect();
        let memory = GuestMemory::new(&words);
        assert!(memory.write_number(8, 8, 1).is_ok());
        assert_eq!(memory.write_number(9, 8, 1), Err(OutOfMemory));
        assert_eq!(memory.read_number(u64::MAX, 2), Err(OutOfMemory));
    }
}
