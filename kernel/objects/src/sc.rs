//! Scheduling contexts: time, at a priority, for a thread.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use abi::Status;
use sync::{Counted, CpuCell};

use crate::{Charge, Due, Ec, HasDue, Sm};

/// A scheduling context. Lists link 0: one run queue, waiters or helpers; link 1: deadlines;
/// link 2: those to be taken off.
pub struct Sc {
    /// The global thread it is for; its call chain runs on this time.
    pub ec: Counted<Ec>,
    /// 1 to 127, higher first.
    pub priority: u8,
    /// A full budget, TSC ticks.
    pub quantum: u64,
    /// Set when it must not run any more.
    pub dead: AtomicBool,
    /// The status that a wake-up delivers (`abi::Status`).
    pub wake_status: AtomicU8,
    /// When waiting ends.
    pub due: Due,
    /// TSC ticks used so far.
    pub used: AtomicU64,
    /// What its CPU alone knows.
    pub cell: CpuCell<ScState>,
    /// The memory it is charged.
    pub charge: Charge,
}

/// What the home CPU knows of a scheduling context.
pub struct ScState {
    /// TSC ticks left of the quantum.
    pub left: u64,
    /// The semaphore it waits for, and the root of the chain that went to wait on this time, if it is not its own.
    pub waiting: Option<(Counted<Sm>, Option<Counted<Ec>>)>,
}

impl HasDue for Sc {
    #[inline(always)]
    fn due(&self) -> &Due {
        &self.due
    }
}

impl Sc {
    /// The CPU it runs on.
    #[inline(always)]
    pub fn cpu(&self) -> usize {
        self.cell.cpu()
    }

    /// What another CPU left for its thread's wake-up.
    pub(crate) fn left_status(&self) -> Status {
        Status::from_u8(self.wake_status.load(Relaxed)).unwrap_or(Status::Abort)
    }
}
