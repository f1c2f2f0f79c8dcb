//! What the families share: memory, a second domain, bare servants.

use abi::args::{CreateEc, CreatePt, PdCtrl, Revoke, Words};
use abi::cap::{MEM_RW, MEM_RWX};
use abi::crd::ItemMeta;
use abi::{PAGE_BITS, PAGE_SIZE, TypedItem};
use rt::memory::{Window, blocks, free_ram, map_physical, reserve, reserve_page};
use rt::{Boot, Crd, Mtd, Selector, Status, calls, selectors};

/// This program's domain.
pub const PD: Selector = abi::cap::ROOT_PD;
/// Bytes of heap.
const HEAP_BYTES: u64 = 4 << 20;
/// Bytes of a large page.
const LARGE: u64 = 2 << 20;
/// All a window may pass.
pub const ALL: u8 = abi::cap::ALL;

/// The means.
pub struct Bench {
    /// The processor that measures.
    pub cpu: u16,
    /// What the start-up said.
    pub boot: Boot,
    /// A second domain, with this program's image at the same addresses.
    pub other: Selector,
    /// Page number of 512 pages of memory, aligned, in single mappings.
    pub pages: u64,
    /// Page number of one large page.
    pub large: u64,
}

impl Bench {
    /// Prepares.
    pub fn new(boot: Boot) -> Result<Self, Status> {
        let heap = free_ram(&boot.hip, HEAP_BYTES, HEAP_BYTES).ok_or(Status::Oom)?;
        let heap = Window::physical(heap, HEAP_BYTES, MEM_RW)?;
        #[cfg(target_os = "none")]
        heap.into_heap();
        #[cfg(not(target_os = "none"))]
        drop(heap);
        // Below the heap, which has the highest range.
        let ram = free_ram(&boot.hip, HEAP_BYTES + 2 * LARGE, HEAP_BYTES).ok_or(Status::Oom)?;
        let (pages, large) = (reserve(512, 0, 9)?, reserve(512, 0, 9)?);
        for page in 0..512 {
            // Neighbours change places: nobody can make a large page of these.
            let frame = (ram >> PAGE_BITS) + (page ^ 1);
            map_physical(frame, 0, pages + page * PAGE_SIZE, MEM_RWX)?;
        }
        map_physical((ram + LARGE) >> PAGE_BITS, 9, large, MEM_RWX)?;
        let other = selectors::allocate();
        calls::create_pd(other, PD, Crd::NULL)?;
        let (from, to) = rt::start::image();
        let first = from >> PAGE_BITS;
        for (done, order) in blocks(first, first, (to - from) >> PAGE_BITS) {
            let item = TypedItem::delegate(Crd::memory(first + done, order, MEM_RWX), 0);
            calls::delegate(PD, other, item, Crd::memory(first + done, order, ALL))?;
        }
        let (pages, large) = (pages >> PAGE_BITS, large >> PAGE_BITS);
        Ok(Self { cpu: boot.cpu, boot, other, pages, large })
    }

    /// A servant in a domain with a message page and a portal: its address and its portal.
    pub fn servant(&self, pd: Selector, entry: u64, mtd: Mtd) -> Result<(u64, Selector), Status> {
        let portal = selectors::allocate();
        let page = self.servant_at(pd, entry, mtd, portal)?;
        Ok((page, portal))
    }

    /// The same with the portal at a selector; the portal's identity is the address of the page.
    pub fn servant_at(
        &self,
        pd: Selector,
        entry: u64,
        mtd: Mtd,
        portal: Selector,
    ) -> Result<u64, Status> {
        let ec = selectors::allocate();
        let utcb = reserve_page()?;
        calls::create_ec(&CreateEc { sel: ec, utcb, ..self.ec(pd) })?;
        calls::create_pt(&CreatePt { sel: portal, owner: PD, ec, mtd, entry })?;
        calls::set_portal_id(portal, utcb)?;
        Ok(utcb)
    }

    /// A local execution context without a message page.
    pub fn ec(&self, pd: Selector) -> CreateEc {
        CreateEc {
            sel: 0,
            global: false,
            reserved: 0,
            utcb_in_caller: false,
            pd,
            cpu: self.cpu,
            utcb: 0,
            stack: 0,
            event_base: 0,
        }
    }
}

/// A semaphore with count 0.
pub fn semaphore() -> Result<Selector, Status> {
    let sel = selectors::allocate();
    calls::create_sm(sel, PD, 0).map(|()| sel)
}

/// The call that delegates exactly `crd` from this program to `destination` at `base`.
pub fn give(destination: Selector, crd: Crd, meta: ItemMeta, base: u64) -> Words {
    let window = Crd::new(crd.kind(), base, crd.order(), ALL);
    PdCtrl::Delegate { source: PD, destination, crd, meta: ItemMeta::DELEGATE | meta, window }
        .encode()
}

/// The call that takes a range away from another domain.
pub fn take(pd: Selector, crd: Crd) -> Words {
    Revoke { own: true, remote: true, crd, pd }.encode()
}

/// The call that takes a range away from this program, and from everybody who got it from there.
pub fn drop_own(crd: Crd) -> Words {
    Revoke { own: true, remote: false, crd, pd: 0 }.encode()
}
