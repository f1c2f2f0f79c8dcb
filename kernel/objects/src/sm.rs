//! Semaphores: a count and the scheduling contexts that wait for it.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sync::{Counted, List, SpinLock};

use crate::{Charge, Sc};

/// A semaphore.
pub struct Sm {
    queue: SpinLock<Queue>,
    dead: AtomicBool,
    _charge: Charge,
}

struct Queue {
    count: u64,
    waiters: List<Sc, 0>,
}

/// How a `down` went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The count was there.
    Taken,
    /// The scheduling context now waits in the queue.
    Queued,
    /// The semaphore is dead.
    Dead,
}

impl Sm {
    /// A semaphore with `count` ups in it.
    pub fn new(count: u64, charge: Charge) -> Sm {
        Sm {
            queue: SpinLock::new(Queue { count, waiters: List::new() }),
            dead: AtomicBool::new(false),
            _charge: charge,
        }
    }

    /// Releases the first waiter, which the caller must wake, or counts up.
    #[inline]
    #[must_use]
    pub fn up(&self) -> Option<Counted<Sc>> {
        let mut queue = self.queue.lock();
        let first = queue.waiters.pop_front();
        if first.is_none() {
            queue.count = queue.count.wrapping_add(1);
        }
        first
    }

    /// Takes one (or with `zero` all) if there is any.
    #[inline]
    pub fn try_down(&self, zero: bool) -> bool {
        let mut queue = self.queue.lock();
        if queue.count == 0 {
            return false;
        }
        queue.count = if zero { 0 } else { queue.count - 1 };
        true
    }

    /// Takes as `try_down` or queues the scheduling context.
    pub fn down_or_wait(&self, zero: bool, sc: Counted<Sc>) -> Down {
        let mut queue = self.queue.lock();
        if self.dead.load(Relaxed) {
            return Down::Dead;
        }
        if queue.count != 0 {
            queue.count = if zero { 0 } else { queue.count - 1 };
            return Down::Taken;
        }
        match queue.waiters.push_back(sc) {
            Ok(()) => Down::Queued,
            Err(_) => Down::Dead,
        }
    }

    /// Takes a waiter out of the queue (its deadline passed); `None` if somebody released it before.
    #[must_use]
    pub fn remove(&self, sc: &Counted<Sc>) -> Option<Counted<Sc>> {
        self.queue.lock().waiters.remove(sc)
    }

    /// What is wrong with the queue, if anything is (host only).
    #[cfg(not(target_os = "none"))]
    pub fn audit(&self) -> Option<&'static str> {
        let queue = self.queue.lock();
        (queue.count != 0 && !queue.waiters.is_empty())
            .then_some("somebody waits for what is there")
    }

    /// Marks it dead; from now on nobody waits here. Call [`Sm::next_orphan`] until it is `None`.
    pub fn kill(&self) {
        let _queue = self.queue.lock();
        self.dead.store(true, Relaxed);
    }

    /// The next waiter of a dead semaphore.
    #[must_use]
    pub fn next_orphan(&self) -> Option<Counted<Sc>> {
        self.queue.lock().waiters.pop_front()
    }
}
