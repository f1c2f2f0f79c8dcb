//! Protection domains: three spaces and an account.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use logic::Oom;
use sync::{CapSpace, Counted, Dismantle, List, Pool, SpinLock};

use crate::ports::PortMaps;
use crate::{Account, Charge, Ec, Memory, OwnedFrames};

/// What a domain may do beyond its capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// May name the kernel as the source of memory and ports (the first domain only).
    pub privileged: bool,
    /// May use machine-wide calls; can be inherited.
    pub passthrough: bool,
}

/// A protection domain.
pub struct Pd {
    /// What its kernel memory is charged to.
    pub account: Counted<Account>,
    /// Selectors to capabilities.
    pub objects: CapSpace,
    /// Page tables.
    pub memory: Memory,
    /// Port bitmaps.
    pub ports: SpinLock<PortMaps>,
    /// Rights of the domain itself.
    pub trust: Trust,
    /// Its contexts; emptied when it dies.
    pub ecs: SpinLock<List<Ec, 1>>,
    /// The page behind the guest's local APIC, made when first asked for.
    pub access_page: SpinLock<Option<OwnedFrames>>,
    dead: AtomicBool,
    /// How far its selectors have been taken apart at the end.
    dismantled: u64,
    _charge: Charge,
}

impl Pd {
    /// An empty domain.
    pub fn new(
        pool: &'static Pool,
        account: Counted<Account>,
        trust: Trust,
        charge: Charge,
    ) -> Result<Pd, Oom> {
        Ok(Pd {
            objects: CapSpace::new(pool),
            memory: Memory::new(pool, &account)?,
            ports: SpinLock::new(PortMaps::default()),
            trust,
            ecs: SpinLock::new(List::new()),
            access_page: SpinLock::new(None),
            dead: AtomicBool::new(false),
            dismantled: 0,
            account,
            _charge: charge,
        })
    }

    /// Its number: that of its object space.
    #[inline(always)]
    pub fn identity(&self) -> u64 {
        self.objects.identity()
    }

    /// Marks it dead; whether it was alive.
    pub fn kill(&self) -> bool {
        !self.dead.swap(true, Relaxed)
    }

    /// Whether its creator's capability is gone.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }
}

/// Table entries of the object space looked at in one portion of a domain's end.
const PORTION: usize = 256;

impl Dismantle for Pd {
    fn dismantle(&mut self) -> bool {
        self.memory.dismantle() && self.objects.dismantle(&mut self.dismantled, PORTION)
    }
}

impl Drop for Pd {
    fn drop(&mut self) {
        self.account.give(self.objects.pages() as u64 * logic::addr::PAGE_SIZE);
    }
}
