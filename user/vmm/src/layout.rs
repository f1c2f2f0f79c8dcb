//! Where the monitor puts things in guest memory, and which ports the machine's ACPI names.
//!
//! ```text
//! 0x00000500 GDT            0x00007000 zero page      0x00009000 page tables (6 pages)
//! 0x00020000 command line   0x000e0000 ACPI tables    0x000f0000 RSDP
//! 0x00100000 RAM .. end     0xfec00000 I/O APIC       0xfee00000 local APIC
//! ```

/// Guest-physical address of the start-up GDT.
pub const GDT: u64 = 0x500;
/// Guest-physical address of Linux's zero page.
pub const ZERO_PAGE: u64 = 0x7000;
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
/// No kernel is loaded below this address.
pub const KERNEL_LOWEST: u64 = 0x10_0000;
/// First byte of the hole that RAM never reaches.
pub const RAM_LIMIT: u64 = 0xc000_0000;
/// Guest-physical addresses in this range stay a hole although RAM lies around them: VGA.
pub const LEGACY_HOLE: core::ops::Range<u64> = 0xa_0000..0xc_0000;
/// Where option ROMs would be; no ROM reads all ones.
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
