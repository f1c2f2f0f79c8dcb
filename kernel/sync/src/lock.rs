//! A spin lock around data, the only lock the kernel has.
//!
//! Interrupts are off inside the kernel, so a holder is never interrupted on its own CPU; the holder
//! may not wait for another CPU (docs/invariants.md, "locks"). Order: tree, space, object, run queue.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

use crate::raw_lock::RawLock;

/// A spin lock that owns what it protects.
pub struct SpinLock<T> {
    raw: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a `Guard` only, and at most one exists (`RawLock`).
unsafe impl<T: Send> Sync for SpinLock<T> {}

/// The proof that a [`SpinLock`] is held; opens it when dropped.
pub struct Guard<'a, T> {
    lock: &'a SpinLock<T>,
    life: PhantomData<&'a mut T>,
}

impl<T> SpinLock<T> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Self { raw: RawLock::new(), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock and takes it.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        self.raw.lock();
        Guard { lock: self, life: PhantomData }
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.raw.try_lock().then_some(())?;
        Some(Guard { lock: self, life: PhantomData })
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held as long as the guard lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held as long as the guard lives, and this is the only guard.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.raw.unlock();
    }
}
