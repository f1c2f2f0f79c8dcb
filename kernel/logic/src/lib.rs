//! Decides: plain functions on plain data, with no machine, no locks, no unsafe code.
//!
//! Everything here runs on any host under `cargo test`. What must be shared between processors
//! (capability slots, page tables, kernel memory) is reached through small traits that `sync`
//! implements; this room holds the arithmetic and the shape, never the memory itself.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod addr;
pub mod bitmaps;
pub mod cmdline;
pub mod delegation;
pub mod elf;
pub mod frames;
pub mod hip;
pub mod line;
pub mod memory_map;
pub mod page_table;
pub mod ring;

pub use addr::Frame;

/// An allocation was refused: there is no memory left, or the quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oom;
