//! The word of a spin lock. Under loom too.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::atomic::{AtomicBool, relax};
use crate::locked;

/// Taken or not.
pub(crate) struct RawLock(AtomicBool);

impl RawLock {
    /// Not taken.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        RawLock(AtomicBool::new(false))
    }

    /// Not taken.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        RawLock(AtomicBool::new(false))
    }

    /// Takes it if it is not taken.
    #[inline(always)]
    pub(crate) fn try_lock(&self) -> bool {
        locked::lock();
        self.0.compare_exchange(false, true, Acquire, Relaxed).is_ok()
    }

    /// Waits until it is not taken, and takes it.
    #[inline(always)]
    pub(crate) fn lock(&self) {
        while !self.try_lock() {
            // Only a read, so that the word stays in this CPU's cache while another one holds it.
            while self.0.load(Relaxed) {
                relax();
            }
        }
    }

    /// Its holder gives it up.
    #[inline(always)]
    pub(crate) fn unlock(&self) {
        self.0.store(false, Release);
    }
}
