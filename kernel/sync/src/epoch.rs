//! Who has looked away since when: the part of RCU that other CPUs' writes race with. Under loom too.

use core::sync::atomic::Ordering::{Acquire, Release, SeqCst};

use crate::MAX_CPUS;
use crate::atomic::{AtomicU64, AtomicUsize, fence};

/// Epoch of a CPU that holds no token and will fence before it takes one.
const AWAY: u64 = u64::MAX;

/// Epoch of a CPU that idles with its token set aside; nobody else can join for it.
const PAUSED: u64 = u64::MAX - 1;

const _: () = assert!(MAX_CPUS.is_power_of_two(), "quiesce masks CPU numbers");

#[repr(align(64))]
struct CpuEpoch(AtomicU64);

/// How far each CPU has come.
pub(crate) struct Epochs {
    epoch: AtomicU64,
    /// No CPU with this number or a higher one has ever joined.
    present: AtomicUsize,
    cpus: [CpuEpoch; MAX_CPUS],
}

/// The proof that this CPU is inside the kernel since its last quiescent state.
pub struct Token {
    cpu: usize,
}

impl Epochs {
    /// No CPU present.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Epochs {
            epoch: AtomicU64::new(1),
            present: AtomicUsize::new(0),
            cpus: [const { CpuEpoch(AtomicU64::new(AWAY)) }; MAX_CPUS],
        }
    }

    /// No CPU present.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Epochs {
            epoch: AtomicU64::new(1),
            present: AtomicUsize::new(0),
            cpus: core::array::from_fn(|_| CpuEpoch(AtomicU64::new(AWAY))),
        }
    }

    /// The CPU's first token: from here on it counts. At most one token per CPU exists: a second call for the same
    /// CPU while it is present answers `None`.
    pub(crate) fn join(&self, cpu: usize) -> Option<Token> {
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
    pub(crate) fn quiesce(&self, token: &mut Token) {
        // `join` gave the number, so the mask changes nothing; it spares the way for a number that is too large.
        let mine = &self.cpus[token.cpu & (MAX_CPUS - 1)];
        mine.0.store(self.epoch.load(Acquire), Release);
    }

    /// Gives the token up, to idle; come back by [`Rcu::join`].
    pub(crate) fn leave(&self, token: Token) -> usize {
        if let Some(mine) = self.cpus.get(token.cpu) {
            mine.0.store(AWAY, SeqCst);
        }
        token.cpu
    }

    /// Is away while `idle` runs, which cannot use the token: no grace period waits for this CPU meanwhile.
    pub(crate) fn away<R>(&self, token: &mut Token, idle: impl FnOnce() -> R) -> R {
        let mine = &self.cpus[token.cpu & (MAX_CPUS - 1)].0;
        mine.store(PAUSED, SeqCst);
        let result = idle();
        // As in `join`: the fence keeps what follows behind the moment from which others wait for us.
        mine.store(self.epoch.load(SeqCst), SeqCst);
        fence(SeqCst);
        result
    }

    /// The present epoch.
    #[cfg(not(loom))]
    pub(crate) fn now(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// Begins a grace period of the caller's own; ask [`Rcu::has_passed`] with the result.
    pub(crate) fn begin(&self) -> u64 {
        let target = self.epoch.fetch_add(1, SeqCst) + 1;
        fence(SeqCst);
        target
    }

    /// Whether every CPU has passed a quiescent state since `begin` returned `target`.
    pub(crate) fn has_passed(&self, target: u64) -> bool {
        self.present().all(|(_, cpu)| cpu.0.load(Acquire) >= target)
    }

    /// The CPUs that have not yet come as far as `target`.
    #[cfg(not(loom))]
    pub(crate) fn laggards(&self, target: u64) -> impl Iterator<Item = usize> + '_ {
        self.present()
            .filter(move |(_, cpu)| cpu.0.load(Acquire) < target)
            .map(|(number, _)| number)
    }

    /// The CPUs that have ever joined, and perhaps some between them that have not.
    #[inline(always)]
    fn present(&self) -> impl Iterator<Item = (usize, &CpuEpoch)> {
        self.cpus.iter().enumerate().take(self.present.load(SeqCst))
    }
}

impl Token {
    /// The CPU inside the kernel.
    #[inline(always)]
    pub fn cpu(&self) -> usize {
        self.cpu
    }
}
