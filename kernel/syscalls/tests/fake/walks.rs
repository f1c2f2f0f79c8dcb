//! Walks along what programs may make as long as they can pay for: little of each in one pass through the loop.

use std::cell::Cell;
use std::rc::Rc;

use abi::args::{CallPortal, PdCtrl, Reply, Revoke, Words};
use abi::cap::ROOT_PD;
use abi::crd::ItemMeta;
use abi::{Crd, Mtd, Status};
use sync::Locked;

use crate::world::{Terminal, World, create_sm, down, revoke, status_of, syscall, up};

const FRAMES: usize = 8192;
/// Contexts in a long chain of calls.
const LINKS: u64 = 300;
/// Selector of the first context of the chain; its portals follow 0x400 above.
const FIRST: u64 = 0x1000;
/// The semaphore that the last context waits on.
const SEMAPHORE: u64 = 0x80;
/// Reference counts that one pass changes at most.
const MOST_COUNTS: u64 = 150;

fn call(portal: u64) -> Words {
    CallPortal { portal, nonblocking: false }.encode()
}

/// A thread that calls the first of a chain of contexts, each of which calls the next one; the last one waits.
fn long_chain(world: &World) -> Terminal {
    world.must(create_sm(SEMAPHORE, 0));
    for number in 0..LINKS {
        let next = FIRST + 0x401 + number;
        let mut first = true;
        let servant = (ROOT_PD, FIRST + number, FIRST + 0x400 + number);
        let entry = 0x600_0000 + number * 0x1000;
        world.serve(servant, 0, (Mtd::NONE, entry), move |thread, _| {
            let forth = if number + 1 < LINKS { call(next) } else { down(SEMAPHORE, 0) };
            let back = Reply { semaphore: 0 }.encode();
            syscall(thread, if core::mem::take(&mut first) { forth } else { back })
        });
    }
    let caller = world.spawn((110, 200), 0, 0x50_0000, 5, &[call(FIRST + 0x400)]);
    world.steps(2 * LINKS as usize);
    assert!(caller.is_inside());
    caller
}

/// Makes a call and gives the greatest number that `count` grew by in one pass, and the passes, until `is_over`.
fn watch(
    world: &World,
    words: Words,
    count: impl Fn() -> u64,
    is_over: impl Fn() -> bool,
) -> (u64, usize) {
    world.terminal.order(words);
    let mut most = 0;
    for passes in 1..100_000 {
        let before = count();
        world.step(0);
        most = most.max(count() - before);
        if is_over() {
            return (most, passes);
        }
    }
    panic!("the call {words:x?} never came to its end");
}

fn counts() -> u64 {
    Locked::so_far().counts
}

/// A context in the midst of a long chain dies while the chain waits.
#[test]
fn a_long_chain_is_woken_for_the_dead() {
    let world = World::new(1, FRAMES);
    let caller = long_chain(&world);
    let is_back = Rc::new(Cell::new(None));
    let sign = is_back.clone();
    let ended = move || {
        if let Some(back) = caller.result() {
            sign.set(Some(status_of(&back)));
        }
        sign.get().is_some()
    };
    let dead = FIRST + LINKS / 2;
    let (most, passes) = watch(&world, revoke(dead, 0), counts, ended);
    assert_eq!(is_back.get(), Some(Status::Success), "its caller's caller was served");
    assert!(most <= MOST_COUNTS && passes > LINKS as usize, "{most} counts in one of {passes}");
    world.steps(20);
    assert!(world.terminal.result().is_some_and(|back| status_of(&back) == Status::Success));
}

/// All contexts of a long chain die, which nobody has time to run any more.
#[test]
fn a_long_dead_chain_is_taken_apart() {
    let world = World::new(1, FRAMES);
    let mut free = None;
    for _ in 0..2 {
        let caller = long_chain(&world);
        world.must(revoke(111, 0));
        let back = Rc::new(Cell::new(false));
        let sign = back.clone();
        let ended = || {
            sign.set(sign.get() || world.terminal.result().is_some());
            sign.get()
        };
        let (most, _) = watch(&world, revoke(FIRST, 9), counts, ended);
        assert!(most <= MOST_COUNTS, "{most} counts in one pass");
        assert!(caller.result().is_none(), "nobody ran");
        back.set(false);
        let (most, passes) = watch(&world, revoke(110, 0), counts, ended);
        assert!(most <= MOST_COUNTS, "{most} counts in one pass");
        assert!(passes > LINKS as usize / 16, "{passes} passes");
        world.must(revoke(FIRST + 0x400, 9));
        world.must(revoke(112, 1));
        world.must(revoke(200, 6));
        world.must(revoke(SEMAPHORE, 0));
        let now = world.free_frames();
        assert_eq!(*free.get_or_insert(now), now, "all of it came back");
    }
}

/// Capabilities that came from one.
const WIDE: u64 = 2000;
/// Where the wide tree's capabilities are in the root domain.
const COPIES: u64 = 0x4000;
/// Elements of lists and trees that one pass looks at, at most.
const MOST_LOOKS: u64 = 500;

fn looks() -> u64 {
    Locked::so_far().looks
}

/// Takes one permission from what came from a capability, where that has others: perhaps from it, too.
fn reduce(selector: u64, permission: u8, own: bool) -> Words {
    let crd = Crd::objects(selector, 0, permission);
    Revoke { own, remote: false, crd, pd: 0 }.encode()
}

fn copy(from: u64, to: u64, order: u8) -> Words {
    let crd = Crd::objects(from, order, 0x1f);
    let meta = ItemMeta::DELEGATE.at(to);
    let window = Crd::objects(to, order, 0x1f);
    PdCtrl::Delegate { source: ROOT_PD, destination: ROOT_PD, crd, meta, window }.encode()
}

/// A semaphore with a wide tree below it: one level of 40 copies, below each of which are 50.
fn wide_tree(world: &World) {
    world.must(create_sm(SEMAPHORE, 0));
    for number in 0..WIDE {
        let from = if number % 50 == 0 { SEMAPHORE } else { COPIES + number - number % 50 };
        world.must(copy(from, COPIES + number, 0));
    }
}

fn with_permission(world: &World, permission: u8) -> usize {
    let has = |number| world.permissions(&world.root.pd, COPIES + number) & permission != 0;
    (0..WIDE).filter(|number| has(*number)).count()
}

/// Capabilities that keep other permissions are passed by in steps, and looked at once.
#[test]
fn a_wide_tree_loses_a_permission_in_steps() {
    let world = World::new(1, FRAMES);
    for own in [false, true] {
        wide_tree(&world);
        let back = || world.terminal.result().is_some();
        let before = looks();
        let (most, passes) = watch(&world, reduce(SEMAPHORE, 2, own), looks, back);
        assert!(most <= MOST_LOOKS && passes > 4, "{most} looked at in one of {passes}");
        assert!(looks() - before < 2 * WIDE, "none is looked at again and again");
        assert_eq!((with_permission(&world, 2), with_permission(&world, 1)), (0, WIDE as usize));
        let itself = world.permissions(&world.root.pd, SEMAPHORE);
        assert_eq!(itself & 3, if own { 1 } else { 3 });
        world.must(revoke(COPIES, 11));
        world.must(revoke(SEMAPHORE, 0));
    }
}

/// While one thread takes a permission away, another one takes the tree apart, or does the same in it.
#[test]
fn a_walk_through_a_tree_meets_others() {
    let world = World::new(2, FRAMES);
    let other = world.other();
    let mut free = None;
    let meets = [
        revoke(SEMAPHORE, 0),
        revoke(COPIES, 11),
        revoke(COPIES + 50, 5),
        reduce(SEMAPHORE, 1, true),
        reduce(SEMAPHORE, 2, false),
        reduce(COPIES + 100, 2, true),
        copy(SEMAPHORE, COPIES + WIDE, 0),
    ];
    for (number, words) in meets.into_iter().enumerate() {
        for at in [1, 3, 6] {
            wide_tree(&world);
            world.terminal.order(reduce(SEMAPHORE, 2, true));
            (0..at).for_each(|_| world.step(0));
            other.order(words);
            (0..at).for_each(|_| world.step(1));
            world.steps(400);
            assert!(other.result().is_some(), "{number} at {at}");
            let back = world.terminal.result().expect("the walk ends");
            assert_eq!(status_of(&back), Status::Success);
            assert_eq!(with_permission(&world, 2), 0, "{number} at {at}");
            let late = world.permissions(&world.root.pd, COPIES + WIDE);
            assert_eq!(late & 2, 0, "nobody gets it meanwhile");
            world.must(revoke(COPIES, 11));
            world.must(revoke(SEMAPHORE, 0));
            let now = world.free_frames();
            assert_eq!(*free.get_or_insert(now), now, "{number} at {at}");
        }
    }
}

/// Who dies in the midst of such a walk leaves nothing behind, even if it walked through its own tree.
#[test]
fn a_walk_through_a_tree_ends_with_its_thread() {
    let world = World::new(2, FRAMES);
    let mut free = None;
    for at in 0..12 {
        wide_tree(&world);
        let walker = world.spawn((120, 300), 1, 0x50_0000, 5, &[]);
        walker.order(reduce(SEMAPHORE, 2, true));
        world.terminal.order(up(123));
        (0..20).for_each(|_| world.step(0));
        (0..at).for_each(|_| world.step(1));
        assert!(world.terminal.result().is_some());
        world.must(revoke(120, 2));
        world.must(revoke(256, 6));
        world.must(revoke(320, 6));
        world.must(revoke(COPIES, 11));
        world.must(revoke(SEMAPHORE, 0));
        let now = world.free_frames();
        assert_eq!(*free.get_or_insert(now), now, "at {at}");
    }
}
