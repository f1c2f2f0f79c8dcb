//! The atomics that the models in `loom_tests.rs` try in every order: `core`'s, or loom's under `--cfg loom`.

#[cfg(not(loom))]
pub(crate) use core::hint::spin_loop as relax;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, fence};
#[cfg(loom)]
pub(crate) use loom::thread::yield_now as relax;

/// Says that the accesses around it are in the one order of all `SeqCst` accesses, which on a machine they are
/// anyway: loom takes such accesses for acquire and release, and knows that order from fences alone.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) fn total_order() {}
#[cfg(loom)]
pub(crate) fn total_order() {
    fence(core::sync::atomic::Ordering::SeqCst);
}
