//! The monitor of one guest: what it decides, apart from the calls that carry it out.
//!
//! The binary beside this library makes the system calls. Here are the layouts, tables and
//! decisions, which run under `cargo test` on any host. Device models live in `devices`.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod ata;
pub mod channel;
pub mod claims;
pub mod clock;
pub mod control;
pub mod control_registers;
pub mod cpuid;
pub mod e820;
pub mod exits;
pub mod frames;
pub mod inject;
pub mod instruction;
pub mod io;
pub mod layout;
pub mod linux;
pub mod machine;
pub mod memory;
pub mod mmio;
pub mod mptable;
pub mod msr;
pub mod multiboot;
pub mod orders;
pub mod paravirtual;
pub mod passed;
pub mod regions;
pub mod registers;
pub mod report;
pub mod screen;
pub mod start;
pub mod status;
pub mod virtio;
pub mod walk;
