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

/// One piece of it.
pub(crate) enum Errand {
    Adopt(Counted<Ec>),
    Wake(Counted<Sc>),
    TakeOff(Counted<Sc>),
    Bury(Counted<Ec>),
    Retire(Counted<Vcpu>),
    Microcode(NonZeroU64),
    Sleep,
}

impl Work {
    /// The next piece: a context is adopted before the time that runs it is made ready.
    #[inline(always)]
    fn next(&mut self) -> Option<Errand> {
        if let Some(ec) = self.new_ecs.pop_front() {
            Some(Errand::Adopt(ec))
        } else if let Some(sc) = self.ready.pop_front() {
            Some(Errand::Wake(sc))
        } else if let Some(sc) = self.dead_scs.pop_front() {
            Some(Errand::TakeOff(sc))
        } else if let Some(ec) = self.dead_ecs.pop_front() {
            Some(Errand::Bury(ec))
        } else if let Some(vcpu) = self.dead_vcpus.pop_front() {
            Some(Errand::Retire(vcpu))
        } else if let Some(address) = self.microcode.take() {
            Some(Errand::Microcode(address))
        } else {
            core::mem::take(&mut self.sleep).then_some(Errand::Sleep)
        }
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty()
            & self.new_ecs.is_empty()
            & self.dead_ecs.is_empty()
            & self.dead_scs.is_empty()
            & self.dead_vcpus.is_empty()
            & self.microcode.is_none()
            & !self.sleep
    }
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

    /// Leaves work; the caller then interrupts the CPU (`Cpu::ring`).
    #[inline]
    pub fn leave(&self, add: impl FnOnce(&mut Work)) {
        add(&mut self.work.lock());
        self.bell.leave();
    }

    /// There is something to look after; who is not that CPU then interrupts it.
    #[inline(always)]
    pub(crate) fn note_work(&self) {
        self.bell.note();
    }

    /// Leaves a scheduling context to be made ready with a status; the caller then interrupts the CPU.
    #[inline]
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

    /// Whether others left work, all of which is done now or left anew ([`Remote::leave_rest`]); after
    /// [`Remote::begin_care`].
    #[inline(always)]
    pub(crate) fn take_left(&self) -> bool {
        self.bell.take_left()
    }

    /// Takes one piece of work, and tells whether there is more: it stays where it is, so that nothing is moved.
    #[inline(always)]
    pub(crate) fn take_errand(&self) -> (Option<Errand>, bool) {
        let mut work = self.work.lock();
        (work.next(), !work.is_empty())
    }

    /// The rest of the work is for the next time.
    pub(crate) fn leave_rest(&self) {
        self.bell.leave();
    }

    /// The interrupt table of the CPU.
    pub fn irq_table(&self) -> Option<Counted<IrqTable>> {
        self.irqs.lock().clone()
    }
}
