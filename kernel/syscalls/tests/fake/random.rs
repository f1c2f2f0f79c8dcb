//! Random words in random order on several CPUs: no panic, no lost CPU, no lost memory.

use abi::args::{CreateKp, CreatePd, Revoke, Words};
use abi::cap::ROOT_PD;
use abi::utcb::offset;
use abi::{Crd, Status};
use arch::{GuestVendor, Machine};
use proptest::prelude::*;

use crate::world::{Terminal, World, create_sm};

const FRAMES: usize = 1024;
const CPUS: usize = 3;

/// Selectors that often hold something, and some that cannot.
fn selector() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 32..36_u64,
        8 => 64..80_u64,
        2 => 0..32_u64,
        1 => (1 << 26) - 2..(1_u64 << 26) + 2,
        1 => any::<u64>(),
    ]
}

/// Descriptors of small and large ranges.
fn crd() -> impl Strategy<Value = u64> {
    let base = prop_oneof![selector(), 0..0x1000_u64, 0x7_ffff_ff00..0x8_0000_0010_u64];
    let order = prop_oneof![4 => 0..4_u8, 1 => 0..32_u8];
    let perms = prop_oneof![Just(0x1f), 0..32_u8];
    (0..4_u64, base, order, perms).prop_map(|(kind, base, order, perms)| {
        kind | u64::from(perms) << 2 | u64::from(order) << 7 | base << 12
    })
}

fn words() -> impl Strategy<Value = Words> {
    let number = prop_oneof![8 => 0..21_u64, 1 => 64..70_u64, 1 => any::<u8>().prop_map(u64::from)];
    let argument = || {
        prop_oneof![
            3 => selector(),
            3 => crd(),
            2 => (selector(), 0..0x1000_u64).prop_map(|(selector, low)| selector << 12 | low),
            1 => Just(0),
            1 => any::<u64>(),
        ]
    };
    let rest = (argument(), argument(), argument(), argument());
    (number, 0..16_u64, selector(), rest).prop_map(|(number, flags, value, rest)| {
        [number | flags << 8 | value << 12, rest.0, rest.1, rest.2, rest.3]
    })
}

#[derive(Clone, Debug)]
enum Move {
    Order(usize, Words),
    Steps(usize, usize),
    Time(u64),
    Utcb(usize, u64),
    Interrupt(usize, u8),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (0..CPUS, words()).prop_map(|(thread, words)| Move::Order(thread, words)),
        6 => (0..CPUS, 1..6_usize).prop_map(|(cpu, count)| Move::Steps(cpu, count)),
        1 => (0..20_000_000_u64).prop_map(Move::Time),
        2 => (0..512_usize, crd()).prop_map(|(word, value)| Move::Utcb(word, value)),
        1 => (0..CPUS, 32..255_u8).prop_map(|(cpu, vector)| Move::Interrupt(cpu, vector)),
    ];
    prop::collection::vec(one, 1..120)
}

/// A machine with some objects at 64 and a thread on each CPU that does what it is told.
fn busy_world() -> (World, Vec<Terminal>) {
    let world = World::new(CPUS, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    world.must(CreatePd { sel: 64, passthrough: false, parent: ROOT_PD, crd: Crd::NULL }.encode());
    world.must(create_sm(65, 1));
    world.must(CreateKp { sel: 66, owner: ROOT_PD }.encode());
    let mut threads = vec![world.terminal.clone()];
    for cpu in 1..CPUS as u16 {
        let (first, base) = (100 + 10 * u64::from(cpu), 200 + 40 * u32::from(cpu));
        let rip = 0x50_0000 + 0x1_0000 * u64::from(cpu);
        let thread = world.spawn((first, base), cpu, rip, 5, &[]);
        thread.spin();
        world.rouse(first);
        threads.push(thread);
    }
    (world, threads)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_calls_in_any_order(moves in moves()) {
        let (world, threads) = busy_world();
        for one in moves {
            match one {
                Move::Order(thread, words) => threads[thread].order(words),
                Move::Steps(cpu, count) => (0..count).for_each(|_| world.step(cpu)),
                Move::Time(ticks) => Machine::advance(ticks),
                Move::Utcb(word, value) => {
                    let utcb = world.root.ec.utcb();
                    utcb.set_word(word, value);
                    utcb.set_word(0, value & 0x3_000f);
                    utcb.write_u64(offset::DELEGATE_WINDOW, value.rotate_left(7));
                }
                Move::Interrupt(cpu, vector) => Machine::interrupt(cpu, vector),
            }
        }
        world.steps(50);
        prop_assert!(world.pool.free_frames() < FRAMES);
    }
}

/// Whatever one thread did with its selectors from 64 to 95, revoking them gives everything back.
#[test]
fn random_calls_leak_nothing() {
    let world = World::new(1, 4096);
    Machine::set_vendor(GuestVendor::Vmx);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let new_object = (2..7_u64, 64..96_u64, any::<u64>(), any::<u64>());
    let mut round = |world: &World, count: usize| {
        for _ in 0..count {
            let tree = new_object.new_tree(&mut runner).unwrap();
            let (number, value, third, fourth) = proptest::strategy::ValueTree::current(&tree);
            // Contexts only on CPU 0, without a UTCB where selectors or the root program live.
            let words = match number {
                3 => [number | value << 12, 32, 0, 0x7000, third & 0xff],
                4 => [number | value << 12, 32, 64 + third % 32, 1 | 10 << 12, 0],
                5 => [number | value << 12, 32, 64 + third % 32, fourth, 0],
                _ => [number | value << 12, 32, 0, 0, 0],
            };
            let status = world.status(words);
            assert!(
                matches!(status, Status::Success | Status::BadCap | Status::BadPar),
                "{status:?}"
            );
        }
        let all = Crd::objects(64, 5, 0x1f);
        world.must(Revoke { own: true, remote: false, crd: all, pd: 0 }.encode());
        world.free_frames()
    };
    // Slabs keep the pages of their busiest moment: fill them first, kind by kind.
    for number in [2, 3, 6] {
        for selector in 64..96_u64 {
            world.must([number | selector << 12, 32, 0, 0x7000, 0]);
        }
        round(&world, 0);
    }
    for number in [4, 5] {
        let global = if number == 4 { 1 << 8 } else { 0 };
        world.must([3 | global | 64 << 12, 32, 0, 0x7000, 0]);
        for selector in 65..96_u64 {
            world.must([number | selector << 12, 32, 64, 1 | 10 << 12, 0]);
        }
        round(&world, 0);
    }
    let first = round(&world, 0);
    for number in 0..40 {
        assert_eq!(round(&world, 60), first, "round {number}");
    }
}
