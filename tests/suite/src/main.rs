//! Checks the binary interface from the root program, statement by statement.
//!
//! Each check prints `suite: NAME ok` or `suite: NAME FAIL got ... want ...`;
//! the last line is `suite: N passed, N failed`. Checks marked "ours" hold for
//! this kernel and not for every kernel of API version 10 (`docs/compatibility.md`);
//! they are left out when the information page has no block of ours. Everything
//! else is API version 10 and uses its calls alone.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

extern crate alloc;

mod by_call;
mod convention;
mod create;
mod delegate;
mod domain;
mod events;
mod exhaustion;
mod fuzz;
mod interrupts;
mod ipc;
mod isolation;
mod kernel_page;
mod machine;
mod pairs;
mod portal;
mod processors;
mod registers;
mod revoke;
mod schedule;
mod semaphore;
mod start;
mod stretch;
mod tally;
mod transfer;
mod trees;
mod vcpu;
mod world;

use world::World;

rt::entry!(start);

/// One family of checks.
type Family = fn(&mut World);

/// The families, in order: each uses only what those above it have checked.
const FAMILIES: &[(&str, Family)] = &[
    ("start", start::run),
    ("convention", convention::run),
    ("create", create::run),
    ("semaphore", semaphore::run),
    ("portal", portal::run),
    ("ipc", ipc::run),
    ("events", events::run),
    ("delegate", delegate::run),
    ("transfer", transfer::run),
    ("revoke", revoke::run),
    ("kernel_page", kernel_page::run),
    ("schedule", schedule::run),
    ("processors", processors::run),
    ("machine", machine::run),
    ("interrupts", interrupts::run),
    ("domain", domain::run),
    ("vcpu", vcpu::run),
    ("isolation", isolation::run),
    ("trees", trees::run),
    ("by_call", by_call::run),
    ("fuzz", fuzz::run),
    ("exhaustion", exhaustion::run),
    ("pairs", pairs::run),
];

/// Runs first on the machine.
fn start(boot: rt::Boot) {
    let opened = rt::com1::open();
    rt::println!("suite: on cpu {}, serial port {opened:?}", boot.cpu);
    let mut world = World::new(boot);
    start::untouched(&mut world);
    world.prepare();
    for (name, family) in FAMILIES {
        world.tally.family(name);
        family(&mut world);
    }
    stretch::tell(&world);
    world.tally.end();
}

/// On a host there is no kernel to check.
#[cfg(not(target_os = "none"))]
fn main() {
    start(rt::Boot { cpu: 0, hip: rt::hip() });
}
