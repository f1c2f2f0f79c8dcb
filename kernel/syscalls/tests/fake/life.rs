//! How objects end, and that their memory comes back (abi.md 6.6, design.md 7).

use abi::args::{
    CreateEc, CreateKp, CreatePd, CreatePt, CreateSc, CreateSm, CreateVcpu, IrqCtrl, KpCtrl,
    PdCtrl, Revoke, VcpuCtrl, VcpuRunExt, Words,
};
use abi::cap::ROOT_PD;
use abi::crd::ItemMeta;
use abi::{Call, Crd, Mtd, Status};
use arch::{Event, GuestVendor, Machine};
use objects::{Pd, Sc};

use crate::world::{
    Terminal, World, create_pd, create_sm, down, give, local, revoke, status_of, syscall, up,
};

const FRAMES: usize = 4096;
const CHILD: u64 = 70;

/// Every kind of object at the selectors from 64 to 127, some in use.
fn make_all(world: &World, cpu: u16) {
    let window = Crd::ports(0x60, 3, 1);
    let ports = |to| PdCtrl::Delegate {
        source: ROOT_PD,
        destination: to,
        crd: window,
        meta: ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL | ItemMeta::GUEST,
        window,
    };
    world.must(create_pd(CHILD));
    world.must(give(Crd::memory(0x400, 4, 7), CHILD, 0x1000, ItemMeta(0)));
    world.must(give(Crd::memory(0x10_0000, 18, 7), CHILD, 0x20_0000, ItemMeta::GUEST));
    world.must(give(Crd::memory(0x10_0001, 0, 1), CHILD, 0x20_0001, ItemMeta::GUEST));
    world.must(ports(CHILD).encode());
    world.must(create_sm(80, 0));
    for kp in [81, 82, 83] {
        world.must(CreateKp { sel: kp, owner: CHILD }.encode());
    }
    world.must(KpCtrl::Map { kp: 81, pd: CHILD, address: 0x700_0000 }.encode());
    let vcpu = CreateVcpu { sel: 84, cpu, parent: ROOT_PD, state: 81, vlapic: 82, fpu: 83 };
    world.must(vcpu.encode());
    let ec = CreateEc { cpu, utcb: 0x800_0000, ..local(85, CHILD) };
    world.must(ec.encode());
    world.must(CreatePt { sel: 86, owner: CHILD, ec: 85, mtd: Mtd::NONE, entry: 1 }.encode());
    let ec = CreateEc { cpu, global: true, event_base: 0, ..local(87, CHILD) };
    world.must(ec.encode());
    let sc = CreateSc { sel: 88, owner: CHILD, ec: 87, priority: 3, quantum_us: 10 };
    world.must(sc.encode());
    let table = Crd::objects(80, 3, 0x1f);
    let meta = ItemMeta::DELEGATE.at(0x100);
    let window = Crd::objects(0x100, 3, 0x1f);
    let all = PdCtrl::Delegate { source: ROOT_PD, destination: CHILD, crd: table, meta, window };
    world.must(all.encode());
    let irq = IrqCtrl::ConfigureVector { vector: 3, cpu, sm: 80, kp: 82, bit: 7 };
    world.must(irq.encode());
}

#[test]
fn nothing_leaks_over_many_lives() {
    for cpu in [0, 1] {
        let world = World::new(2, FRAMES);
        Machine::set_vendor(GuestVendor::Vmx);
        let off = IrqCtrl::ConfigureVector { vector: 3, cpu, sm: 0, kp: 0, bit: 0 };
        let cycle = || {
            make_all(&world, cpu);
            world.steps(10);
            world.must(revoke(64, 6));
            world.must(off.encode());
            world.free_frames()
        };
        let first = cycle();
        for round in 0..10 {
            assert_eq!(cycle(), first, "CPU {cpu}, round {round}");
        }
    }
}

#[test]
fn each_object_alone_leaves_nothing() {
    let world = World::new(1, FRAMES);
    Machine::set_vendor(GuestVendor::Svm);
    make_all(&world, 0);
    world.must(revoke(64, 6));
    let off = IrqCtrl::ConfigureVector { vector: 3, cpu: 0, sm: 0, kp: 0, bit: 0 };
    world.must(off.encode());
    let expected = world.free_frames();
    for order in
        [[80_u64, 88, 84, 86, 70, 81, 87, 82, 85, 83], [70, 83, 85, 82, 87, 81, 86, 84, 88, 80]]
    {
        make_all(&world, 0);
        for selector in order {
            world.must(revoke(selector, 0));
            world.steps(3);
        }
        world.must(off.encode());
        assert_eq!(world.free_frames(), expected, "{order:?}");
    }
}

#[test]
fn a_dead_domain_stops_its_threads_everywhere() {
    let world = World::new(2, FRAMES);
    // The first round fills the slabs, which keep their pages.
    let first = a_domain_lives_and_dies(&world);
    assert_eq!(a_domain_lives_and_dies(&world), first);
}

/// Free frames after a domain with a spinning thread on CPU 1 was revoked.
fn a_domain_lives_and_dies(world: &World) -> usize {
    world.must(create_pd(CHILD));
    let terminal = Terminal::at(0x50_0000);
    terminal.spin();
    // Event 30 of the child leads to a handler on CPU 1.
    world.serve((CHILD, 90, 91), 1, (Mtd::RIP_LEN, 0x60_0000), |thread, utcb| {
        utcb.write_u64(abi::utcb::offset::RIP, 0x50_0000);
        syscall(thread, [1, 0, 0, 0, 0])
    });
    let crd = Crd::objects(91, 0, 0x1f);
    let window = Crd::objects(30, 0, 0x1f);
    let startup = PdCtrl::Delegate {
        source: ROOT_PD,
        destination: CHILD,
        crd,
        meta: ItemMeta::DELEGATE,
        window,
    };
    world.must(startup.encode());
    world.must(CreateEc { cpu: 1, global: true, ..local(92, CHILD) }.encode());
    let sc = CreateSc { sel: 93, owner: CHILD, ec: 92, priority: 3, quantum_us: 10 };
    world.must(sc.encode());
    world.steps(10);
    terminal.order([255, 0, 0, 0, 0]);
    world.steps(3);
    assert_eq!(status_of(&terminal.result().unwrap()), Status::BadHyp, "it runs");
    world.must(revoke(CHILD, 0));
    world.steps(5);
    terminal.order([255, 0, 0, 0, 0]);
    world.steps(5);
    assert!(terminal.result().is_none(), "it runs no more");
    world.must(revoke(64, 6));
    world.free_frames()
}

#[test]
fn a_domain_that_dies_while_it_handles_an_event_leaves_nothing() {
    let world = World::new(2, FRAMES);
    let rival = world.spawn((130, 200), 1, 0x55_0000, 5, &[]);
    let life = || {
        world.must(create_pd(CHILD));
        // The handler of the child's first event belongs to the child and never answers.
        world.must(CreateEc { cpu: 1, ..local(90, CHILD) }.encode());
        let pt = CreatePt { sel: 91, owner: CHILD, ec: 90, mtd: Mtd::RIP_LEN, entry: 0x60_0000 };
        world.must(pt.encode());
        Machine::program(0x60_0000, |_| Event::Interrupt(arch::vector::SPURIOUS));
        let startup = PdCtrl::Delegate {
            source: ROOT_PD,
            destination: CHILD,
            crd: Crd::objects(91, 0, 0x1f),
            meta: ItemMeta::DELEGATE,
            window: Crd::objects(30, 0, 0x1f),
        };
        world.must(startup.encode());
        world.must(CreateEc { cpu: 1, global: true, ..local(92, CHILD) }.encode());
        let sc = CreateSc { sel: 93, owner: CHILD, ec: 92, priority: 3, quantum_us: 10 };
        world.must(sc.encode());
        world.steps(10);
        // Somebody more important has the CPU while the domain dies, so the two never run again.
        (0..300).for_each(|_| rival.order([255, 0, 0, 0, 0]));
        world.rouse(130);
        world.must(revoke(CHILD, 0));
        world.must(revoke(64, 6));
        world.settle();
        while rival.result().is_some() {}
        world.free_frames()
    };
    let first = life();
    for round in 0..3 {
        assert_eq!(life(), first, "round {round}");
    }
}

#[test]
fn time_taken_away_stops_the_thread() {
    let world = World::new(2, FRAMES);
    let other = world.other();
    other.order(up(9));
    world.steps(2);
    assert!(other.result().is_some());
    world.must(revoke(111, 0));
    world.steps(5);
    other.order(up(9));
    world.steps(5);
    assert!(other.result().is_none());
    assert!(world.object::<Sc>(111).is_none());
}

#[test]
fn a_thread_killed_while_it_waits_is_gone() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(100, 0));
    let other = world.spawn((110, 200), 0, 0x50_0000, 5, &[down(100, 0)]);
    world.must(revoke(110, 0));
    world.steps(5);
    world.must(up(100));
    world.steps(5);
    assert!(other.result().is_none());
    world.must(down(100, 1));
}

#[test]
fn a_quota_is_kept_and_given_back() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD));
    let pd = world.object::<Pd>(CHILD).unwrap();
    world.must(CreateSm { sel: 100, owner: CHILD, count: 0 }.encode());
    world.must(revoke(100, 0));
    world.settle();
    let (used, _) = pd.account.state();
    let calls: [Words; 5] = [
        CreateSm { sel: 100, owner: CHILD, count: 0 }.encode(),
        CreateKp { sel: 100, owner: CHILD }.encode(),
        local(100, CHILD).encode(),
        CreatePd { sel: 100, passthrough: false, parent: CHILD, crd: Crd::NULL }.encode(),
        give(Crd::memory(0x400, 0, 7), CHILD, 0x1000, ItemMeta(0)),
    ];
    for words in calls {
        let mut limit = used;
        loop {
            world.must([Call::QuotaGive.word(0, CHILD), limit, 0, 0, 0]);
            let status = world.status(words);
            if status == Status::Success {
                break;
            }
            assert_eq!(status, Status::Oom, "{words:x?} with {limit} bytes");
            world.settle();
            assert!(world.object::<objects::Sm>(100).is_none());
            let now = pd.account.state().0;
            if words != calls[4] {
                assert_eq!(now, used, "{words:x?} kept something");
            }
            limit += 64;
        }
        world.must(revoke(100, 0));
        let everything = Crd::memory(0, 31, 0);
        world.must(Revoke { own: true, remote: true, crd: everything, pd: CHILD }.encode());
        world.settle();
    }
    assert_eq!(pd.account.state().0, used);
}

#[test]
fn exhausted_memory_is_an_answer() {
    let world = World::new(1, 512);
    let first = exhaust(&world);
    assert_eq!(exhaust(&world), first);
    world.must(CreateKp { sel: 100, owner: ROOT_PD }.encode());
}

/// Takes all memory, is refused, gives it back; free frames then.
fn exhaust(world: &World) -> usize {
    let last = (0x1000..).find(|&sel| {
        let status = world.status(CreateKp { sel, owner: ROOT_PD }.encode());
        assert!(matches!(status, Status::Success | Status::Oom), "{status:?}");
        status == Status::Oom
    });
    assert!(last.is_some_and(|last| last > 0x1000 + 400), "{last:?}");
    let full = world.free_frames();
    for words in [
        CreateKp { sel: 100, owner: ROOT_PD }.encode(),
        create_pd(100),
        local(100, ROOT_PD).encode(),
        give(Crd::memory(0x400, 0, 7), ROOT_PD, 0x777_7777, ItemMeta(0)),
        create_sm(0x200_0000, 0),
    ] {
        assert_eq!(world.status(words), Status::Oom, "{words:x?}");
        assert_eq!(world.free_frames(), full, "{words:x?}");
    }
    world.must(revoke(0x1000, 12));
    world.free_frames()
}

#[test]
fn guests_run_and_are_poked() {
    let world = World::new(2, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    for kp in [81, 82, 83] {
        world.must(CreateKp { sel: kp, owner: ROOT_PD }.encode());
    }
    let vcpu = CreateVcpu { sel: 84, cpu: 0, parent: ROOT_PD, state: 81, vlapic: 82, fpu: 83 };
    world.must(vcpu.encode());
    let run = VcpuCtrl::Run { vcpu: 84, mtd: Mtd::RIP_LEN }.encode();
    let state = world.object::<objects::Kp>(81).unwrap().page();
    state.write_u64(abi::utcb::offset::RIP, 0x1000);
    Machine::guest(|words| {
        words[6] += 3;
        arch::GuestEvent::Interrupt(arch::vector::RESCHEDULE.into())
    });
    Machine::guest(|_| arch::GuestEvent::Exit(10));
    world.must(run);
    assert_eq!(state.read_u64(abi::utcb::offset::RIP), 0x1003);
    assert_eq!(state.read_u32(abi::utcb::offset::EXIT_REASON), 10);
    world.must(VcpuCtrl::Poke { vcpu: 84 }.encode());
    world.must(run);
    assert_eq!(state.read_u32(abi::utcb::offset::EXIT_REASON), 255);
    let wrong = CreateVcpu { sel: 90, cpu: 1, ..vcpu };
    world.must(wrong.encode());
    let run = VcpuCtrl::Run { vcpu: 90, mtd: Mtd::NONE }.encode();
    assert_eq!(world.status(run), Status::BadCpu);
    assert_eq!(world.status(CreateVcpu { sel: 91, cpu: 7, ..vcpu }.encode()), Status::BadCpu);
}

#[test]
fn a_run_tells_what_it_was_asked_for() {
    use abi::utcb::{extended_offset, offset};
    let world = World::new(1, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    for kp in [81, 82, 83] {
        world.must(CreateKp { sel: kp, owner: ROOT_PD }.encode());
    }
    let vcpu = CreateVcpu { sel: 84, cpu: 0, parent: ROOT_PD, state: 81, vlapic: 82, fpu: 83 };
    world.must(vcpu.encode());
    let state = world.object::<objects::Kp>(81).unwrap().page();
    let run = VcpuRunExt {
        vcpu: 84,
        load: Mtd::RIP_LEN | Mtd::ACDB,
        tell: Mtd::RIP_LEN,
        load_extended: false,
        tell_extended: false,
        reserved: 0,
    };
    let step = || {
        // The mask holds for the whole run, host interrupts and all.
        Machine::guest(|_| arch::GuestEvent::Interrupt(arch::vector::RESCHEDULE.into()));
        Machine::guest(|words| {
            words[offset::RIP / 8] += 3;
            words[offset::RAX / 8] += 1;
            words[extended_offset::DR0 / 8] += 2;
            arch::GuestEvent::Exit(10)
        });
    };
    state.write_u64(offset::RIP, 0x1000);
    state.write_u64(offset::RAX, 7);
    state.write_u64(extended_offset::DR0, 40);
    step();
    world.must(run.encode());
    let told = || {
        let dr0 = state.read_u64(extended_offset::DR0);
        (state.read_u64(offset::RIP), state.read_u64(offset::RAX), dr0)
    };
    assert_eq!(told(), (0x1003, 7, 40));
    step();
    world.must(VcpuRunExt { load_extended: true, tell_extended: true, ..run }.encode());
    assert_eq!(told(), (0x1006, 7, 42));
    // Version 10's run tells everything again, but knows no extended words.
    step();
    world.must(VcpuCtrl::Run { vcpu: 84, mtd: Mtd::NONE }.encode());
    assert_eq!(told(), (0x1009, 8, 42));
    for reserved in 1..4 {
        assert_eq!(world.status(VcpuRunExt { reserved, ..run }.encode()), Status::BadPar);
    }
    assert_eq!(world.status(VcpuRunExt { vcpu: 81, ..run }.encode()), Status::BadCap);
}

#[test]
fn interrupts_count_semaphores_up() {
    let world = World::new(2, FRAMES);
    world.must(create_sm(100, 0));
    world.must(CreateKp { sel: 101, owner: ROOT_PD }.encode());
    let configure = IrqCtrl::ConfigureVector { vector: 5, cpu: 1, sm: 100, kp: 101, bit: 70 };
    world.must(configure.encode());
    let pin = IrqCtrl::AssignIoapicPin {
        vector: 5,
        cpu: 1,
        level: true,
        active_low: false,
        ioapic: 0,
        pin: 9,
    };
    world.must(pin.encode());
    assert_eq!((Machine::pin(0, 9).low, Machine::pin(0, 9).high), (1 << 15 | 37, 1 << 24));
    Machine::interrupt(1, 37);
    Machine::interrupt(1, 38);
    world.steps(3);
    assert!(Machine::pin(0, 9).is_masked, "level-triggered pins are masked when they fire");
    let page = world.object::<objects::Kp>(101).unwrap().page();
    assert_eq!(page.word(1), 1 << 6);
    world.must(down(100, 1));
    Machine::interrupt(1, 37);
    world.steps(3);
    assert_eq!(world.status(down(100, 1)), Status::Timeout, "the bit was still set");
    let bad = IrqCtrl::ConfigureVector { vector: 192, cpu: 1, sm: 100, kp: 101, bit: 0 };
    assert_eq!(world.status(bad.encode()), Status::BadPar);
    let bad = IrqCtrl::ConfigureVector { vector: 1, cpu: 2, sm: 100, kp: 101, bit: 0 };
    assert_eq!(world.status(bad.encode()), Status::BadCpu);
}

#[test]
fn a_thread_that_faults_ends_alone() {
    let world = World::new(1, FRAMES);
    let other = world.spawn((110, 200), 0, 0x50_0000, 5, &[]);
    Machine::program(0x50_0000, |_| Event::Exception { vector: 13, error: 0, cr2: 0 });
    world.rouse(110);
    assert!(!Machine::take_killed().is_empty());
    assert!(other.result().is_none());
    world.must(create_sm(100, 1));
}

/// A limit that comes or goes while memory is charged must not change who is charged for it.
#[test]
fn a_limit_set_late_keeps_the_sums() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD));
    world.must(CreateKp { sel: 100, owner: CHILD }.encode());
    world.must(revoke(100, 0));
    world.settle();
    let used = || world.root.pd.account.state().0;
    let limit = |bytes| world.must([Call::QuotaGive.word(0, CHILD), bytes, 0, 0, 0]);
    let before = used();
    for (made_with, ended_with) in [(u64::MAX, 1 << 20), (1 << 20, u64::MAX)] {
        limit(made_with);
        world.must(CreateKp { sel: 100, owner: CHILD }.encode());
        assert!(used() >= before + 4096, "its creator is charged too");
        limit(ended_with);
        world.must(revoke(100, 0));
        world.settle();
        assert_eq!(used(), before);
    }
}

/// The address of a device's page is the caller's word: one in the kernel's half must not be walked.
#[test]
fn an_msi_of_a_page_in_the_kernels_half_is_no_device() {
    let world = World::new(1, FRAMES);
    for device in [0xffff_ffff_ffff_f000, 0x7fff_ffff_f000, 0xffff_ff00_0000_0000] {
        let msi = IrqCtrl::AssignMsi { vector: 1, cpu: 0, device };
        assert_eq!(world.status(msi.encode()), Status::BadDev, "{device:#x}");
    }
}

/// A thread whose time is taken away in the same moment keeps nothing: it was the last of its chain, and dead.
#[test]
fn a_spinning_thread_dies_with_its_time() {
    let world = World::new(2, FRAMES);
    let mut free = None;
    for _ in 0..3 {
        let other = world.other();
        assert!(!other.is_inside());
        world.must(revoke(110, 1));
        world.must(revoke(112, 1));
        world.must(revoke(192, 6));
        let now = world.free_frames();
        assert_eq!(*free.get_or_insert(now), now);
    }
}
