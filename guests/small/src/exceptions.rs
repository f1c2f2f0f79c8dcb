//! Gates for exceptions and interrupts, and what is done when one is taken.
//!
//! Sources: Intel SDM vol. 3, 6.14 (gates in 64-bit mode); Intel 8259A data sheet (EOI).

use crate::machine::{self, RESUME, VECTORS};
use crate::println;
use core::sync::atomic::{AtomicU64, Ordering};

/// First vector that is no exception.
const FIRST_INTERRUPT: u64 = 32;
/// Vectors the first 8259 is given, see `timers.rs`.
const PIC: core::ops::Range<u64> = 32..40;
/// Selector of the 64-bit code segment the boot protocol promises.
const CODE: u64 = 0x10;
/// Present, interrupt gate.
const GATE: u64 = 0x8e << 40;
/// The local APIC's end-of-interrupt register.
const APIC_EOI: u64 = 0xfee0_00b0;
/// Nothing was caught.
const NOTHING: u64 = u64::MAX;

static GATES: [AtomicU64; VECTORS * 2] = [const { AtomicU64::new(0) }; VECTORS * 2];
/// Vector and error code (from bit 32) of the last exception that was expected.
static CAUGHT: AtomicU64 = AtomicU64::new(NOTHING);
/// Interrupts taken.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// TSC when the last one was taken.
static LAST: AtomicU64 = AtomicU64::new(0);

/// What the stubs leave on the stack.
#[repr(C)]
pub struct Frame {
    /// R15 to RAX, as pushed.
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Puts the gates in place.
pub fn prepare() {
    for (vector, gate) in GATES.chunks_exact(2).enumerate() {
        let stub = machine::stub(vector);
        let low = (stub & 0xffff) | (CODE << 16) | GATE | ((stub >> 16 & 0xffff) << 48);
        for (word, value) in gate.iter().zip([low, stub >> 32]) {
            word.store(value, Ordering::Relaxed);
        }
    }
    machine::load_gates(&GATES);
}

/// Leaves the processor without any gate.
pub fn none() {
    machine::load_gates(&[]);
}

/// What `probe` raised: vector and error code.
pub fn raised_by(probe: impl Fn()) -> Option<(u8, u32)> {
    CAUGHT.store(NOTHING, Ordering::Relaxed);
    probe();
    match CAUGHT.load(Ordering::Relaxed) {
        NOTHING => None,
        caught => Some((caught as u8, (caught >> 32) as u32)),
    }
}

/// Forgets the interrupts that were taken.
pub fn forget() {
    COUNT.store(0, Ordering::Relaxed);
}

/// Interrupts taken since [`forget`], and the TSC at the last one.
pub fn interrupts() -> (u64, u64) {
    (COUNT.load(Ordering::Relaxed), LAST.load(Ordering::Relaxed))
}

/// An exception or interrupt has been taken.
pub fn taken(frame: &mut Frame) {
    if frame.vector >= FIRST_INTERRUPT {
        LAST.store(machine::tsc(), Ordering::Relaxed);
        COUNT.fetch_add(1, Ordering::Relaxed);
        if PIC.contains(&frame.vector) {
            machine::out8(0x20, 0x20);
        } else {
            machine::write32(APIC_EOI, 0);
        }
        return;
    }
    match RESUME.swap(0, Ordering::Relaxed) {
        0 => {
            println!(
                "small: FAIL exception {} error {:#x} at {:#x}, flags {:#x}, stack {:#x}",
                frame.vector, frame.error, frame.rip, frame.rflags, frame.rsp
            );
            machine::power_off()
        }
        resume => {
            CAUGHT.store(frame.error << 32 | frame.vector, Ordering::Relaxed);
            frame.rip = resume;
        }
    }
}
