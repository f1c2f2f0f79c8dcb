//! A spin lock around data, the only lock the kernel has.
//!
//! Interrupts are off inside the kernel, so a holder is never interrupted on its own CPU; the holder
//! may not wait for another CPU (docs/invariants.md, "locks"). Order: tree, space, object, run queue.

/// A spin lock that owns what it protects.
pub struct SpinLock<T>(spin::mutex::SpinMutex<T>);

/// The proof that a [`SpinLock`] is held; opens it when dropped.
pub type Guard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

impl<T> SpinLock<T> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        self.0.lock()
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.0.try_lock()
    }
}
