//! What other CPUs may touch of a CPU: its inbox, and the marks by which it is found.

use core::num::NonZeroU64;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::Status;
use sync::{Bell, Counted, List, SpinLock};

use crate::{Ec, IrqTable, Sc, Vcpu};

/// Work that others left for a CPU.
#[derive(Default)]
pub struct Work {
    /// Released or new scheduling contexts.
    pub ready: List<Sc, 0>,
    /// Contexts made for this CPU by another one.
    pub new_ecs: List<Ec, 0>,
    /// Contexts that were killed.
    pub dead_ecs: List<Ec, 2>,
    /// Scheduling contexts that were killed.
    pub dead_scs: List<Sc, 2>,
    /// Virtual CPUs whose control block must be cleared here.
    pub dead_vcpus: List<Vcpu, 2>,
    /// Where the kernel has microcode to be loaded.
    pub microcode: Option<NonZeroU64>,
    /// All CPUs are to sleep.
    pub sleep: bool,
}

/// The part of a CPU that all others see.
#[repr(align(64))]
pub struct Remote {
    work: SpinLock<Work>,
    /// Rung by others when they left something in `work`, and by the CPU itself.
    bell: Bell,
    /// Identity of the domain whose host tables are loaded.
    pub space: AtomicU64,
    /// Identity of the domain whose guest tables are in use, 0 outside guests.
    pub guest_space: AtomicU64,
    /// Shoot-downs asked of this CPU so far.
    pub flush_wanted: AtomicU64,
    /// Shoot-downs it has done.
    pub flush_done: AtomicU64,
    /// Its interrupt vectors.
    pub irqs: SpinLock<Option<Counted<IrqTable>>>,
}

impl Default for Remote {
    fn default() -> Self {
        Self::new()
    }
}

impl Remote {
    /// A CPU without work.
    pub const fn new() -> Remote {
        Remote {
            work: SpinLock::new(Work {
                ready: List::new(),
                new_ecs: List::new(),
                dead_ecs: List::new(),
                dead_scs: List::new(),
                dead_vcpus: List::new(),
                microcode: None,
                sleep: false,
            }),
            bell: Bell::new(),
            space: AtomicU64::new(0),
            guest_space: AtomicU64::new(0),
            flush_wanted: AtomicU64::new(0),
            flush_done: AtomicU64::new(0),
            irqs: SpinLock::new(None),
        }
    }

    /// Leaves work; the caller then tells the CPU (`Cpu::tell`).
    pub fn leave(&self, add: impl FnOnce(&mut Work)) {
        add(&mut self.work.lock());
        self.bell.leave();
    }

    /// There is something to look after; who is not that CPU then interrupts it.
    #[inline(always)]
    pub(crate) fn note_work(&self) {
        self.bell.note();
    }

    /// Leaves a scheduling context to be made ready with a status.
    pub fn leave_ready(&self, sc: Counted<Sc>, status: Status) {
        // The lock around the work orders it.
        sc.wake_status.store(status as u8, Relaxed);
        self.leave(|work| {
            let _ = work.ready.push_back(sc);
        });
    }

    /// Not 0 if the CPU has something to look after (a number, so that the loop tests several at once).
    #[inline(always)]
    pub(crate) fn work(&self) -> u8 {
        self.bell.work()
    }

    /// The CPU looks after everything now: what is noted from here on is seen the next time.
    #[inline(always)]
    pub(crate) fn begin_care(&self) {
        self.bell.begin_care();
    }

    /// Takes all work that others left, if there is any; after [`Remote::begin_care`].
    #[inline]
    pub fn take_work(&self) -> Option<Work> {
        self.bell.take_left().then(|| core::mem::take(&mut *self.work.lock()))
    }

    /// The interrupt table of the CPU.
    pub fn irq_table(&self) -> Option<Counted<IrqTable>> {
        self.irqs.lock().clone()
    }
}
