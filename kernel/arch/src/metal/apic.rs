//! The local APIC: this CPU's timer, and interrupts between CPUs.
//!
//! Registers are memory (xAPIC) or MSRs (x2APIC), Intel SDM vol. 3, 10.4 and 10.12. x2APIC is used
//! where all CPUs have it, and where firmware has locked it on ([`apic_mode`]).

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::layout::DEVICES;
use super::msr::{read_msr, write_msr};
use super::percpu;
use crate::vector;
use crate::x86::apic_mode;

const IA32_APIC_BASE: u32 = 0x1b;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The MSR of register offset 0.
const X2APIC_MSR: u32 = 0x800;

/// Register offsets (table 10-1).
const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const LOGICAL_DESTINATION: u32 = 0xd0;
const SPURIOUS: u32 = 0xf0;
const REQUESTED: u32 = 0x200;
const ERROR_STATUS: u32 = 0x280;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_THERMAL: u32 = 0x330;
const LVT_PERFORMANCE: u32 = 0x340;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

/// In an LVT entry: masked; NMI delivery; deadline mode.
const MASKED: u32 = 1 << 16;
const DELIVER_NMI: u32 = 4 << 8;
const DEADLINE_MODE: u32 = 2 << 17;
/// In the spurious vector register: software enable.
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// In the command register: delivery pending; assert; modes; everyone but me.
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const MODE_NMI: u32 = 4 << 8;
const MODE_INIT: u32 = 5 << 8;
const MODE_STARTUP: u32 = 6 << 8;
const ALL_BUT_ME: u32 = 3 << 18;

static X2APIC: AtomicBool = AtomicBool::new(false);
static READY: AtomicBool = AtomicBool::new(false);
static FOUND_SPURIOUS: AtomicU32 = AtomicU32::new(0);
static FOUND_LINT0: AtomicU32 = AtomicU32::new(0);

/// How the timer is armed on all CPUs.
static DEADLINE: AtomicBool = AtomicBool::new(false);
/// Timer counts per 2^32 TSC ticks, for one-shot mode.
static COUNTS_PER_TICK: AtomicU64 = AtomicU64::new(0);

/// Physical address of the registers, as the calling CPU's MSR says.
pub fn physical_address() -> u64 {
    read_msr(IA32_APIC_BASE).map_or(0xfee0_0000, |base| base & ADDRESS)
}

/// Turns the calling CPU's APIC on. `x2apic` is the same for all CPUs; where the first one cannot leave that mode, the
/// others follow.
pub fn enable(x2apic: bool) {
    let base = || read_msr(IA32_APIC_BASE).unwrap_or(0xfee0_0000);
    for value in apic_mode::writes(base(), x2apic || X2APIC.load(Relaxed)).into_iter().flatten() {
        let _ = write_msr(IA32_APIC_BASE, value);
    }
    X2APIC.store(apic_mode::is_x2apic(base()), Relaxed);
    percpu::local().apic_id.store(id(), Relaxed);
}

/// Notes what firmware left in two registers of the first CPU, for the HIP.
pub fn note_found() {
    FOUND_SPURIOUS.store(read(SPURIOUS), Relaxed);
    FOUND_LINT0.store(read(LVT_LINT0), Relaxed);
}

/// The spurious vector register and LINT0 of the first CPU as firmware left them.
#[must_use]
pub fn found_registers() -> (u32, u32) {
    (FOUND_SPURIOUS.load(Relaxed), FOUND_LINT0.load(Relaxed))
}

/// Brings the calling CPU's APIC into the state the kernel wants: every local source masked except
/// NMI on LINT1, all priorities accepted.
pub fn set_registers() {
    if !X2APIC.load(Relaxed) {
        write(LOGICAL_DESTINATION, 0);
    }
    write(TASK_PRIORITY, 0);
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(vector::SPURIOUS));
    write(LVT_TIMER, MASKED | u32::from(vector::TIMER));
    for entry in [LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0] {
        write(entry, MASKED | u32::from(vector::SPURIOUS));
    }
    write(LVT_LINT1, DELIVER_NMI);
    write(LVT_ERROR, u32::from(vector::ERROR));
    write(ERROR_STATUS, 0);
    write(DIVIDE, 0xb); // by 1
    READY.store(true, Relaxed);
}

fn id() -> u32 {
    if X2APIC.load(Relaxed) { read(ID) } else { read(ID) >> 24 }
}

#[inline(always)]
fn read(register: u32) -> u32 {
    if X2APIC.load(Relaxed) {
        return read_msr(X2APIC_MSR + register / 16).unwrap_or(0) as u32;
    }
    // SAFETY: the first device page maps the registers; reading them has no effect.
    unsafe { ((DEVICES + u64::from(register)) as *const u32).read_volatile() }
}

#[inline(always)]
fn write(register: u32, value: u32) {
    if X2APIC.load(Relaxed) {
        let _ = write_msr(X2APIC_MSR + register / 16, value.into());
        return;
    }
    // SAFETY: as `read`; what is written here concerns interrupts, whose handlers exist.
    unsafe { ((DEVICES + u64::from(register)) as *mut u32).write_volatile(value) }
}

/// Says that the last interrupt on this CPU has been seen to.
#[inline]
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// The identifier that interrupt messages to CPU number `cpu` carry.
#[must_use]
pub fn msi_target(cpu: usize) -> u32 {
    percpu::of(cpu).apic_id.load(Relaxed)
}

/// Sends interrupt `vector` to CPU number `cpu`.
pub fn send_ipi(cpu: usize, vector: u8) {
    command(msi_target(cpu), ASSERT | u32::from(vector));
}

/// Stops every other CPU by NMI (see `traps::nmi_stops`).
pub fn stop_others() {
    if READY.load(Relaxed) {
        command(0, ASSERT | MODE_NMI | ALL_BUT_ME);
    }
}

/// Resets the CPU with identifier `apic_id` so that it waits for [`send_startup`].
pub fn send_init(apic_id: u32) {
    command(apic_id, ASSERT | MODE_INIT);
}

/// Starts the CPU with identifier `apic_id` in 16-bit mode at physical page `page`.
pub fn send_startup(apic_id: u32, page: u8) {
    command(apic_id, ASSERT | MODE_STARTUP | u32::from(page));
}

fn command(target: u32, low: u32) {
    if X2APIC.load(Relaxed) {
        // What was written before must be seen by the receiver; the MSR write does not order (10.12.3).
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        let _ = write_msr(X2APIC_MSR + COMMAND / 16, u64::from(target) << 32 | u64::from(low));
        return;
    }
    // Bounded: an APIC that never gets rid of a command must not hang the kernel.
    for _ in 0..1_000_000 {
        if read(COMMAND) & PENDING == 0 {
            break;
        }
        core::hint::spin_loop();
    }
    write(COMMAND_HIGH, target << 24);
    write(COMMAND, low);
}

/// Lets the timer count down from the highest value, for calibration, without interrupt.
pub fn start_counting() {
    write(LVT_TIMER, MASKED | u32::from(vector::TIMER));
    write(INITIAL_COUNT, u32::MAX);
}

/// The timer's current count.
pub fn count() -> u32 {
    read(CURRENT_COUNT)
}

/// Fixes how timers are armed: deadline mode, or one-shot with `khz` counts per millisecond where the
/// TSC has `tsc_khz`.
pub fn choose_timer(deadline: bool, khz: u64, tsc_khz: u64) {
    DEADLINE.store(deadline, Relaxed);
    COUNTS_PER_TICK.store(((u128::from(khz) << 32) / u128::from(tsc_khz.max(1))) as u64, Relaxed);
}

/// Readies the calling CPU's timer for [`set_deadline`].
pub fn start_timer() {
    write(INITIAL_COUNT, 0);
    let mode = if DEADLINE.load(Relaxed) { DEADLINE_MODE } else { 0 };
    write(LVT_TIMER, mode | u32::from(vector::TIMER));
    percpu::local().deadline.store(0, Relaxed);
    // In xAPIC mode the mode change must be seen before the deadline is written (10.5.4.1).
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

/// Whether the timer's interrupt waits to be taken on the calling CPU.
pub fn timer_requested() -> bool {
    let vector = u32::from(vector::TIMER);
    read(REQUESTED + vector / 32 * 16) >> (vector % 32) & 1 != 0
}

/// Arms the calling CPU's timer to interrupt ([`vector::TIMER`]) when the TSC reaches `tsc`; with
/// `None` disarms it. A time in the past fires at once. Cheap when nothing changes.
///
/// A long one-shot may fire early; then the receiver finds no deadline reached and arms it again.
#[inline]
pub fn set_deadline(tsc: Option<u64>) {
    let deadline = tsc.map_or(0, |tsc| tsc.max(1));
    let local = percpu::local();
    if local.deadline.load(Relaxed) != deadline {
        local.deadline.store(deadline, Relaxed);
        arm(deadline);
    }
}

/// Forgets the armed deadline, so that the same one can be set again: called by all who take interrupts.
#[inline]
pub fn timer_fired() {
    percpu::local().deadline.store(0, Relaxed);
}

const IA32_TSC_DEADLINE: u32 = 0x6e0;

#[inline]
fn arm(deadline: u64) {
    if DEADLINE.load(Relaxed) {
        let _ = write_msr(IA32_TSC_DEADLINE, deadline);
        return;
    }
    let count = if deadline == 0 {
        0
    } else {
        let ticks = deadline.saturating_sub(super::clock::now());
        let counts = (u128::from(ticks) * u128::from(COUNTS_PER_TICK.load(Relaxed))) >> 32;
        u32::try_from(counts).unwrap_or(u32::MAX).max(1)
    };
    write(INITIAL_COUNT, count);
}

/// The calling CPU's entry for the thermal sensor.
pub fn thermal() -> u32 {
    read(LVT_THERMAL)
}

/// Gives it back, after resume.
pub fn set_thermal(entry: u32) {
    write(LVT_THERMAL, entry);
}

/// Routes the thermal sensor of the calling CPU to `vector`, masked or not.
pub fn lvt_thermal(vector: u8, masked: bool) {
    write(LVT_THERMAL, u32::from(vector) | if masked { MASKED } else { 0 });
}
