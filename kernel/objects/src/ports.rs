//! Who may use which I/O ports.
//!
//! All port capabilities of the machine stand in one depth-first list (a child follows its parent, one deeper), under
//! one lock: there are few. A node keeps the range it was delegated with (abi.md 6.2). What the processor
//! reads are the two bitmaps of each domain, one for programs and one for guests.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use logic::Oom;
use logic::addr::{Frame, PAGE_SIZE};
use sync::{Counted, List, Pool, Site};

use crate::{Account, Charge, Kernel, OwnedFrames, Pd};

/// Ports that exist.
pub const PORTS: u32 = 0x1_0000;
/// The permission that the processor knows; the others only travel (abi.md 5).
const ACCESS: u8 = 1;

/// A range of ports that a domain holds.
pub struct PortNode {
    pd: Option<Counted<Pd>>,
    /// Identity of the domain that holds it; the kernel's is [`KERNEL_SPACE`].
    space: u64,
    base: u32,
    count: u32,
    depth: u32,
    host: bool,
    guest: bool,
    permissions: AtomicU8,
    _charge: Option<Charge>,
}

/// The list of all of them.
pub struct PortTree {
    nodes: List<PortNode, 0>,
}

/// What a delegation of ports made.
struct Granted {
    base: u32,
    count: u32,
    host: bool,
    guest: bool,
}

impl PortNode {
    /// A range.
    #[allow(clippy::too_many_arguments, reason = "a plain record")]
    pub fn new(
        pd: Option<Counted<Pd>>,
        base: u32,
        count: u32,
        depth: u32,
        host: bool,
        guest: bool,
        permissions: u8,
        charge: Option<Charge>,
    ) -> PortNode {
        let permissions = AtomicU8::new(permissions);
        let space = pd.as_ref().map_or(KERNEL_SPACE, |pd| pd.identity());
        PortNode { pd, space, base, count, depth, host, guest, permissions, _charge: charge }
    }

    /// Allows or forbids it in its domain's bitmaps.
    #[inline]
    fn apply(&self, allow: bool) {
        if let Some(pd) = &self.pd {
            let granted =
                Granted { base: self.base, count: self.count, host: self.host, guest: self.guest };
            pd.ports.lock().set(&granted, allow);
        }
    }

    /// From now on it has these of its permissions only.
    fn keep(&self, permissions: u8) {
        let had = self.permissions.load(Relaxed);
        self.permissions.store(permissions, Relaxed);
        if had & !permissions & ACCESS != 0 {
            self.apply(false);
        }
    }

    /// Whether it is of a space and has one of `count` ports; both ranges end at [`PORTS`] at the latest.
    #[inline(always)]
    fn is_of(&self, space: u64, base: u32, count: u32) -> bool {
        self.space == space && self.base < base + count && base < self.base + self.count
    }
}

/// Ports that can be given away, all of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// The node's distance from the kernel's.
    pub depth: u32,
    /// Its permissions.
    pub permissions: u8,
}

/// The space number of the kernel itself, which owns all ports.
pub const KERNEL_SPACE: u64 = 0;

impl Default for PortTree {
    fn default() -> Self {
        Self::new()
    }
}

impl PortTree {
    /// Nobody holds any port.
    pub const fn new() -> PortTree {
        PortTree { nodes: List::new() }
    }

    /// Puts the kernel's node in: all ports.
    pub fn own_all(&mut self, node: Counted<PortNode>) {
        let _ = self.nodes.push_back(node);
    }

    /// The node of a space that contains a port: base, count, permissions.
    pub fn find(&self, space: u64, port: u32) -> Option<(u32, u32, u8)> {
        let mut found = None;
        self.nodes.each(|n| {
            if n.is_of(space, port, 1) {
                found = Some((n.base, n.count, n.permissions.load(Relaxed)));
            }
        });
        found
    }

    /// The node of the space `to` from which the one of `from` with this port came, in however many steps: base,
    /// count, and the permissions of what came from it. A space holds a port once, so there is one such node at most.
    pub fn find_above(&self, from: u64, to: u64, port: u32) -> Option<(u32, u32, u8)> {
        let mut above: Option<(u32, u32, u32)> = None;
        let mut found = None;
        self.nodes.each(|n| {
            if above.is_some_and(|(depth, ..)| n.depth <= depth) {
                above = None;
            }
            if n.is_of(from, port, 1) {
                let permissions = n.permissions.load(Relaxed);
                found = above.map(|(_, base, count)| (base, count, permissions));
            } else if n.is_of(to, port, 1) {
                above = Some((n.depth, n.base, n.count));
            }
        });
        found
    }

    /// The part of each node of `from` inside the range that can be given away, one after the other: call again
    /// with the last answer's end as `after` until `None`. With it, whether `to` may hold some of the range already
    /// ([`PortTree::is_taken`] knows).
    #[inline]
    pub fn next_source(
        &self,
        from: u64,
        to: u64,
        base: u32,
        count: u32,
        after: u32,
    ) -> Option<(Source, bool)> {
        let end = base.saturating_add(count);
        let mut best: Option<Source> = None;
        let mut holds_some = false;
        self.nodes.each(|n| {
            holds_some |= n.space == to;
            if n.space != from {
                return;
            }
            let (first, to_port) = (n.base.max(base).max(after), (n.base + n.count).min(end));
            if first < to_port && best.as_ref().is_none_or(|other| first < other.first) {
                let (depth, permissions) = (n.depth, n.permissions.load(Relaxed));
                best = Some(Source { first, count: to_port - first, depth, permissions });
            }
        });
        best.map(|best| (best, holds_some))
    }

    /// Whether a space already holds one of the ports.
    #[inline]
    pub fn is_taken(&self, space: u64, base: u32, count: u32) -> bool {
        let mut taken = false;
        self.nodes.each(|n| taken |= n.is_of(space, base, count));
        taken
    }

    /// Puts a child behind the node of `space` at its base port.
    #[inline]
    pub fn insert(&mut self, space: u64, child: Counted<PortNode>) {
        child.apply(child.permissions.load(Relaxed) & ACCESS != 0);
        let (base, mut behind) = (child.base, false);
        let _ = self.nodes.insert_before(child, |n| {
            let here = behind;
            behind |= n.is_of(space, base, 1);
            here
        });
    }

    /// Takes `permissions` from the descendants of all nodes of `space` in the range, and with `itself` from these
    /// nodes too. Returns the last node that vanishes by that (its ports are forbidden already); call until `None`.
    /// Last first, because who is below whom can only be seen while both are there.
    pub fn revoke(
        &mut self,
        space: u64,
        base: u32,
        count: u32,
        permissions: u8,
        itself: bool,
    ) -> Option<Counted<PortNode>> {
        let mut under: Option<u32> = None;
        let mut last = core::ptr::null();
        self.nodes.each(|n| {
            if under.is_some_and(|depth| n.depth <= depth) {
                under = None;
            }
            let below = under.is_some();
            let own = n.is_of(space, base, count);
            if own && under.is_none() {
                under = Some(n.depth);
            }
            if !(below || own && itself) || n.depth == 0 {
                return;
            }
            let had = n.permissions.load(Relaxed);
            if had & !permissions == 0 {
                last = core::ptr::from_ref(n);
            } else {
                n.keep(had & !permissions);
            }
        });
        if last.is_null() {
            return None;
        }
        let gone = self.nodes.take_first(|n| core::ptr::eq(n, last))?;
        gone.keep(0);
        Some(gone)
    }
}

/// The bitmaps that the processor reads for one domain.
#[derive(Default)]
pub struct PortMaps {
    host: Option<HostMap>,
    guest: Option<OwnedFrames>,
}

struct HostMap {
    bits: OwnedFrames,
    tables: [OwnedFrames; 3],
}

/// A present, accessed, never executable entry of the kernel's own tables (Intel SDM vol. 3, 4.5).
const ENTRY: u64 = 1 << 63 | 1 << 5 | 1 << 1 | 1;

impl PortMaps {
    /// Makes the bitmaps that a grant needs. Returns the root entry for the host map if that is new.
    #[inline]
    pub fn prepare(
        &mut self,
        pool: &'static Pool,
        account: &Counted<Account>,
        host: bool,
        guest: bool,
    ) -> Result<Option<u64>, Oom> {
        if (self.host.is_some() | !host) & (self.guest.is_some() | !guest) {
            return Ok(None);
        }
        let bitmap = |order: u8| {
            let bits = OwnedFrames::new(pool, account, order, Site::PortMap)?;
            (0..1 << order).for_each(|page| bits.page_at(page).fill(u64::MAX));
            Ok(bits)
        };
        // SVM's map is 12 KiB: the third frame answers for accesses that run over the last port.
        let order = if arch::guest_vendor() == arch::GuestVendor::Svm { 2 } else { 1 };
        // All memory first: a refusal leaves nothing behind.
        let for_guest = if guest && self.guest.is_none() { Some(bitmap(order)?) } else { None };
        if !host || self.host.is_some() {
            self.guest = self.guest.take().or(for_guest);
            return Ok(None);
        }
        let bits = bitmap(1)?;
        let table = || OwnedFrames::new(pool, account, 0, Site::PortMap);
        let tables = [table()?, table()?, table()?];
        self.guest = self.guest.take().or(for_guest);
        let [top, middle, last] = &tables;
        let first = bits.frame();
        last.page().set_word(0, first.address() | ENTRY);
        last.page().set_word(1, first.plus(1).address() | ENTRY);
        last.page().set_word(2, arch::port_bitmap_tail());
        middle.page().set_word(0, last.frame().address() | ENTRY);
        top.page().set_word(0, middle.frame().address() | ENTRY);
        let entry = top.frame().address() | ENTRY & !(1 << 63);
        self.host = Some(HostMap { bits, tables });
        Ok(Some(entry))
    }

    /// Allows or forbids a range.
    #[inline]
    fn set(&self, granted: &Granted, allow: bool) {
        let Granted { base, count, host, guest } = *granted;
        let change = |bits: &OwnedFrames| {
            let end = base.saturating_add(count).min(PORTS);
            let mut port = base;
            while port < end {
                // All bits of one word at once: the ports from here to the word's or the range's end.
                let ports = (64 - port % 64).min(end - port);
                let mask = (u64::MAX >> (64 - ports)) << (port % 64);
                let page = bits.page_at(u64::from(port / (PAGE_SIZE as u32 * 8)));
                let index = (port as usize % (PAGE_SIZE as usize * 8)) / 64;
                let word = page.word(index);
                page.set_word(index, if allow { word & !mask } else { word | mask });
                port += ports;
            }
        };
        if let (true, Some(map)) = (host, &self.host) {
            debug_assert!(map.tables.len() == 3);
            change(&map.bits);
        }
        if let (true, Some(bits)) = (guest, &self.guest) {
            change(bits);
        }
    }

    /// The first frame of the guest bitmap, 0 if there is none.
    pub fn guest_frame(&self) -> Frame {
        self.guest.as_ref().map_or(Frame(0), OwnedFrames::frame)
    }
}

/// Takes one range of ports back from a dead domain, or from somebody who got it from there; whether there was one.
pub(crate) fn revoke_one(kernel: &Kernel, pd: &Pd) -> bool {
    kernel.ports.lock().revoke(pd.identity(), 0, PORTS, 0x1f, true).is_some()
}
