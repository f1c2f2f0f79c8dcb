//! Protection domains: three spaces and an account.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use logic::Oom;
use logic::addr::{Frame, PAGE_SIZE};
use sync::{
    AnyCounted, CapSlot, CapSpace, Counted, Dismantle, List, Mark, NewTables, Pool, Site, SpinLock,
};

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
    /// Domains of one group trust each other with what speculation may tell.
    trust_group: AtomicU64,
    dead: AtomicBool,
    /// Once it is dead: where the revocation of its capabilities is in a delegation tree.
    pub(crate) mark: Mark,
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
            trust_group: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            mark: Mark::new(),
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

    /// Its trust group: that of its creator until the root domain says otherwise.
    #[inline(always)]
    pub fn trust_group(&self) -> u64 {
        self.trust_group.load(Relaxed)
    }

    /// Puts it into a trust group; a CPU that runs it sees that when it next turns to it.
    pub fn set_trust_group(&self, group: u64) {
        self.trust_group.store(group, Relaxed);
    }

    /// Makes the port bitmaps that a grant needs; the root entry for the host's if that is new.
    #[inline]
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

    /// Pays for and takes the tables that a selector lacks; nothing changes until [`NewSlot::fill`].
    #[inline]
    pub fn new_slot(&self, selector: u64) -> Result<NewSlot<'_>, Oom> {
        let slot = self.objects.slot(selector);
        let tables = if slot.is_some() { None } else { Some(self.new_tables(selector)?) };
        Ok(NewSlot { pd: self, selector, slot, tables })
    }

    #[cold]
    fn new_tables(&self, selector: u64) -> Result<PaidTables<'_>, Oom> {
        let mut paid = 0;
        let pay = || self.account.take(PAGE_SIZE).inspect(|()| paid += PAGE_SIZE);
        let tables = self.objects.prepare(selector, pay);
        let tables = tables.inspect_err(|_| self.account.give(paid))?;
        Ok(PaidTables { pd: self, tables })
    }

    /// The slot of a selector, its tables made where missing.
    #[inline]
    pub fn slot(&self, selector: u64) -> Result<&CapSlot, Oom> {
        match self.objects.slot(selector) {
            Some(slot) => Ok(slot),
            None => self.new_slot(selector)?.hang().ok_or(Oom),
        }
    }

    /// A page for behind the local APIC if the domain has none yet; give it to [`Pd::keep_access_page`].
    pub fn spare_access_page(&self, pool: &'static Pool) -> Result<Option<OwnedFrames>, Oom> {
        if self.access_page.lock().is_some() {
            return Ok(None);
        }
        OwnedFrames::new(pool, &self.account, 0, Site::AccessPage).map(Some)
    }

    /// Keeps such a page, unless the domain has one by now; the frame of the one it has.
    pub fn keep_access_page(&self, spare: Option<OwnedFrames>) -> Option<Frame> {
        let mut page = self.access_page.lock();
        if page.is_none() {
            *page = spare;
        }
        page.as_ref().map(OwnedFrames::frame)
    }

    /// Marks it dead; whether it was alive.
    pub fn kill(&self) -> bool {
        !self.dead.swap(true, Relaxed)
    }

    /// Whether its creator's capability is gone.
    #[inline(always)]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }
}

/// A place for a new capability. What it does not use goes back.
#[must_use]
pub struct NewSlot<'a> {
    pd: &'a Pd,
    selector: u64,
    /// The slot, if it needs no tables.
    slot: Option<&'a CapSlot>,
    tables: Option<PaidTables<'a>>,
}

/// Tables that their domain has paid for; what does not hang in the end is paid back.
struct PaidTables<'a> {
    pd: &'a Pd,
    tables: NewTables<'a>,
}

impl<'a> NewSlot<'a> {
    #[inline(always)]
    fn hang(&mut self) -> Option<&'a CapSlot> {
        if self.slot.is_some() { self.slot } else { self.tables.as_mut()?.tables.hang() }
    }

    /// Makes the slot the creator's capability of a new object; gives the object back if the slot is taken.
    pub fn fill(mut self, object: AnyCounted, permissions: u8) -> Result<(), AnyCounted> {
        match self.hang() {
            Some(slot) => slot.create(object, permissions, &self.pd.objects, self.selector),
            None => Err(object),
        }
    }
}

impl Drop for PaidTables<'_> {
    fn drop(&mut self) {
        self.pd.account.give(self.tables.count() as u64 * PAGE_SIZE);
    }
}

/// Table entries of the object space looked at in one portion of a domain's end.
const PORTION: usize = 128;

impl Dismantle for Pd {
    fn dismantle(&mut self) -> bool {
        if !self.memory.is_dismantled() {
            self.memory.dismantle();
            return false;
        }
        self.objects.dismantle(&mut self.dismantled, PORTION)
    }
}

impl Drop for Pd {
    fn drop(&mut self) {
        self.account.give(self.objects.pages() as u64 * PAGE_SIZE);
    }
}
