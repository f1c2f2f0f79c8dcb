//! One second by each timer, measured with the time stamp counter and the ACPI timer.
//!
//! Sources: Intel 8254 and 8259A data sheets; Intel SDM vol. 3, 10.5.4 (local APIC timer);
//! ACPI 6.5, 4.8.3.3 (PM timer). The TSC's frequency comes from CPUID (`docs/cpuid.md`).

use crate::exceptions;
use crate::machine::{self, cpuid, in32, out8, tsc, write32};
use crate::tests::Failure;
use core::fmt;

/// The ACPI timer's port, and its frequency.
const PM_TIMER: u16 = 0x608;
const PM_HZ: u64 = 3_579_545;
/// The ACPI timer has at least 24 bits.
const PM_MASK: u32 = 0xff_ffff;

/// The PIT counts 1,193,182 times a second: this divisor gives 100 interrupts.
const PIT_DIVISOR: u64 = 11_932;
const PIT_TICKS: u64 = 100;

/// The local APIC's registers.
const SPURIOUS: u64 = 0xfee0_00f0;
const LVT_TIMER: u64 = 0xfee0_0320;
const LVT_LINT0: u64 = 0xfee0_0350;
const INITIAL: u64 = 0xfee0_0380;
const CURRENT: u64 = 0xfee0_0390;
const DIVIDE: u64 = 0xfee0_03e0;
/// Divide by 16.
const SIXTEEN: u32 = 3;
/// An entry that delivers nothing.
const MASKED: u32 = 1 << 16;
/// Deliver as the 8259's (virtual wire).
const EXTINT: u32 = 7 << 8;
/// TSC-deadline mode of the timer entry.
const DEADLINE: u32 = 2 << 17;
/// IA32_TSC_DEADLINE.
const TSC_DEADLINE: u32 = 0x6e0;
/// The timer's vector.
const VECTOR: u32 = 48;

/// How far off one second may be: 1 %.
const TOLERANCE_US: u64 = 10_000;
const SECOND_US: u64 = 1_000_000;

/// What a timer's second took.
pub struct Second {
    tsc_us: u64,
    pm_us: u64,
}

impl fmt::Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us by TSC, {} us by PM timer", self.tsc_us, self.pm_us)
    }
}

/// TSC frequency in kHz, as leaf 0x40000010 has it; leaf 0x15, if there, must agree.
fn tsc_khz() -> Result<u64, Failure> {
    let khz = u64::from(cpuid(0x4000_0010)[0]);
    if khz == 0 {
        return Err(Failure::Off("CPUID 0x40000010", 1, 0));
    }
    let [denominator, numerator, crystal, _] = cpuid(0x15).map(u64::from);
    if cpuid(0)[0] >= 0x15 && denominator != 0 {
        let other = crystal * numerator / denominator / 1000;
        if other.abs_diff(khz) > khz / 1000 {
            return Err(Failure::Off("kHz in CPUID 0x15", khz, other));
        }
    }
    Ok(khz)
}

/// A measurement that has begun.
struct Stopwatch {
    khz: u64,
    tsc: u64,
    pm: u32,
}

impl Stopwatch {
    fn start() -> Result<Self, Failure> {
        let khz = tsc_khz()?;
        exceptions::forget();
        Ok(Self { khz, pm: in32(PM_TIMER), tsc: tsc() })
    }

    /// Microseconds from the start to this TSC value.
    fn us(&self, tsc: u64) -> u64 {
        (tsc - self.tsc) * 1000 / self.khz
    }

    /// Waits for so many interrupts, asleep or awake; the time to the last one.
    fn wait(self, interrupts: u64, asleep: bool) -> Result<Second, Failure> {
        while exceptions::interrupts().0 < interrupts {
            if asleep {
                machine::sleep();
            } else {
                machine::breathe();
            }
            if self.us(tsc()) > 3 * SECOND_US {
                return Err(Failure::Off("interrupts", interrupts, exceptions::interrupts().0));
            }
        }
        let pm_us = u64::from(in32(PM_TIMER).wrapping_sub(self.pm) & PM_MASK) * SECOND_US / PM_HZ;
        let tsc_us = self.us(exceptions::interrupts().1);
        for (what, us) in [("us by TSC", tsc_us), ("us by PM timer", pm_us)] {
            if us.abs_diff(SECOND_US) > TOLERANCE_US {
                return Err(Failure::Off(what, SECOND_US, us));
            }
        }
        Ok(Second { tsc_us, pm_us })
    }
}

/// Switches the local APIC on with nothing but the 8259's interrupts, and those all masked.
fn prepare() {
    // ICW1 to ICW4: edge, cascade on line 2, vectors 32 and 40, 8086 mode; then all masked.
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 32),
        (0xa1, 40),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0xff),
        (0xa1, 0xff),
    ] {
        out8(port, value);
    }
    write32(SPURIOUS, 0x13f);
    write32(LVT_TIMER, MASKED | VECTOR);
    write32(LVT_LINT0, EXTINT);
}

/// A hundred periods of PIT channel 0, through the 8259 and LINT0; the guest sleeps.
pub fn pit() -> Result<Second, Failure> {
    prepare();
    // Channel 0, both bytes, mode 2 (rate generator).
    out8(0x43, 0x34);
    out8(0x40, PIT_DIVISOR as u8);
    let watch = Stopwatch::start()?;
    // The second byte starts the count.
    out8(0x40, (PIT_DIVISOR >> 8) as u8);
    out8(0x21, !1);
    let second = watch.wait(PIT_TICKS, true);
    out8(0x21, 0xff);
    // Mode 0 with the count unfinished: no more interrupts.
    out8(0x43, 0x30);
    second
}

/// Sleeps for a hundred periods of PIT channel 0, however long they take.
pub fn sleep_second() -> Result<(), Failure> {
    match pit() {
        Ok(_) | Err(Failure::Off(..)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// One shot of the local APIC's timer, whose frequency is measured first; the guest sleeps.
pub fn lapic() -> Result<Second, Failure> {
    prepare();
    let khz = tsc_khz()?;
    write32(DIVIDE, SIXTEEN);
    let begun = tsc();
    write32(INITIAL, u32::MAX);
    // A tenth of a second.
    while tsc() - begun < khz * 100 {}
    let ticks = u64::from(u32::MAX - machine::read32(CURRENT));
    let cycles = tsc() - begun;
    write32(INITIAL, 0);
    let one_second = ticks * khz * 1000 / cycles;
    write32(LVT_TIMER, VECTOR);
    let watch = Stopwatch::start()?;
    write32(INITIAL, one_second as u32);
    let second = watch.wait(1, true);
    write32(LVT_TIMER, MASKED | VECTOR);
    second
}

/// The TSC deadline, while the guest is busy.
pub fn deadline() -> Result<Second, Failure> {
    prepare();
    write32(LVT_TIMER, DEADLINE | VECTOR);
    let watch = Stopwatch::start()?;
    machine::write_msr(TSC_DEADLINE, watch.tsc + watch.khz * 1000);
    let second = watch.wait(1, false);
    write32(LVT_TIMER, MASKED | VECTOR);
    second
}

/// Holds the processor with interrupts off.
pub fn spin(ms: u64) {
    let cycles = tsc_khz().unwrap_or(1_000_000) * ms;
    let begun = tsc();
    while tsc() - begun < cycles {}
}
