//! What the machine does: the one room that executes privileged instructions.
//!
//! ```text
//!   stretch   how long interrupts are off, in a kernel built to measure it
//!   x86/      formats, tested on any host           thread, vector   what the loop and user code share
//!   metal/    instructions, only for target_os = "none"
//!   fake/     a machine made of arrays, for tests: the same names
//! ```
//!
//! It never calls up: [`run`] leaves to user mode and comes back with an [`Event`]. Free functions act
//! on the CPU that calls them. Interrupts are off except inside [`idle`] and [`take_interrupt`].

#![cfg_attr(target_os = "none", no_std)]

mod guest;
pub mod stretch;
mod thread;
pub mod vector;
pub mod x86;

pub use guest::{GuestEnv, GuestEvent, GuestPlace, GuestVendor, Isolate};
pub use thread::{Event, ExitKind, Host, QUICK_CALLS, Quick, Registers, Seat, Thread};

#[cfg(target_os = "none")]
pub mod metal;
#[cfg(target_os = "none")]
pub use metal::*;

#[cfg(not(target_os = "none"))]
#[forbid(unsafe_code)]
pub mod fake;
#[cfg(not(target_os = "none"))]
pub use fake::*;

/// The largest number of CPUs that one kernel drives (abi.md 1).
pub const MAX_CPUS: usize = 128;
