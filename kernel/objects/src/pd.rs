//! Protection domains: three spaces and an account.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use logic::Oom;
use logic::addr::Frame;
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
    /// First frame of the guest's port bitmap, 0 for none: what a guest entry reads without the lock.
    guest_ports: AtomicU64,
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
            guest_ports: AtomicU64::new(0),
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

    /// Makes the port bitmaps that a grant needs; the root entry for the host's if that is new.
    pub fn prepare_ports(
        &self,
        pool: &'static Pool,
        host: bool,
        guest: bool,
    ) -> Result<Option<u64>, Oom> {
        let mut maps = self.ports.lock();
        let fresh = maps.prepare(pool, &self.account, host, guest)?;
        self.guest_ports.store(maps.guest_frame().0, Relaxed);
        Ok(fresh)
    }

    /// The first frame of the guest's port bitmap, 0 until it is made; it stays while the domain does.
    #[inline(always)]
    pub fn guest_ports(&self) -> Frame {
        Frame(self.guest_ports.load(Relaxed))
    }

    /// The page behind the guest's local APIC, made when first asked for.
    pub fn make_access_page(&self, pool: &'static Pool) -> Result<Frame, Oom> {
        let mut page = self.access_page.lock();
        if let Some(page) = page.as_ref() {
            return Ok(page.frame());
        }
        let made = OwnedFrames::new(pool, &self.account, 0)?;
        let frame = made.frame();
        *page = Some(made);
        Ok(frame)
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
