//! Where things lie in the kernel's part of the address space (docs/memory-layout.md has the drawing).
//!
//! Every domain's top-level table carries the same three slots: 509 (its last pages: task states), 510
//! (its first pages: the I/O permission bitmap, different in domains that own ports), 511 (all else).

use crate::MAX_CPUS;

/// Link address of the image.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// The kernel's memory: one physical range, image included, writable, never executable.
pub const POOL: u64 = 0xffff_ff80_0000_0000;
/// The most memory the kernel takes, in bytes.
pub const POOL_MAX: u64 = 8 << 30;
/// Device registers: the local APIC first, then I/O APICs, one page each.
pub const DEVICES: u64 = 0xffff_ff90_0000_0000;
/// Pages for device registers.
pub const DEVICE_PAGES: u64 = 32;
/// The last of them: VGA text memory, if that is what the log is shown on.
pub const VGA: u64 = DEVICES + (DEVICE_PAGES - 1) * PAGE;
/// The frame buffer of the log, at most eight large pages.
pub const SCREEN: u64 = 0xffff_ff98_0000_0000;
/// Stacks and windows, [`CPU_STRIDE`] bytes for each CPU.
pub const CPUS: u64 = 0xffff_ffa0_0000_0000;
/// Distance from one CPU's pages to the next one's.
pub const CPU_STRIDE: u64 = 32 * PAGE;
/// The I/O permission bitmap: the start of slot 510.
pub const PORT_BITMAP_ADDRESS: u64 = 0xffff_ff00_0000_0000;
/// Task states of all CPUs: the end of slot 509, so that 16 bits reach from each to the bitmap.
pub const TASKS: u64 = PORT_BITMAP_ADDRESS - TASK_PAGES * PAGE;
/// Pages of task states.
pub const TASK_PAGES: u64 = 4;
/// Distance from one task state to the next.
pub const TASK_STRIDE: u64 = 128;
/// While the boot page table is in use: two large pages for reading firmware tables, and two for
/// building the final tables and moving the image (the last entries of the image's page directory).
pub const BOOT_READ_WINDOW: u64 = IMAGE + 510 * LARGE_PAGE;
/// See [`BOOT_READ_WINDOW`].
pub const BOOT_BUILD_WINDOW: u64 = IMAGE + 508 * LARGE_PAGE;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of a large page.
pub const LARGE_PAGE: u64 = 512 * PAGE;

/// Pages of a CPU's stride: guard, stack, guard, NMI stack, guard, double-fault stack, guard,
/// machine-check stack, guard, windows.
pub const STACK: Pages = Pages { first: 1, count: 8 };
/// Stack of the NMI handler, which needs a few words.
pub const NMI_STACK: Pages = Pages { first: 10, count: 1 };
/// Stack of the double-fault handler, which prints.
pub const FAULT_STACK: Pages = Pages { first: 12, count: 2 };
/// Stack of the machine-check handler, which prints.
pub const CHECK_STACK: Pages = Pages { first: 15, count: 2 };
/// Windows to any physical page.
pub const WINDOWS: Pages = Pages { first: 18, count: 4 };

/// Some pages within a CPU's stride.
#[derive(Clone, Copy)]
pub struct Pages {
    /// Number of the first page.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Pages {
    /// First address for CPU number `cpu`.
    pub const fn start(self, cpu: usize) -> u64 {
        CPUS + cpu as u64 * CPU_STRIDE + self.first * PAGE
    }

    /// Address behind the last one for CPU number `cpu`.
    pub const fn end(self, cpu: usize) -> u64 {
        self.start(cpu) + self.count * PAGE
    }
}

/// The CPU in whose stack guard `address` lies, if it lies in one.
pub fn guarded_cpu(address: u64) -> Option<usize> {
    let offset = address.checked_sub(CPUS)?;
    let cpu = usize::try_from(offset / CPU_STRIDE).ok().filter(|cpu| *cpu < MAX_CPUS)?;
    (offset % CPU_STRIDE / PAGE < STACK.first).then_some(cpu)
}

const _: () = {
    assert!(TASK_PAGES * PAGE == MAX_CPUS as u64 * TASK_STRIDE);
    assert!(WINDOWS.first + WINDOWS.count <= CPU_STRIDE / PAGE);
    assert!(POOL + POOL_MAX <= DEVICES);
};
