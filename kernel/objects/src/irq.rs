//! Which semaphore and which bit an interrupt vector means.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use sync::{Counted, SpinLock};

use crate::{Kp, Sm};

/// User vectors per CPU (abi.md 1).
pub const VECTORS: usize = 192;

/// What a vector does when it arrives.
#[derive(Clone)]
pub struct VectorUse {
    /// Counted up when the bit was clear.
    pub sm: Counted<Sm>,
    /// Holds the bit.
    pub kp: Counted<Kp>,
    /// Bit number in the page, below 32768.
    pub bit: u16,
}

/// The vectors of one CPU.
pub struct IrqTable {
    entries: [SpinLock<Option<VectorUse>>; VECTORS],
    /// The level-triggered pin behind each vector: 1 << 16, I/O APIC << 8, pin; 0 for none. It is known whether or not
    /// anybody owns the vector.
    pins: [AtomicU32; VECTORS],
    unowned: AtomicU64,
}

impl Default for IrqTable {
    fn default() -> Self {
        Self::new()
    }
}

impl IrqTable {
    /// All unconfigured.
    pub const fn new() -> IrqTable {
        IrqTable {
            entries: [const { SpinLock::new(None) }; VECTORS],
            pins: [const { AtomicU32::new(0) }; VECTORS],
            unowned: AtomicU64::new(0),
        }
    }

    /// Sets what a vector does; `None` turns it off. Returns what it did.
    pub fn configure(&self, vector: usize, what: Option<VectorUse>) -> Option<VectorUse> {
        let mut entry = self.entries.get(vector)?.lock();
        core::mem::replace(&mut *entry, what)
    }

    /// Notes the level-triggered pin that raises a vector: I/O APIC and pin; `None` for an edge.
    pub fn set_level_pin(&self, vector: usize, level: Option<(u8, u8)>) {
        if let Some(word) = self.pins.get(vector) {
            word.store(
                level.map_or(0, |(io, pin)| 1 << 16 | u32::from(io) << 8 | u32::from(pin)),
                Relaxed,
            );
        }
    }

    /// The level-triggered pin that was last sent to a vector: to be masked when it fires, if it still comes here.
    pub fn level_pin(&self, vector: usize) -> Option<(u8, u8)> {
        let word = self.pins.get(vector)?.load(Relaxed);
        (word != 0).then_some(((word >> 8) as u8, word as u8))
    }

    /// Counts an interrupt that nobody owns.
    pub fn count_unowned(&self) {
        self.unowned.fetch_add(1, Relaxed);
    }

    /// How many came that nobody owned.
    pub fn unowned(&self) -> u64 {
        self.unowned.load(Relaxed)
    }

    /// What a vector does.
    pub fn get(&self, vector: usize) -> Option<VectorUse> {
        self.entries.get(vector)?.lock().clone()
    }
}
