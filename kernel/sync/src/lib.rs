//! When it is safe: locks, lifetimes, and the typed memory that both rest on.
//!
//! This is the one kernel room about lifetimes and, with `boot` and `arch`'s `metal`, one of the few
//! that may use `unsafe`. What it promises to the rooms below it, who forbid `unsafe`:
//!
//! ```text
//!   Pool        all kernel memory, frame by frame          SharedPage   a page others may write
//!   Slab<T>     objects of one kind in pool frames         Counted<T>   a reference that persists
//!   Token       "this CPU is inside the kernel"            Ref<'t, T>   a reference that cannot
//!   Rcu         when every CPU has looked away             outlive the token
//!   CapSpace    selector -> atomic slot word               CpuCell<T>   opened by its CPU alone
//! ```
//!
//! It knows nothing of what the objects mean and takes no decisions about them.

#![cfg_attr(target_os = "none", no_std)]

mod cap;
mod cell;
pub mod door;
mod list;
mod lock;
mod once;
mod page;
mod pool;
mod rcu;
mod slab;
#[cfg(test)]
mod tests;

pub use cap::{CapSlot, CapSpace, Capability, Creator, NewTables, Removed, SELECTORS, Tree};
pub use cell::{CpuCell, CpuKey};
pub use door::Site;
pub use list::List;
pub use lock::{Guard, SpinLock};
pub use once::Once;
pub use page::SharedPage;
pub use pool::Pool;
pub use rcu::{Collected, Rcu, Token};
pub use slab::{AnyCounted, AnyRef, Counted, Dismantle, Ref, Reserved, Slab};

/// The largest number of CPUs that one kernel drives (abi.md 1).
pub const MAX_CPUS: usize = 128;
