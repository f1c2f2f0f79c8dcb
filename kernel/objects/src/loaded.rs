//! Which address space a CPU has loaded, and whose translations it may still hold.
//!
//! With PCID (Intel SDM vol. 3, 4.10.1) a CPU keeps translations under a tag when it leaves their space. So each host table
//! has a stamp, a number used once, which is exchanged for a new one when translations of it may be stale
//! ([`Memory::stamp`](crate::Memory::stamp)). A CPU has a few tags, each with the stamp of what was last loaded under it: where
//! the space's stamp is still that one, the translations are kept, else they are dropped by the load. No other CPU writes there:
//! a shoot-down interrupts who has the space loaded, as without tags, and everybody else finds a new stamp.

use core::sync::atomic::Ordering::SeqCst;

use crate::{Pd, Remote};

/// Tags in use on each CPU: 1 to this number. 0 is the kernel's own space. A power of two, for CR3 has 12 bits for them.
const TAGS: usize = 64;

/// What one CPU has loaded.
pub(crate) struct Loaded {
    /// Identity of the domain; 0 for the kernel's own space.
    pub space: u64,
    /// The trust group of the program that ran here last.
    trust_group: u64,
    /// The stamps of what was last loaded under the tags; 0 for nothing.
    stamps: [u64; TAGS],
}

impl Loaded {
    /// The kernel's own space.
    pub const fn new() -> Loaded {
        Loaded { space: 0, trust_group: 0, stamps: [0; TAGS] }
    }

    /// Loads the space of `pd` if another one is loaded, and isolates it from the last domain if they do not trust each
    /// other.
    #[inline(always)]
    pub fn enter(&mut self, mine: &Remote, pd: &Pd) {
        if pd.identity() != self.space {
            self.space = pd.identity();
            // From here on who changes the space interrupts this CPU; who changed it before gave it another stamp.
            mine.space.store(self.space, SeqCst);
            self.load(pd);
            let group = pd.trust_group();
            if group != self.trust_group {
                self.trust_group = group;
                arch::isolate(arch::Isolate::Domain);
            }
        }
    }

    #[inline(always)]
    fn load(&mut self, pd: &Pd) {
        let root = pd.memory.root();
        if !arch::pcid_available() {
            return arch::load_space(root, None, true);
        }
        let stamp = pd.memory.stamp();
        let tag = stamp as usize % TAGS;
        let Some(last) = self.stamps.get_mut(tag) else { return };
        let known = core::mem::replace(last, stamp) == stamp;
        arch::load_space(root, Some(tag as u16 + 1), !known);
    }
}
