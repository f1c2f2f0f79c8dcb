//! The first program: what it decides, apart from the calls that carry it out.
//!
//! Dividing memory, judging the manifest, finding modules, laying out a program, and the console's
//! state run under `cargo test` on any host. The binary beside this library makes the calls.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod command;
pub mod console;
pub mod cpus;
pub mod evaluation;
pub mod kernel_log;
pub mod level;
pub mod listing;
pub mod modules;
pub mod pci;
pub mod pool;
pub mod power;
pub mod program;
pub mod shares;
pub mod taken;
pub mod wall_clock;
