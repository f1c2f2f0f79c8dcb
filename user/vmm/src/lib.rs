//! The monitor of one guest: what it decides, apart from the calls that carry it out.
//!
//! The binary beside this library makes the system calls. Here are the layouts, tables and
//! decisions, which run under `cargo test` on any host. Device models live in `devices`.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod channel;
pub mod control;
pub mod cpuid;
pub mod e820;
pub mod layout;
pub mod linux;
pub mod memory;
pub mod msr;
pub mod start;
pub mod walk;
