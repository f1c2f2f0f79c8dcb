//! Suspends the machine again and again, and looks after each time whether all goes on where it was.
//!
//! ```text
//!   ring    a token from CPU to CPU: each thread calls its CPU's servant, then wakes the next CPU's thread
//!   alarms  two threads per CPU with time-outs that are set before the machine sleeps and expire afterwards
//!   guest   a guest of two instructions that counts on the last CPU, where the machine can run guests
//! ```
//! Each cycle ends with one line; a line with `WRONG` names what is not as it should be. Cycle 0 writes a sleep type that the
//! machine does not know: it does not lose power, the call is refused, and all goes on.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

extern crate alloc;

mod alarms;
mod guest;
mod ring;
mod types;

use abi::cap::MEM_RW;
use alloc::format;
use alloc::string::String;
use root::acpi::Power;
use rt::instructions::rdtsc;
use rt::memory::{Window, free_ram};
use rt::sync::{after_us, sleep_us};
use rt::{Boot, Status};

rt::entry!(start);

/// How often the machine sleeps.
const CYCLES: u32 = 100;
/// A sleep type that neither QEMU nor Bochs takes for anything.
const NO_SLEEP: u8 = 7;
/// Bytes of memory for stacks, the guest's page at their end.
const HEAP: u64 = 16 << 20;
/// How long anything may take to go on, in microseconds of the TSC. Emulators on busy hosts are slow.
const PATIENCE_US: u64 = 20_000_000;

/// Runs first on the machine.
fn start(boot: Boot) {
    let _ = rt::com1::open();
    let _ = rt::last_words::install(boot.cpu);
    match run(boot) {
        Ok(()) => rt::println!("sleeper: {CYCLES} cycles, all is right"),
        Err(why) => rt::println!("sleeper: WRONG: {why}"),
    }
}

fn run(boot: Boot) -> Result<(), String> {
    let page = memory(boot)?;
    let power = root::power::tables(&boot)?;
    let types = types::of_suspend(&power.programs).ok_or("the ACPI tables have no \\_S3")?;
    let cpus: alloc::vec::Vec<u16> = boot.hip.cpus().map(|cpu| cpu.number).collect();
    let ring = ring::start(&cpus).map_err(|status| refused("the ring", status))?;
    let alarms = alarms::start(&cpus).map_err(|status| refused("the alarms", status))?;
    let guest = guest::start(&boot, cpus.last().copied().unwrap_or(boot.cpu), page);
    let guest = guest.map_err(|status| refused("the guest", status))?;
    rt::println!("sleeper: {} CPUs, guest: {}", cpus.len(), if guest { "counts" } else { "none" });
    for cycle in 0..=CYCLES {
        // All of it runs before: a round of the ring, and the guest.
        let (rounds, counted) = (ring.rounds(), guest::count());
        eventually("the ring", || ring.rounds() > rounds + 2)?;
        eventually("the guest", || !guest || guest::count() > counted)?;
        alarms.set(cycle)?;
        let (rounds, counted, before) = (ring.rounds(), guest::count(), rdtsc());
        if cycle == 0 {
            stay_awake(&power)?;
        } else {
            root::power::suspend(&power, types)?;
        }
        let after = rdtsc();
        if after < before {
            return Err(format!("the TSC went from {before} back to {after}"));
        }
        eventually("the ring", || ring.rounds() > rounds + 2)?;
        eventually("the guest", || !guest || guest::count() > counted)?;
        eventually("all alarms", || alarms.expired(cycle))?;
        alarms.judge()?;
        ring.judge()?;
        guest::judge()?;
        rt::println!("sleeper: cycle {cycle}: {} rounds, all alarms, all is right", ring.rounds());
    }
    // Who looks at the CPUs from outside sees the kernel's page tables, not the guest's.
    guest::stop().map_err(|status| refused("the guest's end", status))
}

/// Asks for a sleep that does not come.
fn stay_awake(power: &Power) -> Result<(), String> {
    match root::power::suspend(power, [NO_SLEEP; 2]) {
        Ok(()) => Err("the machine slept by a type that it does not have".into()),
        Err(why) if why.contains("BAD_PAR") => {
            rt::println!("sleeper: stayed awake: {why}");
            Ok(())
        }
        Err(why) => Err(why),
    }
}

/// Adds heap; the address of a page beside it.
fn memory(boot: Boot) -> Result<u64, String> {
    let heap = free_ram(&boot.hip, HEAP, HEAP).ok_or("the machine has no memory")?;
    let page = heap + HEAP - abi::PAGE_SIZE;
    let window = Window::physical(heap, HEAP - abi::PAGE_SIZE, MEM_RW);
    let window = window.map_err(|status| refused("the heap", status))?;
    #[cfg(target_os = "none")]
    window.into_heap();
    #[cfg(not(target_os = "none"))]
    let _ = window;
    Ok(page)
}

/// Waits until a condition holds.
fn eventually(what: &str, holds: impl Fn() -> bool) -> Result<(), String> {
    let end = after_us(PATIENCE_US);
    while !holds() {
        if rdtsc() > end {
            return Err(format!("{what}: nothing for {} s", PATIENCE_US / 1_000_000));
        }
        sleep_us(1000);
    }
    Ok(())
}

fn refused(what: &str, status: Status) -> String {
    format!("{what}: the kernel answers {status}")
}

/// On a host there is no machine that sleeps.
#[cfg(not(target_os = "none"))]
fn main() {
    start(Boot { cpu: 0, hip: rt::hip() });
}
