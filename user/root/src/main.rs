//! The first program: reads the information page, starts a monitor per guest, keeps the console.
//!
//! ```text
//!   begin      hello, modules, manifest, which guests start
//!   cell       one guest: a domain with only what it needs, its monitor's first thread, its end
//!   seat       what stays of a guest between two lives
//!   kernel_says what the kernel tells
//!   devices    a guest's virtual devices: what its monitor gets for them
//!   switches   the rings between guests' network devices
//!   evaluator  asks the program that evaluates AML
//!   regions    a guest's regions besides RAM
//!   loader     a program's pages into a domain
//!   terminal   keys and bytes between the serial line, the prompt and the guests
//!   serial     the serial line itself and its interrupt
//! ```
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod begin;
#[cfg(target_os = "none")]
mod cell;
#[cfg(target_os = "none")]
mod devices;
#[cfg(target_os = "none")]
mod evaluator;
#[cfg(target_os = "none")]
mod kernel_says;
#[cfg(target_os = "none")]
mod loader;
#[cfg(target_os = "none")]
mod pages;
#[cfg(target_os = "none")]
mod regions;
#[cfg(target_os = "none")]
mod seat;
#[cfg(target_os = "none")]
mod serial;
#[cfg(target_os = "none")]
mod switches;
#[cfg(target_os = "none")]
mod terminal;

#[cfg(target_os = "none")]
rt::entry!(begin::start);

#[cfg(not(target_os = "none"))]
fn main() {}
