//! Page-table bits of the kernel's own half (Intel SDM vol. 3, 4.5; user halves: `logic::page_table`).

/// Entry is in use.
pub const PRESENT: u64 = 1 << 0;
/// Writes allowed.
pub const WRITABLE: u64 = 1 << 1;
/// Write-through and cache-disable: PAT entry 3, uncached (`PAT` below).
pub const UNCACHED: u64 = 1 << 3 | 1 << 4;
/// Set by the CPU; set in advance so that it never writes to our tables.
pub const ACCESSED: u64 = 1 << 5;
/// As [`ACCESSED`], for leaves.
pub const DIRTY: u64 = 1 << 6;
/// Leaf in a page directory: 2 MiB.
pub const LARGE: u64 = 1 << 7;
/// Stays in the TLB when CR3 changes.
pub const GLOBAL: u64 = 1 << 8;
/// No instruction fetch.
pub const NO_EXECUTE: u64 = 1 << 63;

/// Code: readable, executable.
pub const CODE: u64 = PRESENT | ACCESSED | GLOBAL;
/// Constants: readable.
pub const CONSTANT: u64 = CODE | NO_EXECUTE;
/// Data: readable, writable.
pub const DATA: u64 = CONSTANT | WRITABLE | DIRTY;
/// Device registers.
pub const DEVICE: u64 = DATA | UNCACHED;
/// A table below the kernel's top-level slots: rights are in the leaves.
pub const TABLE: u64 = PRESENT | WRITABLE | ACCESSED;

/// Bits 51:12, the physical address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The reset value of IA32_PAT, which every CPU gets: WB, WT, UC-, UC, twice (Intel SDM vol. 3, 11.12.4).
pub const PAT: u64 = 0x0007_0406_0007_0406;

/// Index into the table of `level` (0 page table .. 3 top) for a virtual address.
#[must_use]
pub const fn index(address: u64, level: u32) -> usize {
    ((address >> (12 + 9 * level)) & 511) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_writable_and_executable() {
        for rights in [CODE, CONSTANT, DATA, DEVICE] {
            assert!(rights & WRITABLE == 0 || rights & NO_EXECUTE != 0);
        }
    }

    #[test]
    fn the_last_two_gibibytes_are_in_slot_511() {
        let image = 0xffff_ffff_8000_0000;
        assert_eq!((index(image, 3), index(image, 2), index(image, 1)), (511, 510, 0));
    }
}
