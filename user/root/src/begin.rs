//! From hello to the console.
use crate::cell::{Cell, Maker};
use crate::evaluator::Evaluator;
use crate::kernel_says::KernelSays;
use crate::loader;
use crate::serial::Serial;
use crate::switches::Switches;
use crate::terminal::{CONSOLE, PRIORITY, Terminal};
use abi::cap::MEM_R;
use abi::hip::{FLAG_SVM, FLAG_UEFI, FLAG_VMX};
use abi::{PAGE_SIZE, Selector};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use lifecycle::State;
use manifest::{Guest, Machine, Manifest};
use root::console::Console;
use root::cpus::Cpus;
use root::level::Level;
use root::modules::{self, Module};
use root::pool::Pool;
use root::shares::Shares;
use rt::Boot;
use rt::memory::Window;
use rt::sync::Semaphore;

/// Bytes added to the heap: each guest takes two stacks and some small things.
const HEAP: u64 = 4 << 20;
/// Longest module command line that is looked at.
const LINE: u64 = 128;

/// The first function.
pub fn start(boot: Boot) {
    let _ = rt::com1::open();
    rt::println!("root: hello from CPU {}", boot.cpu);
    let _ = rt::last_words::install(boot.cpu);
    let console = move || console(boot);
    match rt::thread::spawn(boot.cpu, PRIORITY, console) {
        Ok(thread) => CONSOLE.store(thread.sc, Ordering::Release),
        Err(status) => rt::println!("root: no thread for the console: {status}"),
    }
}

/// Starts the guests, then serves the console for ever.
fn console(boot: Boot) {
    let mut pool = Pool::new(boot.hip.memory());
    let grown = loader::fresh(&mut pool, HEAP).is_ok_and(|(_, window)| window.into_heap());
    if !grown {
        rt::println!("root: no memory for the heap");
    }
    let modules = modules::modules(boot.hip.memory(), module_line);
    rt::println!(
        "root: {} CPUs, {} MiB free, TSC {} kHz, {} modules, started by {}",
        boot.hip.cpus().count(),
        pool.bytes() >> 20,
        boot.hip.tsc_khz(),
        modules.len(),
        if boot.hip.flags() & FLAG_UEFI == 0 { "BIOS" } else { "UEFI" }
    );
    let Ok(wake) = Semaphore::new(0) else {
        rt::println!("root: no semaphore for the console");
        return;
    };
    let wanted = wanted(&boot, &modules, pool.bytes());
    let (kept, stop_ms, line) = wanted.as_ref().map_or((0, 1000, None), |wanted| {
        (wanted.host.kept, wanted.vmm.stop_ms, wanted.vmm.console.clone())
    });
    let cpus = Cpus::new(boot.hip.cpus().count() as u32, u32::from(boot.cpu), kept);
    let (wall_clock, switches, shares) = (wall_clock(), Switches::default(), Shares::default());
    let (pool, modules) = (&mut pool, modules.as_slice());
    let mut maker = Maker { boot, pool, modules, wall_clock, cpus, switches, shares, stop_ms };
    let wanted = wanted.and_then(|wanted| maker.pass(&wanted).map(|()| wanted));
    let shared = wanted.and_then(|wanted| maker.share(&wanted).map(|()| wanted.guests));
    let guests = match shared {
        Ok(wanted) => start_all(&mut maker, wanted, wake.selector()),
        Err(why) => {
            rt::println!("root: {why}");
            Vec::new()
        }
    };
    let running = |guest: &Cell| guest.state != State::Unknown;
    let home = match line {
        Some(name) => guests.iter().position(|guest| guest.guest.name == name && running(guest)),
        None => guests.iter().position(running).filter(|_| guests.len() == 1),
    };
    let serial = Serial::new(&boot, &wake);
    let console = Console::new(home);
    let kernel = KernelSays::new(&boot);
    let level = Level::default();
    let evaluator = match Evaluator::new(&boot) {
        Ok(evaluator) => evaluator,
        Err(why) => return rt::println!("root: no portal for the evaluator: {why}"),
    };
    Terminal { maker, serial, evaluator, kernel, wake, guests, console, level }.serve();
}

/// The manifest; nothing in it starts by itself unless this machine can run guests at all.
fn wanted(boot: &Boot, modules: &[Module], memory: u64) -> Result<Manifest, String> {
    let module = modules::find(modules, "manifest").ok_or("there is no boot module manifest")?;
    let window = Window::physical(module.address, module.size, MEM_R)
        .map_err(|_| "the manifest cannot be mapped")?;
    let judged = manifest::parse(window.bytes().unwrap_or_default());
    let cpus = boot.hip.cpus().count() as u64;
    let machine = Machine { cpus: Some(cpus), memory: Some(memory) };
    let size = |name: &str| modules::find(modules, name).map(|module| module.size);
    let mut wanted = judged.map_err(|refusal| format!("manifest: {refusal}"))?;
    let fits = wanted.has_modules(&size).and_then(|()| wanted.fits(machine, &size));
    fits.map_err(|refusal| format!("manifest: {refusal}"))?;
    if boot.hip.flags() & (FLAG_VMX | FLAG_SVM) == 0 {
        rt::println!(
            "hematite: guests need VMX or SVM; this machine offers neither \
             (hidden, switched off by firmware, or without EPT or nested paging)"
        );
        wanted.guests.iter_mut().for_each(|guest| guest.autostart = false);
    }
    Ok(wanted)
}

/// Seats for all guests; those that want it start.
fn start_all(maker: &mut Maker<'_>, wanted: Vec<Guest>, wake: Selector) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    // All have their seats before the first starts: it may be connected with any of them.
    for guest in wanted {
        let name = guest.name.clone();
        let seated = Cell::new(guest, maker, wake).and_then(|cell| {
            maker.switches.plug(&cell.guest, cell.seat.wake.selector(), maker.pool)?;
            cells.push(cell);
            Ok(())
        });
        if let Err(why) = seated {
            rt::println!("root: guest {name} not started: {why}");
        }
    }
    for cell in cells.iter_mut().filter(|cell| cell.guest.autostart) {
        match cell.start(maker) {
            Ok(()) => rt::println!("root: guest {} started", cell.guest.name),
            Err(why) => rt::println!("root: guest {} not started: {why}", cell.guest.name),
        }
    }
    cells
}

/// The CMOS clock at ports 0x70 and 0x71; 0 if it cannot be read.
fn wall_clock() -> u64 {
    if rt::memory::delegate_ports(0x70, 1).is_err() {
        return 0;
    }
    let read = |register| {
        rt::instructions::outb(0x70, register);
        rt::instructions::inb(0x71)
    };
    root::wall_clock::seconds(read).unwrap_or(0)
}

/// The text at a physical address, up to its page's end.
fn module_line(address: u64) -> Vec<u8> {
    let size = LINE.min(PAGE_SIZE - address % PAGE_SIZE);
    let Ok(window) = Window::physical(address, size, MEM_R) else { return Vec::new() };
    let mut bytes = alloc::vec![0; size as usize];
    let _ = window.copy_out(0, &mut bytes);
    bytes
}
