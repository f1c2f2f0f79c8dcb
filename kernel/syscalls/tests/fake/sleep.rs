//! Suspending a machine that sleeps, one that stays awake, and one that cannot.

use abi::Status;
use abi::args::MachineCtrl;
use abi::args::Words;
use arch::{Deed, Machine};

use crate::world::{World, create_sm, down, status_of};

const FRAMES: usize = 512;

fn suspend(types: [u8; 2]) -> Words {
    MachineCtrl::Suspend { slp_typ_a: types[0], slp_typ_b: types[1] }.encode()
}

/// The types that were written, each time.
fn written() -> Vec<[u8; 2]> {
    let sleeps = |(_, deed)| match deed {
        Deed::Sleep(types) => Some(types),
        _ => None,
    };
    Machine::take_deeds().into_iter().filter_map(sleeps).collect()
}

#[test]
fn machine_ctrl_suspends_and_says_so_when_the_machine_is_awake() {
    let world = World::new(1, FRAMES);
    Machine::set_sleeps(true);
    let answer = world.must(suspend([5, 3]));
    assert_eq!(answer.rsi, 0x8000, "the waking vector");
    assert_eq!(written(), [[5, 3]]);
}

#[test]
fn machine_ctrl_refuses_after_a_sleep_that_did_not_come() {
    let world = World::new(1, FRAMES);
    Machine::set_sleeps(false);
    world.must(create_sm(100, 0));
    let free = world.free_frames();
    for _ in 0..3 {
        let answer = world.call(suspend([5, 5]));
        assert_eq!((status_of(&answer), answer.rsi), (Status::BadPar, 0x8000));
        assert_eq!(written(), [[5, 5]], "once for each call");
        // Time-outs and frames are as before.
        assert_eq!(world.status(down(100, 1)), Status::Timeout);
        assert_eq!(world.free_frames(), free);
    }
    // The next try is not taken for one that still goes on.
    Machine::set_sleeps(true);
    assert_eq!(world.status(suspend([5, 5])), Status::Success);
}

#[test]
fn machine_ctrl_writes_nothing_where_the_machine_cannot_sleep() {
    let world = World::new(1, FRAMES);
    let answer = world.call(suspend([5, 5]));
    assert_eq!((status_of(&answer), answer.rsi), (Status::BadPar, 0));
    Machine::set_sleeps(true);
    assert_eq!(world.status(suspend([8, 0])), Status::BadPar, "a type of four bits");
    assert_eq!(written(), [] as [[u8; 2]; 0]);
}
