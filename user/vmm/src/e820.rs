//! The memory map that a guest is told.
use crate::layout;

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

/// The map of a guest with `memory` bytes of RAM from address 0 and `high` above the PCI hole, in rising order, without
/// overlap.
pub fn map(memory: u64, high: u64) -> impl Iterator<Item = Entry> {
    let entry = |start: u64, end: u64, kind| Entry { start, size: end - start, kind };
    let top = memory.clamp(layout::KERNEL_LOWEST, layout::RAM_LIMIT);
    let entries = [
        entry(0, 0x9_fc00, Kind::Ram),
        entry(0x9_fc00, 0xa_0000, Kind::Reserved),
        entry(layout::ACPI, layout::ACPI_END, Kind::Acpi),
        entry(layout::ACPI_END, layout::KERNEL_LOWEST, Kind::Reserved),
        entry(layout::KERNEL_LOWEST, top, Kind::Ram),
        entry(layout::HIGH, layout::HIGH + high, Kind::Ram),
    ];
    entries.into_iter().filter(|entry| entry.size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rising_and_apart() {
        for memory in [16 << 20, 256 << 20, 3 << 30, 8u64 << 30] {
            let map: Vec<_> = super::map(memory, 0).collect();
            for pair in map.windows(2) {
                assert!(pair[0].start + pair[0].size <= pair[1].start);
            }
            assert!(map.iter().all(|entry| entry.start + entry.size <= layout::RAM_LIMIT));
            let more: Vec<_> = super::map(memory, 2 << 20).collect();
            assert_eq!(more[..map.len()], map);
            let high = Entry { start: layout::HIGH, size: 2 << 20, kind: Kind::Ram };
            assert_eq!(more[map.len()..], [high]);
        }
    }
}
