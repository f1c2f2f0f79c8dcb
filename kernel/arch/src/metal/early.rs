//! What only the first CPU does, before the kernel has its own page tables.
//!
//! The boot page table (boot/src/start.S) maps the image and two low pieces, and has four entries to
//! spare in the image's page directory: two to read firmware and loader bytes anywhere, two to build
//! the final tables and to move the image.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use x86_64::VirtAddr;
use x86_64::instructions::tlb;

use super::layout::{BOOT_BUILD_WINDOW, BOOT_READ_WINDOW, LARGE_PAGE};
use super::{cpu, descriptors, percpu, physical, serial, traps};
use crate::x86::page::{ADDRESS, LARGE, PRESENT, WRITABLE, index};

unsafe extern "C" {
    static boot_high_pd: [AtomicU64; 512];
}

/// Whether the final page tables are in use.
static FINAL: AtomicBool = AtomicBool::new(false);

/// The final page tables are in use from now on.
pub fn finished() {
    FINAL.store(true, Relaxed);
}

/// The first lines of Rust: console, GS, and a dump instead of a silent reset for any exception.
pub fn start() {
    percpu::adopt(0);
    descriptors::load_segments();
    traps::build(traps::Stacks::Shared);
    traps::load();
    serial::start();
    super::pic::silence();
}

/// Copies the physical bytes from `address` on; false if they lie beyond the address width.
pub fn read_physical(address: u64, out: &mut [u8]) -> bool {
    if FINAL.load(Relaxed) {
        return physical::read(address, out);
    }
    let fits =
        address.checked_add(out.len() as u64).is_some_and(|end| end >> cpu::physical_bits() == 0);
    if !fits || out.len() as u64 > LARGE_PAGE {
        return false;
    }
    let base = address & !(LARGE_PAGE - 1);
    point(BOOT_READ_WINDOW, base);
    let from = (BOOT_READ_WINDOW + (address - base)) as *const u8;
    for (offset, byte) in out.iter_mut().enumerate() {
        // SAFETY: within the two large pages just mapped; any bit pattern is a byte. Reading device
        // memory could have effects, but only addresses from the loader and firmware tables come here.
        *byte = unsafe { from.add(offset).read_volatile() };
    }
    true
}

/// Points a boot window (two large pages) at physical `base`.
pub fn point(window: u64, base: u64) {
    let first = index(window, 1);
    // SAFETY: the boot page directory is a static of the image; its spare entries are ours.
    let directory = unsafe { &boot_high_pd };
    for (slot, offset) in [(first, 0), (first + 1, LARGE_PAGE)] {
        if let Some(entry) = directory.get(slot) {
            entry.store((base + offset) & ADDRESS | PRESENT | WRITABLE | LARGE, Relaxed);
        }
        tlb::flush(VirtAddr::new_truncate(window + offset));
    }
}

/// The word of physical memory at `address`, which lies within two large pages of `base`, through the
/// build window pointed at `base`.
pub fn built(base: u64, address: u64) -> Option<&'static AtomicU64> {
    let offset = address.checked_sub(base).filter(|offset| *offset < 2 * LARGE_PAGE)?;
    let at = (BOOT_BUILD_WINDOW + (offset & !7)) as *const AtomicU64;
    // SAFETY: inside the build window, which stays mapped until the final tables are in use, and names
    // RAM that the kernel took for itself; aligned.
    Some(unsafe { &*at })
}
