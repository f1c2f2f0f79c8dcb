//! How long until a thread or a guest hears of something: the rows of `cargo xtask bench --latency`.
//!
//! Each is one line `bench: latency ROW MEDIAN MINIMUM MAXIMUM`, in ticks; the table of costs does not know them.

use crate::guest;
use crate::semaphores::down;
use crate::setup::{Bench, semaphore};
use crate::sheet::worked;
use abi::args::IrqCtrl;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::instructions::{outb, rdtsc};
use rt::stub::syscall;
use rt::vcpu::kernel_page;
use rt::{Status, calls, memory, probe, thread};

/// Rounds of a row.
const ROUNDS: usize = 300;
/// Ticks from a round's beginning to its time-out.
const AHEAD: u64 = 60_000;
/// The handler's priority, above the program's that is interrupted.
const URGENT: u8 = 2;
/// The vector used here.
const VECTOR: u8 = 11;
/// The I/O APIC pin of the old timer on a PC.
const TIMER_PIN: u8 = 2;

/// When the interrupted thread last looked at the clock.
static LAST: AtomicU64 = AtomicU64::new(0);
/// The handler has done its rounds.
static DONE: AtomicBool = AtomicBool::new(false);

/// The family.
pub fn run(bench: &Bench) -> Result<(), Status> {
    time_out(bench)?;
    interrupt(bench)?;
    guest::injection(bench)
}

/// From the last instruction before the timer's interrupt to the thread whose time-out it is.
fn time_out(bench: &Bench) -> Result<(), Status> {
    let sm = semaphore()?;
    handled(bench, "timer_to_thread", move || {
        let out = syscall(down(sm, rdtsc() + AHEAD));
        out[0] == Status::Timeout as u64
    })
}

/// From the last instruction before a device's interrupt to the thread that waits for it.
fn interrupt(bench: &Bench) -> Result<(), Status> {
    let Some(ioapic) = bench.boot.hip.ioapics().next() else { return Err(Status::BadDev) };
    let ioapic = (ioapic.id >> 24 & 0xf) as u8;
    let sm = semaphore()?;
    let (kp, page) = kernel_page()?;
    let (cpu, vector) = (bench.cpu, VECTOR);
    memory::delegate_ports(0x40, 2)?;
    calls::irq_ctrl(IrqCtrl::ConfigureVector { vector, cpu, sm, kp, bit: 0 })?;
    let (level, active_low, pin) = (false, false, TIMER_PIN);
    let pin = IrqCtrl::AssignIoapicPin { vector, cpu, level, active_low, ioapic, pin };
    calls::irq_ctrl(pin)?;
    let word = page.as_ptr() as u64;
    handled(bench, "device_interrupt_to_thread", move || {
        // One shot of the old timer, a millisecond from now.
        outb(0x43, 0x30);
        outb(0x40, 0xa9);
        outb(0x40, 0x04);
        let raised = worked(syscall(down(sm, 0)));
        raised & probe::write(word, 0).is_some()
    })?;
    let mask = IrqCtrl::MaskIoapicPin { mask: true, ioapic, pin: TIMER_PIN };
    calls::irq_ctrl(mask).map(|_| ())
}

/// Measures from this thread's last look at the clock to the return of `wait` in a thread of higher priority.
fn handled(
    bench: &Bench,
    row: &'static str,
    mut wait: impl FnMut() -> bool + Send + 'static,
) -> Result<(), Status> {
    DONE.store(false, Ordering::Relaxed);
    thread::spawn(bench.cpu, URGENT, move || {
        let mut times = Vec::with_capacity(ROUNDS);
        let mut failed = 0;
        for _ in 0..ROUNDS {
            failed += u32::from(!wait());
            times.push(rdtsc().saturating_sub(LAST.load(Ordering::Relaxed)));
        }
        report(row, &mut times, failed);
        DONE.store(true, Ordering::Relaxed);
    })?;
    while !DONE.load(Ordering::Relaxed) {
        LAST.store(rdtsc(), Ordering::Relaxed);
    }
    Ok(())
}

/// Prints a row.
pub fn report(row: &str, times: &mut [u64], failed: u32) {
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    let (median, least, most) = (at(times.len() / 2), at(0), at(times.len().saturating_sub(1)));
    if failed != 0 {
        rt::println!("bench: FAILED {row}: {failed} of {} rounds", times.len());
    }
    rt::println!("bench: latency {row} {median} {least} {most}");
}
