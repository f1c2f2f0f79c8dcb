//! The words by which a CPU learns that there is something to look after. Under loom too.
//!
//! Each is read on the path of every system call, without order, so that looking costs a plain load. What must not be
//! lost is kept by the side that empties: it exchanges the word first and looks for the thing itself after.

use core::sync::atomic::Ordering::{AcqRel, Relaxed, Release, SeqCst};

use crate::atomic::{AtomicBool, AtomicU8, total_order};

/// Whether something waits in a place that anybody may add to and one at a time empties.
pub(crate) struct Busy(AtomicU8);

impl Busy {
    /// Nothing waits.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Busy(AtomicU8::new(0))
    }

    /// Nothing waits.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Busy(AtomicU8::new(0))
    }

    /// Not 0 if something waits.
    #[inline(always)]
    pub(crate) fn word(&self) -> u8 {
        self.0.load(Relaxed)
    }

    /// Something was added before. An exchange and no store: who reads the word then sees what all before us added.
    pub(crate) fn note(&self) {
        self.0.swap(1, Release);
    }

    /// The place was found empty: nobody need look again until something is added. `is_empty` looks once more.
    pub(crate) fn rest(&self, is_empty: impl FnOnce() -> bool) {
        // The exchange reads what `note` wrote last, so either what it noted is seen here, or its word comes after ours.
        self.0.swap(0, AcqRel);
        if !is_empty() {
            self.0.swap(1, AcqRel);
        }
    }
}

/// A CPU's bell: others leave work and ring, the CPU looks after all of it.
pub struct Bell {
    /// Something was left.
    left: AtomicBool,
    /// The CPU shall look after something before it runs a thread again; set by others and by itself.
    has_work: AtomicU8,
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

impl Bell {
    /// Nobody rang.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Bell { left: AtomicBool::new(false), has_work: AtomicU8::new(0) }
    }

    /// Nobody rang.
    #[cfg(loom)]
    pub fn new() -> Self {
        Bell { left: AtomicBool::new(false), has_work: AtomicU8::new(0) }
    }

    /// Something was left for the CPU, before.
    pub fn leave(&self) {
        self.left.store(true, SeqCst);
        total_order();
        self.has_work.store(1, SeqCst);
    }

    /// There is something to look after that nobody left: a flag of its own, a list that only the CPU touches.
    #[inline(always)]
    pub fn note(&self) {
        self.has_work.store(1, Release);
    }

    /// Not 0 if there is something to look after (a number, so that the loop tests several at once).
    #[inline(always)]
    pub fn work(&self) -> u8 {
        self.has_work.load(Relaxed)
    }

    /// The CPU looks after everything now: what is noted from here on is seen the next time.
    #[inline(always)]
    pub fn begin_care(&self) {
        self.has_work.swap(0, SeqCst);
        total_order();
    }

    /// Whether something was left; the caller takes it now. After [`Bell::begin_care`]: `leave` writes the two words
    /// in the opposite order, so what is not seen here is noted anew.
    #[inline]
    pub fn take_left(&self) -> bool {
        if !self.left.load(SeqCst) {
            return false;
        }
        self.left.store(false, SeqCst);
        true
    }
}
