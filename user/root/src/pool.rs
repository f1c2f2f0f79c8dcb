//! The machine's free memory, divided: RAM minus the kernel minus the boot modules.
//!
//! A guest's memory comes back when it is destroyed, so the ranges stay few: neighbours are merged.
use abi::hip::{Memory, MemoryKind};
use alloc::vec::Vec;

/// Page size.
const PAGE: u64 = 4096;
/// Nothing below this address is handed out: real-mode tables and the kernel's AP entry.
const LOWEST: u64 = 1 << 20;

/// Ranges of physical memory that nobody uses, rising and apart.
#[derive(Debug, Default)]
pub struct Pool {
    free: Vec<(u64, u64)>,
    lost: u64,
}

impl Pool {
    /// From the HIP's descriptors, which may overlap and come in any order.
    pub fn new(descriptors: impl Iterator<Item = Memory>) -> Self {
        let mut pool = Self::default();
        let mut taken = Vec::new();
        for range in descriptors {
            let end = range.addr.saturating_add(range.size);
            match range.kind {
                MemoryKind::Ram => {
                    let start = range.addr.max(LOWEST).next_multiple_of(PAGE);
                    let end = end & !(PAGE - 1);
                    if start < end {
                        pool.free.push((start, end));
                    }
                }
                MemoryKind::Hypervisor => taken.push((range.addr, end)),
                MemoryKind::Module => {
                    taken.push((range.addr, end));
                    // The page with the module's command line.
                    let line = u64::from(range.aux);
                    if line != 0 {
                        taken.push((line, line.saturating_add(PAGE)));
                    }
                }
                MemoryKind::Other(_) => taken.push((range.addr, end)),
            }
        }
        pool.free.sort_unstable();
        for (start, end) in taken {
            pool.remove(start & !(PAGE - 1), end.div_ceil(PAGE).saturating_mul(PAGE));
        }
        pool
    }

    /// Takes `size` contiguous bytes (a multiple of a page) at a multiple of `align` (a power of
    /// two), from the highest range that has them.
    pub fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        let found = self.free.iter().rev().find_map(|(start, end)| {
            let at = end.checked_sub(size)? & !(align - 1);
            (at >= *start).then_some(at)
        })?;
        self.remove(found, found + size);
        Some(found)
    }

    /// Takes up to `size` bytes in one piece, a multiple of `align` and at least that.
    pub fn take_some(&mut self, size: u64, align: u64) -> Option<(u64, u64)> {
        if let Some(at) = self.take(size, align) {
            return Some((at, size));
        }
        let largest = |(start, end): &(u64, u64)| {
            (end & !(align - 1)).saturating_sub(start.next_multiple_of(align))
        };
        let piece = self.free.iter().map(largest).max().filter(|piece| *piece >= align)?;
        self.take(piece.min(size), align).map(|at| (at, piece.min(size)))
    }

    /// Gives a range back that was taken from here; page aligned.
    pub fn give(&mut self, start: u64, size: u64) {
        let at = self.free.partition_point(|(from, _)| *from < start);
        self.free.insert(at, (start, start + size));
        self.free.dedup_by(|next, last| {
            let touches = last.1 == next.0;
            if touches {
                last.1 = next.1;
            }
            touches
        });
    }

    /// Counts bytes that were taken from here and will never come back.
    pub fn lose(&mut self, bytes: u64) {
        self.lost = self.lost.saturating_add(bytes);
    }

    /// Bytes that will never come back.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes that are free.
    pub fn bytes(&self) -> u64 {
        self.free.iter().map(|(start, end)| end - start).sum()
    }

    fn remove(&mut self, start: u64, end: u64) {
        let mut rest = Vec::with_capacity(self.free.len() + 1);
        for (from, to) in self.free.drain(..) {
            if from < start.min(to) {
                rest.push((from, start.min(to)));
            }
            if end.max(from) < to {
                rest.push((end.max(from), to));
            }
        }
        self.free = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(kind: MemoryKind, addr: u64, size: u64) -> Memory {
        Memory { kind, addr, size, aux: 0 }
    }

    fn machine() -> Pool {
        Pool::new(
            [
                range(MemoryKind::Module, 0x30_0800, 0x1000),
                range(MemoryKind::Ram, 0, 0x9_fc00),
                range(MemoryKind::Ram, 0x10_0000, 0x3ff0_0000),
                range(MemoryKind::Other(2), 0x3fff_0000, 0x1_0000),
                range(MemoryKind::Hypervisor, 0x20_0000, 0x10_0000),
            ]
            .into_iter(),
        )
    }

    #[test]
    fn kernel_modules_and_low_memory_are_never_handed_out() {
        let mut pool = machine();
        let free = pool.bytes();
        assert_eq!(free, 0x3ff0_0000 - 0x10_0000 - 0x2000 - 0x1_0000);
        let mut taken = 0;
        while let Some(at) = pool.take(PAGE, PAGE) {
            assert!(at >= LOWEST);
            assert!(!(0x20_0000..0x30_2000).contains(&at));
            assert!(at < 0x3fff_0000);
            taken += PAGE;
            if taken > 0x100_0000 {
                break;
            }
        }
        assert_eq!(pool.bytes() + taken, free);
    }

    #[test]
    fn what_comes_back_is_merged_with_its_neighbours() {
        let mut pool = machine();
        let before = pool.free.clone();
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let taken =
                [3, 1, 2].map(|pages| (pool.take(pages * PAGE, PAGE).unwrap(), pages * PAGE));
            for index in order {
                let (start, size) = taken[index];
                pool.give(start, size);
            }
            assert_eq!(pool.free, before);
        }
    }

    #[test]
    fn alignment_holds_and_too_much_is_refused() {
        let mut pool = machine();
        let at = pool.take(256 << 20, 2 << 20).unwrap();
        assert_eq!(at % (2 << 20), 0);
        let again = pool.take(256 << 20, 2 << 20).unwrap();
        assert!(again + (256 << 20) <= at || at + (256 << 20) <= again);
        assert_eq!(pool.take(1 << 30, 2 << 20), None);
        let (_, size) = pool.take_some(1 << 30, 2 << 20).unwrap();
        assert!(size >= 256 << 20);
    }
}
