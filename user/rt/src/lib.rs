//! What every user program stands on: from the first instruction to typed system calls.
//!
//! ```text
//!   start   own stack, heap, lock; then `main`      calls     one function per system call
//!   thread  threads with time of their own          stub      the one instruction below them
//!   portal  servants that answer messages           utcb      the message page
//!   memory  physical windows, virtual room          selectors numbers for capabilities
//!   sync    semaphores, mutex, sleep                log, com1 what the program says
//!   vcpu    virtual processors                      bare      servants for measuring
//! ```
//!
//! The crate decides nothing for its program: it names no policy, divides no
//! memory and starts nobody. On a host it builds too; there every system call
//! answers `BAD_HYP`.
//!
//! Safety: a program may unmap or overwrite its own memory by a system call,
//! as a Linux program may through `/proc/self/mem`. Calls are safe functions
//! all the same; memory that the program wants to touch comes from
//! [`memory::Window`], which hands out room nobody else has.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod bare;
pub mod calls;
pub mod com1;
#[cfg(target_os = "none")]
mod heap;
pub mod instructions;
pub mod last_words;
pub mod log;
pub mod memory;
#[cfg(target_os = "none")]
mod own_page;
#[cfg(feature = "pairs")]
pub mod pairs;
#[cfg(target_os = "none")]
mod panic;
pub mod portal;
pub mod probe;
mod room;
pub mod selectors;
pub mod start;
pub mod stub;
pub mod sync;
pub mod thread;
pub mod utcb;
pub mod vcpu;

pub use abi;
pub use abi::{Crd, Mtd, Selector, Status};
pub use start::{Boot, hip};
pub use utcb::Utcb;

/// Names the function that runs first: `rt::entry!(main)` with
/// `fn main(boot: rt::Boot)`. When it returns the program stops.
///
/// The crate that uses it may deny `unsafe_code` but not forbid it: naming an
/// entry symbol counts as unsafe.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[cfg(target_os = "none")]
        #[allow(unsafe_code, reason = "the entry symbol")]
        const _: () = {
            // SAFETY: rt's start-up alone names this symbol, with this type.
            #[unsafe(no_mangle)]
            extern "Rust" fn rt_main(boot: $crate::Boot) {
                $main(boot);
            }
        };
    };
}
