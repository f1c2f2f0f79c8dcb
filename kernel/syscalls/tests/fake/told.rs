//! What the kernel tells: interrupts that nobody owns, its counters, its log.

use crate::world::{World, create_sm};
use abi::Status;
use abi::args::{CreateKp, IrqCtrl, Log, Statistics};
use abi::cap::ROOT_PD;
use abi::log::{LOG_RECORDS, LogRecord, RECORDS, UNOWNED, UNOWNED_INTERRUPTS};
use abi::utcb::offset;
use arch::Machine;

const FRAMES: usize = 2048;

fn counter(world: &World, cpu: u64, counter: u64) -> u64 {
    world.must(Statistics { cpu, counter }.encode()).rsi
}

/// The records from a number on, with what the call says about them.
fn read(world: &World, from: u64) -> (Vec<LogRecord>, u64, u64) {
    let out = world.must(Log::Read { from }.encode());
    let page = world.root.ec.utcb();
    let record = |place: usize| {
        let at = offset::MESSAGE + 32 * place;
        LogRecord::from_words(core::array::from_fn(|word| page.read_u64(at + 8 * word)))
    };
    ((0..out.rdx as usize).map(record).collect(), out.rsi, out.rax)
}

#[test]
fn interrupts_that_nobody_owns_are_masked_and_counted() {
    let world = World::new(2, FRAMES);
    let pin = |level| IrqCtrl::AssignIoapicPin {
        vector: 5,
        cpu: 1,
        level,
        active_low: false,
        ioapic: 0,
        pin: 9,
    };
    world.must(pin(true).encode());
    Machine::interrupt(1, 37);
    world.steps(3);
    assert!(Machine::pin(0, 9).is_masked, "it would fire for ever");
    assert_eq!(
        (counter(&world, 0, UNOWNED_INTERRUPTS), counter(&world, 1, UNOWNED_INTERRUPTS)),
        (0, 1)
    );
    world.must(pin(false).encode());
    Machine::interrupt(1, 37);
    world.steps(3);
    assert!(!Machine::pin(0, 9).is_masked, "an edge comes once");
    assert_eq!(counter(&world, 1, UNOWNED_INTERRUPTS), 2);
    let (records, next, lost) = read(&world, 0);
    assert_eq!((records.len(), next, lost), (2, 2, 0));
    assert!(records.iter().all(|told| (told.code, told.cpu, told.detail) == (UNOWNED, 1, 37)));
}

/// A pin sent to its vector before the vector had an owner is masked like any other.
#[test]
fn the_order_of_pin_and_owner_does_not_matter() {
    let world = World::new(1, FRAMES);
    let pin = IrqCtrl::AssignIoapicPin {
        vector: 5,
        cpu: 0,
        level: true,
        active_low: false,
        ioapic: 0,
        pin: 9,
    };
    world.must(pin.encode());
    world.must(create_sm(100, 0));
    world.must(CreateKp { sel: 101, owner: ROOT_PD }.encode());
    let owner = IrqCtrl::ConfigureVector { vector: 5, cpu: 0, sm: 100, kp: 101, bit: 0 };
    world.must(owner.encode());
    Machine::interrupt(0, 37);
    world.steps(3);
    assert!(Machine::pin(0, 9).is_masked);
}

#[test]
fn the_log_says_how_much_it_lost() {
    let world = World::new(1, FRAMES);
    for _ in 0..600 {
        Machine::interrupt(0, 40);
        world.steps(1);
    }
    assert_eq!(counter(&world, 0, LOG_RECORDS), 600);
    let (records, next, lost) = read(&world, 0);
    assert_eq!((records.len(), lost), (RECORDS, 600 - 256));
    assert_eq!((records[0].number, next), (344, 344 + RECORDS as u64));
    let mut from = next;
    while let (records, next, 0) = read(&world, from)
        && !records.is_empty()
    {
        assert_eq!(records[0].number, from);
        from = next;
    }
    assert_eq!(from, 600);
    assert_eq!(read(&world, u64::MAX), (vec![], u64::MAX, 0));
}

#[test]
fn who_claims_the_log_has_it_alone() {
    let world = World::new(1, FRAMES);
    let noted = || Machine::take_unclaimed().len();
    Machine::interrupt(0, 40);
    world.steps(2);
    assert_eq!(noted(), 1);
    world.must(Log::Claim.encode());
    Machine::interrupt(0, 40);
    world.steps(2);
    assert_eq!((noted(), read(&world, 0).0.len()), (0, 2));
}

#[test]
fn what_has_no_meaning_is_refused() {
    let world = World::new(1, FRAMES);
    assert_eq!(world.status(Log::Unknown(2).encode()), Status::BadPar);
    assert_eq!(world.status(Log::Unknown(3).encode()), Status::BadPar);
    assert_eq!(world.status(Statistics { cpu: 1, counter: 0 }.encode()), Status::BadCpu);
    assert_eq!(world.status(Statistics { cpu: 0, counter: 99 }.encode()), Status::BadPar);
}
