//! Saves and restores the floating-point state of threads and guests.
//!
//! The kernel itself uses none. State lies in whole frames of the pool, in the standard format of XSAVE
//! (Intel SDM vol. 1, 13.4), or FXSAVE's where there is no XSAVE.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use sync::SharedPage;

use super::cpu;
use crate::x86::feature::Features;

/// Offsets of the two control words that are not zero initially, and their initial values.
const CONTROL: (usize, u16) = (0, 0x37f);
const MXCSR: (usize, u32) = (24, 0x1f80);

/// What [`fpu_order`] found; [`UNKNOWN`] before.
static ORDER: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0xff;

/// How many frames a state needs, as an order of the pool: 0 on all CPUs whose state the kernel enables
/// (x87 to AVX-512 is 2688 bytes).
#[must_use]
pub fn fpu_order() -> u8 {
    let known = ORDER.load(Relaxed);
    if known != UNKNOWN {
        return known;
    }
    // Dozens of CPUID: once, when the first thread is made and all CPUs have said what they can.
    let frames = u64::from(cpu::xstate_bytes()).div_ceil(4096);
    let order = logic::addr::order_for(frames);
    ORDER.store(order, Relaxed);
    order
}

/// Makes a page that may hold anything the initial state: what XRSTOR or FXRSTOR reads of it in that state is the
/// legacy area and the header behind it (Intel SDM vol. 1, 13.4).
pub fn fpu_fresh(page: &SharedPage) {
    page.clear_words((512 + 64) / 8);
    fpu_init(page);
}

/// Makes a zeroed page the initial state.
pub fn fpu_init(page: &SharedPage) {
    page.write_u16(CONTROL.0, CONTROL.1);
    page.write_u32(MXCSR.0, MXCSR.1);
}

/// Saves the calling CPU's state into `page` (and the frames behind it, see [`fpu_order`]).
#[inline]
pub fn fpu_save(page: &SharedPage) {
    let at = core::ptr::from_ref(page).cast_mut();
    let features = cpu::features();
    let mask = u64::MAX;
    // SAFETY: the page is shared memory made of atomics, large enough and aligned to 64 bytes.
    unsafe {
        if features.contains(Features::XSAVEOPT) {
            asm!("xsaveopt64 [{}]", in(reg) at, in("eax") mask as u32, in("edx") mask as u32,
                options(nostack, preserves_flags));
        } else if features.contains(Features::XSAVE) {
            asm!("xsave64 [{}]", in(reg) at, in("eax") mask as u32, in("edx") mask as u32,
                options(nostack, preserves_flags));
        } else {
            asm!("fxsave64 [{}]", in(reg) at, options(nostack, preserves_flags));
        }
    }
}

/// Room for one state outside the pool: all that the kernel enables (`XCR0` in `cpu`) is 2688 bytes.
#[repr(C, align(64))]
pub struct Area([u64; 344]);

impl Area {
    /// Nothing saved yet: a header of zeros.
    pub const fn new() -> Self {
        Self([0; 344])
    }

    /// Keeps the calling CPU's state.
    pub fn save(&mut self) {
        let at = self.0.as_mut_ptr();
        // SAFETY: as `fpu_save`; the area is large enough and aligned.
        unsafe {
            if cpu::features().contains(Features::XSAVE) {
                asm!("xsave64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack, preserves_flags));
            } else {
                asm!("fxsave64 [{}]", in(reg) at, options(nostack, preserves_flags));
            }
        }
    }

    /// Gives it back.
    pub fn restore(&self) {
        let at = self.0.as_ptr();
        // SAFETY: what `save` wrote is a valid state, which does not fault.
        unsafe {
            if cpu::features().contains(Features::XSAVE) {
                asm!("xrstor64 [{}]", in(reg) at, in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack, preserves_flags, readonly));
            } else {
                asm!("fxrstor64 [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
            }
        }
    }
}

/// Saves the state of one thread and loads another's, both in areas that nobody else can write; only where
/// `cpu::has_fast_switch`.
#[inline(always)]
pub fn switch(from: &SharedPage, to: &SharedPage) {
    // SAFETY: as `fpu_save`. A state that XSAVEOPT stored or `fpu_init` made does not fault; if memory were
    // damaged, the fix-up goes on behind the instruction.
    unsafe {
        asm!(
            "xsaveopt64 [{from}]",
            "2: xrstor64 [{to}]",
            "3:",
            ".pushsection .fixup, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            from = in(reg) core::ptr::from_ref(from).cast_mut(),
            to = in(reg) core::ptr::from_ref(to),
            in("eax") u32::MAX, in("edx") u32::MAX,
            options(nostack, preserves_flags),
        );
    }
}

/// Saves one state and loads another that somebody else may have written; only where `cpu::has_fast_switch`.
///
/// # Errors
/// As [`fpu_restore`].
#[inline(always)]
pub fn exchange(from: &SharedPage, to: &SharedPage) -> Result<(), ()> {
    // SAFETY: as `fpu_save`; a state that the CPU refuses faults, and the fix-up goes on at the label.
    unsafe {
        asm!(
            "xsaveopt64 [{from}]",
            "2: xrstor64 [{to}]",
            ".pushsection .fixup, \"a\"",
            ".quad 2b, {refused}",
            ".popsection",
            from = in(reg) core::ptr::from_ref(from).cast_mut(),
            to = in(reg) core::ptr::from_ref(to),
            in("eax") u32::MAX, in("edx") u32::MAX,
            refused = label { return Err(()) },
            options(nostack, preserves_flags),
        );
    }
    Ok(())
}

/// Loads the state in `page`.
///
/// # Errors
/// The page does not hold a valid state; what the CPU has then is undefined, and the caller loads
/// another one before anybody uses it.
#[inline]
pub fn fpu_restore(page: &SharedPage) -> Result<(), ()> {
    let at = core::ptr::from_ref(page);
    let mut refused: u32 = 1;
    // SAFETY: a state that the CPU refuses faults, which the fix-up turns into an error.
    unsafe {
        if cpu::features().contains(Features::XSAVE) {
            asm!(
                "2: xrstor64 [{at}]",
                "xor {refused:e}, {refused:e}",
                "3:",
                ".pushsection .fixup, \"a\"",
                ".quad 2b, 3b",
                ".popsection",
                at = in(reg) at, refused = inout(reg) refused,
                in("eax") u32::MAX, in("edx") u32::MAX,
                options(nostack),
            );
        } else {
            asm!(
                "2: fxrstor64 [{at}]",
                "xor {refused:e}, {refused:e}",
                "3:",
                ".pushsection .fixup, \"a\"",
                ".quad 2b, 3b",
                ".popsection",
                at = in(reg) at, refused = inout(reg) refused,
                options(nostack),
            );
        }
    }
    if refused == 0 { Ok(()) } else { Err(()) }
}
