//! Windows to physical memory that the kernel does not map: loader and firmware bytes, boot modules,
//! the HIP's neighbours. Each CPU has its own few pages, so no other CPU ever needs a flush.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use logic::addr::Frame;
use sync::SharedPage;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;

use super::layout::{PAGE, WINDOWS};
use super::{cpu, percpu};
use crate::x86::page::{DATA, GLOBAL};

/// Opens a window to `frame` while `action` runs. May nest as deep as a CPU has windows (4).
///
/// Nothing runs when `frame` is beyond the address width or all windows are open: false.
#[inline]
pub fn with_physical(frame: Frame, action: &mut dyn FnMut(&SharedPage)) -> bool {
    let local = percpu::local();
    let depth = local.windows.load(Relaxed);
    if frame.address() >> cpu::physical_bits() != 0 || u64::from(depth) >= WINDOWS.count {
        return false;
    }
    local.windows.store(depth + 1, Relaxed);
    let address = WINDOWS.start(percpu::cpu_number()) + u64::from(depth) * PAGE;
    let entry = (local.window_entries.load(Relaxed) + u64::from(depth) * 8) as *const AtomicU64;
    // SAFETY: `tables` stored the address of this CPU's entries in the pool's mapping.
    let entry = unsafe { &*entry };
    entry.store(frame.address() | DATA & !GLOBAL, Relaxed);
    tlb::flush(VirtAddr::new_truncate(address));
    // SAFETY: the window maps a whole page, which is accessed through atomics alone, and is closed
    // again only after `action` has given the reference back.
    action(unsafe { &*(address as *const SharedPage) });
    entry.store(0, Relaxed);
    tlb::flush(VirtAddr::new_truncate(address));
    local.windows.store(depth, Relaxed);
    true
}

/// Copies the physical bytes from `address` on; false if they cannot be reached.
pub fn read(address: u64, out: &mut [u8]) -> bool {
    let mut done = 0;
    while done < out.len() {
        let Some(from) = address.checked_add(done as u64) else { return false };
        let start = (from % PAGE) as usize;
        let count = (PAGE as usize - start).min(out.len() - done);
        let Some(part) = out.get_mut(done..done + count) else { return false };
        let read = with_physical(Frame::containing(from), &mut |page| {
            for (offset, byte) in part.iter_mut().enumerate() {
                *byte = page.read_u8(start + offset);
            }
        });
        if !read {
            return false;
        }
        done += count;
    }
    true
}
