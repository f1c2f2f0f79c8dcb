//! The atomics that the models in `loom_tests.rs` try in every order: `core`'s, or loom's under `--cfg loom`.

#[cfg(not(loom))]
pub(crate) use core::hint::spin_loop as relax;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
#[cfg(loom)]
pub(crate) use loom::thread::yield_now as relax;
