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

mod atomic;
mod bell;
mod count;
mod epoch;
mod locked;
#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
mod raw_lock;

// What the models do not reach is left out of them: loom's atomics cannot live in zeroed pages.
#[cfg(not(loom))]
mod cap;
#[cfg(not(loom))]
mod cell;
#[cfg(not(loom))]
pub mod door;
#[cfg(not(loom))]
mod list;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod once;
#[cfg(not(loom))]
mod page;
#[cfg(not(loom))]
mod pool;
#[cfg(not(loom))]
mod rcu;
#[cfg(not(loom))]
mod slab;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use bell::Bell;
#[cfg(not(loom))]
pub use cap::{CapSlot, CapSpace, Capability, Creator, Mark, NewTables, Removed, SELECTORS, Tree};
#[cfg(not(loom))]
pub use cell::{CpuCell, CpuKey};
#[cfg(not(loom))]
pub use door::Site;
pub use epoch::Token;
#[cfg(not(loom))]
pub use list::List;
#[cfg(not(loom))]
pub use lock::{Guard, SpinLock};
#[cfg(all(not(target_os = "none"), not(loom)))]
pub use locked::Locked;
#[cfg(not(loom))]
pub use once::Once;
#[cfg(not(loom))]
pub use page::SharedPage;
#[cfg(not(loom))]
pub use pool::Pool;
#[cfg(not(loom))]
pub use rcu::{Collected, Rcu};
#[cfg(not(loom))]
pub use slab::{AnyCounted, AnyRef, Counted, Dismantle, Ref, Reserved, Slab};

/// The largest number of CPUs that one kernel drives (abi.md 1).
#[cfg(not(loom))]
pub const MAX_CPUS: usize = 128;
/// Enough for a model.
#[cfg(loom)]
pub const MAX_CPUS: usize = 2;
