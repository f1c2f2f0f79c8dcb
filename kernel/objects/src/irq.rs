//! Which semaphore and which bit an interrupt vector means.

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
    /// A level-triggered pin to mask when it fires: I/O APIC and pin.
    pub level: Option<(u8, u8)>,
}

/// The vectors of one CPU.
pub struct IrqTable {
    entries: [SpinLock<Option<VectorUse>>; VECTORS],
}

impl Default for IrqTable {
    fn default() -> Self {
        Self::new()
    }
}

impl IrqTable {
    /// All unconfigured.
    pub const fn new() -> IrqTable {
        IrqTable { entries: [const { SpinLock::new(None) }; VECTORS] }
    }

    /// Sets what a vector does; `None` turns it off. Returns what it did.
    pub fn configure(&self, vector: usize, what: Option<VectorUse>) -> Option<VectorUse> {
        let mut entry = self.entries.get(vector)?.lock();
        core::mem::replace(&mut *entry, what)
    }

    /// Notes the pin behind a vector.
    pub fn set_level(&self, vector: usize, level: Option<(u8, u8)>) {
        if let Some(entry) = self.entries.get(vector)
            && let Some(used) = entry.lock().as_mut()
        {
            used.level = level;
        }
    }

    /// What a vector does.
    pub fn get(&self, vector: usize) -> Option<VectorUse> {
        self.entries.get(vector)?.lock().clone()
    }
}
