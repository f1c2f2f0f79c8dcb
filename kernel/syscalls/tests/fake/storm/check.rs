//! The rules that hold between any two calls, whatever was called.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use logic::page_table::Rights;
use objects::{Pd, Sc, Sm, Vcpu};
use sync::{CapSlot, CapSpace, Capability, Counted, Site, Token};

use crate::world::World;

/// Frames that objects and domains own alone; each is charged.
const CHARGED: [Site; 8] = [
    Site::CapTable,
    Site::PageTable,
    Site::Utcb,
    Site::Fpu,
    Site::KernelPage,
    Site::AccessPage,
    Site::PortMap,
    Site::GuestBlock,
];
/// Pages of the window into which the storm delegates memory, a little more at both ends (`aim.rs`).
const WINDOW: std::ops::Range<u64> = 0x7f00..0xa300;

/// Looks at the machine after each call.
pub struct Checker {
    /// [`uncharged`] of the new machine: the root domain itself and its thread are the kernel's expense.
    outside: u64,
    /// The leaf pages of each space, found when it had so many tables: they stay while it lives.
    leaves: BTreeMap<u64, (usize, Vec<u64>)>,
    /// How often the rules were checked, and how often charges were compared with use.
    pub checked: u64,
    pub compared: u64,
}

impl Checker {
    /// For a machine on which nothing but the root program exists.
    pub fn new(world: &World) -> Self {
        let outside = uncharged(world);
        Self { outside, leaves: BTreeMap::new(), checked: 0, compared: 0 }
    }

    /// What holds after each call, whatever waits to be freed: every capability, every queue, all frames.
    pub fn rules(&mut self, world: &World) {
        self.capabilities(world);
        for cpu in 0..world.kernel.cpus {
            let wrong = world.with_cpu(cpu, |cpu, _| cpu.audit());
            assert_eq!(wrong, None, "CPU {cpu}");
        }
        let used: usize = world.pool.frames_by_site().iter().sum();
        let (_, all) = world.pool.range();
        assert_eq!(world.pool.free_frames() + used + world.pool.own_frames(), all as usize);
        self.checked += 1;
    }

    /// What is charged is what is used: holds whenever nothing waits to be freed.
    pub fn charges(&mut self, world: &World) {
        assert_eq!(uncharged(world), self.outside, "bytes in use that nobody is charged for");
        self.compared += 1;
    }

    /// Both, after everything that can be freed is freed.
    pub fn everything(&mut self, world: &World) {
        world.settle();
        self.leaves.clear();
        self.rules(world);
        self.charges(world);
    }

    /// Every capability has a path to its creator's, on which permissions only shrink, and no object in it is dead.
    fn capabilities(&mut self, world: &World) {
        let mut todo: Vec<Counted<Pd>> = vec![world.root.pd.clone()];
        let mut seen = BTreeSet::from([world.root.pd.identity()]);
        world.with_cpu(0, |_, token| {
            while let Some(pd) = todo.pop() {
                assert!(!pd.is_dead(), "a dead domain has capabilities");
                for first in self.leaves(&pd.objects) {
                    for selector in *first..first + 64 {
                        let Some(slot) = pd.objects.slot(selector) else { continue };
                        let Some(cap) = slot.load(token) else { continue };
                        assert_eq!((slot.selector(), slot.space()), (selector, pd.identity()));
                        capability(slot, cap, token);
                        if let Some(inner) = cap.object.downcast::<Pd>().and_then(|pd| pd.hold())
                            && seen.insert(inner.identity())
                        {
                            todo.push(inner);
                        }
                    }
                }
            }
        });
        self.leaves.retain(|identity, _| seen.contains(identity));
    }

    /// The first selectors of the leaf pages of a space.
    fn leaves(&mut self, space: &CapSpace) -> &[u64] {
        let known = self.leaves.entry(space.identity()).or_default();
        if known.0 != space.pages() {
            known.0 = space.pages();
            known.1.clear();
            let mut at = 0;
            while let Some((first, count)) = space.next_page(at) {
                at = first + count;
                if count != 0 {
                    known.1.push(first);
                }
            }
        }
        &known.1
    }
}

/// Nobody sees the kernel's own frames in [`WINDOW`], apart from the HIP, and a domain that nobody gave memory to sees
/// none at all.
pub fn memory(world: &World, pd: &Pd, was_given: bool) {
    for page in WINDOW {
        let Some(found) = pd.memory.lookup(page) else { continue };
        assert!(was_given, "page {page:#x} came from nowhere");
        let is_hip = found.frame == world.kernel.hip && !found.rights.contains(Rights::WRITE);
        assert!(is_hip || !world.pool.contains(found.frame), "the kernel's frame at {page:#x}");
    }
}

/// What holds for one capability.
fn capability(slot: &CapSlot, cap: Capability<'_>, token: &Token) {
    assert_ne!(cap.permissions, 0);
    match slot.parent(token) {
        None => assert_eq!(slot.depth(), 0, "no path from the root"),
        Some(parent) => {
            let above = parent.load(token).expect("a parent that is there");
            assert_eq!(parent.depth() + 1, slot.depth());
            assert!(above.object.is(cap.object), "a child of another object");
            assert_eq!(cap.permissions & !above.permissions, 0, "they grew");
        }
    }
    let object = cap.object;
    let dead = object.downcast::<Vcpu>().is_some_and(|vcpu| vcpu.is_dead())
        || object.downcast::<Sc>().is_some_and(|sc| sc.dead.load(Relaxed));
    assert!(!dead, "a dead object at {:#x}", slot.selector());
    if let Some(sm) = object.downcast::<Sm>() {
        assert_eq!(sm.audit(), None, "semaphore {:#x}", slot.selector());
    }
}

/// Bytes in use that the root domain and those below it are not charged for.
fn uncharged(world: &World) -> u64 {
    let by_site = world.pool.frames_by_site();
    let frames: usize = CHARGED.iter().map(|site| by_site[*site as usize]).sum();
    let used = frames as u64 * 4096 + world.kernel.audit_bytes();
    used.wrapping_sub(world.root.pd.account.state().0)
}
