//! The states a virtual processor starts in: Linux's 64-bit entry, flat 32-bit code, a start-up IPI.
//!
//! Sources: Linux `Documentation/arch/x86/boot.rst`, "64-bit boot protocol"; Intel SDM vol. 3,
//! 10.1.1 (reset) and 9.4.4 (start-up IPI).
use crate::memory::{GuestMemory, OutOfMemory};
use crate::{layout, multiboot};
use abi::Mtd;
use abi::utcb::{Segment, StatePage};

/// Everything that a first entry must load.
pub const ALL: Mtd = Mtd(0x01df_ffff & !Mtd::QUAL.0);

/// Primary controls: HLT, RDPMC and MOV-DR stay cheap or exit as below (Intel SDM vol. 3, 25.6.2).
const TSC_OFFSETTING: u32 = 1 << 3;
const HLT_EXITING: u32 = 1 << 7;
const MWAIT_EXITING: u32 = 1 << 10;
const RDPMC_EXITING: u32 = 1 << 11;
const IO_EXITING: u32 = 1 << 24;
const MSR_BITMAPS: u32 = 1 << 28;
const MONITOR_EXITING: u32 = 1 << 29;
const SECONDARY: u32 = 1 << 31;
/// Secondary controls.
const RDTSCP: u32 = 1 << 3;
const WBINVD_EXITING: u32 = 1 << 6;

/// PAT after reset (Intel SDM vol. 3, 12.12.4).
const PAT: u64 = 0x0007_0406_0007_0406;
/// CR0 with PE, ET, NE.
const CR0_PROTECTED: u64 = 0x31;
const PRESENT_WRITE: u64 = 3;

/// Sets what all starts share: controls, XCR0, task and table registers, debug state.
fn common(page: &mut StatePage) {
    let keep = (page.tsc_off, page.tsc_aux);
    *page = StatePage::ZERO;
    (page.tsc_off, page.tsc_aux) = keep;
    page.ctrl = [
        TSC_OFFSETTING
            | HLT_EXITING
            | MWAIT_EXITING
            | RDPMC_EXITING
            | IO_EXITING
            | MSR_BITMAPS
            | MONITOR_EXITING
            | SECONDARY,
        RDTSCP | WBINVD_EXITING,
    ];
    page.rflags = 2;
    page.xcr0 = 1;
    page.pat = PAT;
    page.dr7 = 0x400;
    page.tsc_timeout = u64::MAX;
    page.ldtr = Segment { selector: 0, ar: 0x1000, limit: 0, base: 0 };
    page.tr = Segment { selector: 0, ar: 0x8b, limit: 0xffff, base: 0 };
    page.gdtr = Segment { limit: 0xffff, ..Segment::default() };
    page.idtr = Segment { limit: 0xffff, ..Segment::default() };
}

fn flat(selector: u16, ar: u16) -> Segment {
    Segment { selector, ar, limit: 0xffff_ffff, base: 0 }
}

fn data_segments(page: &mut StatePage, segment: Segment) {
    page.ds = segment;
    page.es = segment;
    page.fs = segment;
    page.gs = segment;
    page.ss = segment;
}

/// Linux's 64-bit entry at `entry`; writes page tables and GDT to guest memory.
pub fn linux(page: &mut StatePage, memory: &GuestMemory, entry: u64) -> Result<(), OutOfMemory> {
    let tables = layout::PAGE_TABLES;
    memory.write_number(tables, 8, (tables + 0x1000) | PRESENT_WRITE)?;
    for directory in 0..4 {
        let at = tables + 0x2000 + directory * 0x1000;
        memory.write_number(tables + 0x1000 + directory * 8, 8, at | PRESENT_WRITE)?;
        for entry in 0..512 {
            let frame = (directory * 512 + entry) << 21;
            memory.write_number(at + entry * 8, 8, frame | PRESENT_WRITE | 0x80)?;
        }
    }
    // Null, null, code at 0x10, data at 0x18: the selectors the protocol asks for.
    let gdt = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    for (index, descriptor) in (0u64..).zip(gdt) {
        memory.write_number(layout::GDT + index * 8, 8, descriptor)?;
    }
    common(page);
    page.cr0 = CR0_PROTECTED | (1 << 31);
    page.cr3 = tables;
    page.cr4 = 1 << 5;
    page.efer = (1 << 8) | (1 << 10);
    page.cs = flat(0x10, 0xa9b);
    data_segments(page, flat(0x18, 0xc93));
    page.gdtr = Segment { limit: 31, base: layout::GDT, ..Segment::default() };
    page.rip = entry;
    page.rsi = layout::ZERO_PAGE;
    page.rsp = layout::ZERO_PAGE;
    Ok(())
}

/// Flat 32-bit protected mode at `entry`: paging off, interrupts off, registers 0.
pub fn flat32(page: &mut StatePage, entry: u64) {
    common(page);
    page.cr0 = CR0_PROTECTED;
    page.cs = flat(0x08, 0xc9b);
    data_segments(page, flat(0x10, 0xc93));
    page.rip = entry;
}

/// A multiboot kernel's entry: flat 32-bit code that is told of its loader and where its information lies (Multiboot
/// 0.6.96, 3.2).
pub fn multiboot(page: &mut StatePage, entry: u32) {
    flat32(page, u64::from(entry));
    page.rax = u64::from(multiboot::LOADER);
    page.rbx = layout::MULTIBOOT;
}

/// Real mode at the page of a start-up IPI; `signature` is CPUID leaf 1 EAX, which EDX holds.
pub fn start_up_ipi(page: &mut StatePage, vector: u8, signature: u32) {
    common(page);
    page.cr0 = 0x6000_0010;
    let base = u64::from(vector) << 12;
    page.cs = Segment { selector: u16::from(vector) << 8, ar: 0x9b, limit: 0xffff, base };
    data_segments(page, Segment { selector: 0, ar: 0x93, limit: 0xffff, base: 0 });
    page.rdx = u64::from(signature);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn linux_entry_maps_four_gibibytes_one_to_one() {
        let ram: Vec<AtomicU64> = (0..0x10_0000 / 8).map(|_| AtomicU64::new(0)).collect();
        let memory = GuestMemory::new(&ram);
        let mut page = Box::new(StatePage::ZERO);
        linux(&mut page, &memory, 0x100_0200).unwrap();
        let paging =
            crate::walk::Paging { cr0: page.cr0, cr3: page.cr3, cr4: page.cr4, efer: page.efer };
        for address in [0, 0x100_0200, 0xfee0_0020, 0xffff_ffff] {
            assert_eq!(paging.translate(&memory, address), Some(address));
        }
        assert_eq!((page.rip, page.rsi), (0x100_0200, layout::ZERO_PAGE));
        assert_eq!(memory.read_number(layout::GDT + 0x10, 8), Ok(0x00af_9b00_0000_ffff));
    }

    #[test]
    fn a_start_up_ipi_starts_in_real_mode_at_its_page() {
        let mut page = Box::new(StatePage::ZERO);
        start_up_ipi(&mut page, 0x9a, 0x806ea);
        assert_eq!((page.cs.base, page.cs.selector, page.rip), (0x9_a000, 0x9a00, 0));
        assert_eq!(page.rdx, 0x806ea);
        assert!(ALL.contains(Mtd::CTRL | Mtd::EFER_PAT | Mtd::TSC_TIMEOUT));
    }
}
