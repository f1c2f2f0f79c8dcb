//! What is made once at boot and then shared for ever.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

const EMPTY: u8 = 0;
const MAKING: u8 = 1;
const MADE: u8 = 2;

/// A place for a value that is made once. Nothing here waits and nothing panics.
pub struct Once<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: only the caller that won `MAKING` writes, before `MADE`; after that everybody only reads.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// Nothing made yet.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(EMPTY), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Makes the value, or answers `None` if somebody else does or did.
    pub fn make(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.state.compare_exchange(EMPTY, MAKING, Relaxed, Relaxed).ok()?;
        // SAFETY: the exchange succeeds once, so this is the only reference before `MADE`.
        unsafe { (*self.value.get()).write(make()) };
        self.state.store(MADE, Release);
        self.get()
    }

    /// The value, once it is made.
    pub fn get(&self) -> Option<&T> {
        if self.state.load(Acquire) != MADE {
            return None;
        }
        // SAFETY: made, and never written again.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_stays() {
        let once = Once::default();
        assert_eq!(once.get(), None);
        assert_eq!(once.make(|| 7), Some(&7));
        assert_eq!(once.make(|| 8), None);
        assert_eq!(once.get(), Some(&7));
    }

    #[test]
    fn many_threads_make_one() {
        let once = Once::new();
        let made = std::thread::scope(|scope| {
            let make = |number| {
                scope.spawn({
                    let once = &once;
                    move || once.make(|| number).is_some()
                })
            };
            let threads: Vec<_> = (0..8u64).map(make).collect();
            threads.into_iter().filter_map(|t| t.join().ok()).filter(|won| *won).count()
        });
        assert_eq!(made, 1);
        assert!(once.get().is_some());
    }
}
