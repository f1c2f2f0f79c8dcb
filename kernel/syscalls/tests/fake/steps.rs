//! Long work is done in steps: little between two passes through the loop, and whatever happens to either side
//! in the midst of it ends well (design.md 7, bounded or restartable).

use std::cell::Cell;
use std::rc::Rc;

use abi::args::{CallPortal, CreateEc, CreatePd, CreateSm, PdCtrl, Reply, Revoke, Words};
use abi::cap::ROOT_PD;
use abi::crd::ItemMeta;
use abi::utcb::{items, offset, typed_offset};
use abi::{Crd, Mtd, Status, TypedItem};
use arch::{Event, Machine};
use objects::Pd;

use crate::world::{Terminal, World, create_sm, down, local, status_of, syscall};

const FRAMES: usize = 4096;
const CHILD: u64 = 70;
const ENTRY: u64 = 0x60_0000;
const REPLY: Words = Reply { semaphore: 0 }.encode();
const CALL: Words = CallPortal { portal: 51, nonblocking: false }.encode();
/// Capabilities handled in one pass, at most.
const MOST_SLOTS: usize = 40;
/// Pages handled in one pass, at most.
const MOST_PAGES: usize = 300;
/// Frames that come back in one pass, at most: tables, and what a few dead objects held.
const MOST_FRAMES: usize = 64;

fn create_pd(sel: u64, crd: Crd) -> Words {
    CreatePd { sel, passthrough: false, parent: ROOT_PD, crd }.encode()
}

fn revoke(first: u64, order: u8) -> Words {
    let crd = Crd::objects(first, order, 0x1f);
    Revoke { own: true, remote: false, crd, pd: 0 }.encode()
}

fn give(kind: Crd, to: u64, at: u64, flags: ItemMeta) -> Words {
    let meta = (ItemMeta::DELEGATE | flags).at(at);
    let window = Crd::new(kind.kind(), at, kind.order(), 0x1f);
    PdCtrl::Delegate { source: ROOT_PD, destination: to, crd: kind, meta, window }.encode()
}

/// Small pages of the root program's at page 0x1000: 2^`order` of them, in frames that make no large page.
fn small_pages(world: &World, order: u8) {
    for half in 0..2 {
        let at = 0x1000 + (half << (order - 1));
        let crd = Crd::memory(0x2000 + (half << (order - 1)), order - 1, 3);
        world.must(give(crd, ROOT_PD, at, ItemMeta::FROM_KERNEL));
    }
    for hole in (0..1_u64 << order).step_by(512) {
        let crd = Crd::memory(0x1000 + hole, 0, 0);
        world.must(Revoke { own: true, remote: false, crd, pd: 0 }.encode());
    }
}

fn pages(pd: &Pd, first: u64, count: u64) -> usize {
    (first..first + count).filter(|page| pd.memory.lookup(*page).is_some()).count()
}

fn slots(world: &World, pd: &Pd, first: u64, count: u64) -> usize {
    (first..first + count).filter(|selector| world.permissions(pd, *selector) != 0).count()
}

/// Orders a call and watches a number at every pass until it is back: the call's status, the greatest change in one
/// pass, and the passes.
fn watch(world: &World, words: Words, number: impl Fn() -> usize) -> (Status, usize, usize) {
    world.terminal.order(words);
    let (mut most, mut last) = (0, number());
    for passes in 0..100_000 {
        world.step(0);
        let now = number();
        most = most.max(now.abs_diff(last));
        last = now;
        if let Some(back) = world.terminal.result() {
            return (status_of(&back), most, passes);
        }
    }
    panic!("the call {words:x?} never came back");
}

/// The root program's next call on portal 51 sends these items.
fn send(world: &World, all: &[TypedItem]) {
    let mine = world.utcb(33);
    mine.set_word(0, items(0, all.len() as u16));
    for (index, item) in all.iter().enumerate() {
        let at = typed_offset(index).unwrap();
        let [crd, meta] = item.words();
        mine.write_u64(at, crd);
        mine.write_u64(at + 8, meta);
    }
}

/// A child with a servant behind portal 51 whose window takes everything of a kind; how often it was called.
fn servant(world: &World, window: Crd) -> Rc<Cell<u32>> {
    let calls = Rc::new(Cell::new(0));
    let count = calls.clone();
    world.must(create_pd(CHILD, Crd::NULL));
    world.serve((CHILD, 50, 51), 0, (Mtd::NONE, ENTRY), move |thread, utcb| {
        count.set(count.get() + 1);
        utcb.set_word(0, 0);
        syscall(thread, REPLY)
    });
    world.utcb(50).write_u64(offset::DELEGATE_WINDOW, window.0);
    calls
}

#[test]
fn a_message_with_much_memory_is_moved_in_steps() {
    let world = World::new(1, FRAMES);
    small_pages(&world, 12);
    let calls = servant(&world, Crd::memory(0x8000, 12, 7));
    let pd = world.object::<Pd>(CHILD).unwrap();
    send(&world, &[TypedItem::delegate(Crd::memory(0x1000, 12, 3), 0)]);
    let seen = calls.clone();
    let done = || {
        let done = pages(&pd, 0x8000, 0x1000);
        assert!(seen.get() == 0 || done == 0x1000 - 8, "the service starts with all it gets");
        done
    };
    let (status, most, passes) = watch(&world, CALL, done);
    assert_eq!((status, calls.get()), (Status::Success, 1));
    assert!(most <= MOST_PAGES && passes >= 16, "{most} pages in a pass, {passes} passes");
    let crd = world.utcb(50).read_u64(offset::TYPED);
    assert_eq!(Crd(crd), Crd::memory(0x8000, 12, 3));
}

#[test]
fn a_message_with_many_items_is_moved_in_steps() {
    let world = World::new(1, FRAMES);
    let calls = servant(&world, Crd::objects(0x1000, 8, 0x1f));
    let pd = world.object::<Pd>(CHILD).unwrap();
    let all: Vec<_> = (0..200)
        .map(|number| {
            world.must(create_sm(0x400 + number, 0));
            TypedItem::delegate(Crd::objects(0x400 + number, 0, 0x1f), number)
        })
        .collect();
    send(&world, &all);
    let (status, most, passes) = watch(&world, CALL, || slots(&world, &pd, 0x1000, 256));
    assert_eq!((status, calls.get()), (Status::Success, 1));
    assert_eq!(slots(&world, &pd, 0x1000, 256), 200);
    assert!(most <= 8 && passes >= 25, "{most} items in a pass, {passes} passes");
    assert_eq!(Crd(world.utcb(50).read_u64(offset::TYPED)), Crd::objects(0x1000, 0, 0x1f));
}

#[test]
fn a_reply_with_much_memory_is_moved_in_steps() {
    let world = World::new(1, FRAMES);
    small_pages(&world, 11);
    world.serve((ROOT_PD, 50, 51), 0, (Mtd::NONE, ENTRY), move |thread, utcb| {
        let item = TypedItem::delegate(Crd::memory(0x1000, 11, 3), 0);
        utcb.set_word(0, items(0, 1));
        let [crd, meta] = item.words();
        utcb.write_u64(offset::TYPED, crd);
        utcb.write_u64(offset::TYPED + 8, meta);
        syscall(thread, REPLY)
    });
    let pd = world.root.pd.clone();
    let mine = world.utcb(33);
    mine.write_u64(offset::DELEGATE_WINDOW, Crd::memory(0x8000, 11, 7).0);
    let (status, most, passes) = watch(&world, CALL, || pages(&pd, 0x8000, 0x800));
    assert_eq!(status, Status::Success);
    assert_eq!(pages(&pd, 0x8000, 0x800), 0x800 - 4);
    assert!(most <= MOST_PAGES && passes >= 8, "{most} pages in a pass, {passes} passes");
    assert_eq!(Crd(mine.read_u64(offset::TYPED)), Crd::memory(0x8000, 11, 3));
}

#[test]
fn an_exceptions_reply_with_much_memory_is_moved_in_steps() {
    let world = World::new(1, FRAMES);
    small_pages(&world, 11);
    // The handler of page faults gives pages around the fault, and sends the thread on.
    world.serve((ROOT_PD, 50, 14), 0, (Mtd::RIP_LEN, ENTRY), move |thread, utcb| {
        let item = TypedItem::delegate(Crd::memory(0x1000, 11, 3), 0x5_0000);
        utcb.set_word(0, items(0, 1));
        let [crd, meta] = item.words();
        utcb.write_u64(offset::TYPED, crd);
        utcb.write_u64(offset::TYPED + 8, meta);
        utcb.write_u64(offset::RIP, 0x70_0000);
        utcb.write_u64(offset::MTD, Mtd::RIP_LEN.0.into());
        syscall(thread, REPLY)
    });
    let pd = world.root.pd.clone();
    let goes_on = Rc::new(Cell::new(false));
    let sign = goes_on.clone();
    Machine::program(0x70_0000, move |_| {
        sign.set(true);
        Event::Interrupt(arch::vector::SPURIOUS)
    });
    let mut once = true;
    Machine::program(crate::world::ROOT_ENTRY, move |_| {
        assert!(core::mem::take(&mut once));
        Event::Exception { vector: 14, error: 6, cr2: 0x5000_0123 }
    });
    let (mut most, mut last) = (0, 0);
    for _ in 0..100 {
        world.step(0);
        let now = pages(&pd, 0x5_0000, 0x800);
        most = most.max(now - last);
        last = now;
        assert!(!goes_on.get() || last == 0x800 - 4, "the thread goes on with all it gets");
    }
    assert!(goes_on.get() && most <= MOST_PAGES, "{most} pages in a pass");
}

#[test]
fn a_range_of_ports_is_given_node_by_node() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD, Crd::NULL));
    let pd = world.object::<Pd>(CHILD).unwrap();
    for base in (0..0x100).step_by(8) {
        let crd = Crd::ports(base, 2, 1);
        world.must(give(crd, ROOT_PD, base, ItemMeta::FROM_KERNEL));
    }
    let holds = || {
        let tree = world.kernel.ports.lock();
        (0..0x100).filter(|port| tree.find(pd.identity(), *port).is_some()).count()
    };
    let all = Crd::ports(0, 16, 1);
    let (status, most, _) = watch(&world, give(all, CHILD, 0, ItemMeta(0)), holds);
    assert_eq!((status, most, holds()), (Status::Success, 4, 0x80));
    let back = Revoke { own: false, remote: false, crd: all, pd: 0 };
    let (status, most, _) = watch(&world, back.encode(), holds);
    assert_eq!((status, most, holds()), (Status::Success, 4, 0));
}

#[test]
fn a_new_domains_first_objects_are_given_in_steps() {
    let world = World::new(1, FRAMES);
    for number in 0..512 {
        world.must(create_sm(0x400 + number, 0));
    }
    let free = || world.pool.free_frames();
    let words = create_pd(CHILD, Crd::objects(0x400, 9, 0x1f));
    let (status, _, passes) = watch(&world, words, free);
    assert_eq!(status, Status::Success);
    assert!(passes >= 512 / MOST_SLOTS, "{passes} passes");
    let pd = world.object::<Pd>(CHILD).unwrap();
    assert_eq!(slots(&world, &pd, 0, 512), 512);
}

/// A domain with very much in it: contexts, capabilities of its own making, memory, ports.
fn large_domain(world: &World) {
    world.must(create_pd(CHILD, Crd::NULL));
    for number in 0..60 {
        let ec = CreateEc { cpu: (number % 2) as u16, ..local(0x800 + number, CHILD) };
        world.must(CreateEc { utcb: 0x100_0000 + (number << 12), ..ec }.encode());
    }
    for number in 0..300 {
        world.must(CreateSm { sel: 0x1000 + number, owner: CHILD, count: 0 }.encode());
    }
    world.must(give(Crd::objects(0x1000, 9, 0x1f), CHILD, 0x2000, ItemMeta(0)));
    world.must(give(Crd::memory(0x1000, 12, 3), CHILD, 0x8000, ItemMeta::GUEST));
    for base in (0..0x40).step_by(8) {
        world.must(give(Crd::ports(base, 2, 1), CHILD, base, ItemMeta::FROM_KERNEL));
    }
}

#[test]
fn a_large_domain_dies_in_steps() {
    let world = World::new(2, FRAMES);
    small_pages(&world, 12);
    large_domain(&world);
    let everything = || {
        world.must(revoke(0x1000, 9));
        world.must(revoke(0x800, 6));
        world.free_frames()
    };
    world.must(revoke(CHILD, 0));
    let first = everything();
    large_domain(&world);
    let pd = world.object::<Pd>(CHILD).unwrap();
    let held = || slots(&world, &pd, 0x2000, 512);
    assert_eq!(held(), 300);
    let (status, most, passes) = watch(&world, revoke(CHILD, 0), held);
    assert_eq!((status, held()), (Status::Success, 0), "gone when the call is back");
    assert!(most <= MOST_SLOTS && passes >= 30, "{most} slots in a pass, {passes} passes");
    let tree = world.kernel.ports.lock();
    assert!((0..0x40).all(|port| tree.find(pd.identity(), port).is_none()));
    drop(tree);
    assert!(pd.ecs.lock().is_empty());
    drop(pd);
    world.must(revoke(0x1000, 9));
    world.must(revoke(0x800, 6));
    let (mut most, mut free) = (0, world.pool.free_frames());
    for _ in 0..2000 {
        world.steps(1);
        let now = world.pool.free_frames();
        most = most.max(now.saturating_sub(free));
        free = now;
    }
    assert!(most <= MOST_FRAMES, "{most} frames came back in one pass");
    assert_eq!(free, first, "all of them came back");
}

#[test]
fn a_semaphore_with_many_waiters_dies_in_steps() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(100, 0));
    let others: Vec<Terminal> = (0..50)
        .map(|number| {
            let (first, rip) = (0x1000 + 8 * number, 0x100_0000 + 0x1000 * number);
            world.spawn((first, 0x4000 + 0x40 * number as u32), 0, rip, 5, &[down(100, 0)])
        })
        .collect();
    let sm = world.object::<objects::Sm>(100).unwrap();
    let waiting = || others.iter().filter(|other| other.is_inside()).count();
    assert_eq!(waiting(), 50);
    world.must(revoke(100, 0));
    world.steps(300);
    for other in &others {
        let back = other.result().expect("it was woken");
        assert_eq!(status_of(&back), Status::BadCap);
    }
    assert!(sm.next_orphan().is_none());
}

/// What another CPU takes away in the midst of a long message.
const TAKEN: [(u64, &str); 5] = [
    (51, "the portal"),
    (50, "the servant"),
    (CHILD, "the servant's domain"),
    (0x400, "what is sent"),
    (0x600, "nothing"),
];

/// Revoke against IPC: at every step of a long message another CPU takes something away.
#[test]
fn a_message_meets_a_revoke_at_every_step() {
    for (victim, what) in TAKEN {
        let world = World::new(2, FRAMES);
        let other = world.other();
        let mut free = None;
        for at in 0..40 {
            let calls = servant(&world, Crd::objects(0x1000, 8, 0x1f));
            let all: Vec<_> = (0..60)
                .map(|number| {
                    world.must(create_sm(0x400 + number, 0));
                    TypedItem::delegate(Crd::objects(0x400 + number, 0, 0x1f), number)
                })
                .collect();
            send(&world, &all);
            world.terminal.order(CALL);
            (0..at).for_each(|_| world.step(0));
            other.order(revoke(victim, 0));
            (0..400).for_each(|_| world.step(1));
            assert!(other.result().is_some_and(|back| status_of(&back) == Status::Success));
            world.steps(200);
            let status = status_of(&world.terminal.result().expect("the caller is back"));
            let ran = calls.get();
            match status {
                Status::Success => assert_eq!(ran, 1, "{what} at {at}"),
                Status::Abort | Status::BadCap | Status::Timeout => {
                    assert!(ran == 0 && victim < 0x400, "{what} at {at}: {status:?}");
                }
                _ => panic!("{what} at {at}: {status:?}"),
            }
            for (first, order) in [(50, 1), (CHILD, 0), (0x400, 6)] {
                world.must(revoke(first, order));
            }
            let now = world.free_frames();
            assert_eq!(*free.get_or_insert(now), now, "{what} at {at}");
        }
    }
}

/// Destroy against run: a domain with a running thread and a long delegation to it dies at every step.
#[test]
fn a_domain_dies_at_every_step_of_what_it_gets() {
    let world = World::new(2, FRAMES);
    small_pages(&world, 12);
    let other = world.other();
    let mut free = None;
    for at in 0..60 {
        world.must(create_pd(CHILD, Crd::NULL));
        world.terminal.order(give(Crd::memory(0x1000, 12, 3), CHILD, 0x8000, ItemMeta::GUEST));
        (0..at).for_each(|_| world.step(0));
        other.order(revoke(CHILD, 0));
        (0..10).for_each(|_| world.step(1));
        world.steps(200);
        assert!(other.result().is_some_and(|back| status_of(&back) == Status::Success));
        let status = status_of(&world.terminal.result().expect("the giver is back"));
        assert!(matches!(status, Status::Success | Status::BadCap), "{status:?} at {at}");
        world.steps(1000);
        let now = world.free_frames();
        assert_eq!(*free.get_or_insert(now), now, "at {at}");
        // The next call starts from its beginning.
        world.must(create_sm(100, 0));
        world.must(revoke(100, 0));
    }
}
