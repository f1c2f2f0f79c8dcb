//! The memory map that a guest is told.
use crate::layout;
use crate::memory::Region;
use alloc::vec::Vec;

/// What a range is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory for the guest.
    Ram,
    /// Not memory for the guest.
    Reserved,
    /// ACPI tables, memory once they were read.
    Acpi,
}

impl Kind {
    /// The number in an E820 entry (ACPI 6.5, table 15.1).
    pub fn number(self) -> u32 {
        match self {
            Kind::Ram => 1,
            Kind::Reserved => 2,
            Kind::Acpi => 3,
        }
    }
}

/// One line of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Kind.
    pub kind: Kind,
}

/// The map of a guest with `memory` bytes of RAM from address 0, `high` above the PCI hole and regions, in rising order,
/// without overlap. Regions are reserved: nobody shall put anything else there.
pub fn map(memory: u64, high: u64, regions: &[Region]) -> Vec<Entry> {
    let entry = |start: u64, end: u64, kind| Entry { start, size: end - start, kind };
    let top = memory.clamp(layout::KERNEL_LOWEST, layout::RAM_LIMIT);
    let ram = [
        entry(0, 0x9_fc00, Kind::Ram),
        entry(0x9_fc00, 0xa_0000, Kind::Reserved),
        entry(layout::ACPI, layout::ACPI_END, Kind::Acpi),
        entry(layout::ACPI_END, layout::KERNEL_LOWEST, Kind::Reserved),
        entry(layout::KERNEL_LOWEST, top, Kind::Ram),
        entry(layout::HIGH, layout::HIGH + high, Kind::Ram),
    ];
    let regions = regions.iter().map(|region| Entry {
        start: region.start,
        size: region.size,
        kind: Kind::Reserved,
    });
    let mut map: Vec<Entry> = ram.into_iter().chain(regions).collect();
    map.retain(|entry| entry.size > 0);
    map.sort_unstable_by_key(|entry| entry.start);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rising_and_apart() {
        for memory in [16 << 20, 256 << 20, 3 << 30, 8u64 << 30] {
            let map: Vec<_> = super::map(memory, 0, &[]);
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].size <= pair[1].start);
            }
            assert!(map.iter().all(|entry| entry.start + entry.size <= layout::RAM_LIMIT));
            let more: Vec<_> = super::map(memory, 2 << 20, &[]);
            assert_eq!(more[..map.len()], map);
            let high = Entry { start: layout::HIGH, size: 2 << 20, kind: Kind::Ram };
            assert_eq!(more[map.len()..], [high]);
        }
    }

    #[test]
    fn regions_stand_where_they_are() {
        let region = |start| Region { start, size: 4096, words: &[], write: false };
        let regions = [layout::HIGH + (4 << 20), 0xd000_0000].map(region);
        let map = super::map(16 << 20, 2 << 20, &regions);
        let reserved = |start| Entry { start, size: 4096, kind: Kind::Reserved };
        let high = Entry { start: layout::HIGH, size: 2 << 20, kind: Kind::Ram };
        let last = [reserved(0xd000_0000), high, reserved(layout::HIGH + (4 << 20))];
        assert_eq!(map[map.len() - 3..], last);
    }
}
