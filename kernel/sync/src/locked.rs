//! How many locked instructions counts and locks took, and how far walks went: what tests on the host ask. In the
//! kernel it is nothing.

#[cfg(all(not(target_os = "none"), not(loom)))]
mod tally {
    use std::cell::Cell;
    use std::thread_local;

    thread_local! {
        static COUNTS: Cell<u64> = const { Cell::new(0) };
        static LOCKS: Cell<u64> = const { Cell::new(0) };
        static LOOKS: Cell<u64> = const { Cell::new(0) };
    }

    /// Locked instructions of this thread so far.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Locked {
        /// Of reference counts.
        pub counts: u64,
        /// Of spin locks.
        pub locks: u64,
        /// Not locked: elements of lists and trees that walks looked at.
        pub looks: u64,
    }

    impl Locked {
        /// What they are by now.
        #[must_use]
        pub fn so_far() -> Self {
            Self { counts: COUNTS.get(), locks: LOCKS.get(), looks: LOOKS.get() }
        }
    }

    /// A reference was counted.
    pub(crate) fn count() {
        COUNTS.set(COUNTS.get() + 1);
    }

    /// A lock was taken.
    pub(crate) fn lock() {
        LOCKS.set(LOCKS.get() + 1);
    }

    /// A walk came by an element.
    pub(crate) fn look() {
        LOOKS.set(LOOKS.get() + 1);
    }
}

#[cfg(all(not(target_os = "none"), not(loom)))]
pub use tally::Locked;
#[cfg(all(not(target_os = "none"), not(loom)))]
pub(crate) use tally::{count, lock, look};

/// A reference was counted.
#[cfg(any(target_os = "none", loom))]
#[inline(always)]
pub(crate) fn count() {}

/// A lock was taken.
#[cfg(any(target_os = "none", loom))]
#[inline(always)]
pub(crate) fn lock() {}

/// A walk came by an element.
#[cfg(any(target_os = "none", loom))]
#[inline(always)]
#[cfg_attr(loom, expect(dead_code, reason = "the models have no walks"))]
pub(crate) fn look() {}
