//! What the room promises, tried on the host over a leaked vector of pages.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use logic::addr::Frame;

use crate::{
    CapSpace, Collected, Counted, CpuKey, Creator, List, Mark, Pool, Rcu, Removed, SharedPage,
    Site, Slab, Token, Tree,
};

fn pool(frames: usize) -> &'static Pool {
    let pages: Vec<[u64; 512]> = vec![[0; 512]; frames + 1];
    let start = pages.leak().as_mut_ptr().cast::<u8>();
    let start = start.wrapping_add(start.align_offset(4096));
    let base = NonNull::new(start).unwrap();
    // SAFETY: leaked memory that nothing else uses, page aligned, `frames` pages long.
    Box::leak(Box::new(unsafe { Pool::new(base, Frame(0x100), frames) }.unwrap()))
}

fn rcu() -> &'static Rcu {
    Box::leak(Box::new(Rcu::new()))
}

/// An object that counts its own end.
struct Noisy(&'static AtomicUsize);

impl Drop for Noisy {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct World {
    pool: &'static Pool,
    rcu: &'static Rcu,
    slab: &'static Slab<Noisy>,
    ends: &'static AtomicUsize,
    token: Token,
}

fn world() -> World {
    let (pool, rcu) = (pool(256), rcu());
    let slab = Box::leak(Box::new(Slab::new(pool, rcu, Site::Boot)));
    let ends = Box::leak(Box::new(AtomicUsize::new(0)));
    World { pool, rcu, slab, ends, token: rcu.join(0).unwrap() }
}

impl World {
    fn make(&self) -> Counted<Noisy> {
        self.slab.reserve().unwrap().fill(Noisy(self.ends))
    }

    fn settle(&mut self) {
        for _ in 0..8 {
            self.rcu.quiesce(&mut self.token);
            let _ = self.rcu.collect(100);
        }
    }
}

#[test]
fn the_last_count_waits_for_a_quiescent_state() {
    let mut w = world();
    let one = w.make();
    let two = one.clone();
    drop(one);
    let _ = w.rcu.collect(10);
    assert_eq!(w.ends.load(SeqCst), 0);
    drop(two);
    assert_eq!(w.rcu.collect(10), Collected::Waiting);
    assert_eq!(w.ends.load(SeqCst), 0);
    w.settle();
    assert_eq!((w.ends.load(SeqCst), w.slab.live()), (1, 0));
}

#[test]
fn a_present_cpu_stalls_a_batch_and_an_idle_one_does_not() {
    let mut w = world();
    let mut other = w.rcu.join(1).unwrap();
    drop(w.make());
    w.settle();
    assert_eq!(w.ends.load(SeqCst), 0);
    assert_eq!(w.rcu.laggards(w.rcu.waits_for()).collect::<Vec<_>>(), [1]);
    w.rcu.quiesce(&mut other);
    w.settle();
    assert_eq!(w.ends.load(SeqCst), 1);
    w.rcu.leave(other);
    drop(w.make());
    w.settle();
    assert_eq!(w.ends.load(SeqCst), 2);
}

#[test]
fn nobody_joins_twice() {
    let rcu = rcu();
    let token = rcu.join(3).unwrap();
    assert!(rcu.join(3).is_none());
    rcu.leave(token);
    assert!(rcu.join(3).is_some());
    assert!(rcu.join(crate::MAX_CPUS).is_none());
}

#[test]
fn a_borrowed_reference_cannot_revive_the_dead() {
    let mut w = world();
    let space = CapSpace::new(w.pool);
    let slot = space.ensure(5, || Ok(())).unwrap();
    let kept = w.make();
    assert!(slot.create(kept.clone().erase(), 3, &space, 5).is_ok());
    let seen = slot.load(&w.token).unwrap();
    drop(kept);
    let tree = Tree::lock(slot, &w.token).unwrap();
    let Removed::Slot(object, Creator::Yes) = tree.revoke(3, true, &Mark::new()) else { panic!() };
    drop(tree);
    drop(object);
    assert!(seen.object.downcast::<Noisy>().unwrap().hold().is_none());
    w.settle();
    assert_eq!(w.ends.load(SeqCst), 1);
}

#[test]
fn types_are_told_apart() {
    let w = world();
    let numbers: &'static Slab<u64> = Box::leak(Box::new(Slab::new(w.pool, w.rcu, Site::Boot)));
    let seven = numbers.reserve().unwrap().fill(7).erase();
    assert!(seven.borrow().downcast::<Noisy>().is_none());
    assert_eq!(*seven.borrow().downcast::<u64>().unwrap(), 7);
    let seven = seven.downcast::<Noisy>().err().unwrap();
    assert_eq!(*seven.downcast::<u64>().ok().unwrap(), 7);
}

#[test]
fn lists_own_their_elements_and_refuse_strangers() {
    let mut w = world();
    let (mut one, mut two) = (List::<Noisy, 0>::new(), List::<Noisy, 0>::new());
    let a = w.make();
    assert!(one.push_back(a.clone()).is_ok());
    assert!(two.push_back(a.clone()).is_err());
    assert!(two.remove(&a).is_none());
    let mut other_link = List::<Noisy, 1>::new();
    assert!(other_link.push_front(a.clone()).is_ok());
    drop(a);
    w.settle();
    assert_eq!(w.ends.load(SeqCst), 0);
    drop(one.pop_front());
    assert!(one.is_empty());
    drop(other_link);
    w.settle();
    assert_eq!(w.ends.load(SeqCst), 1);
}

#[test]
fn list_order_against_a_deque() {
    let w = world();
    let numbers: &'static Slab<u64> = Box::leak(Box::new(Slab::new(w.pool, w.rcu, Site::Boot)));
    let mut list = List::<u64, 2>::new();
    let mut model = std::collections::VecDeque::new();
    let mut held = Vec::new();
    let mut seed = 1u64;
    for step in 0..3000u64 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        match seed >> 60 {
            0..=4 => {
                let n = numbers.reserve().unwrap().fill(step);
                held.push(n.clone());
                assert!(list.push_back(n).is_ok());
                model.push_back(step);
            }
            5..=7 => {
                let n = numbers.reserve().unwrap().fill(step);
                assert!(list.push_front(n).is_ok());
                model.push_front(step);
            }
            8..=9 => {
                let n = numbers.reserve().unwrap().fill(step);
                let bound = seed % (step + 1);
                assert!(list.insert_before(n, |other| *other > bound).is_ok());
                let at = model.iter().position(|o| *o > bound).unwrap_or(model.len());
                model.insert(at, step);
            }
            10..=12 => assert_eq!(list.pop_front().map(|n| *n), model.pop_front()),
            _ => {
                if let Some(n) = held.pop() {
                    let there = model.iter().position(|o| *o == *n);
                    assert_eq!(list.remove(&n).is_some(), there.is_some());
                    there.map(|at| model.remove(at));
                }
            }
        }
        let mut seen = Vec::new();
        list.each(|n| seen.push(*n));
        assert_eq!(seen, Vec::from_iter(model.iter().copied()));
        assert_eq!(list.first().copied(), model.front().copied());
    }
}

/// Delegations and revocations against a plain tree: who holds what is the same after every step.
#[test]
fn capability_tree_against_a_model() {
    const SLOTS: usize = 200;
    #[derive(Clone)]
    struct Node {
        parent: Option<usize>,
        permissions: u8,
    }
    let mut w = world();
    let space = CapSpace::new(w.pool);
    let mut model: Vec<Option<Node>> = vec![None; SLOTS];
    let object = w.make();
    let slot = |i: usize| space.ensure(i as u64 * 10, || Ok(())).unwrap();
    let mut seed = 7u64;
    let mark = Mark::new();
    for _ in 0..12_000 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (a, b) = ((seed >> 40) as usize % SLOTS, (seed >> 50) as usize % SLOTS);
        let permissions = (seed >> 33) as u8 & 0x1f;
        if model[a].is_none() && model.iter().all(Option::is_none) {
            assert!(slot(a).create(object.clone().erase(), 0x1f, &space, a as u64).is_ok());
            model[a] = Some(Node { parent: None, permissions: 0x1f });
        } else if let (Some(tree), true) = (Tree::lock(slot(a), &w.token), seed >> 60 < 12) {
            let given = tree.delegate(slot(b), permissions, &space, b as u64);
            let has = model[a].as_ref().unwrap().permissions & permissions;
            assert_eq!(given, has != 0 && model[b].is_none());
            if given {
                model[b] = Some(Node { parent: Some(a), permissions: has });
            }
        } else {
            let own = seed >> 63 != 0;
            loop {
                mark.prepare(slot(a));
                let Some(tree) = Tree::lock(slot(a), &w.token) else { break };
                if matches!(tree.revoke(permissions, own, &mark), Removed::Nothing) {
                    break;
                }
            }
            let below = |mut i: usize, model: &[Option<Node>]| {
                while let Some(parent) = model[i].as_ref().and_then(|n| n.parent) {
                    if parent == a {
                        return true;
                    }
                    i = parent;
                }
                false
            };
            if model[a].is_some() {
                let hit: Vec<usize> = (0..SLOTS)
                    .filter(|&i| model[i].is_some() && (below(i, &model) || own && i == a))
                    .collect();
                for i in hit {
                    let node = model[i].as_mut().unwrap();
                    node.permissions &= !permissions;
                    if node.permissions == 0 {
                        model[i] = None;
                    }
                }
            }
        }
        for (i, node) in model.iter().enumerate() {
            let has = slot(i).load(&w.token).map(|cap| cap.permissions);
            assert_eq!(has, node.as_ref().map(|n| n.permissions), "slot {i}");
        }
    }
    drop(space);
    drop(object);
    w.settle();
    assert_eq!(w.ends.load(SeqCst), 1);
}

#[test]
fn spaces_give_their_pages_back() {
    let w = world();
    let before = w.pool.free_frames();
    let space = CapSpace::new(w.pool);
    for selector in [0, 63, 64, 0x7fff, 0x8000, (1 << 26) - 1] {
        assert!(space.ensure(selector, || Ok(())).is_ok());
    }
    assert!(space.ensure(1 << 26, || Ok(())).is_err());
    assert!(
        space.lookup(1 << 26, &w.token).is_none() && space.lookup(u64::MAX, &w.token).is_none()
    );
    assert_eq!(space.next_page(65), Some((65, 63)));
    let mut at = 0x8040;
    let found = loop {
        match space.next_page(at) {
            Some((next, 0)) => at = next,
            found => break found,
        }
    };
    assert_eq!(found, Some(((1 << 26) - 64, 64)));
    assert_eq!(before - w.pool.free_frames(), space.pages());
    drop(space);
    assert_eq!(w.pool.free_frames(), before);
}

#[test]
fn a_space_ends_in_portions() {
    let w = world();
    let before = w.pool.free_frames();
    let mut space = CapSpace::new(w.pool);
    for selector in (0..40 * 64).step_by(64).chain([0x8000, 1 << 20, 1 << 24, (1 << 26) - 1]) {
        assert!(space.ensure(selector, || Ok(())).is_ok());
    }
    let (mut cursor, mut portions, mut free) = (0, 0, w.pool.free_frames());
    while !space.dismantle(&mut cursor, 256) {
        portions += 1;
        assert!(w.pool.free_frames() - free <= 6, "one portion is small");
        free = w.pool.free_frames();
    }
    assert!((10..100).contains(&portions), "{portions}");
    assert_eq!(w.pool.free_frames(), before);
    drop(space);
    assert_eq!(w.pool.free_frames(), before);
}

/// An object of several parts.
struct Large(u32);

impl crate::Dismantle for Large {
    fn dismantle(&mut self) -> bool {
        self.0 -= 1;
        self.0 == 0
    }
}

#[test]
fn a_large_object_ends_in_portions() {
    let mut w = world();
    let slab: &'static Slab<Large> =
        Box::leak(Box::new(Slab::<Large>::new(w.pool, w.rcu, Site::Boot).in_portions()));
    drop(slab.reserve().unwrap().fill(Large(5)));
    assert_ne!(w.rcu.collect(8), crate::Collected::Nothing);
    w.rcu.quiesce(&mut w.token);
    for _ in 0..4 {
        assert_eq!(w.rcu.collect(8), crate::Collected::More);
        assert_eq!(slab.live(), 1);
        assert!(w.rcu.has_dead());
    }
    assert_eq!(w.rcu.collect(8), crate::Collected::More);
    assert_eq!(slab.live(), 0);
}

#[test]
fn cells_open_for_their_own_cpu_only() {
    let mut keys = CpuKey::machine();
    let (mut zero, mut one) = (keys.next().unwrap(), keys.next().unwrap());
    let mut stranger = CpuKey::machine().next().unwrap();
    let (a, b) = (zero.cell(0, 1), zero.cell(0, 2));
    assert!(a.open(&mut one).is_none() && a.open(&mut stranger).is_none());
    *a.open(&mut zero).unwrap() += 10;
    assert_eq!(a.open_both(&b, &mut zero).map(|(x, y)| (*x, *y)), Some((11, 2)));
    assert!(a.open_both(&a, &mut zero).is_none());
}

#[test]
fn an_object_can_hold_itself() {
    let w = world();
    let slab: &'static Slab<crate::CpuCell<Option<Counted<Noisy>>>> =
        Box::leak(Box::new(Slab::new(w.pool, w.rcu, Site::Boot)));
    let mut key = CpuKey::machine().next().unwrap();
    let cell = slab.reserve().unwrap().fill(key.cell(0, None));
    let noisy = w.make();
    *cell.open(&mut key).unwrap() = Some(noisy);
    assert!(cell.open(&mut key).unwrap().take().is_some());
}

#[test]
fn shared_pages_mix_widths_and_wrap() {
    let page = pool(8).page(Frame(0x102));
    page.write_u64(8, 0x1122_3344_5566_7788);
    assert_eq!(
        (page.read_u32(12), page.read_u16(8), page.read_u8(15)),
        (0x1122_3344, 0x7788, 0x11)
    );
    page.write_u16(10, 0xabcd);
    page.write_u8(8, 0);
    assert_eq!(page.read_u64(8), 0x1122_3344_abcd_7700);
    assert_eq!(page.read_u64(4096 + 8), page.read_u64(8));
    let other: &SharedPage = pool(8).page(Frame(0x103));
    other.copy_words(page, 1, 10_000);
    assert_eq!(other.word(1), page.word(1));
    other.copy_words(page, 600, 4);
}

#[test]
fn a_slab_gives_its_frames_back() {
    let mut w = world();
    let before = w.pool.free_frames();
    let mut all: Vec<_> = (0..200).map(|_| w.make()).collect();
    let used = before - w.pool.free_frames();
    assert!(used > 2, "{used} frames");
    let last = all.pop();
    // Every second one first: no frame is empty by that, and each has room for others.
    let mut turn = 0;
    all.retain(|_| {
        turn += 1;
        turn % 2 == 0
    });
    w.settle();
    assert_eq!(before - w.pool.free_frames(), used);
    all.extend((0..100).map(|_| w.make()));
    assert_eq!(before - w.pool.free_frames(), used, "the room is used before another frame");
    drop(all);
    w.settle();
    assert_eq!((before - w.pool.free_frames(), w.slab.live()), (1, 1));
    drop(last);
    w.settle();
    assert_eq!((w.pool.free_frames(), w.slab.live()), (before, 0));
    drop(w.slab.reserve().unwrap());
    assert_eq!(w.pool.free_frames(), before, "what was only reserved, too");
}

#[test]
fn objects_larger_than_a_frame_have_frames_of_their_own() {
    let mut w = world();
    let slab: &'static Slab<[u64; 1100]> =
        Box::leak(Box::new(Slab::new(w.pool, w.rcu, Site::Boot)));
    let before = w.pool.free_frames();
    let all: Vec<_> = (0..5).map(|n| slab.reserve().unwrap().fill([n; 1100])).collect();
    assert_eq!(before - w.pool.free_frames(), 20);
    assert!(all.iter().enumerate().all(|(n, one)| one.iter().all(|word| *word == n as u64)));
    drop(all);
    w.settle();
    assert_eq!(w.pool.free_frames(), before);
}

/// A vCPU's register image has to lie on a boundary of 64 bytes.
#[test]
fn objects_are_aligned() {
    #[repr(align(256))]
    struct Wide(u64);
    let w = world();
    let slab: &'static Slab<Wide> = Box::leak(Box::new(Slab::new(w.pool, w.rcu, Site::Boot)));
    let all: Vec<_> = (0..50).map(|n| slab.reserve().unwrap().fill(Wide(n))).collect();
    for (n, one) in all.iter().enumerate() {
        assert_eq!((core::ptr::from_ref::<Wide>(one) as usize % 256, one.0), (0, n as u64));
    }
}
