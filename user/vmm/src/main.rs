//! The monitor of one guest, as a program: maps, threads and system calls around the library.
//!
//! ```text
//!   root task --> start (here): control page, image, tables, board
//!                   |--> one thread per virtual processor   processor.rs   run, exit, run
//!                   '--> this thread: keys to the guest     streams.rs
//! ```
//! All share [`shared::Shared`] under one lock, held only between two entries.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod begin;
#[cfg(all(target_os = "none", feature = "crash"))]
mod crash;
#[cfg(target_os = "none")]
mod pages;
#[cfg(target_os = "none")]
mod processor;
#[cfg(target_os = "none")]
mod shared;
#[cfg(target_os = "none")]
mod streams;

#[cfg(target_os = "none")]
rt::entry!(begin::start);

#[cfg(not(target_os = "none"))]
fn main() {}
