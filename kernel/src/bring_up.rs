//! The steps from the loader's jump to the loop, each once, on the first CPU.
//!
//! A step that fails ends with a clear line; nothing is half started. Every step says how long it
//! took, in TSC ticks.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::hip::MemDesc;
use arch::x86::feature::Features;
use boot::{BootInfo, Bytes};
use logic::acpi::{Acpi, Madt, PhysicalBytes, Processor, Root, find_root};
use logic::cmdline::Options;
use logic::memory_map::MemoryMap;

use crate::log_lines;
use crate::panic::fail;

/// Physical memory through the window of `arch`.
struct Physical;

impl Bytes for Physical {
    fn read(&mut self, address: u64, out: &mut [u8]) -> bool {
        arch::read_physical(address, out)
    }
}

impl PhysicalBytes for Physical {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        arch::read_physical(address, out)
    }
}

static LAST_STEP: AtomicU64 = AtomicU64::new(0);

/// Logs the end of a boot step with the ticks since the last one.
pub fn step(name: &str) {
    let now = arch::now();
    let ticks = now - LAST_STEP.swap(now, Relaxed);
    log::info!("boot: {name}: {ticks} ticks");
}

/// What the loader left: memory map, modules, command line.
pub fn read_loader(magic: u32, information: u64) -> BootInfo {
    LAST_STEP.store(arch::now(), Relaxed);
    let mut loader = BootInfo::EMPTY;
    if let Err(error) = loader.read(&mut Physical, magic, information) {
        fail(format_args!("cannot use what the boot loader left: {error:?}"));
    }
    loader
}

/// The kernel's command line; from here on there is a log.
pub fn read_command_line(loader: &BootInfo) -> Options {
    let options = Options::parse(loader.command_line());
    log_lines::start(&options, screen(loader, &options));
    let firmware = if loader.uefi { ", UEFI" } else { "" };
    log::info!("Hematite {}, multiboot {}{firmware}", env!("CARGO_PKG_VERSION"), loader.multiboot);
    mask(loader, &options);
    match screen(loader, &options) {
        Some(arch::Screen::Pixels { width, height, address, .. }) => {
            log::info!("the log is on pixels, {width} by {height}, at {address:#x}");
        }
        Some(arch::Screen::Text) => log::info!("the log is on a text screen"),
        None => {}
    }
    if loader.lost != 0 {
        log::warn!("{} entries of the loader's memory map did not fit", loader.lost);
    }
    step("loader information");
    options
}

/// `without=NAME` and `novpid`: guests do without what these words name.
fn mask(loader: &BootInfo, options: &Options) {
    let words = loader.command_line().split(u8::is_ascii_whitespace);
    let named = words.filter_map(|word| word.strip_prefix(b"without="));
    for name in named.chain(options.no_vpid.then_some(&b"vpid"[..])) {
        let text = core::str::from_utf8(name).unwrap_or("?");
        if arch::guest_without(name) {
            log::info!("guests do without {text}");
        } else {
            log::warn!("without={text}: guests use nothing of that name");
        }
    }
}

/// What the log is shown on: what the loader told of, else VGA text, which every BIOS machine has.
pub fn screen(loader: &BootInfo, options: &Options) -> Option<arch::Screen> {
    /// Pixels of colours, or text (Multiboot 2.0, 3.6.12).
    const COLOURS: u8 = 1;
    const TEXT: u8 = 2;
    let pixels = |display: boot::Display| {
        (display.kind == COLOURS && (15..=32).contains(&display.bits)).then(|| {
            arch::Screen::Pixels {
                address: display.address,
                pitch: display.pitch,
                width: display.width,
                height: display.height,
                bytes: display.bits.div_ceil(8),
            }
        })
    };
    match loader.display {
        _ if options.no_vga => None,
        Some(display) if display.kind != TEXT => pixels(display),
        None if loader.uefi => None,
        _ => Some(arch::Screen::Text),
    }
}

/// Refuses a CPU that lacks what the kernel needs.
pub fn check_cpu(options: &Options) {
    let mut unwanted = Features::empty();
    unwanted.set(Features::PCID, options.no_pcid);
    unwanted.set(Features::TSC_DEADLINE, options.no_deadline);
    if !arch::check_cpu(unwanted) {
        fail(format_args!("the CPU lacks what is listed above"));
    }
    if arch::pcid_available() {
        log::info!("address spaces are tagged (PCID)");
    }
    step("CPU features");
}

/// What firmware tables say. Without ACPI there is one CPU and no I/O APIC.
pub fn read_firmware(loader: &BootInfo) -> Acpi {
    let handed_over = loader.rsdp.as_ref().and_then(Root::parse);
    let root = handed_over.or_else(|| find_root(&Physical));
    let mut acpi = root.and_then(|root| Acpi::read(&Physical, root)).unwrap_or_default();
    let madt = acpi.madt.get_or_insert_with(|| {
        log::warn!("no ACPI list of processors: only this one is used");
        Madt { local_apic: arch::local_apic_address(), ..Madt::default() }
    });
    if !madt.processors.as_slice().iter().any(|cpu| cpu.apic_id == arch::own_apic_id()) {
        madt.processors.push(Processor { apic_id: arch::own_apic_id(), acpi_id: 0 });
    }
    log::info!(
        "{} CPUs, {} I/O APICs",
        madt.processors.as_slice().len(),
        madt.io_apics.as_slice().len()
    );
    let unfit = madt.unfit;
    if unfit != 0 {
        log::warn!(
            "{unfit} CPUs left out: their identifiers are above those of the information page"
        );
    }
    if acpi.broken != 0 || madt.processors.lost != 0 {
        log::warn!("{} ACPI tables broken, {} CPUs too many", acpi.broken, madt.processors.lost);
    }
    step("firmware tables");
    acpi
}

/// The processors of the machine; never none.
pub fn processors(firmware: &Acpi) -> &[Processor] {
    firmware.madt.as_ref().map_or(&[], |madt| madt.processors.as_slice())
}

/// The kernel's memory: chosen, mapped for good, image moved there if need be.
pub fn take_memory(
    loader: &BootInfo,
    firmware: &Acpi,
    options: &Options,
    information: u64,
    load_base: u64,
) -> arch::Taken {
    let mut entries = [MemDesc::default(); boot::MAX_ENTRIES];
    let count = describe(loader, &mut entries);
    let map_entries = entries.get(..count).unwrap_or(&[]);
    let mut keep = [const { 0..0 }; KEPT];
    let kept = keep_loader_bytes(loader, information, &mut keep);
    let map = MemoryMap::new(map_entries, keep.get(..kept).unwrap_or(&[]));
    let image = load_base..load_base + arch::image_bytes();
    let place = match map.choose_pool(&image, options.kernel_memory) {
        Ok(place) => place,
        Err(none) => fail(format_args!("no room for the kernel: {none:x?}")),
    };
    log::info!(
        "kernel memory {:#x} to {:#x}, image {}loaded at {:#x}",
        place.range.start,
        place.range.end,
        if place.moves { "moved, " } else { "" },
        load_base
    );
    let cpus = processors(firmware);
    let me = arch::own_apic_id();
    let number = cpus.iter().position(|cpu| cpu.apic_id == me).unwrap_or(0);
    let devices = device_pages(firmware);
    let shown_on = screen(loader, options);
    match arch::take_over(load_base, place.range, cpus.len(), devices, shown_on) {
        Ok(taken) => {
            arch::start_first_cpu(number, cpus.len());
            step("memory and first CPU");
            taken
        }
        Err(error) => fail(format_args!("cannot build the kernel's page tables: {error:?}")),
    }
}

/// Ranges that hold what the loader left and nobody may overwrite.
const KEPT: usize = 1 + 32;
/// Bytes taken for one of the loader's blocks whose length is not known to us.
const BLOCK: u64 = 64 * 1024;

/// The loader's entries as the HIP has them; how many.
pub fn describe(loader: &BootInfo, out: &mut [MemDesc]) -> usize {
    let mut count = 0;
    for (entry, slot) in loader.entries().iter().zip(out) {
        *slot = MemDesc {
            addr: entry.address,
            size: entry.size,
            kind: entry.kind,
            aux: u32::try_from(entry.command_line).unwrap_or(0),
        };
        count += 1;
    }
    count
}

/// The information block itself, and the command lines of the modules.
fn keep_loader_bytes(loader: &BootInfo, information: u64, out: &mut [Range<u64>]) -> usize {
    let lines = loader.modules().filter(|module| module.command_line != 0);
    let starts =
        core::iter::once((information, BLOCK)).chain(lines.map(|m| (m.command_line, 4096)));
    let mut count = 0;
    for ((start, bytes), slot) in starts.zip(out) {
        *slot = start..start.saturating_add(bytes);
        count += 1;
    }
    count
}

/// Physical pages of the local APICs and the I/O APICs.
fn device_pages(firmware: &Acpi) -> impl Iterator<Item = u64> {
    let io_apics = io_apics(firmware);
    core::iter::once(arch::local_apic_address()).chain(io_apics)
}

/// Physical addresses of the I/O APICs.
pub fn io_apics(firmware: &Acpi) -> impl Iterator<Item = u64> {
    let list = firmware.madt.as_ref().map_or(&[][..], |madt| madt.io_apics.as_slice());
    list.iter().map(|io_apic| u64::from(io_apic.address))
}

/// Says what became of the IOMMU: one that is there is not one that is used. The information page has the table of
/// the one and the flag of the other.
fn tell_of_iommu(firmware: &Acpi, options: &Options) {
    match (firmware.dmar, options.iommu) {
        (Some(table), _) => {
            log::info!("IOMMU: there (DMAR at {table:#x}), not used: no driver yet")
        }
        (None, true) => log::warn!("IOMMU: none found, although the command line asks for it"),
        (None, false) => {}
    }
}

/// Clocks measured, timers chosen, interrupt controllers quiet.
pub fn start_clocks_and_devices(firmware: &Acpi, options: &Options) {
    tell_of_iommu(firmware, options);
    arch::start_devices(io_apics(firmware));
    let port = pm_timer(firmware);
    match arch::start_clocks(port, !options.no_deadline) {
        Some(clocks) => log::info!(
            "TSC {} kHz, APIC timer {} kHz (by the {}), timers by {}",
            clocks.tsc_khz,
            clocks.bus_khz,
            if clocks.by_pm_timer { "PM timer" } else { "PIT" },
            if clocks.deadline { "TSC deadline" } else { "one-shot count" }
        ),
        None => fail(format_args!("neither the PM timer nor the PIT runs: no time base")),
    }
    step("clocks and interrupt controllers");
}

/// The I/O port of the PM timer.
fn pm_timer(firmware: &Acpi) -> Option<u16> {
    let timer = firmware.fadt.map(|fadt| fadt.registers.timer);
    // Address space 1 is I/O ports (ACPI 6.4, 5.2.3.2).
    let port = timer.filter(|timer| timer.space == 1 && timer.address[0] != 0);
    port.and_then(|timer| u16::try_from(timer.address[0]).ok())
}

/// The registers by which the machine is suspended, if they are I/O ports.
pub fn note_sleep_registers(firmware: &Acpi) {
    let registers = firmware.fadt.map(|fadt| fadt.registers).unwrap_or_default();
    let [first, second] = [registers.pm1a_control, registers.pm1b_control].map(|register| {
        // Address space 1 is I/O ports (ACPI 6.4, 5.2.3.2).
        if register.space == 1 { u16::try_from(register.address[0]).unwrap_or(0) } else { 0 }
    });
    arch::note_sleep_ports(first, second);
}

/// `clocks` on the command line: measures again, longer, and says how far the first measurement was off.
pub fn compare_clocks(firmware: &Acpi, options: &Options) {
    if !options.compare_clocks {
        return;
    }
    let Some((tsc, bus)) = pm_timer(firmware).and_then(arch::measure_again) else {
        log::warn!("no PM timer to compare the clocks with");
        return;
    };
    for (name, first, second) in
        [("TSC", arch::tsc_khz(), tsc), ("APIC timer", arch::bus_khz(), bus)]
    {
        let off = first.abs_diff(second) * 1_000_000 / second.max(1);
        let verdict = if off <= 10_000 { "within 1 %" } else { "NOT within 1 %" };
        log::info!("clocks: {name} {first} kHz, measured again {second} kHz: {off} ppm, {verdict}");
    }
    step("clocks compared");
}

/// Starts the other CPUs through a free block below 640 KiB.
pub fn start_other_cpus(loader: &BootInfo, firmware: &Acpi, prepare: fn(), run: fn(usize) -> !) {
    let mut entries = [MemDesc::default(); boot::MAX_ENTRIES];
    let count = describe(loader, &mut entries);
    let map = MemoryMap::new(entries.get(..count).unwrap_or(&[]), &[]);
    // What the loader left there comes back afterwards, so only RAM counts, not who uses it.
    let bytes = arch::START_PAGES * 4096;
    let place = (1..0xa0)
        .rev()
        .map(|page| page * 4096)
        .find(|start| start + bytes <= 0xa_0000 && map.is_free(*start..start + bytes));
    let cpus = processors(firmware).iter().map(|cpu| cpu.apic_id).enumerate();
    if arch::start_other_cpus(place.unwrap_or(0), cpus, prepare, run).is_err() {
        log::error!("no RAM below 640 KiB to start the other CPUs from: one CPU is used");
    }
    step("other CPUs");
}

/// `crash=NAME` on the command line: breaks this CPU for the tests of the kernel's last words.
pub fn crash_if_asked(loader: &BootInfo) {
    let words = loader.command_line().split(u8::is_ascii_whitespace);
    for how in words.filter_map(|word| arch::Crash::from_name(word.strip_prefix(b"crash=")?)) {
        log::warn!("crashing on request: {how:?}");
        arch::crash(how);
        log::error!("the crash went unnoticed");
    }
}
