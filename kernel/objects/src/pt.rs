//! Portals: doors into a local execution context.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::Mtd;
use sync::Counted;

use crate::{Charge, Ec};

/// A portal.
pub struct Pt {
    /// The local thread that serves it.
    pub ec: Counted<Ec>,
    /// Which state an exception message carries.
    pub mtd: Mtd,
    /// Where the thread starts.
    pub entry: u64,
    id: AtomicU64,
    _charge: Charge,
}

impl Pt {
    /// A portal with id 0.
    pub fn new(ec: Counted<Ec>, mtd: Mtd, entry: u64, charge: Charge) -> Pt {
        Pt { ec, mtd, entry, id: AtomicU64::new(0), _charge: charge }
    }

    /// The word its handler finds in RDI.
    #[inline(always)]
    pub fn id(&self) -> u64 {
        self.id.load(Relaxed)
    }

    /// Sets that word.
    #[inline(always)]
    pub fn set_id(&self, id: u64) {
        self.id.store(id, Relaxed);
    }
}
