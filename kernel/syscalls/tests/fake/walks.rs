//! Walks along what programs may make as long as they can pay for: little of each in one pass through the loop.

use std::cell::Cell;
use std::rc::Rc;

use abi::args::{CallPortal, Reply, Words};
use abi::cap::ROOT_PD;
use abi::{Mtd, Status};
use sync::Locked;

use crate::world::{Terminal, World, create_sm, down, revoke, status_of, syscall};

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
