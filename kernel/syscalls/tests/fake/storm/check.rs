//! The rules that hold between any two calls, whatever was called.

use std::sync::atomic::Ordering::Relaxed;

use objects::{Pd, Sc, Sm, Vcpu};
use sync::{Counted, Site};

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

/// Everything: capability trees, objects, frames, charges, queues. The machine is settled first. `outside` is
/// [`uncharged`] of the new machine: the root domain itself and its thread are the kernel's expense.
pub fn everything(world: &World, outside: u64) {
    world.settle();
    capabilities(world);
    memory(world, outside);
    for cpu in 0..world.kernel.cpus {
        let wrong = world.with_cpu(cpu, |cpu, _| cpu.audit());
        assert_eq!(wrong, None, "CPU {cpu}");
    }
}

/// Frames add up, and what is charged is what is used.
fn memory(world: &World, outside: u64) {
    let (_, all) = world.pool.range();
    let used: usize = Site::ALL.iter().map(|site| world.pool.frames_of(*site)).sum();
    assert_eq!(world.pool.free_frames() + used + world.pool.own_frames(), all as usize);
    assert_eq!(uncharged(world), outside, "bytes in use that nobody is charged for");
}

/// Bytes in use that the root domain and those below it are not charged for.
pub fn uncharged(world: &World) -> u64 {
    let frames: usize = CHARGED.iter().map(|site| world.pool.frames_of(*site)).sum();
    let used = frames as u64 * 4096 + world.kernel.audit_bytes();
    used.wrapping_sub(world.root.pd.account.state().0)
}

/// Every capability has a path to its creator's, on which permissions only shrink, and no object in it is dead.
fn capabilities(world: &World) {
    let mut todo: Vec<Counted<Pd>> = vec![world.root.pd.clone()];
    let mut seen = std::collections::BTreeSet::from([world.root.pd.identity()]);
    world.with_cpu(0, |_, token| {
        while let Some(pd) = todo.pop() {
            assert!(!pd.is_dead(), "a dead domain has capabilities");
            let mut at = 0;
            while let Some((first, count)) = pd.objects.next_page(at) {
                at = first + count;
                for selector in first..at {
                    let slot = pd.objects.slot(selector).unwrap();
                    let Some(cap) = slot.load(token) else { continue };
                    assert_ne!(cap.permissions, 0);
                    assert_eq!((slot.selector(), slot.space()), (selector, pd.identity()));
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
                    if let Some(inner) = object.downcast::<Pd>().and_then(|pd| pd.hold())
                        && seen.insert(inner.identity())
                    {
                        todo.push(inner);
                    }
                    let dead = object.downcast::<Vcpu>().is_some_and(|vcpu| vcpu.is_dead())
                        || object.downcast::<Sc>().is_some_and(|sc| sc.dead.load(Relaxed));
                    assert!(!dead, "a dead object at {selector:#x}");
                    if let Some(sm) = object.downcast::<Sm>() {
                        assert_eq!(sm.audit(), None, "semaphore {selector:#x}");
                    }
                }
            }
        }
    });
}
