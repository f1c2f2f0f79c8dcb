//! When every CPU has looked away.
//!
//! A CPU inside the kernel holds a [`Token`]; borrowed references cannot outlive it. An object whose last counted
//! reference goes is not freed at once but pushed onto a stack; a batch of them is freed when each CPU has, since
//! the batch began, passed the point between two tokens (the quiescent state), or sat idle all along.
//!
//! ```text
//!   Counted::drop --> pending (lock-free stack) --> batch, epoch += 1 --> every CPU's epoch caught up --> freed
//! ```
//!
//! The quiescent state costs one load and one store. A CPU that stays in user or guest code does not pass it by
//! itself: [`Rcu::laggards`] names those CPUs, and the kernel's loop sends them one interrupt after a while.

use core::ptr::null_mut;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU64};

use crate::SpinLock;
use crate::bell::Busy;
use crate::epoch::{Epochs, Token};
use crate::slab::Header;

/// Batches of dead objects and how far each CPU has come.
pub struct Rcu {
    epochs: Epochs,
    pending: AtomicPtr<Header>,
    batch: SpinLock<Batch>,
    /// The epoch that the batch waits for, 0 while there is none.
    waits_for: AtomicU64,
    /// Whether there is a batch, or something pending: the one word that the loop looks at.
    busy: Busy,
}

struct Batch {
    dead: *mut Header,
    target: u64,
}

// SAFETY: the pointer is a list of dead nodes that only the batch's lock holder touches.
unsafe impl Send for Batch {}

/// What became of a [`Rcu::collect`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collected {
    /// Nothing is waiting.
    Nothing,
    /// Something waits for other CPUs.
    Waiting,
    /// Something was freed and there may be more.
    More,
}

impl Rcu {
    /// No CPU present, nothing dead.
    pub const fn new() -> Rcu {
        Rcu {
            epochs: Epochs::new(),
            pending: AtomicPtr::new(null_mut()),
            batch: SpinLock::new(Batch { dead: null_mut(), target: 0 }),
            waits_for: AtomicU64::new(0),
            busy: Busy::new(),
        }
    }

    /// The CPU's first token: from here on it counts. At most one token per CPU exists: a second call for the same
    /// CPU while it is present answers `None`.
    pub fn join(&self, cpu: usize) -> Option<Token> {
        self.epochs.join(cpu)
    }

    /// The quiescent state: every borrowed reference is gone (they borrow the token, which is taken by `&mut`).
    #[inline(always)]
    pub fn quiesce(&self, token: &mut Token) {
        self.epochs.quiesce(token);
    }

    /// Gives the token up, to idle; come back by [`Rcu::join`].
    pub fn leave(&self, token: Token) -> usize {
        self.epochs.leave(token)
    }

    /// Is away while `idle` runs, which cannot use the token: no grace period waits for this CPU meanwhile.
    pub fn away<R>(&self, token: &mut Token, idle: impl FnOnce() -> R) -> R {
        self.epochs.away(token, idle)
    }

    /// Whether anything dead waits to be freed.
    #[inline(always)]
    pub fn has_dead(&self) -> bool {
        self.dead() != 0
    }

    /// Not 0 if anything dead waits to be freed (a number, so that the loop tests several at once).
    #[inline(always)]
    pub fn dead(&self) -> u8 {
        self.busy.word()
    }

    /// Frees up to `budget` objects whose time has come, or a portion of a large one, or starts a batch.
    #[inline]
    pub fn collect(&self, budget: usize) -> Collected {
        let Some(mut batch) = self.batch.try_lock() else { return Collected::Waiting };
        if batch.dead.is_null() {
            batch.dead = self.pending.swap(null_mut(), AcqRel);
            if batch.dead.is_null() {
                self.busy.rest(|| self.pending.load(Acquire).is_null());
                return Collected::Nothing;
            }
            batch.target = self.epochs.begin();
            self.waits_for.store(batch.target, Relaxed);
        }
        let target = batch.target;
        if !self.has_passed(target) {
            return Collected::Waiting;
        }
        for _ in 0..budget {
            let node = batch.dead;
            if node.is_null() {
                break;
            }
            // SAFETY: the node is on the batch list, which only we hold; its count reached zero before the batch began
            // and every CPU has passed a quiescent state since, so nobody can reach it any more.
            unsafe {
                if !Header::dismantle(node) {
                    break;
                }
                batch.dead = (*node).dead_next();
                let is_large = Header::is_large(node);
                Header::free(node);
                if is_large {
                    // Its last portion was work enough for now.
                    break;
                }
            }
        }
        if batch.dead.is_null() {
            self.waits_for.store(0, Relaxed);
        }
        Collected::More
    }

    /// A number that grows with every grace period that begins.
    pub fn epoch(&self) -> u64 {
        self.epochs.now()
    }

    /// Begins a grace period of the caller's own; ask [`Rcu::has_passed`] with the result.
    pub fn begin(&self) -> u64 {
        self.epochs.begin()
    }

    /// Whether every CPU has passed a quiescent state since `begin` returned `target`.
    pub fn has_passed(&self, target: u64) -> bool {
        self.epochs.has_passed(target)
    }

    /// The epoch that the present batch waits for; 0 if there is none.
    pub fn waits_for(&self) -> u64 {
        self.waits_for.load(Relaxed)
    }

    /// The CPUs that have not yet come as far as `target`.
    pub fn laggards(&self, target: u64) -> impl Iterator<Item = usize> + '_ {
        self.epochs.laggards(target)
    }

    /// Hands a node whose count reached zero over.
    pub(crate) fn bury(&self, node: *mut Header) {
        let mut head = self.pending.load(Relaxed);
        loop {
            // SAFETY: the count is zero, so this call is the node's only owner until the exchange below publishes it.
            unsafe { (*node).set_dead_next(head) };
            match self.pending.compare_exchange_weak(head, node, Release, Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.busy.note();
    }
}

impl Default for Rcu {
    fn default() -> Self {
        Self::new()
    }
}
