//! Waiting for time and for each other.

use crate::calls;
use crate::instructions::{pause, rdtsc};
use crate::selectors;
use crate::start::own_pd;
use abi::{Selector, Status};
use core::sync::atomic::{AtomicU64, Ordering};

/// The mutex of user programs: spins a little, then sleeps a little, so that a
/// thread of higher priority lets the holder go on.
pub type Mutex<T> = spin::mutex::SpinMutex<T, Yield>;
/// What [`Mutex::lock`] gives.
pub type MutexGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

/// How a thread waits for a [`Mutex`].
pub struct Yield;

/// Spins between two sleeps.
const SPINS: u32 = 200;
/// TSC ticks of a sleep.
const NAP_TICKS: u64 = 100_000;

impl spin::relax::RelaxStrategy for Yield {
    fn relax() {
        for _ in 0..SPINS {
            pause();
        }
        let sm = NAP.load(Ordering::Relaxed);
        if sm != 0 {
            let _ = calls::sm_down(sm, rdtsc().wrapping_add(NAP_TICKS));
        }
    }
}

/// A semaphore nobody raises; 0 until start-up made it.
static NAP: AtomicU64 = AtomicU64::new(0);

/// Makes the semaphore that sleepers wait on.
#[cfg(target_os = "none")]
pub(crate) fn start() {
    let sm = selectors::allocate();
    if calls::create_sm(sm, own_pd(), 0).is_ok() {
        NAP.store(sm, Ordering::Relaxed);
    }
}

/// Sleeps until the TSC reaches `deadline` (absolute).
pub fn sleep_until(deadline: u64) {
    let sm = NAP.load(Ordering::Relaxed);
    while rdtsc() < deadline {
        if sm == 0 || calls::sm_down(sm, deadline.max(1)) == Err(Status::BadCap) {
            pause();
        }
    }
}

/// Sleeps for so many microseconds.
pub fn sleep_us(microseconds: u64) {
    sleep_until(after_us(microseconds));
}

/// The TSC value so many microseconds from now.
#[must_use]
pub fn after_us(microseconds: u64) -> u64 {
    let khz = u64::from(crate::hip().tsc_khz());
    rdtsc().saturating_add(ticks(microseconds, khz))
}

/// Microseconds in TSC ticks.
fn ticks(microseconds: u64, khz: u64) -> u64 {
    let ticks = u128::from(microseconds) * u128::from(khz) / 1000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Stops this thread for good.
pub fn stop() -> ! {
    loop {
        let sm = NAP.load(Ordering::Relaxed);
        if sm == 0 || calls::sm_down(sm, 0).is_err() {
            pause();
        }
    }
}

/// A semaphore of the kernel's.
#[derive(Debug)]
pub struct Semaphore {
    sel: Selector,
}

impl Semaphore {
    /// Makes a semaphore with this count at a free selector.
    ///
    /// # Errors
    /// What `create_sm` refuses.
    pub fn new(count: u64) -> Result<Self, Status> {
        let sel = selectors::allocate();
        calls::create_sm(sel, own_pd(), count)?;
        Ok(Self { sel })
    }

    /// A semaphore that somebody gave to this program.
    #[must_use]
    pub const fn at(sel: Selector) -> Self {
        Self { sel }
    }

    /// Where it is.
    #[must_use]
    pub const fn selector(&self) -> Selector {
        self.sel
    }

    /// Releases one waiter, or counts up.
    ///
    /// # Errors
    /// What `sm_ctrl` refuses.
    pub fn up(&self) -> Result<(), Status> {
        calls::sm_up(self.sel)
    }

    /// Takes one, or waits for ever.
    ///
    /// # Errors
    /// What `sm_ctrl` refuses.
    pub fn down(&self) -> Result<(), Status> {
        calls::sm_down(self.sel, 0)
    }

    /// Takes all, or waits for ever for one.
    ///
    /// # Errors
    /// What `sm_ctrl` refuses.
    pub fn down_all(&self) -> Result<(), Status> {
        calls::sm_down_all(self.sel, 0)
    }

    /// Takes one, or waits until the TSC reaches `deadline`.
    ///
    /// # Errors
    /// `TIMEOUT`, and what `sm_ctrl` refuses.
    pub fn down_until(&self, deadline: u64) -> Result<(), Status> {
        calls::sm_down(self.sel, deadline.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_ticks() {
        assert_eq!(ticks(1_000_000, 2_000_000), 2_000_000_000);
        assert_eq!(ticks(u64::MAX, u64::from(u32::MAX)), u64::MAX);
        assert_eq!(ticks(5, 0), 0);
    }

    #[test]
    fn the_mutex_excludes() {
        let mutex = Mutex::new(1);
        let guard = mutex.lock();
        assert!(mutex.try_lock().is_none());
        drop(guard);
        assert_eq!(*mutex.lock(), 1);
    }
}
