//! What every call has in common, semaphores, and time (abi.md 4, 10, 12).

use crate::world::{ROOT_ENTRY, World, create_sm, down, status_of, up};
use abi::args::{CreateSm, PtCtrl, ScCtrl, SmCtrl};
use abi::cap::{ROOT_EC, ROOT_PD, ROOT_SC};
use abi::{Call, Status};
use arch::{Deed, Machine};

const FRAMES: usize = 2048;

#[test]
fn a_call_leaves_all_registers_but_its_answer() {
    let world = World::new(1, FRAMES);
    let back = world.call([255, 2, 3, 4, 5]);
    assert_eq!(status_of(&back), Status::BadHyp);
    assert_eq!([back.rsi, back.rdx, back.rax, back.r8], [2, 3, 4, 5]);
    assert_eq!((back.rcx, back.r11, back.rflags), (ROOT_ENTRY, 0x202, 0x202));
    for number in [14, 21, 63, 71, 200] {
        assert_eq!(world.status([number, 0, 0, 0, 0]), Status::BadHyp, "call {number}");
    }
}

#[test]
fn a_simple_call_touches_no_slow_hardware() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(100, 0));
    let _ = Machine::take_deeds();
    world.must(up(100));
    let deeds = Machine::take_deeds();
    assert!(deeds.iter().all(|(_, deed)| *deed == Deed::Run), "{deeds:?}");
}

#[test]
fn new_objects_need_a_free_selector_and_a_domain() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(100, 0));
    assert_eq!(world.status(create_sm(100, 0)), Status::BadCap, "taken");
    assert_eq!(world.status(create_sm(1 << 26, 0)), Status::BadCap, "beyond the space");
    assert_eq!(world.status(create_sm((1 << 26) + 101, 0)), Status::BadCap, "no wrap");
    assert_eq!(world.status(CreateSm { sel: 101, owner: 100, count: 0 }.encode()), Status::BadCap);
    assert_eq!(world.status(CreateSm { sel: 101, owner: 99, count: 0 }.encode()), Status::BadCap);
    world.must(create_sm((1 << 26) - 1, 0));
}

#[test]
fn capabilities_of_another_kind_are_refused() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(100, 0));
    assert_eq!(world.status(up(ROOT_PD)), Status::BadCap);
    assert_eq!(world.status(PtCtrl { pt: 100, id: 0 }.encode()), Status::BadCap);
    assert_eq!(world.status(ScCtrl { sc: ROOT_EC }.encode()), Status::BadCap);
    assert_eq!(world.status([Call::EcCtrl.word(0, ROOT_SC), 0, 0, 0, 0]), Status::BadCap);
}

#[test]
fn a_semaphore_counts() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(100, 2));
    world.must(down(100, 0));
    world.must(up(100));
    world.must(SmCtrl::Down { sm: 100, zero: true, deadline: 0 }.encode());
    assert_eq!(world.status(down(100, 1)), Status::Timeout, "a deadline in the past");
}

#[test]
fn a_deadline_wakes_the_waiter() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(100, 0));
    let deadline = arch::now() + 1000;
    world.terminal.order(down(100, deadline));
    world.steps(10);
    assert!(world.terminal.is_inside());
    assert_eq!(Machine::deadline(0), Some(deadline));
    Machine::advance(999);
    world.steps(10);
    assert!(world.terminal.result().is_none());
    Machine::advance(1);
    world.steps(10);
    assert_eq!(status_of(&world.terminal.result().unwrap()), Status::Timeout);
    assert_eq!(Machine::deadline(0), None);
}

#[test]
fn the_more_important_thread_runs_at_once() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(100, 0));
    let orders = [down(100, 0), down(100, 1)];
    let other = world.spawn((110, 200), 0, 0x50_0000, 5, &orders);
    assert!(other.is_inside());
    world.must(up(100));
    assert_eq!(status_of(&other.result().unwrap()), Status::Success);
    assert_eq!(status_of(&other.result().unwrap()), Status::Timeout);
}

#[test]
fn equals_share_by_quantum() {
    let world = World::new(1, FRAMES);
    let other = world.spawn((110, 200), 0, 0x50_0000, 1, &[]);
    world.must(create_sm(100, 0));
    Machine::advance(20_000_000);
    world.steps(5);
    other.order(up(9));
    world.must(up(113));
    assert!(other.result().is_none(), "the root program still has budget");
    Machine::advance(20_000_000);
    world.steps(5);
    assert_eq!(status_of(&other.result().unwrap()), Status::BadCap);
    assert_eq!(world.status(up(9)), Status::BadCap);
}

/// docs/decisions/0081-lazy-timer.md
#[test]
fn who_becomes_alone_gets_one_tick_at_most() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(100, 0));
    let other = world.spawn((110, 200), 0, 0x50_0000, 1, &[down(100, 0)]);
    while !other.is_inside() {
        Machine::advance(20_000_000);
        world.steps(2);
    }
    let timer = |deeds: Vec<(usize, Deed)>| {
        deeds.iter().filter(|(_, deed)| matches!(deed, Deed::Deadline(_))).count()
    };
    // The two equals had a timer between them; that the other one waits now has not touched it.
    assert!(Machine::deadline(0).is_some());
    let _ = Machine::take_deeds();
    Machine::advance(1 << 40);
    world.steps(5);
    assert_eq!(Machine::deadline(0), None, "the one tick sets no other");
    assert!(timer(Machine::take_deeds()) <= 1);
    Machine::advance(1 << 40);
    world.steps(20);
    assert_eq!((Machine::deadline(0), timer(Machine::take_deeds())), (None, 0), "no tick at all");
}

#[test]
fn a_wake_up_reaches_another_cpu() {
    let world = World::new(2, FRAMES);
    world.must(create_sm(100, 0));
    let other = world.spawn((110, 200), 1, 0x50_0000, 5, &[down(100, 0)]);
    assert!(other.is_inside());
    let _ = Machine::take_deeds();
    world.must(up(100));
    let told = Deed::Ipi { cpu: 1, vector: arch::vector::RESCHEDULE };
    assert!(Machine::take_deeds().contains(&(0, told)));
    world.steps(10);
    assert_eq!(status_of(&other.result().unwrap()), Status::Success);
}

#[test]
fn a_dying_semaphore_lets_its_waiters_go() {
    let world = World::new(2, FRAMES);
    world.must(create_sm(100, 0));
    let mut others = Vec::new();
    for (first, base, cpu, deadline) in [(110, 200, 0, 0), (120, 250, 1, u64::MAX)] {
        let rip = 0x50_0000 + 0x1000 * first;
        let other = world.spawn((first, base), cpu, rip, 5, &[down(100, deadline)]);
        assert!(other.is_inside());
        others.push(other);
    }
    let crd = abi::Crd::objects(100, 0, 0x1f);
    world.must(abi::args::Revoke { own: true, remote: false, crd, pd: 0 }.encode());
    world.steps(10);
    for other in others {
        assert_eq!(status_of(&other.result().unwrap()), Status::BadCap);
    }
    assert_eq!(world.status(up(100)), Status::BadCap);
    assert_eq!(Machine::deadline(1), None);
}
