//! What the kernel tells while it runs: fixed records in a ring, formatted by whoever reads them.
//!
//! Until the root program claims the log (call 69), each also makes a line on COM1.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use abi::log::{FAULT, KILLED, LogRecord, REASONS, UNOWNED};
use logic::ring::{Record, Ring};

use crate::Cpu;

/// Records kept.
const KEPT: usize = 256;

/// The log.
pub struct Log {
    ring: Ring<KEPT>,
    claimed: AtomicBool,
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

impl Log {
    /// Nothing told yet.
    pub const fn new() -> Self {
        Self { ring: Ring::new(), claimed: AtomicBool::new(false) }
    }

    /// From now on the ring alone has the records.
    pub fn claim(&self) {
        self.claimed.store(true, Relaxed);
    }

    /// How many records were written since the start.
    pub fn written(&self) -> u64 {
        self.ring.next()
    }

    /// The oldest record from number `from` on, and how many were lost before it.
    pub fn from(&self, from: u64) -> Option<(LogRecord, u64)> {
        let next = self.ring.next();
        let first = from.max(next.saturating_sub(KEPT as u64));
        let (number, record) = (first..next).find_map(|n| Some((n, self.ring.get(n)?)))?;
        let Record { tsc, code, cpu, detail, value } = record;
        Some((LogRecord { number, tsc, code, cpu, detail, value }, number - from))
    }
}

impl Cpu {
    /// Writes a record; whether it should be printed too.
    fn record(&self, code: u16, detail: u32, value: u64) -> bool {
        let record = Record { tsc: arch::now(), code, cpu: self.id as u16, detail, value };
        self.kernel.log.ring.record(record);
        !self.kernel.log.claimed.load(Relaxed)
    }

    /// An interrupt came that nobody asked for.
    pub(crate) fn tell_unowned(&self, vector: u8) {
        if self.record(UNOWNED, vector.into(), 0) {
            arch::note_unclaimed(self.id, vector);
        }
    }

    /// A thread ends.
    pub(crate) fn tell_killed(&self, reason: &'static str) {
        let number = REASONS.iter().position(|known| *known == reason).unwrap_or(0);
        if self.record(KILLED, number as u32, 0) {
            arch::note_killed(self.id, reason);
        }
    }

    /// Notes which event killed the running thread.
    pub fn note_fault(&mut self, event: u8) {
        let rip = self.state().map_or(0, |state| state.thread.registers.rip);
        if self.record(FAULT, event.into(), rip) {
            arch::note_fault(self.id, event, rip);
        }
    }
}
