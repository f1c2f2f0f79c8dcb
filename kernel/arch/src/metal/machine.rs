//! The steps by which the kernel takes over the machine, in the order in which `main` calls them.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use logic::line::Line;
use sync::SpinLock;

use super::clock::Reference;
use super::screen::{self, Screen};
use super::{apic, bring_up, clock, cpu, dump, early, ioapic, layout, percpu, serial, smp, traps};
use crate::MAX_CPUS;
use crate::x86::feature::Features;

/// First of all: console, and a dump instead of a silent reset.
pub fn early_start() {
    early::start();
}

/// Copies physical bytes, before and after the kernel has its own page tables; false if they cannot
/// be reached.
#[must_use]
pub fn read_physical(address: u64, out: &mut [u8]) -> bool {
    early::read_physical(address, out)
}

/// Whether the log goes to COM1.
static SERIAL: AtomicBool = AtomicBool::new(false);

/// Decides where [`console_write`] writes. Last words go everywhere whatever this says.
pub fn start_console(to_serial: bool, to_screen: Option<Screen>) {
    SERIAL.store(to_serial, Relaxed);
    if let Some(screen) = to_screen {
        screen::start(screen);
    }
}

/// Writes to the console at once.
pub fn console_write(bytes: &[u8]) {
    if SERIAL.load(Relaxed) {
        serial::send(bytes);
    }
    screen::send(bytes);
}

/// Tells the CPU that this is a wait loop.
#[inline(always)]
pub fn relax() {
    core::hint::spin_loop();
}

/// Stops the calling CPU for good.
pub fn stop() -> ! {
    dump::stop()
}

/// Looks at the first CPU; logs every required feature that is missing, and says whether none is.
/// Optional features in `unwanted` are not used.
#[must_use]
pub fn check_cpu(unwanted: Features) -> bool {
    let brand = cpu::brand();
    let end = brand.iter().position(|byte| *byte == 0).unwrap_or(brand.len());
    let text = brand.get(..end).and_then(|text| core::str::from_utf8(text).ok()).unwrap_or("");
    let complete = cpu::check_required();
    cpu::choose_features(unwanted);
    log::info!("{}: {:?}", text.trim(), cpu::features());
    if cpu::has_meltdown() {
        log::warn!("this CPU may have Meltdown; the kernel maps only its own memory");
    }
    complete
}

/// Physical address of the local APICs, as the CPU says.
#[must_use]
pub fn local_apic_address() -> u64 {
    apic::physical_address()
}

/// The local APIC identifier that the calling CPU has had since reset.
#[must_use]
pub fn own_apic_id() -> u32 {
    cpu::initial_apic_id()
}

/// Brings up the first CPU, which has number `number` of `count`, on the final page tables.
/// `apic_ids_fit` says that all identifiers fit the eight bits of an interrupt message.
pub fn start_first_cpu(number: usize, count: usize) {
    percpu::adopt(number);
    smp::set_count(count.min(MAX_CPUS), number);
    traps::build(traps::Stacks::Own);
    apic::enable(cpu::features().contains(Features::X2APIC));
    apic::note_found();
    super::memory_type::read();
    bring_up::this_cpu();
}

/// Takes the I/O APICs (mapped by `take_over` behind the local APIC, in this order).
pub fn start_devices(io_apics: impl Iterator<Item = u64>) {
    ioapic::start(io_apics.take(ioapic::MAX.min(layout::DEVICE_PAGES as usize - 1)));
}

/// How the clocks turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// TSC ticks per millisecond.
    pub tsc_khz: u64,
    /// Local APIC timer counts per millisecond.
    pub bus_khz: u64,
    /// Timers are armed by TSC deadline, else one-shot.
    pub deadline: bool,
    /// Measured against the PM timer, else the PIT.
    pub by_pm_timer: bool,
}

/// Measures the clocks against the PM timer at I/O port `pm_timer`, or the PIT; nothing if neither
/// runs. Deadline mode is used if it is `deadline_wanted` and works.
#[must_use]
pub fn start_clocks(pm_timer: Option<u16>, deadline_wanted: bool) -> Option<Clocks> {
    let by_pm_timer = pm_timer.is_some_and(|port| clock::calibrate(Reference::PmTimer(port)));
    if !by_pm_timer && !clock::calibrate(Reference::Pit) {
        return None;
    }
    let wanted = deadline_wanted && cpu::features().contains(Features::TSC_DEADLINE);
    let deadline = clock::choose_timer(wanted);
    Some(Clocks { tsc_khz: clock::tsc_khz(), bus_khz: clock::bus_khz(), deadline, by_pm_timer })
}

/// Starts the other CPUs, whose numbers and APIC identifiers are given, through a block at `place`
/// below 640 KiB. Each one runs `prepare` while it is alone; all, the first one included, go to `run` in
/// the end ([`smp::join`]). Logs who is missing.
///
/// # Errors
/// `place` is not fit; no CPU was started.
pub fn start_other_cpus(
    place: u64,
    cpus: impl Iterator<Item = (usize, u32)>,
    prepare: fn(),
    run: fn(usize) -> !,
) -> Result<(), smp::BadPlace> {
    smp::set_doors(prepare, run);
    // Also where there is no other CPU: the first one wakes from sleep through it.
    let block = smp::StartBlock::new(place)?;
    let cpus = cpus.filter(|(number, _)| *number != smp::boot_cpu());
    for (number, apic_id) in cpus {
        if !block.start(number, apic_id) {
            log::error!("CPU {number} (APIC id {apic_id:#x}) did not start within 2 s");
        }
    }
    Ok(())
}

/// Notes an interrupt that no user program has asked for.
pub fn note_unclaimed(cpu: usize, vector: u8) {
    let line = Line::new().text("vector ").hex(vector.into());
    warn(cpu, line.text(" arrived and nobody has asked for it"));
}

/// Notes the end of a thread.
pub fn note_killed(cpu: usize, reason: &'static str) {
    warn(cpu, Line::new().text("killed a thread: ").text(reason));
}

/// Notes the event that ends a thread, and where it was.
pub fn note_fault(cpu: usize, event: u8, address: u64) {
    let line = Line::new().text("event ").hex(event.into()).text(" at ").hex(address);
    warn(cpu, line.text(" has no handler"));
}

/// Writes a warning as the kernel's log does, but without `core::fmt`: its panics must not be reachable
/// from an entry of the kernel.
fn warn(cpu: usize, what: Line) {
    /// Keeps lines whole when several CPUs write.
    static WRITING: SpinLock<()> = SpinLock::new(());
    if log::max_level() < log::LevelFilter::Warn {
        return;
    }
    let line = Line::new().text("[").decimal(cpu as u64).text(" warn ] CPU ").decimal(cpu as u64);
    let line = line.text(": ").bytes(what.as_bytes()).end();
    let _whole_line = WRITING.lock();
    console_write(line.as_bytes());
}
