//! From hello to the console.
use crate::guest::{Maker, Running};
use crate::loader;
use crate::serial::Serial;
use crate::terminal::Terminal;
use abi::PAGE_SIZE;
use abi::cap::MEM_R;
use abi::hip::{FLAG_SVM, FLAG_VMX};
use alloc::string::String;
use alloc::vec::Vec;
use root::console::Console;
use root::manifest::{self, Guest};
use root::modules::{self, Module};
use root::pool::Pool;
use rt::Boot;
use rt::memory::Window;
use rt::sync::Semaphore;

/// Priority of the console: above all monitors, so that it stays alive.
const PRIORITY: u8 = 20;
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
    if let Err(status) = rt::thread::spawn(boot.cpu, PRIORITY, console) {
        rt::println!("root: no thread for the console: {status}");
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
        "root: {} CPUs, {} MiB free, TSC {} kHz, {} modules",
        boot.hip.cpus().count(),
        pool.bytes() >> 20,
        boot.hip.tsc_khz(),
        modules.len()
    );
    let Ok(wake) = Semaphore::new(0) else {
        rt::println!("root: no semaphore for the console");
        return;
    };
    let (guests, others) = match wanted(&boot, &modules) {
        Ok(wanted) => {
            let mut maker = Maker {
                boot,
                pool: &mut pool,
                modules: &modules,
                wake_root: wake.selector(),
                wall_clock: wall_clock(),
            };
            start_all(&mut maker, wanted)
        }
        Err(why) => {
            rt::println!("root: {why}");
            (Vec::new(), Vec::new())
        }
    };
    let home = (guests.len() == 1).then_some(0);
    let serial = Serial::new(&boot, &wake);
    let console = Console::new(home);
    Terminal { boot, serial, wake, guests, others, console }.serve();
}

/// The guests of the manifest, if this machine can run guests at all.
fn wanted(boot: &Boot, modules: &[Module]) -> Result<Vec<Guest>, String> {
    let module = modules::find(modules, "manifest").ok_or("there is no boot module manifest")?;
    let window = Window::physical(module.address, module.size, MEM_R)
        .map_err(|_| "the manifest cannot be mapped")?;
    let guests = manifest::parse(window.bytes().unwrap_or_default())?;
    if boot.hip.flags() & (FLAG_VMX | FLAG_SVM) == 0 {
        rt::println!(
            "hematite: guests need VMX or SVM; this machine offers neither \
             (hidden, switched off by firmware, or without EPT or nested paging)"
        );
        return Ok(guests.into_iter().map(|guest| Guest { autostart: false, ..guest }).collect());
    }
    Ok(guests)
}

fn start_all(maker: &mut Maker, wanted: Vec<Guest>) -> (Vec<Running>, Vec<String>) {
    let mut running = Vec::new();
    let mut others = Vec::new();
    for guest in wanted {
        if !guest.autostart {
            others.push(guest.name);
            continue;
        }
        match maker.start(&guest) {
            Ok(guest) => {
                rt::println!("root: guest {} started", guest.name);
                running.push(guest);
            }
            Err(why) => {
                rt::println!("root: guest {} not started: {why}", guest.name);
                others.push(guest.name);
            }
        }
    }
    (running, others)
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
