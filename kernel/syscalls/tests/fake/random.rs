//! Random words in random order on several CPUs: no panic, no lost CPU, no lost memory.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use abi::args::{CreateKp, CreatePd, CreateVcpu, Reply, Revoke, Words};
use abi::cap::ROOT_PD;
use abi::utcb::offset;
use abi::{Crd, Mtd, Status};
use arch::{GuestVendor, Machine};
use proptest::prelude::*;

use crate::world::{Terminal, World, create_sm, syscall};

/// Frames of kernel memory with which the busy machine comes up but has nothing to spare.
const LEAST_FRAMES: usize = 45;
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

/// A selector with one of the objects of the busy world, or one of the calls below.
fn likely() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 64..90_u64, 1 => Just(ROOT_PD), 1 => selector()]
}

/// Calls as a program would make them.
fn sensible() -> impl Strategy<Value = Words> {
    let owner = || prop_oneof![4 => Just(ROOT_PD), 1 => likely()];
    let create = (2..7_u64, 74..90_u64, owner(), likely(), 0..CPUS as u64, 0..4_u64);
    let create = create.prop_map(|(number, sel, owner, ec, cpu, flags)| {
        let head = number | flags << 8 | sel << 12;
        match number {
            3 => [head & !0x600, owner, cpu | (sel << 12), 0x7000, 300],
            4 => [head, owner, ec, (1 + flags) | 10 << 12, 0],
            5 => [head, owner, ec, 0x60_0000, 0x60_0000 + 0x1_0000 * cpu],
            _ => [head, owner, flags, 0, 0],
        }
    });
    let page = (74..90_u64, owner()).prop_map(|(sel, owner)| CreateKp { sel, owner }.encode());
    let revoke = (likely(), 0..3_u8, 1..0x20_u8, any::<(bool, bool)>(), owner());
    let revoke = revoke.prop_map(|(base, order, perms, (own, remote), pd)| {
        Revoke { own, remote, crd: Crd::objects(base, order, perms), pd }.encode()
    });
    let delegate = (owner(), owner(), crd(), crd(), 0..0x10_u64, selector());
    let delegate = delegate.prop_map(|(source, destination, send, window, flags, hotspot)| {
        [8 | 2 << 8 | source << 12, destination, send, 1 | flags << 8 | hotspot << 12, window]
    });
    let semaphore = (likely(), 0..4_u64, 0..3_000_000_u64)
        .prop_map(|(sm, flags, deadline)| [12 | flags << 8 | sm << 12, 0, deadline, 0, 0]);
    let call =
        (likely(), 0..2_u64).prop_map(|(portal, flag)| [flag << 8 | portal << 12, 0, 0, 0, 0]);
    let control =
        (prop_oneof![Just(9_u64), Just(10), Just(11), Just(17), Just(20)], 0..2_u64, likely())
            .prop_map(|(number, sub, sel)| {
                [number | sub << 8 | sel << 12, ROOT_PD, 0x900_0000, 0, 0]
            });
    let vcpu = (74..90_u64, 0..CPUS as u64, owner(), likely(), likely(), likely());
    let vcpu = vcpu.prop_map(|(sel, cpu, parent, state, vlapic, fpu)| {
        CreateVcpu { sel, cpu: cpu as u16, parent, state, vlapic, fpu }.encode()
    });
    prop_oneof![4 => create, 2 => page, 3 => revoke, 3 => delegate, 4 => semaphore, 4 => call, 3 => control, 1 => vcpu]
}

fn words() -> impl Strategy<Value = Words> {
    prop_oneof![3 => sensible(), 1 => any_words()]
}

fn any_words() -> impl Strategy<Value = Words> {
    let number = prop_oneof![4 => 0..2_u64, 8 => 0..21_u64, 1 => 64..70_u64, 1 => any::<u8>().prop_map(u64::from)];
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
    Serve(usize, Words),
    Steps(usize, usize),
    Time(u64),
    Utcb(usize, u64),
    Interrupt(usize, u8),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (0..CPUS, words()).prop_map(|(thread, words)| Move::Order(thread, words)),
        3 => (0..CPUS, words()).prop_map(|(servant, words)| Move::Serve(servant, words)),
        6 => (0..CPUS, 1..6_usize).prop_map(|(cpu, count)| Move::Steps(cpu, count)),
        1 => (0..20_000_000_u64).prop_map(Move::Time),
        2 => (0..512_usize, crd()).prop_map(|(word, value)| Move::Utcb(word, value)),
        1 => (0..CPUS, 32..255_u8).prop_map(|(cpu, vector)| Move::Interrupt(cpu, vector)),
    ];
    prop::collection::vec(one, 1..120)
}

/// The calls that a servant makes next; without any it replies.
type Servant = Rc<RefCell<VecDeque<Words>>>;

/// A machine with some objects at 64, and on each CPU a thread and a servant (portals 69, 71, 73, and their
/// exception portals) that do what they are told.
fn busy_world(spare: usize) -> (World, Vec<Terminal>, Vec<Servant>) {
    let world = World::new(CPUS, LEAST_FRAMES + spare);
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
    let servants = (0..CPUS as u64).map(|cpu| {
        let todo = Servant::default();
        let (mine, pt) = (todo.clone(), 69 + 2 * cpu);
        let code = (Mtd(0xffff_ffff), 0x60_0000 + 0x1_0000 * cpu);
        world.serve((ROOT_PD, pt - 1, pt), cpu as u16, code, move |thread, _| {
            let words = mine.borrow_mut().pop_front();
            syscall(thread, words.unwrap_or(Reply { semaphore: 0 }.encode()))
        });
        todo
    });
    let servants = servants.collect();
    (world, threads, servants)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_calls_in_any_order(moves in moves(), spare in prop_oneof![0..40_usize, Just(400)]) {
        let (world, threads, servants) = busy_world(spare);
        for one in moves {
            match one {
                Move::Order(thread, words) => threads[thread].order(words),
                Move::Serve(servant, words) => servants[servant].borrow_mut().push_back(words),
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
        prop_assert!(world.pool.free_frames() < LEAST_FRAMES + spare);
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
