//! Delegation and revocation of memory, ports and objects (abi.md 2.4, 6).

use abi::args::{CreateKp, CreatePd, KpCtrl, PdCtrl, Revoke, Words};
use abi::cap::{MEM_R, MEM_RW, MEM_RWX, ROOT_PD, ROOT_UTCB, SM_DOWN, SM_UP};
use abi::crd::ItemMeta;
use abi::{Crd, Status};
use arch::{Deed, GuestVendor, Machine};
use logic::Frame;
use logic::page_table::{EptFormat, Rights, lookup};
use objects::Pd;

use crate::world::{World, create_pd, create_sm, up};

const FRAMES: usize = 4096;
const CHILD: u64 = 70;

/// From the kernel to the root program: the physical page `frame` at `page`.
fn from_kernel(frame: u64, page: u64, order: u8, perms: u8) -> Words {
    let (source, destination) = (ROOT_PD, ROOT_PD);
    let meta = (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL).at(page);
    let window = Crd::memory(page, order, 0x1f);
    let crd = Crd::memory(frame, order, perms);
    PdCtrl::Delegate { source, destination, crd, meta, window }.encode()
}

/// From the root program to the child.
fn to_child(crd: Crd, at: u64, flags: ItemMeta) -> Words {
    let meta = (ItemMeta::DELEGATE | flags).at(at);
    let window = Crd::new(crd.kind(), at, crd.order(), 0x1f);
    PdCtrl::Delegate { source: ROOT_PD, destination: CHILD, crd, meta, window }.encode()
}

fn revoke(crd: Crd, own: bool, remote: bool) -> Words {
    Revoke { own, remote, crd, pd: CHILD }.encode()
}

fn mapped(pd: &Pd, page: u64) -> Option<(u64, u8, u8)> {
    pd.memory.lookup(page).map(|found| (found.frame.0, found.rights.bits(), found.order))
}

#[test]
fn physical_memory_comes_from_the_kernel() {
    let world = World::new(1, FRAMES);
    let back = world.must(from_kernel(0x400, 0x1000, 0, MEM_RW));
    assert_eq!(back.rdx, Crd::memory(0x1000, 0, MEM_RW).0);
    assert_eq!(back.rax, (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL).0, "flags without hotspot");
    assert_eq!(mapped(&world.root.pd, 0x1000), Some((0x400, 3, 0)));
    world.must(from_kernel(0x400, 0x1200, 9, MEM_RWX));
    assert_eq!(mapped(&world.root.pd, 0x13ff), Some((0x5ff, 7, 9)));
    world.must(from_kernel(0x4_0000, 0x4_0000, 18, MEM_R));
    assert_eq!(mapped(&world.root.pd, 0x4_1234), Some((0x4_1234, 1, 18)));
}

#[test]
fn the_kernels_own_memory_is_a_hole() {
    let world = World::new(1, FRAMES);
    let (first, count) = world.pool.range();
    world.must(from_kernel(0x400, 0x1000, 2, MEM_RWX));
    world.must(from_kernel(first.0 + count - 1, 0x1000, 0, MEM_RWX));
    assert_eq!(mapped(&world.root.pd, 0x1000), None, "a hole unmaps");
    let hip = world.kernel.hip.0;
    world.must(from_kernel(hip, 0x1001, 0, MEM_RWX));
    assert_eq!(mapped(&world.root.pd, 0x1001), Some((hip, 1, 0)), "the HIP can only be read");
    world.must(from_kernel(0xfee00, 0x1002, 0, MEM_RWX));
    assert_eq!(mapped(&world.root.pd, 0x1002), None, "the local APIC");
    assert_eq!(mapped(&world.root.pd, 0x1003), Some((0x403, 7, 0)));
    world.must(from_kernel(first.0 & !0x3_ffff, 0x8_0000, 18, MEM_RWX));
    for (offset, is_there) in [(0, true), (first.0 - 1, true), (first.0 + 1, false)] {
        let page = 0x8_0000 + (offset & 0x3_ffff);
        assert_eq!(mapped(&world.root.pd, page).is_some(), is_there, "{offset:#x}");
    }
}

#[test]
fn ranges_outside_are_refused() {
    let world = World::new(1, FRAMES);
    assert_eq!(world.status(from_kernel(1 << 28, 0x1000, 0, 7)), Status::BadPar, "no such memory");
    assert_eq!(world.status(from_kernel(0x400, 0x7_ffff_ffff, 0, 7)), Status::BadPar, "USER_TOP");
    assert_eq!(world.status(from_kernel(0x400, 0xf_0000_0000, 0, 7)), Status::BadPar);
    let beyond = Crd::memory(0xf_0000_0000, 0, 7);
    assert_eq!(world.status(revoke(beyond, false, false)), Status::BadPar);
}

#[test]
fn children_get_what_the_parent_has_now() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD));
    let pd = world.object::<Pd>(CHILD).unwrap();
    world.must(from_kernel(0x400, 0x1000, 3, MEM_RW));
    world.must(to_child(Crd::memory(0x1000, 4, MEM_RWX), 0x2000, ItemMeta(0)));
    assert_eq!(mapped(&pd, 0x2007), Some((0x407, 3, 0)), "rights are those of the source at most");
    assert_eq!(mapped(&pd, 0x2008), None);
    world.must(revoke(Crd::memory(0x1000, 3, 0), false, false));
    assert_eq!(mapped(&world.root.pd, 0x1003), None);
    assert_eq!(mapped(&pd, 0x2003), Some((0x403, 3, 0)), "memory is not revoked recursively");
    world.must(revoke(Crd::memory(0x2000, 1, 0), false, true));
    assert_eq!((mapped(&pd, 0x2001), mapped(&pd, 0x2002)), (None, Some((0x402, 3, 0))));
    world.must(to_child(Crd::memory(0x1000, 2, 0), 0x2000, ItemMeta(0)));
    assert_eq!(mapped(&pd, 0x2003), None, "permissions 0 unmap");
    assert_eq!(mapped(&pd, 0x2004), Some((0x404, 3, 0)));
}

#[test]
fn pages_of_the_kernel_are_not_passed_on() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD));
    let pd = world.object::<Pd>(CHILD).unwrap();
    let utcb = ROOT_UTCB >> 12;
    assert!(mapped(&world.root.pd, utcb).is_some());
    world.must(to_child(Crd::memory(utcb, 0, 7), 0x2000, ItemMeta(0)));
    assert_eq!(mapped(&pd, 0x2000), None);
    world.must(CreateKp { sel: 90, owner: ROOT_PD }.encode());
    world.must(KpCtrl::Map { kp: 90, pd: ROOT_PD, address: 0x900_0000 }.encode());
    assert_eq!(mapped(&world.root.pd, 0x9000).unwrap().1, 3);
    world.must(to_child(Crd::memory(0x9000, 0, 7), 0x2000, ItemMeta(0)));
    assert_eq!(mapped(&pd, 0x2000), None);
    world.must(KpCtrl::Unmap { kp: 90 }.encode());
    assert_eq!(mapped(&world.root.pd, 0x9000), None);
    assert_eq!(world.status(KpCtrl::Unmap { kp: 90 }.encode()), Status::BadPar);
}

#[test]
fn guests_get_the_memory_type_too() {
    for vendor in [GuestVendor::Vmx, GuestVendor::Svm] {
        let world = World::new(1, FRAMES);
        Machine::set_vendor(vendor);
        Machine::set_memory_type(Frame(0x500), 1);
        world.must(create_pd(CHILD));
        let pd = world.object::<Pd>(CHILD).unwrap();
        world.must(from_kernel(0x400, 0x1000, 9, MEM_RWX));
        let guest = ItemMeta::GUEST | ItemMeta::NO_HOST;
        world.must(to_child(Crd::memory(0x1000, 9, MEM_RW), 0, guest));
        assert_eq!(mapped(&pd, 0), None, "not in the host space");
        if vendor == GuestVendor::Vmx {
            let root = pd.memory.guest_root().unwrap();
            let at = |page| lookup::<EptFormat>(world.pool, root, page).unwrap();
            let (first, last) = (at(0xff), at(0x100));
            assert_eq!((first.frame, first.attributes), (Frame(0x4ff), 6 << 3));
            assert_eq!((last.frame, last.attributes), (Frame(0x500), 1 << 3));
            assert_eq!(last.rights, Rights::READ.or(Rights::WRITE));
        }
        let generation = pd.memory.generation();
        world.must(revoke(Crd::memory(0, 9, 0), false, true));
        assert!(pd.memory.generation() > generation, "vCPUs flush before they enter again");
    }
}

#[test]
fn only_changes_of_present_pages_flush() {
    let world = World::new(1, FRAMES);
    let flushes = || {
        let is_flush = |deed: &&(usize, Deed)| matches!(deed.1, Deed::FlushSpace(_));
        Machine::take_deeds().iter().filter(is_flush).count()
    };
    world.must(from_kernel(0x400, 0x1000, 4, MEM_RW));
    assert_eq!(flushes(), 0, "new mappings");
    world.must(from_kernel(0x400, 0x1000, 4, MEM_RW));
    assert_eq!(flushes(), 0, "the same again");
    world.must(from_kernel(0x400, 0x1000, 4, MEM_R));
    assert_eq!(flushes(), 1, "fewer rights");
    world.must(revoke(Crd::memory(0x1000, 4, 0), false, false));
    assert_eq!(flushes(), 1, "unmapped");
    world.must(revoke(Crd::memory(0x1000, 4, 0), false, false));
    assert_eq!(flushes(), 0, "nothing there");
}

#[test]
fn other_cpus_flush_before_the_call_returns() {
    let world = World::new(4, FRAMES);
    world.must(from_kernel(0x400, 0x1000, 4, MEM_RW));
    let other = world.spawn((110, 200), 2, 0x50_0000, 5, &[]);
    other.spin();
    world.rouse(110);
    let _ = Machine::take_deeds();
    world.terminal.order(revoke(Crd::memory(0x1000, 4, 0), false, false));
    for _ in 0..10 {
        world.step(0);
    }
    let deeds = Machine::take_deeds();
    let told: Vec<_> = deeds
        .iter()
        .filter_map(|deed| match deed.1 {
            Deed::Ipi { cpu, vector: arch::vector::SHOOTDOWN } => Some(cpu),
            _ => None,
        })
        .collect();
    assert_eq!(told, [2], "only the CPU in that space");
    assert!(deeds.contains(&(2, Deed::FlushSpace(None))));
    assert!(world.terminal.result().is_some());
}

#[test]
fn long_work_is_done_in_steps() {
    let world = World::new(1, FRAMES);
    world.must(from_kernel(0x2000, 0x1000, 12, MEM_RW));
    world.must(create_pd(CHILD));
    // A hole in each 2 MiB, so that no large page can serve.
    for number in 0..8 {
        world.must(revoke(Crd::memory(0x1000 + 512 * number, 0, 0), false, false));
    }
    let _ = Machine::take_deeds();
    world.must(to_child(Crd::memory(0x1000, 12, 7), 0x4000, ItemMeta(0)));
    let pd = world.object::<Pd>(CHILD).unwrap();
    for page in 0..0x1000 {
        let expected = (page % 512 != 0).then_some(0x2000 + page);
        assert_eq!(mapped(&pd, 0x4000 + page).map(|found| found.0), expected);
    }
}

#[test]
fn ports_keep_their_numbers() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD));
    let com1 = Crd::ports(0x3f8, 3, 1);
    let lookup =
        |port: u64| world.must(PdCtrl::Lookup { crd: Crd::ports(port, 0, 1) }.encode()).rsi;
    assert_eq!(lookup(0x3f8), 0, "none at the start");
    let kernel = ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL;
    let (source, destination) = (ROOT_PD, ROOT_PD);
    let all =
        PdCtrl::Delegate { source, destination, crd: com1, meta: kernel, window: Crd::ALL_PORTS };
    assert_eq!(world.must(all.encode()).rdx, com1.0);
    assert_ne!(lookup(0x3fa), 0);
    let elsewhere = Crd::ports(0x2f8, 3, 1);
    let apart =
        PdCtrl::Delegate { source, destination, crd: com1, meta: kernel, window: elsewhere };
    assert_eq!(world.must(apart.encode()).rdx, 0, "windows that do not meet");
    let window = Crd::ALL_PORTS;
    let give = PdCtrl::Delegate {
        source,
        destination: CHILD,
        crd: com1,
        meta: ItemMeta::DELEGATE,
        window,
    };
    assert_eq!(world.must(give.encode()).rdx, com1.0);
    assert_eq!(world.must(give.encode()).rdx, 0, "an overmap transfers nothing");
    let pd = world.object::<Pd>(CHILD).unwrap();
    let find = |port| world.kernel.ports.lock().find(pd.identity(), port);
    assert!(find(0x3ff).is_some() && find(0x400).is_none());
    world.must(revoke(com1, false, false));
    assert!(find(0x3f8).is_none(), "ports are revoked recursively");
    assert_ne!(lookup(0x3f8), 0);
    world.must(revoke(com1, true, false));
    assert_eq!(lookup(0x3f8), 0);
}

/// A range of ports from one domain to another.
fn give_ports(source: u64, destination: u64, crd: Crd, flags: ItemMeta) -> Words {
    let (meta, window) = (ItemMeta::DELEGATE | flags, Crd::ALL_PORTS);
    PdCtrl::Delegate { source, destination, crd, meta, window }.encode()
}

#[test]
fn ports_go_with_those_who_passed_them_on() {
    let world = World::new(1, FRAMES);
    let com1 = Crd::ports(0x3f8, 3, 1);
    let own = |pd| Revoke { own: true, remote: true, crd: com1, pd }.encode();
    let kill = Revoke { own: true, remote: false, crd: Crd::objects(CHILD, 0, 0x1f), pd: 0 };
    for end in [own(ROOT_PD), own(CHILD), kill.encode()] {
        world.must(create_pd(CHILD));
        world.must(create_pd(71));
        world.must(give_ports(ROOT_PD, ROOT_PD, com1, ItemMeta::FROM_KERNEL));
        world.must(give_ports(ROOT_PD, CHILD, com1, ItemMeta(0)));
        world.must(give_ports(CHILD, 71, com1, ItemMeta(0)));
        let pd = world.object::<Pd>(71).unwrap();
        let find = || world.kernel.ports.lock().find(pd.identity(), 0x3f8);
        assert!(find().is_some());
        world.must(end);
        assert_eq!(find(), None, "{end:x?}");
        world.must(own(ROOT_PD));
        world.must(
            Revoke { own: true, remote: false, crd: Crd::objects(70, 1, 0x1f), pd: 0 }.encode(),
        );
    }
}

#[test]
fn ports_without_the_access_permission_stay_shut() {
    let world = World::new(1, FRAMES);
    let (com1, none) = (Crd::ports(0x3f8, 3, 7), Crd::ports(0x2f8, 3, 6));
    let flags = ItemMeta::FROM_KERNEL | ItemMeta::GUEST | ItemMeta::NO_HOST;
    world.must(give_ports(ROOT_PD, ROOT_PD, com1, flags));
    world.must(give_ports(ROOT_PD, ROOT_PD, none, flags));
    let bits = world.root.pd.guest_ports();
    let byte = |port: usize| world.pool.page(bits).read_u8(port / 8);
    assert_eq!((byte(0x3f8), byte(0x2f8)), (0, 0xff), "a set bit forbids");
    let access = Crd::ports(0x3f8, 3, 1);
    world.must(Revoke { own: true, remote: false, crd: access, pd: 0 }.encode());
    assert_eq!(byte(0x3f8), 0xff, "the rest of the capability is there, its access is not");
    let found = world.must(PdCtrl::Lookup { crd: access }.encode()).rsi;
    assert_eq!(Crd(found).perms(), 6);
}

#[test]
fn ports_are_translated_to_where_they_came_from() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD));
    world.must(create_pd(71));
    let (all, com1) = (Crd::ports(0x3e0, 5, 7), Crd::ports(0x3f8, 3, 1));
    world.must(give_ports(ROOT_PD, ROOT_PD, all, ItemMeta::FROM_KERNEL));
    world.must(give_ports(ROOT_PD, CHILD, com1, ItemMeta(0)));
    world.must(give_ports(ROOT_PD, 71, com1, ItemMeta(0)));
    let translate = |source, destination, crd| {
        let (meta, window) = (ItemMeta(0), Crd::ALL_PORTS);
        Crd(world.must(PdCtrl::Delegate { source, destination, crd, meta, window }.encode()).rdx)
    };
    assert_eq!(translate(CHILD, ROOT_PD, com1), Crd::ports(0x3e0, 5, 1), "the root's own range");
    assert_eq!(translate(ROOT_PD, CHILD, com1), Crd::NULL, "it came to the child, not from there");
    assert_eq!(translate(71, CHILD, com1), Crd::NULL, "a sibling");
    assert_eq!(translate(CHILD, CHILD, com1), com1, "itself");
    assert_eq!(translate(CHILD, CHILD, Crd::ports(0x3e0, 3, 1)), Crd::NULL, "not there");
}

/// As in version 10: memory has no ancestor to name, the item passes.
#[test]
fn memory_items_pass_through_translation() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD));
    let page = Crd::memory(0x1234, 0, 3);
    let translate = |window| {
        let (source, destination, meta) = (ROOT_PD, CHILD, ItemMeta::TRANSLATE);
        let call = PdCtrl::Delegate { source, destination, crd: page, meta, window };
        Crd(world.must(call.encode()).rdx)
    };
    assert_eq!(translate(Crd::memory(0, 31, 7)), page);
    assert_eq!(translate(Crd::ALL_PORTS), Crd::NULL);
    let pd = world.object::<Pd>(CHILD).unwrap();
    assert!(pd.memory.lookup(0x1234).is_none(), "nothing was mapped");
}

#[test]
fn capabilities_shrink_and_vanish_with_their_source() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD));
    let pd = world.object::<Pd>(CHILD).unwrap();
    world.must(create_sm(100, 0));
    let both = Crd::objects(100, 0, SM_UP | SM_DOWN);
    let back = world.must(to_child(both, 5, ItemMeta(0)));
    assert_eq!(back.rdx, Crd::objects(5, 0, SM_UP | SM_DOWN).0);
    world.must(create_sm(101, 0));
    let again = world.must(to_child(Crd::objects(101, 0, 3), 5, ItemMeta(0)));
    assert_eq!(again.rdx, 0, "occupied");
    world.must(revoke(Crd::objects(100, 0, SM_UP), false, false));
    assert_eq!(world.permissions(&pd, 5), SM_DOWN);
    world.must(revoke(Crd::objects(100, 0, SM_UP), true, false));
    assert_eq!(world.status(up(100)), Status::BadCap);
    world.must(revoke(Crd::objects(100, 0, SM_DOWN), true, false));
    assert_eq!(world.permissions(&pd, 5), 0);
    world.must(create_sm(100, 0));
    let range = to_child(Crd::objects(96, 3, 3), 0x10, ItemMeta(0));
    world.must(range);
    assert_eq!((world.permissions(&pd, 0x14), world.permissions(&pd, 0x15)), (3, 3));
    world.must(revoke(Crd::objects(0, 26, 0x1f), true, true));
    assert_eq!((world.permissions(&pd, 0x14), world.permissions(&pd, 0x15)), (0, 0));
    world.must(up(100));
}

#[test]
fn a_new_domain_may_start_with_objects() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(104, 0));
    let crd = Crd::objects(104, 2, SM_UP);
    world.must(CreatePd { sel: CHILD, passthrough: true, parent: ROOT_PD, crd }.encode());
    let pd = world.object::<Pd>(CHILD).unwrap();
    assert_eq!((world.permissions(&pd, 0), world.permissions(&pd, 1)), (SM_UP, 0));
    assert!(pd.trust.passthrough && !pd.trust.privileged);
}

#[test]
fn strangers_need_the_create_permission() {
    let world = World::new(1, FRAMES);
    world.must(create_pd(CHILD));
    world.must(create_sm(100, 0));
    let source = 100;
    let crd = Crd::memory(0x1000, 0, 7);
    let meta = ItemMeta::DELEGATE;
    let wrong = PdCtrl::Delegate { source, destination: CHILD, crd, meta, window: crd };
    assert_eq!(world.status(wrong.encode()), Status::BadCap);
    let wrong = PdCtrl::Delegate { source: ROOT_PD, destination: 100, crd, meta, window: crd };
    assert_eq!(world.status(wrong.encode()), Status::BadCap);
    assert_eq!(
        world.status(Revoke { own: false, remote: true, crd, pd: 100 }.encode()),
        Status::BadCap
    );
}
