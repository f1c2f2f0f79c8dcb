//! Decides which physical memory the kernel takes for itself, from the loader's memory map.
//!
//! It writes nothing down: the map stays as the loader gave it, unsorted, with holes and overlaps.
//! An address is usable RAM when some entry calls it RAM and no entry calls it anything else.
//!
//! ```text
//!   loader:  [ RAM                       ]   [ RAM        ]
//!                 [ reserved ]    [ module ]
//!   usable:  [===]            [==]           [============]
//!                              ^ the kernel's range: image first, then its pool
//! ```

use abi::hip::{MEMORY_HYPERVISOR, MEMORY_MODULE, MEMORY_RAM, MemDesc};
use core::ops::Range;

/// The kernel's range starts and ends at multiples of this: it is mapped with 2 MiB pages.
pub const ALIGNMENT: u64 = 2 << 20;
/// The kernel takes no memory below: firmware, 16-bit start code and old devices live there.
pub const LOWEST: u64 = 1 << 20;
/// Kernel memory: at least this, where the machine has as much.
pub const LEAST_BYTES: u64 = 16 << 20;
/// Kernel memory: at most this.
pub const MOST_BYTES: u64 = 4 << 30;
/// Without `kmem=`, the kernel takes this part of all RAM.
const SHARE: u64 = 32;

/// Where the kernel will live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Image and pool together, in bytes; the hypervisor region of the HIP.
    pub range: Range<u64>,
    /// The image must be copied to the start of the range, keeping its offset from a multiple of
    /// [`ALIGNMENT`].
    pub moves: bool,
}

/// There is no room for the image and the smallest pool anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// How many bytes in one piece were looked for.
    pub wanted: u64,
    /// The largest piece found.
    pub largest: u64,
}

/// The memory map and the ranges in it that must stay as they are.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap<'a> {
    entries: &'a [MemDesc],
    keep: &'a [Range<u64>],
}

impl<'a> MemoryMap<'a> {
    /// A map of the loader's entries, modules included. `keep` names what else nobody may
    /// overwrite, such as command lines of modules.
    #[must_use]
    pub const fn new(entries: &'a [MemDesc], keep: &'a [Range<u64>]) -> Self {
        Self { entries, keep }
    }

    /// Bytes of RAM that the loader reported and firmware does not use.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        self.usable(0, Blockers::Firmware).map(|range| range.end - range.start).sum()
    }

    /// The pieces of RAM that nobody uses, from `from` on upwards.
    pub fn free(&self, from: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        self.usable(from, Blockers::All)
    }

    /// How many bytes the kernel wants for image and pool: RAM/32 within limits, or `kmem=`.
    #[must_use]
    pub fn wanted_bytes(&self, override_bytes: Option<u64>) -> u64 {
        let by_rule = (self.usable_bytes() / SHARE).clamp(LEAST_BYTES, MOST_BYTES);
        let wanted = override_bytes.unwrap_or(by_rule).clamp(LEAST_BYTES, MOST_BYTES);
        wanted.next_multiple_of(ALIGNMENT)
    }

    /// Chooses the kernel's range: around the loaded image if there is room, else the lowest place
    /// with room, to which the image must be moved; else the largest place of all, provided that
    /// it has [`LEAST_BYTES`] behind the image.
    ///
    /// # Errors
    /// `NoRoom` when no piece of RAM is large enough.
    pub fn choose_pool(
        &self,
        image: &Range<u64>,
        override_bytes: Option<u64>,
    ) -> Result<Placement, NoRoom> {
        let start = image.start & !(ALIGNMENT - 1);
        let image_bytes = image.end.saturating_sub(start);
        let least = image_bytes.saturating_add(LEAST_BYTES).next_multiple_of(ALIGNMENT);
        let wanted = self.wanted_bytes(override_bytes).max(least);
        if self.is_free(start..image.start) && self.is_free(image.end..start.saturating_add(wanted))
        {
            return Ok(Placement { range: start..start + wanted, moves: false });
        }
        let places = || {
            // The image itself is only read until it has moved, but must not be moved onto itself.
            self.free(LOWEST).flat_map(|place| cut(place, image)).filter_map(|place| {
                let from = place.start.checked_next_multiple_of(ALIGNMENT)?;
                let to = place.end & !(ALIGNMENT - 1);
                (from < to).then_some(from..to)
            })
        };
        let length = |place: &Range<u64>| place.end - place.start;
        let fitting = places().find(|place| length(place) >= wanted);
        let largest = places().max_by_key(length).unwrap_or_default();
        match fitting {
            Some(place) => Ok(Placement { range: place.start..place.start + wanted, moves: true }),
            None if length(&largest) >= least => Ok(Placement { range: largest, moves: true }),
            None => Err(NoRoom { wanted: least, largest: length(&largest) }),
        }
    }

    /// Whether a range is usable RAM, wholly and by nobody used; true for an empty one.
    #[must_use]
    pub fn is_free(&self, range: Range<u64>) -> bool {
        range.is_empty()
            || self
                .free(range.start)
                .next()
                .is_some_and(|found| found.start <= range.start && found.end >= range.end)
    }

    fn usable(&self, from: u64, blockers: Blockers) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = from;
        core::iter::from_fn(move || {
            let start = self.usable_start(at, blockers)?;
            at = self.usable_end(start, blockers);
            Some(start..at)
        })
    }

    /// The first usable address from `at` on.
    fn usable_start(&self, mut at: u64, blockers: Blockers) -> Option<u64> {
        loop {
            let blocked = self.blockers(blockers).find(|range| range.contains(&at));
            at = match blocked {
                Some(range) => range.end,
                None if self.ram().any(|range| range.contains(&at)) => return Some(at),
                None => self.ram().map(|range| range.start).filter(|&start| start > at).min()?,
            };
        }
    }

    /// Where the usable piece that contains `start` ends.
    fn usable_end(&self, start: u64, blockers: Blockers) -> u64 {
        let mut end = start;
        while let Some(range) = self.ram().find(|range| range.start <= end && range.end > end) {
            end = range.end;
        }
        let next = self.blockers(blockers).map(|range| range.start).filter(|&at| at > start).min();
        next.map_or(end, |next| next.min(end))
    }

    fn ram(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.entries.iter().filter(|entry| entry.kind == MEMORY_RAM).map(bytes)
    }

    fn blockers(&self, which: Blockers) -> impl Iterator<Item = Range<u64>> + '_ {
        let named = self.entries.iter().filter(move |entry| match entry.kind {
            MEMORY_RAM => false,
            MEMORY_MODULE | MEMORY_HYPERVISOR => matches!(which, Blockers::All),
            _ => true,
        });
        let kept = if matches!(which, Blockers::All) { self.keep } else { &[] };
        named.map(bytes).chain(kept.iter().cloned()).filter(|range| !range.is_empty())
    }
}

/// What makes RAM unusable.
#[derive(Clone, Copy, Debug)]
enum Blockers {
    /// Entries of the map that are neither RAM nor modules.
    Firmware,
    /// Also modules and what must be kept.
    All,
}

/// The bytes of an entry; entries that wrap around end at the last address.
const fn bytes(entry: &MemDesc) -> Range<u64> {
    entry.addr..entry.addr.saturating_add(entry.size)
}

/// What is left of a range without `hole`: the part before and the part behind it.
fn cut(range: Range<u64>, hole: &Range<u64>) -> [Range<u64>; 2] {
    [
        range.start..range.end.min(hole.start).max(range.start),
        range.start.max(hole.end).min(range.end)..range.end,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn entry(addr: u64, size: u64, kind: u32) -> MemDesc {
        MemDesc { addr, size, kind, aux: 0 }
    }

    /// A PC with 512 MiB, as QEMU describes it.
    fn machine() -> Vec<MemDesc> {
        vec![
            entry(0, 0x9fc00, MEMORY_RAM),
            entry(0x9fc00, 0x400, 2),
            entry(0xf0000, 0x10000, 2),
            entry(MIB, 511 * MIB - 0x20000, MEMORY_RAM),
            entry(512 * MIB - 0x20000, 0x20000, 2),
            entry(0xfffc_0000, 0x40000, 2),
        ]
    }

    #[test]
    fn the_rule_for_the_size() {
        let wanted = |mib: u64, kmem| {
            let map = [entry(0, mib * MIB, MEMORY_RAM)];
            MemoryMap::new(&map, &[]).wanted_bytes(kmem)
        };
        assert_eq!(wanted(128, None), 16 * MIB);
        assert_eq!(wanted(2048, None), 64 * MIB);
        assert_eq!(wanted(1 << 20, None), 4096 * MIB);
        assert_eq!(wanted(2048, Some(33 * MIB)), 34 * MIB);
        assert_eq!(wanted(2048, Some(1)), 16 * MIB);
    }

    #[test]
    fn the_image_stays_where_there_is_room_behind_it() {
        let map = machine();
        let image = 2 * MIB + 0x1000..4 * MIB + 0x345;
        let chosen = MemoryMap::new(&map, &[]).choose_pool(&image, None).unwrap();
        assert_eq!(chosen, Placement { range: 2 * MIB..22 * MIB, moves: false });
    }

    #[test]
    fn the_image_moves_when_a_module_is_in_the_way() {
        let mut map = machine();
        map.push(entry(5 * MIB, 9 * MIB, MEMORY_MODULE));
        let image = 2 * MIB..4 * MIB;
        let keep = [40 * MIB - 1..40 * MIB, 0..0];
        let chosen = MemoryMap::new(&map, &keep).choose_pool(&image, None).unwrap();
        assert_eq!(chosen, Placement { range: 14 * MIB..32 * MIB, moves: true });
        let chosen = MemoryMap::new(&map, &keep).choose_pool(&image, Some(64 * MIB)).unwrap();
        assert_eq!(chosen, Placement { range: 40 * MIB..104 * MIB, moves: true });
    }

    #[test]
    fn the_largest_place_serves_where_none_is_large_enough() {
        let mut map = machine();
        map.push(entry(200 * MIB, MIB, 2));
        let chosen = MemoryMap::new(&map, &[]).choose_pool(&(2 * MIB..4 * MIB), Some(400 * MIB));
        assert_eq!(chosen, Ok(Placement { range: 202 * MIB..510 * MIB, moves: true }));
        let map = [entry(0, 8 * MIB, MEMORY_RAM)];
        let chosen = MemoryMap::new(&map, &[]).choose_pool(&(2 * MIB..4 * MIB), None);
        assert_eq!(chosen, Err(NoRoom { wanted: 18 * MIB, largest: 4 * MIB }));
        let chosen = MemoryMap::new(&[], &[]).choose_pool(&(0..0), None);
        assert_eq!(chosen, Err(NoRoom { wanted: 16 * MIB, largest: 0 }));
    }

    fn any_entry() -> impl Strategy<Value = MemDesc> {
        let kind = prop_oneof![4 => Just(MEMORY_RAM), 1 => Just(2), 1 => Just(MEMORY_MODULE)];
        (0..200_u64, 0..60_u64, kind).prop_map(|(addr, size, kind)| entry(addr, size, kind))
    }

    proptest! {
        /// Free pieces are exactly the addresses that are RAM and nothing else.
        #[test]
        fn free_memory_agrees_with_single_addresses(
            map in prop::collection::vec(any_entry(), 0..12),
            keep in 0..250_u64,
        ) {
            let keep = [keep..keep + 5, 0..0];
            let pieces: Vec<_> = MemoryMap::new(&map, &keep).free(0).collect();
            for address in 0..300 {
                let is = |is_ram| {
                    map.iter().any(|entry| {
                        (entry.kind == MEMORY_RAM) == is_ram && bytes(entry).contains(&address)
                    })
                };
                let expected = is(true) && !is(false) && !keep[0].contains(&address);
                prop_assert_eq!(pieces.iter().any(|piece| piece.contains(&address)), expected);
            }
            prop_assert!(pieces.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }

        /// The chosen range is free RAM, aligned, and does not overlap an image that moves.
        #[test]
        fn the_choice_is_free_memory(
            map in prop::collection::vec(any_entry(), 0..12),
            image in (1..150_u64, 1..20_u64),
            kmem in prop::option::of(0..100_u64),
        ) {
            let map: Vec<_> =
                map.iter().map(|e| entry(e.addr * MIB, e.size * MIB + 4096, e.kind)).collect();
            let memory = MemoryMap::new(&map, &[]);
            let image = image.0 * MIB..(image.0 + image.1) * MIB;
            let Ok(chosen) = memory.choose_pool(&image, kmem.map(|kmem| kmem * MIB)) else {
                return Ok(());
            };
            prop_assert_eq!((chosen.range.start | chosen.range.end) % ALIGNMENT, 0);
            prop_assert!(chosen.range.end - chosen.range.start >= LEAST_BYTES);
            if chosen.moves {
                prop_assert!(memory.is_free(chosen.range.clone()));
                prop_assert!(chosen.range.end <= image.start || chosen.range.start >= image.end);
            } else {
                prop_assert!(memory.is_free(image.end..chosen.range.end));
                prop_assert!(chosen.range.start <= image.start);
            }
        }

        #[test]
        fn any_map_can_be_read(
            map in prop::collection::vec((any::<u64>(), any::<u64>(), 0..4_u32), 0..8),
            image: (u64, u64),
        ) {
            let map: Vec<_> = map.into_iter().map(|(addr, size, kind)| entry(addr, size, kind)).collect();
            let memory = MemoryMap::new(&map, &[]);
            let _ = (memory.usable_bytes(), memory.choose_pool(&(image.0..image.1), None));
        }
    }
}
