//! Keeps what one domain or guest left in the processor's predictors and buffers from the next.
//!
//! Each means is used where the CPU names it (Intel SDM vol. 2, CPUID leaf 7; AMD64 vol. 3, appendix E); the
//! return stack needs no feature to be overwritten.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{read_msr, write_msr};
use crate::Isolate;
use crate::x86::descriptor::KERNEL_SS;

bitflags::bitflags! {
    /// Means against speculation that crosses borders.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mitigations: u64 {
        /// Indirect branch predictions are dropped (PRED_CMD bit 0).
        const IBPB = 1 << 0;
        /// Fill buffers, load and store ports are overwritten (VERW with MD_CLEAR).
        const VERW = 1 << 1;
        /// The first-level data cache is flushed before another guest (FLUSH_CMD bit 0).
        const L1D = 1 << 2;
        /// The return stack is overwritten.
        const RSB = 1 << 3;
    }
}

/// What all CPUs have; all ones until the first one looked.
static MEANS: AtomicU64 = AtomicU64::new(u64::MAX);

const PRED_CMD: u32 = 0x49;
const FLUSH_CMD: u32 = 0x10b;
const ARCH_CAPABILITIES: u32 = 0x10a;
/// The L1D need not be flushed before guests (ARCH_CAPABILITIES bits 0 and 3).
const L1D_HARMLESS: u64 = 1 << 0 | 1 << 3;

/// Looks at the calling CPU; part of every CPU's bring-up.
pub fn note_mitigations() {
    let seven = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 };
    let amd = if __cpuid(0x8000_0000).eax >= 0x8000_0008 { __cpuid(0x8000_0008).ebx } else { 0 };
    let capabilities = match seven >> 29 & 1 {
        0 => 0,
        _ => read_msr(ARCH_CAPABILITIES).unwrap_or(0),
    };
    let mut means = Mitigations::RSB;
    means.set(Mitigations::IBPB, seven >> 26 & 1 != 0 || amd >> 12 & 1 != 0);
    means.set(Mitigations::VERW, seven >> 10 & 1 != 0);
    let flush = seven >> 28 & 1 != 0 && capabilities & L1D_HARMLESS == 0;
    means.set(Mitigations::L1D, flush);
    MEANS.fetch_and(means.bits(), Relaxed);
}

/// What is done between trust groups and before another monitor's guest, for the boot log.
#[must_use]
pub fn mitigations() -> Mitigations {
    Mitigations::from_bits_truncate(MEANS.load(Relaxed))
}

/// Forgets what the last domain or guest left. Interrupts are off.
#[cold]
pub fn isolate(border: Isolate) {
    let means = mitigations();
    if means.contains(Mitigations::IBPB) {
        let _ = write_msr(PRED_CMD, 1);
    }
    if border == Isolate::Guest && means.contains(Mitigations::L1D) {
        let _ = write_msr(FLUSH_CMD, 1);
    }
    if means.contains(Mitigations::VERW) {
        let selector = KERNEL_SS;
        // SAFETY: asks whether a segment is writable; only the memory form overwrites the buffers.
        unsafe {
            asm!("verw word ptr [{}]", in(reg) &raw const selector, options(nostack, readonly))
        };
    }
    // SAFETY: 32 calls whose return addresses are taken off the stack at once: 256 bytes of it are used,
    // and nobody returns to the INT3.
    unsafe {
        asm!(
            "mov {n:e}, 32",
            "2: call 3f",
            "int3",
            "3: dec {n:e}",
            "jnz 2b",
            "add rsp, 256",
            n = out(reg) _,
        );
    }
}
