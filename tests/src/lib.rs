//! The driver that starts emulators, reads their serial line and judges what it says.
//!
//! The suites stand in [`stories`] as data; `cargo xtask run` and `cargo xtask test` are the two
//! users of the driver. It builds nothing: images come ready from xtask.
#![forbid(unsafe_code)]

pub mod emulator;
pub mod monitor;
pub mod outside;
pub mod process;
pub mod serial;
pub mod steady;
pub mod stories;
pub mod stories_boot;
mod stories_cells;
mod stories_pair;
mod stories_regions;
mod stories_small;
mod stories_virtio;
pub mod warnings;
