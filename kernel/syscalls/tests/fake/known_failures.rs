//! What kernels of this kind are known to have done wrong, one test each. `tests/rebreak` has a patch for each that puts
//! the failure back; `cargo xtask rebreak` shows that the test then fails. docs/testing.md has the table.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use abi::args::{
    CallPortal, CreateEc, CreateKp, CreatePd, CreatePt, CreateSc, CreateSm, CreateVcpu, IrqCtrl,
    KpCtrl, PdCtrl, Reply, Revoke, VcpuCtrl, Words,
};
use abi::cap::{ROOT_EC, ROOT_PD};
use abi::crd::ItemMeta;
use abi::utcb::offset;
use abi::{Call, Crd, Mtd, Status};
use arch::{Deed, Event, GuestEvent, GuestVendor, Machine, vector};
use objects::{Kp, Pd};

use crate::world::{
    ROOT_ENTRY, World, create_pd, create_sm, down, give, local, revoke, status_of, syscall, up,
};

const FRAMES: usize = 4096;
const CHILD: u64 = 70;
const ENTRY: u64 = 0x60_0000;
const REPLY: Words = Reply { semaphore: 0 }.encode();
const CALL: Words = CallPortal { portal: 51, nonblocking: false }.encode();

/// Kernel pages at 81 to 83, and a virtual CPU of a domain's at 84 made of them.
fn make_vcpu(world: &World, cpu: u16, parent: u64) {
    for kp in [81, 82, 83] {
        world.must(CreateKp { sel: kp, owner: ROOT_PD }.encode());
    }
    world.must(CreateVcpu { sel: 84, cpu, parent, state: 81, vlapic: 82, fpu: 83 }.encode());
}

const RUN: Words = VcpuCtrl::Run { vcpu: 84, mtd: Mtd::NONE }.encode();

#[test]
fn memory_exhausted_in_every_call_is_an_answer() {
    let world = World::new(1, 1024);
    Machine::set_vendor(GuestVendor::Vmx);
    world.must(create_pd(CHILD));
    make_vcpu(&world, 0, ROOT_PD);
    world.must(local(90, ROOT_PD).encode());
    world.must(CreateEc { global: true, ..local(91, ROOT_PD) }.encode());
    let last = (0x1000..)
        .find(|&sel| world.status(CreateKp { sel, owner: ROOT_PD }.encode()) == Status::Oom);
    assert!(last.is_some());
    let ports = Crd::ports(0x60, 3, 1);
    let calls = [
        create_pd(0x10_0000),
        local(0x10_0000, ROOT_PD).encode(),
        CreateSc { sel: 0x10_0000, owner: ROOT_PD, ec: 91, priority: 1, quantum_us: 9 }.encode(),
        CreatePt { sel: 0x10_0000, owner: ROOT_PD, ec: 90, mtd: Mtd::NONE, entry: 1 }.encode(),
        create_sm(0x10_0000, 0),
        CreateKp { sel: 0x10_0000, owner: ROOT_PD }.encode(),
        CreateVcpu { sel: 0x10_0000, cpu: 0, parent: ROOT_PD, state: 81, vlapic: 82, fpu: 83 }
            .encode(),
        KpCtrl::Map { kp: 81, pd: ROOT_PD, address: 0x7_0000_0000 }.encode(),
        give(Crd::memory(0x400, 0, 7), CHILD, 0x700_0000, ItemMeta(0)),
        give(Crd::memory(0x400, 0, 7), CHILD, 0x700_0000, ItemMeta::GUEST | ItemMeta::NO_HOST),
        give(ports, CHILD, 0x60, ItemMeta(0)),
        give(ports, CHILD, 0x60, ItemMeta::GUEST | ItemMeta::NO_HOST),
        PdCtrl::MapAccessPage { crd: Crd::memory(0x700_0000, 0, 3) }.encode(),
    ];
    let full = world.free_frames();
    for words in calls {
        assert_eq!(world.status(words), Status::Oom, "{words:x?}");
        assert_eq!(world.free_frames(), full, "{words:x?}");
    }
    world.must(revoke(0x1000, 12));
    world.settle();
    for words in calls {
        world.must(words);
        world.must(revoke(0x10_0000, 0));
    }
}

#[test]
fn one_object_made_and_destroyed_a_million_times() {
    let world = World::new(1, 512);
    let once = || {
        world.must(create_sm(100, 0));
        world.must(revoke(100, 0));
    };
    once();
    let first = world.free_frames();
    for round in 0..1_000_000 {
        once();
        if round % 1000 == 0 {
            let _ = Machine::take_deeds();
        }
    }
    assert_eq!(world.free_frames(), first);
}

/// Address-space tags are few: a domain must not find another one's translations under its own.
#[test]
fn more_than_4096_domains_in_a_row() {
    let world = World::new(1, FRAMES);
    Machine::set_pcid(true);
    let mut tags = BTreeMap::new();
    for number in 0..5000_u64 {
        world.must(create_pd(CHILD));
        world.serve((CHILD, 50, 51), 0, (Mtd::NONE, ENTRY), |thread, _| syscall(thread, REPLY));
        let _ = Machine::take_deeds();
        world.must(CALL);
        let root = world.object::<Pd>(CHILD).unwrap().memory.root();
        for (_, deed) in Machine::take_deeds() {
            if let Deed::LoadSpace { root: loaded, tag: Some(tag), flush } = deed {
                assert!(tag < 4096, "CR3 has 12 bits for it");
                let owner = (loaded == root).then_some(number);
                let before = tags.insert(tag, owner);
                assert!(flush || before.is_none_or(|before| before == owner), "tag {tag}");
            } else if let Deed::LoadSpace { tag: None, flush, .. } = deed {
                assert!(flush, "no tag, and stale translations");
            }
        }
        world.must(revoke(50, 1));
        world.must(revoke(CHILD, 0));
    }
    assert!(!tags.is_empty(), "there are tags");
}

/// VPIDs and ASIDs are few too; 0 is the host's.
#[test]
fn more_than_65536_vcpus_in_a_row() {
    let world = World::new(1, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    for kp in [81, 82, 83] {
        world.must(CreateKp { sel: kp, owner: ROOT_PD }.encode());
    }
    let vcpu = CreateVcpu { sel: 84, cpu: 0, parent: ROOT_PD, state: 81, vlapic: 82, fpu: 83 };
    for number in 0..66_000 {
        world.must(vcpu.encode());
        let _ = Machine::take_deeds();
        world.must(RUN);
        let deeds = Machine::take_deeds();
        let entry = deeds.iter().find_map(|(_, deed)| match deed {
            Deed::EnterGuest { tag, flush } => Some((*tag, *flush)),
            _ => None,
        });
        let (tag, flush) = entry.expect("it was entered");
        assert!((1..=arch::guest_tags()).contains(&tag), "vCPU {number} got tag {tag}");
        assert!(flush, "vCPU {number} finds what an older one left under tag {tag}");
        world.must(revoke(84, 0));
    }
}

#[test]
fn a_kernel_page_revoked_while_a_vcpu_uses_it_is_not_reused() {
    let world = World::new(1, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    make_vcpu(&world, 0, ROOT_PD);
    let frames = [81, 82, 83].map(|kp| world.object::<Kp>(kp).unwrap().frame());
    world.must(RUN);
    world.must(revoke(81, 0));
    world.must(revoke(82, 1));
    world.settle();
    Machine::guest(|words| {
        words[6] = 0x1234;
        GuestEvent::Exit(12)
    });
    let state = world.pool.page(frames[0]);
    let mut taken = Vec::new();
    while let Ok(frame) = world.pool.alloc_zeroed(0, sync::Site::Boot) {
        assert!(!frames.contains(&frame), "{frame:?} was free while the vCPU had it");
        taken.push(frame);
    }
    world.must(RUN);
    assert_eq!(state.read_u64(offset::RIP), 0x1234);
    taken.into_iter().for_each(|frame| world.pool.free(frame, 0));
    world.must(revoke(84, 0));
    world.settle();
    let mut left = frames.to_vec();
    while let Ok(frame) = world.pool.alloc_zeroed(0, sync::Site::Boot) {
        left.retain(|one| *one != frame);
    }
    assert!(left.is_empty(), "they come back with the vCPU");
}

/// The fake's control blocks know on which CPU they are active.
#[test]
fn a_vcpu_destroyed_while_another_cpu_runs_it() {
    let world = World::new(2, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    make_vcpu(&world, 1, ROOT_PD);
    let other = world.other();
    other.order(RUN);
    let entries = Rc::new(Cell::new(0));
    for _ in 0..50 {
        let entries = entries.clone();
        Machine::guest(move |_| {
            entries.set(entries.get() + 1);
            GuestEvent::Interrupt(vector::RESCHEDULE.into())
        });
    }
    (0..10).for_each(|_| world.step(1));
    assert!(other.is_inside() && entries.get() > 3);
    let _ = Machine::take_deeds();
    world.terminal.order(revoke(84, 0));
    (0..10).for_each(|_| world.step(0));
    assert!(world.terminal.result().is_some());
    let told = Deed::Ipi { cpu: 1, vector: vector::RESCHEDULE };
    assert!(Machine::take_deeds().contains(&(0, told)), "its CPU may stay in the guest for ever");
    let before = entries.get();
    (0..10).for_each(|_| world.step(1));
    assert_eq!(entries.get(), before, "it is not entered again");
    assert_eq!(status_of(&other.result().expect("its run is over")), Status::BadCap);
    world.settle();
}

#[test]
fn a_control_block_is_cleared_where_it_is_active() {
    let world = World::new(2, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    let other = world.other();
    let mut free = None;
    for _ in 0..3 {
        make_vcpu(&world, 1, ROOT_PD);
        other.order(RUN);
        world.steps(10);
        assert!(other.result().is_some(), "it ran once and is active there");
        // The fake would end the test if it were cleared from afar, or its memory freed before.
        world.must(revoke(80, 3));
        let now = world.free_frames();
        assert_eq!(*free.get_or_insert(now), now);
    }
}

#[test]
fn page_tables_are_not_reused_before_the_shoot_down_ends() {
    let world = World::new(2, FRAMES);
    let _other = world.other();
    world.must(give(Crd::memory(0x2000, 8, 3), ROOT_PD, 0x9_0000, ItemMeta(0)));
    world.steps(400);
    let pool = world.pool;
    let before = pool.free_frames();
    let waits = Rc::new(Cell::new(0));
    let count = waits.clone();
    world.while_waiting(move || {
        count.set(count.get() + 1);
        assert!(pool.free_frames() <= before, "CPU 1 may still walk that table");
    });
    world.terminal.order(
        Revoke { own: true, remote: false, crd: Crd::memory(0x9_0000, 9, 7), pd: 0 }.encode(),
    );
    (0..100).for_each(|_| world.step(0));
    assert!(world.terminal.result().is_some() && waits.get() > 0);
    assert_eq!(pool.free_frames(), before, "nor before CPU 1 has looked away");
    world.settle();
    assert!(pool.free_frames() > before);
}

#[test]
fn a_utcb_goes_with_a_shoot_down() {
    let world = World::new(2, FRAMES);
    let _other = world.other();
    world.must(CreateEc { utcb: 0x800_0000, ..local(90, ROOT_PD) }.encode());
    world.steps(10);
    let _ = Machine::take_deeds();
    world.must(revoke(90, 0));
    let deeds = Machine::take_deeds();
    assert!(deeds.contains(&(0, Deed::Ipi { cpu: 1, vector: vector::SHOOTDOWN })));
    assert!(deeds.contains(&(1, Deed::FlushSpace(None))));
    assert!(world.root.pd.memory.lookup(0x8000).is_none());
}

/// The vCPU sees the memory of another domain than that of the thread that runs it.
#[test]
fn guest_mappings_go_while_the_vcpu_runs_in_another_domain_than_its_monitors() {
    let world = Rc::new(World::new(2, FRAMES));
    Machine::set_vendor(GuestVendor::Vmx);
    world.must(create_pd(CHILD));
    let to_guest = ItemMeta::GUEST | ItemMeta::NO_HOST;
    world.must(give(Crd::memory(0x2000, 4, 7), CHILD, 0x100, to_guest));
    for kp in [81, 82, 83] {
        world.must(CreateKp { sel: kp, owner: ROOT_PD }.encode());
    }
    let vcpu = CreateVcpu { sel: 84, cpu: 1, parent: CHILD, state: 81, vlapic: 82, fpu: 83 };
    world.must(vcpu.encode());
    let vcpu = world.permissions(&world.object::<Pd>(CHILD).unwrap(), 84);
    assert_ne!(vcpu, 0);
    let meta = ItemMeta::DELEGATE.at(84);
    let one = Crd::objects(84, 0, 0x1f);
    world.must(
        PdCtrl::Delegate { source: CHILD, destination: ROOT_PD, crd: one, meta, window: one }
            .encode(),
    );
    let other = world.other();
    let told = Rc::new(Cell::new(false));
    // While the guest runs on CPU 1, CPU 0 revokes its memory and waits for CPU 1, whose answer to the
    // interrupt is to leave the guest and to flush.
    let (inner, sign) = (Rc::downgrade(&world), told.clone());
    Machine::guest(move |_| {
        let world = inner.upgrade().unwrap();
        let kernel = world.kernel;
        let _ = Machine::take_deeds();
        let sign = sign.clone();
        Machine::while_waiting(move || {
            let remote = &kernel.remotes[1];
            remote.flush_done.store(
                remote.flush_wanted.load(std::sync::atomic::Ordering::SeqCst),
                std::sync::atomic::Ordering::SeqCst,
            );
            sign.set(true);
        });
        let crd = Crd::memory(0x100, 4, 7);
        world.terminal.order(Revoke { own: true, remote: true, crd, pd: CHILD }.encode());
        (0..20).for_each(|_| world.step(0));
        assert!(world.terminal.result().is_some());
        Machine::set_cpu(1);
        GuestEvent::Interrupt(vector::SHOOTDOWN.into())
    });
    Machine::guest(|_| GuestEvent::Exit(12));
    other.order(RUN);
    (0..20).for_each(|_| world.step(1));
    assert!(told.get(), "CPU 0 waited for the CPU in the guest");
    assert_eq!(status_of(&other.result().expect("the run is over")), Status::Success);
    let flushes: Vec<_> = Machine::take_deeds()
        .into_iter()
        .filter_map(|(cpu, deed)| match deed {
            Deed::EnterGuest { flush, .. } if cpu == 1 => Some(flush),
            _ => None,
        })
        .collect();
    assert_eq!(flushes.first(), Some(&true), "the next entry finds nothing stale");
}

#[test]
fn a_handler_cannot_clear_if_or_set_privileged_flags() {
    let world = World::new(1, FRAMES);
    world.serve((ROOT_PD, 50, 6), 0, (Mtd::RIP_LEN | Mtd::RFLAGS, ENTRY), |thread, utcb| {
        utcb.set_word(0, 0);
        let asked = if thread.registers.rdi == 0 { u64::MAX } else { 0 };
        utcb.write_u64(offset::RFLAGS, asked);
        utcb.write_u64(offset::RIP, 0x70_0000);
        utcb.write_u64(offset::MTD, (Mtd::RIP_LEN | Mtd::RFLAGS).0.into());
        thread.registers.rbx = 1;
        syscall(thread, REPLY)
    });
    let seen = Rc::new(RefCell::new(Vec::new()));
    let notes = seen.clone();
    Machine::program(0x70_0000, move |thread| {
        notes.borrow_mut().push(thread.registers.rflags);
        thread.registers.rip = ROOT_ENTRY;
        Event::Interrupt(vector::SPURIOUS)
    });
    for id in [0, 1] {
        world.must(abi::args::PtCtrl { pt: 6, id }.encode());
        Machine::program(0x71_0000, |_| Event::Exception { vector: 6, error: 0, cr2: 0 });
        world.jump(0x71_0000);
        world.steps(20);
    }
    let user = 0x0024_0dd5;
    assert_eq!(*seen.borrow(), [user | 0x202, 0x202], "all that a program may set, and nothing");
}

#[test]
fn an_interrupt_that_nobody_asked_for() {
    let world = World::new(1, FRAMES);
    let _ = Machine::take_deeds();
    // As firmware may have left them: a device's vector, and the controller's spurious one.
    Machine::interrupt(0, 77);
    world.steps(3);
    assert_eq!(Machine::take_unclaimed(), [(0, 77)], "counted");
    let ends = |deeds: Vec<(usize, Deed)>| {
        deeds.iter().filter(|(_, deed)| *deed == Deed::EndOfInterrupt).count()
    };
    assert_eq!(ends(Machine::take_deeds()), 1, "or no other of its class comes any more");
    Machine::interrupt(0, vector::SPURIOUS);
    world.steps(3);
    assert_eq!(ends(Machine::take_deeds()), 0, "a spurious one has no end");
    assert!(Machine::take_killed().is_empty());
    world.must(create_sm(100, 0));
}

#[test]
fn an_xsave_area_of_more_than_a_page() {
    let world = World::new(1, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    world.must(local(90, ROOT_PD).encode());
    world.must(revoke(90, 0));
    let before = world.free_frames();
    Machine::set_fpu_order(1);
    world.must(local(90, ROOT_PD).encode());
    assert_eq!(before - world.free_frames(), 3, "a UTCB and two frames of registers");
    world.must(revoke(90, 0));
    assert_eq!(world.free_frames(), before);
    for kp in [81, 82, 83] {
        world.must(CreateKp { sel: kp, owner: ROOT_PD }.encode());
    }
    let vcpu = CreateVcpu { sel: 84, cpu: 0, parent: ROOT_PD, state: 81, vlapic: 82, fpu: 83 };
    // A guest's registers must fit into the kernel page that its monitor sees.
    assert_eq!(world.status(vcpu.encode()), Status::BadFtr);
    Machine::set_fpu_order(0);
    world.must(vcpu.encode());
}

/// Takes one permission of an object of the root program's away.
fn without(world: &World, sel: u64, bit: u8) {
    let crd = Crd::objects(sel, 0, bit);
    world.must(Revoke { own: true, remote: false, crd, pd: 0 }.encode());
}

#[test]
fn every_permission_bit_when_missing_is_bad_cap() {
    let world = World::new(1, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    let make_all = || {
        world.must(create_pd(CHILD));
        world.must(local(90, ROOT_PD).encode());
        world.must(CreateEc { global: true, ..local(91, ROOT_PD) }.encode());
        let sc = CreateSc { sel: 92, owner: ROOT_PD, ec: 91, priority: 1, quantum_us: 9 };
        world.must(sc.encode());
        let pt = CreatePt { sel: 93, owner: ROOT_PD, ec: 90, mtd: Mtd::NONE, entry: ENTRY };
        world.must(pt.encode());
        world.must(create_sm(94, 5));
        make_vcpu(&world, 0, ROOT_PD);
        world.must(CreateKp { sel: 95, owner: ROOT_PD }.encode());
    };
    Machine::program(ENTRY, |thread| syscall(thread, REPLY));
    let irq = |sm, kp| IrqCtrl::ConfigureVector { vector: 1, cpu: 0, sm, kp, bit: 0 }.encode();
    let vcpu = |state, vlapic, fpu| {
        CreateVcpu { sel: 99, cpu: 0, parent: ROOT_PD, state, vlapic, fpu }.encode()
    };
    let window = Crd::memory(0x1000, 0, 7);
    let delegate = |source, destination| {
        let meta = ItemMeta::DELEGATE;
        PdCtrl::Delegate { source, destination, crd: window, meta, window }.encode()
    };
    let remote = Revoke { own: true, remote: true, crd: window, pd: CHILD };
    // abi.md 5 and 16: object, bit, and a call that needs it.
    let table: &[(u64, u8, Words)] = &[
        (
            CHILD,
            1,
            CreatePd { sel: 99, passthrough: false, parent: CHILD, crd: Crd::NULL }.encode(),
        ),
        (CHILD, 1, local(99, CHILD).encode()),
        (CHILD, 1, CreateSm { sel: 99, owner: CHILD, count: 0 }.encode()),
        (CHILD, 1, CreateKp { sel: 99, owner: CHILD }.encode()),
        (CHILD, 1, delegate(CHILD, ROOT_PD)),
        (CHILD, 1, delegate(ROOT_PD, CHILD)),
        (CHILD, 1, remote.encode()),
        (CHILD, 1, KpCtrl::Map { kp: 95, pd: CHILD, address: 0x900_0000 }.encode()),
        (91, 1, [Call::EcCtrl.word(0, 91), 0, 0, 0, 0]),
        (91, 4, CreateSc { sel: 99, owner: ROOT_PD, ec: 91, priority: 1, quantum_us: 9 }.encode()),
        (90, 8, CreatePt { sel: 99, owner: ROOT_PD, ec: 90, mtd: Mtd::NONE, entry: 1 }.encode()),
        (92, 1, abi::args::ScCtrl { sc: 92 }.encode()),
        (93, 1, abi::args::PtCtrl { pt: 93, id: 0 }.encode()),
        (93, 2, CallPortal { portal: 93, nonblocking: false }.encode()),
        (94, 1, up(94)),
        (94, 2, down(94, 0)),
        (94, 1, irq(94, 95)),
        (95, 1, irq(94, 95)),
        (95, 1, KpCtrl::Map { kp: 95, pd: ROOT_PD, address: 0x900_0000 }.encode()),
        (81, 1, vcpu(81, 82, 83)),
        (82, 1, vcpu(81, 82, 83)),
        (83, 1, vcpu(81, 82, 83)),
        (84, 1, RUN),
        (84, 1, VcpuCtrl::Poke { vcpu: 84 }.encode()),
    ];
    let bits = |sel: u64| match sel {
        CHILD => 1,
        90 | 91 => 0xd,
        93 | 94 => 3,
        _ => 1,
    };
    for (sel, bit, words) in table {
        make_all();
        world.must(*words);
        world.must(revoke(99, 0));
        let _ = world.status(KpCtrl::Unmap { kp: 95 }.encode());
        // A capability without any bit is none.
        if bits(*sel) == *bit {
            world.must(revoke(*sel, 0));
        } else {
            without(&world, *sel, *bit);
            assert_ne!(world.permissions(&world.root.pd, *sel), 0);
        }
        assert_eq!(world.status(*words), Status::BadCap, "object {sel}, bit {bit}: {words:x?}");
        world.must(IrqCtrl::ConfigureVector { vector: 1, cpu: 0, sm: 0, kp: 0, bit: 0 }.encode());
        world.must(revoke(64, 5));
        world.settle();
    }
    assert_ne!(world.permissions(&world.root.pd, ROOT_EC), 0);
}
