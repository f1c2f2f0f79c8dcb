//! Time: the TSC, measured once against a clock whose rate is known.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::instructions::port::Port;

use super::apic;

static TSC_KHZ: AtomicU64 = AtomicU64::new(0);
static BUS_KHZ: AtomicU64 = AtomicU64::new(0);

/// TSC ticks now, on the calling CPU.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: every x86-64 CPU has RDTSC; CR4.TSD does not matter in ring 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// TSC ticks per millisecond, as measured at boot.
#[inline]
pub fn tsc_khz() -> u64 {
    TSC_KHZ.load(Relaxed)
}

/// Local APIC timer counts per millisecond (divisor 1), as measured at boot.
pub fn bus_khz() -> u64 {
    BUS_KHZ.load(Relaxed)
}

/// What to measure against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The ACPI power-management timer at this I/O port.
    PmTimer(u16),
    /// Channel 2 of the 8254.
    Pit,
}

/// Rates of the two (ACPI 6.4, 4.8.3.3; 8254 data sheet and every PC since).
const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;
/// Length of the measurement at boot: 5 ms.
const PART_OF_A_SECOND: u64 = 200;
/// Length of the one that checks it: 50 ms.
const LONGER_PART: u64 = 20;
/// A clock that stands still is given up after this many reads.
const PATIENCE: u32 = 2_000_000;

/// Measures TSC and local APIC timer at once, within 5 ms; false if the reference stands still.
pub fn calibrate(reference: Reference) -> bool {
    apic::start_counting();
    let measured = match reference {
        Reference::PmTimer(port) => against_pm_timer(port, PART_OF_A_SECOND),
        Reference::Pit => against_pit(),
    };
    let Some((tsc, bus)) = measured.map(rates) else { return false };
    TSC_KHZ.store(tsc, Relaxed);
    BUS_KHZ.store(bus, Relaxed);
    tsc_khz() != 0
}

/// Measures again, ten times as long, against the PM timer at I/O port `port`: TSC ticks and APIC timer counts per
/// millisecond. The calling CPU's timer is free to be armed again afterwards.
#[must_use]
pub fn measure_again(port: u16) -> Option<(u64, u64)> {
    apic::start_counting();
    let measured = against_pm_timer(port, LONGER_PART).map(rates);
    apic::start_timer();
    measured
}

/// Ticks and counts per millisecond.
fn rates((ticks, counts, span, hz): Measurement) -> (u64, u64) {
    let khz =
        |count: u64| (u128::from(count) * u128::from(hz) / u128::from(span.max(1)) / 1000) as u64;
    (khz(ticks), khz(counts))
}

/// TSC ticks, APIC counts and reference counts that went by, and the reference's rate.
type Measurement = (u64, u64, u64, u64);

fn against_pm_timer(port: u16, part_of_a_second: u64) -> Option<Measurement> {
    let mut port = Port::<u32>::new(port);
    // SAFETY: the port that ACPI names; reading it has no effect. 24 bits always exist.
    let mut read = || unsafe { port.read() } & 0xff_ffff;
    let span = PM_TIMER_HZ / part_of_a_second;
    let first = read();
    let mut start = first;
    for _ in 0..PATIENCE {
        start = read();
        if start != first {
            break;
        }
    }
    if start == first {
        return None;
    }
    let (tsc, count) = (now(), apic::count());
    for _ in 0..PATIENCE {
        let passed = u64::from(read().wrapping_sub(start) & 0xff_ffff);
        if passed >= span {
            return Some((
                now() - tsc,
                u64::from(count.wrapping_sub(apic::count())),
                passed,
                PM_TIMER_HZ,
            ));
        }
    }
    None
}

fn against_pit() -> Option<Measurement> {
    let span = PIT_HZ / PART_OF_A_SECOND;
    let (mut control, mut data, mut gate) =
        (Port::<u8>::new(0x43), Port::<u8>::new(0x42), Port::<u8>::new(0x61));
    // SAFETY: channel 2, mode 0 (its output rises when the count ends), speaker off, gate on; nobody
    // else uses this channel.
    unsafe {
        let speaker_off = gate.read() & !3;
        gate.write(speaker_off);
        control.write(0xb0);
        data.write(span as u8);
        data.write((span >> 8) as u8);
        gate.write(speaker_off | 1);
    }
    let (tsc, count) = (now(), apic::count());
    for _ in 0..PATIENCE {
        // SAFETY: bit 5 is the output of channel 2; reading has no effect.
        if unsafe { gate.read() } & 0x20 != 0 {
            return Some((now() - tsc, u64::from(count.wrapping_sub(apic::count())), span, PIT_HZ));
        }
    }
    None
}

/// Decides how timers are armed, on the first CPU: by deadline, if it is `wanted` and seen to tick.
/// Whether it is deadline mode.
pub fn choose_timer(wanted: bool) -> bool {
    if wanted {
        apic::choose_timer(true, bus_khz(), tsc_khz());
        apic::start_timer();
        if ticks() {
            return true;
        }
    }
    apic::choose_timer(false, bus_khz(), tsc_khz());
    apic::start_timer();
    false
}

/// Arms the timer a little ahead and looks whether its interrupt is requested; takes it.
fn ticks() -> bool {
    let start = now();
    apic::set_deadline(Some(start + tsc_khz() / 20));
    while now() - start < tsc_khz() / 5 {
        if apic::timer_requested() {
            break;
        }
        core::hint::spin_loop();
    }
    apic::set_deadline(None);
    let taken = super::take_interrupt() == Some(crate::vector::TIMER);
    if taken {
        apic::end_of_interrupt();
    }
    taken
}

/// Waits `microseconds`, by the TSC.
pub fn wait_us(microseconds: u64) {
    let end = now() + tsc_khz() * microseconds / 1000;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Sets the calling CPU's TSC (IA32_TIME_STAMP_COUNTER).
pub fn set_tsc(value: u64) {
    let _ = super::msr::write_msr(0x10, value);
}
