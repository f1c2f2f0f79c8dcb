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
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, fence};

use crate::slab::Header;
use crate::{MAX_CPUS, SpinLock};

/// Epoch of a CPU that holds no token and will fence before it takes one.
const AWAY: u64 = u64::MAX;
/// Epoch of a CPU that idles with its token set aside; nobody else can join for it.
const PAUSED: u64 = u64::MAX - 1;

const _: () = assert!(MAX_CPUS.is_power_of_two(), "quiesce masks CPU numbers");

#[repr(align(64))]
struct CpuEpoch(AtomicU64);

/// Batches of dead objects and how far each CPU has come.
pub struct Rcu {
    epoch: AtomicU64,
    pending: AtomicPtr<Header>,
    batch: SpinLock<Batch>,
    /// The epoch that the batch waits for, 0 while there is none.
    waits_for: AtomicU64,
    /// Whether there is a batch, or something pending: the one word that the loop looks at.
    busy: AtomicU8,
    /// No CPU with this number or a higher one has ever joined.
    present: AtomicUsize,
    cpus: [CpuEpoch; MAX_CPUS],
}

struct Batch {
    dead: *mut Header,
    target: u64,
}

// SAFETY: the pointer is a list of dead nodes that only the batch's lock holder touches.
unsafe impl Send for Batch {}

/// The proof that this CPU is inside the kernel since its last quiescent state.
pub struct Token {
    cpu: usize,
}

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
            epoch: AtomicU64::new(1),
            pending: AtomicPtr::new(null_mut()),
            batch: SpinLock::new(Batch { dead: null_mut(), target: 0 }),
            waits_for: AtomicU64::new(0),
            busy: AtomicU8::new(0),
            present: AtomicUsize::new(0),
            cpus: [const { CpuEpoch(AtomicU64::new(AWAY)) }; MAX_CPUS],
        }
    }

    /// The CPU's first token: from here on it counts. At most one token per CPU exists: a second call for the same
    /// CPU while it is present answers `None`.
    pub fn join(&self, cpu: usize) -> Option<Token> {
        let mine = self.cpus.get(cpu)?;
        // Before the epoch is read: who begins a batch either finds this CPU or is found by it.
        if self.present.load(SeqCst) <= cpu {
            self.present.fetch_max(cpu + 1, SeqCst);
        }
        let now = self.epoch.load(SeqCst);
        mine.0.compare_exchange(AWAY, now, SeqCst, SeqCst).ok()?;
        fence(SeqCst);
        Some(Token { cpu })
    }

    /// The quiescent state: every borrowed reference is gone (they borrow the token, which is taken by `&mut`).
    #[inline(always)]
    pub fn quiesce(&self, token: &mut Token) {
        // `join` gave the number, so the mask changes nothing; it spares the way for a number that is too large.
        let mine = &self.cpus[token.cpu & (MAX_CPUS - 1)];
        mine.0.store(self.epoch.load(Acquire), Release);
    }

    /// Gives the token up, to idle; come back by [`Rcu::join`].
    pub fn leave(&self, token: Token) -> usize {
        if let Some(mine) = self.cpus.get(token.cpu) {
            mine.0.store(AWAY, SeqCst);
        }
        token.cpu
    }

    /// Is away while `idle` runs, which cannot use the token: no grace period waits for this CPU meanwhile.
    pub fn away<R>(&self, token: &mut Token, idle: impl FnOnce() -> R) -> R {
        let mine = &self.cpus[token.cpu & (MAX_CPUS - 1)].0;
        mine.store(PAUSED, SeqCst);
        let result = idle();
        // As in `join`: the fence keeps what follows behind the moment from which others wait for us.
        mine.store(self.epoch.load(SeqCst), SeqCst);
        fence(SeqCst);
        result
    }

    /// Whether anything dead waits to be freed.
    #[inline(always)]
    pub fn has_dead(&self) -> bool {
        self.dead() != 0
    }

    /// Not 0 if anything dead waits to be freed (a number, so that the loop tests several at once).
    #[inline(always)]
    pub fn dead(&self) -> u8 {
        self.busy.load(Relaxed)
    }

    /// Frees up to `budget` objects whose time has come, or a portion of a large one, or starts a batch.
    pub fn collect(&self, budget: usize) -> Collected {
        let Some(mut batch) = self.batch.try_lock() else { return Collected::Waiting };
        if batch.dead.is_null() {
            batch.dead = self.pending.swap(null_mut(), AcqRel);
            if batch.dead.is_null() {
                self.rest();
                return Collected::Nothing;
            }
            batch.target = self.epoch.fetch_add(1, SeqCst) + 1;
            self.waits_for.store(batch.target, Relaxed);
            fence(SeqCst);
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
                Header::free(node);
            }
        }
        if batch.dead.is_null() {
            self.waits_for.store(0, Relaxed);
        }
        Collected::More
    }

    /// There is no batch (the caller holds its lock): nobody need look again until something dies.
    fn rest(&self) {
        // The exchange reads what `bury` wrote last, so either its node is seen here, or its word comes after ours.
        self.busy.swap(0, AcqRel);
        if !self.pending.load(Acquire).is_null() {
            self.busy.store(1, Relaxed);
        }
    }

    /// Begins a grace period of the caller's own; ask [`Rcu::has_passed`] with the result.
    pub fn begin(&self) -> u64 {
        let target = self.epoch.fetch_add(1, SeqCst) + 1;
        fence(SeqCst);
        target
    }

    /// Whether every CPU has passed a quiescent state since `begin` returned `target`.
    pub fn has_passed(&self, target: u64) -> bool {
        self.present().all(|(_, cpu)| cpu.0.load(Acquire) >= target)
    }

    /// The epoch that the present batch waits for; 0 if there is none.
    pub fn waits_for(&self) -> u64 {
        self.waits_for.load(Relaxed)
    }

    /// The CPUs that have not yet come as far as `target`.
    pub fn laggards(&self, target: u64) -> impl Iterator<Item = usize> + '_ {
        self.present()
            .filter(move |(_, cpu)| cpu.0.load(Acquire) < target)
            .map(|(number, _)| number)
    }

    /// The CPUs that have ever joined, and perhaps some between them that have not.
    #[inline(always)]
    fn present(&self) -> impl Iterator<Item = (usize, &CpuEpoch)> {
        self.cpus.iter().enumerate().take(self.present.load(SeqCst))
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
        self.busy.store(1, Release);
    }
}

impl Default for Rcu {
    fn default() -> Self {
        Self::new()
    }
}

impl Token {
    /// The CPU inside the kernel.
    #[inline(always)]
    pub fn cpu(&self) -> usize {
        self.cpu
    }
}
