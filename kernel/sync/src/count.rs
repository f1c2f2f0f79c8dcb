//! How often an object is counted. Under loom too.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use crate::atomic::{AtomicUsize, fence};
use crate::locked;

/// A number of references; 0 is for ever.
pub(crate) struct Count(AtomicUsize);

impl Count {
    /// Nobody counts it yet.
    pub(crate) fn new() -> Self {
        Count(AtomicUsize::new(0))
    }

    /// The first reference, before anybody else knows the object.
    #[inline(always)]
    pub(crate) fn begin(&self) {
        self.0.store(1, Relaxed);
    }

    /// One more, for somebody who has one.
    #[inline(always)]
    pub(crate) fn again(&self) {
        locked::count();
        self.0.fetch_add(1, Relaxed);
    }

    /// One more, unless the last one is gone already; for a borrower.
    pub(crate) fn hold(&self) -> bool {
        locked::count();
        let mut seen = self.0.load(Relaxed);
        while seen != 0 {
            match self.0.compare_exchange_weak(seen, seen + 1, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// One less; whether it was the last. Then everything that others did with the object is visible.
    #[inline(always)]
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        locked::count();
        let was_last = self.0.fetch_sub(1, AcqRel) == 1;
        if was_last {
            fence(Acquire);
        }
        was_last
    }
}
