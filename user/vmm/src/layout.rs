//! Where the monitor puts things in guest memory, and which ports the machine's ACPI names.
//!
//! ```text
//! 0x00000500 GDT            0x00007000 zero page      0x00009000 page tables (6 pages)
//! 0x00020000 command line   0x000e0000 ACPI tables    0x000f0000 RSDP
//! 0x00100000 RAM .. end     0xfec00000 I/O APIC       0xfee00000 local APIC
//! 0x100000000 RAM above the hole, if there is any
//! ```

use abi::cap::{MEM_R, MEM_RWX, MEM_X};

/// Guest-physical address of the start-up GDT.
pub const GDT: u64 = 0x500;
/// Guest-physical address of Linux's zero page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Guest-physical addresses of the multiboot information, the memory map and the list of modules: where Linux has its zero
/// page.
pub const MULTIBOOT: u64 = ZERO_PAGE;
/// See [`MULTIBOOT`].
pub const MULTIBOOT_MAP: u64 = ZERO_PAGE + 0x100;
/// See [`MULTIBOOT`].
pub const MULTIBOOT_LIST: u64 = ZERO_PAGE + 0x400;
/// Most modules of a guest.
pub const MULTIBOOT_MODULES: usize = 8;
/// Guest-physical address of the start-up page tables: PML4, PDPT, four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// Guest-physical address of the command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Room for the command line with its NUL.
pub const COMMAND_LINE_SIZE: usize = 4096;
/// First byte of the ACPI tables.
pub const ACPI: u64 = 0xe_0000;
/// End of the ACPI tables.
pub const ACPI_END: u64 = 0xf_0000;
/// Guest-physical address of the ACPI root pointer, where firmware would have it.
pub const RSDP: u64 = 0xf_0000;
/// Guest-physical address of the MP floating pointer, with the MP table behind it.
pub const MP: u64 = 0xf_0100;
/// No kernel is loaded below this address.
pub const KERNEL_LOWEST: u64 = 0x10_0000;
/// First byte of the hole that RAM never reaches.
pub const RAM_LIMIT: u64 = 0xc000_0000;
/// First byte above the PCI hole: RAM goes on there.
pub const HIGH: u64 = 0x1_0000_0000;
/// Guest-physical addresses in this range stay a hole although RAM lies around them: VGA's graphics and monochrome memory.
pub const LEGACY_HOLE: core::ops::Range<u64> = 0xa_0000..0xb_8000;
/// VGA's text memory: plain memory, so that a kernel that writes to its screen can.
pub const TEXT: core::ops::Range<u64> = LEGACY_HOLE.end..0xc_0000;
/// Where option ROMs would be. There is none: memory full of ones that a guest can read, so that looking for one costs no
/// exits, and that drops writes.
pub const ROMS: core::ops::Range<u64> = 0xc_0000..ACPI;
/// The I/O APIC's page.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The local APICs' page.
pub const LAPIC: u64 = 0xfee0_0000;

/// First port of the ACPI PM1a event block (4 bytes), then control (2) at +4, timer (4) at +8.
pub const PM_BASE: u16 = 0x600;
/// ACPI interrupt line.
pub const SCI: u8 = 9;
/// SLP_TYP value for S5, soft off.
pub const S5_TYPE: u8 = 5;
/// The reset control port and the value that resets.
pub const RESET: (u16, u8) = (0xcf9, 6);

/// What a guest may do to the parts of a range of its RAM, both ends at multiples of 4 KiB: first byte, end, rights.
pub fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, u64, u8)> {
    let parts = [
        (0, LEGACY_HOLE.start, MEM_RWX),
        (TEXT.start, TEXT.end, MEM_RWX),
        (ROMS.start, ROMS.end, MEM_R | MEM_X),
        (ROMS.end, u64::MAX, MEM_RWX),
    ];
    parts
        .into_iter()
        .map(move |(from, to, rights)| (start.max(from), end.min(to), rights))
        .filter(|(from, to, _)| from < to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_and_the_roms_are_cut_out() {
        let all: Vec<_> = pieces(0, 16 << 20).collect();
        let rx = MEM_R | MEM_X;
        assert_eq!(
            all,
            [
                (0, 0xa_0000, MEM_RWX),
                (0xb_8000, 0xc_0000, MEM_RWX),
                (0xc_0000, 0xe_0000, rx),
                (0xe_0000, 16 << 20, MEM_RWX)
            ]
        );
        assert_eq!(pieces(0xa_0000, 0xb_0000).count(), 0);
        assert_eq!(pieces(2 << 20, 4 << 20).collect::<Vec<_>>(), [(2 << 20, 4 << 20, MEM_RWX)]);
    }
}
