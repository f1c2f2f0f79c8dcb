//! Measures what the kernel's work costs, from a root program that uses API version 10 alone.
//!
//! Each row is one line `bench: ROW MEDIAN MINIMUM`, in ticks of the time-stamp counter between
//! two RDTSC in user mode around the work and nothing else; the last line is `bench: done`. With
//! one processor it measures all rows but those that need two; with more only those. What each
//! row includes is in `docs/costs.md`. The program runs on any kernel of its interface.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

extern crate alloc;

mod calling;
mod create;
mod guest;
mod latency;
mod memory;
mod processors;
mod semaphores;
mod setup;
mod sheet;
mod transfer;

use setup::Bench;

rt::entry!(start);

/// One family of rows.
type Family = fn(&Bench) -> Result<(), rt::Status>;

/// What one processor is enough for.
const ONE: &[(&str, Family)] = &[
    ("calling", calling::run),
    ("semaphores", semaphores::run),
    ("memory", memory::run),
    ("transfer", transfer::run),
    ("guest", guest::run),
    ("create", create::run),
    ("latency", latency::run),
];

/// What needs two.
const TWO: &[(&str, Family)] = &[("processors", processors::run)];

/// Runs first on the machine.
fn start(boot: rt::Boot) {
    let _ = rt::com1::open();
    match Bench::new(boot) {
        Ok(bench) => {
            let families = if boot.hip.cpus().count() > 1 { TWO } else { ONE };
            for (name, family) in families {
                if let Err(status) = family(&bench) {
                    rt::println!("bench: FAILED {name}: {status:?}");
                }
            }
        }
        Err(status) => rt::println!("bench: FAILED start: {status:?}"),
    }
    rt::println!("bench: done");
}

/// On a host there is nothing to measure.
#[cfg(not(target_os = "none"))]
fn main() {
    start(rt::Boot { cpu: 0, hip: rt::hip() });
}
