//! FS and GS base of the current user thread, by instructions or by MSRs.
//!
//! Inside the kernel the user's GS base is the inactive one (IA32_KERNEL_GS_BASE).

use core::arch::asm;

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{FsBase, KernelGsBase, Msr};

use super::cpu;
use crate::x86::feature::Features;

const IA32_FS_BASE: u32 = 0xc000_0100;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Loads both: values that a CPU has held before, hence canonical.
#[inline(always)]
pub fn load(fs: u64, gs: u64) {
    if cpu::features().contains(Features::FSGSBASE) {
        // SAFETY: CR4.FSGSBASE is set when the feature is in use; the kernel does not use FS, and GS
        // is its own again before the block ends (an NMI handler uses neither).
        unsafe {
            asm!("wrfsbase {}", "swapgs", "wrgsbase {}", "swapgs", in(reg) fs, in(reg) gs,
                options(nostack, preserves_flags));
        }
    } else {
        FsBase::write(VirtAddr::new_truncate(fs));
        KernelGsBase::write(VirtAddr::new_truncate(gs));
    }
}

/// Reads both: FS, GS.
#[inline(always)]
pub fn save() -> (u64, u64) {
    if cpu::features().contains(Features::FSGSBASE) {
        let (fs, gs);
        // SAFETY: as `load`.
        unsafe {
            asm!("rdfsbase {}", "swapgs", "rdgsbase {}", "swapgs", out(reg) fs, out(reg) gs,
                options(nostack, preserves_flags));
        }
        (fs, gs)
    } else {
        // SAFETY: both exist on every 64-bit CPU (Intel SDM vol. 4, table 2-2), and reading changes nothing.
        unsafe { (Msr::new(IA32_FS_BASE).read(), Msr::new(IA32_KERNEL_GS_BASE).read()) }
    }
}

/// Loads both and returns what was there; only where FSGSBASE is in use, and only values that [`save`] or this
/// function returned, or 0.
#[inline(always)]
pub fn switch(fs: u64, gs: u64) -> (u64, u64) {
    let (old_fs, old_gs);
    // SAFETY: as `load`; the CPU held both values before, so they are canonical.
    unsafe {
        asm!("rdfsbase {}", "wrfsbase {}", "swapgs", "rdgsbase {}", "wrgsbase {}", "swapgs",
            out(reg) old_fs, in(reg) fs, out(reg) old_gs, in(reg) gs,
            options(nostack, preserves_flags));
    }
    (old_fs, old_gs)
}

/// [`give`] on any CPU.
pub fn exchange(gs: u64) -> (u64, u64) {
    let kept = save();
    load(kept.0, gs);
    kept
}

/// [`take_back`] on any CPU.
pub fn restore((fs, gs): (u64, u64)) -> u64 {
    let (_, guest) = save();
    load(fs, gs);
    guest
}

/// Gives the inactive GS base to a guest, which must be canonical; the user's FS and GS base. Only where FSGSBASE is
/// in use.
#[inline(always)]
pub fn give(gs: u64) -> (u64, u64) {
    let (fs, old);
    // SAFETY: as `load`.
    unsafe {
        asm!("rdfsbase {}", "swapgs", "rdgsbase {}", "wrgsbase {}", "swapgs",
            out(reg) fs, out(reg) old, in(reg) gs, options(nostack, preserves_flags));
    }
    (fs, old)
}

/// Takes back what [`give`] gave, and FS as well; the guest's GS base. Only where FSGSBASE is in use.
#[inline(always)]
pub fn take_back((fs, gs): (u64, u64)) -> u64 {
    let guest;
    // SAFETY: as `load`; both values come from `give`.
    unsafe {
        asm!("wrfsbase {}", "swapgs", "rdgsbase {}", "wrgsbase {}", "swapgs",
            in(reg) fs, out(reg) guest, in(reg) gs, options(nostack, preserves_flags));
    }
    guest
}
