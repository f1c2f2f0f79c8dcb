//! call and reply, and what travels with a message (abi.md 6, 8).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use abi::args::{CallPortal, CreatePd, CreatePt, PtCtrl, Reply, Revoke};
use abi::cap::{ROOT_PD, SM_DOWN, SM_UP};
use abi::utcb::offset;
use abi::{Crd, Mtd, Status};
use objects::Pd;

use crate::world::{World, create_sm, down, local, status_of, syscall, up};
use abi::args::CreateEc;
use arch::{Deed, Machine};

const FRAMES: usize = 2048;
const ENTRY: u64 = 0x60_0000;

const fn call(portal: u64) -> [u64; 5] {
    CallPortal { portal, nonblocking: false }.encode()
}

const REPLY: [u64; 5] = Reply { semaphore: 0 }.encode();

fn revoke(sel: u64) -> [u64; 5] {
    Revoke { own: true, remote: false, crd: Crd::objects(sel, 0, 0x1f), pd: 0 }.encode()
}

#[test]
fn words_go_there_and_back() {
    let world = World::new(1, FRAMES);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let notes = seen.clone();
    world.serve((ROOT_PD, 50, 51), 0, (Mtd::NONE, ENTRY), move |thread, utcb| {
        let r = &thread.registers;
        notes.borrow_mut().push((r.rdi, r.rsp, r.rflags, utcb.word(4), utcb.word(0)));
        utcb.set_word(4, utcb.word(4) + 1);
        utcb.set_word(5, 99);
        utcb.set_word(0, 1);
        thread.registers.rsp -= 16;
        syscall(thread, REPLY)
    });
    let mine = world.utcb(33);
    mine.set_word(0, abi::utcb::items(2, 0));
    mine.set_word(4, 41);
    mine.set_word(5, 7);
    let back = world.must(call(51));
    assert_eq!(back.rdi, call(51)[0], "RDI stays as it was");
    assert_eq!((mine.word(4), mine.word(5), mine.word(0)), (42, 7, 1));
    world.must(PtCtrl { pt: 51, id: 0xabcd }.encode());
    world.must(call(51));
    let seen = seen.borrow();
    assert_eq!(seen[0], (0, 0x7000, 0x202, 41, 2));
    assert_eq!(seen[1], (0xabcd, 0x6ff0, 0x202, 42, 1), "RSP as at the last reply");
}

#[test]
fn a_portal_checks_permission_and_cpu() {
    let world = World::new(2, FRAMES);
    world.serve((ROOT_PD, 50, 51), 1, (Mtd::NONE, ENTRY), |thread, _| syscall(thread, REPLY));
    assert_eq!(world.status(call(51)), Status::BadCpu);
    assert_eq!(world.status(call(50)), Status::BadCap);
    assert_eq!(world.status(call(52)), Status::BadCap);
    world.serve((ROOT_PD, 60, 61), 0, (Mtd::NONE, ENTRY + 1), |thread, _| syscall(thread, REPLY));
    world.must(call(61));
    let only_call = Crd::objects(61, 0, abi::cap::PT_CALL);
    world.must(Revoke { own: true, remote: false, crd: only_call, pd: 0 }.encode());
    assert_eq!(world.status(call(61)), Status::BadCap, "without the call permission");
}

#[test]
fn calls_within_a_domain_load_no_page_table() {
    let world = World::new(1, FRAMES);
    world.serve((ROOT_PD, 50, 51), 0, (Mtd::NONE, ENTRY), |thread, _| syscall(thread, REPLY));
    world.must(call(51));
    let _ = Machine::take_deeds();
    world.must(call(51));
    let deeds = Machine::take_deeds();
    let is_load = |deed: &&(usize, Deed)| matches!(deed.1, Deed::LoadSpace { .. });
    assert_eq!(deeds.iter().filter(is_load).count(), 0);
    let saves = deeds.iter().filter(|deed| deed.1 == Deed::FpuSave).count();
    assert_eq!(saves, 2, "one save per switch of thread");
}

#[test]
fn a_typed_item_delegates_a_capability() {
    let world = World::new(1, FRAMES);
    world.must(CreatePd { sel: 70, passthrough: false, parent: ROOT_PD, crd: Crd::NULL }.encode());
    world.must(create_sm(80, 0));
    world.serve((70, 50, 51), 0, (Mtd::NONE, ENTRY), |thread, utcb| {
        utcb.set_word(0, 0);
        syscall(thread, REPLY)
    });
    let theirs = world.utcb(50);
    theirs.write_u64(offset::DELEGATE_WINDOW, Crd::objects(0x100, 4, 0x1f).0);
    let mine = world.utcb(33);
    mine.set_word(0, abi::utcb::items(0, 1));
    let item = abi::TypedItem::delegate(Crd::objects(80, 0, SM_DOWN), 0x105);
    let [crd, meta] = item.words();
    mine.write_u64(offset::TYPED, crd);
    mine.write_u64(offset::TYPED + 8, meta);
    world.must(call(51));
    let expected = Crd::objects(0x105, 0, SM_DOWN);
    assert_eq!(theirs.read_u64(offset::TYPED), expected.0);
    let pd = world.object::<Pd>(70).unwrap();
    assert_eq!(world.permissions(&pd, 0x105), SM_DOWN);
    assert_eq!(world.permissions(&world.root.pd, 80), SM_UP | SM_DOWN);
    world
        .must(Revoke { own: false, remote: false, crd: Crd::objects(80, 0, 0x1f), pd: 0 }.encode());
    assert_eq!(world.permissions(&pd, 0x105), 0, "children go, the own one stays");
    assert_eq!(world.permissions(&world.root.pd, 80), SM_UP | SM_DOWN);
}

#[test]
fn a_busy_servant_is_helped() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(80, 0));
    let waits = Rc::new(Cell::new(true));
    let first = waits.clone();
    world.serve((ROOT_PD, 50, 51), 0, (Mtd::NONE, ENTRY), move |thread, _| {
        let words = if first.replace(false) { down(80, 0) } else { REPLY };
        syscall(thread, words)
    });
    let other = world.spawn((110, 200), 0, 0x50_0000, 5, &[call(51)]);
    assert!(other.is_inside(), "its servant waits on the semaphore");
    let nonblocking = CallPortal { portal: 51, nonblocking: true }.encode();
    assert_eq!(world.status(nonblocking), Status::Timeout);
    world.terminal.order(call(51));
    world.steps(20);
    assert!(world.terminal.is_inside());
    // A third thread lets the servant go on; both callers come back.
    let third = world.object::<objects::Sm>(80).unwrap();
    assert!(third.up().is_some_and(|sc| sc.same(&world.object::<objects::Sc>(111).unwrap())));
}

#[test]
fn a_blocked_chain_goes_on_for_all_who_wait() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(80, 0));
    world.must(create_sm(81, 0));
    let waits = Rc::new(Cell::new(true));
    let first = waits.clone();
    world.serve((ROOT_PD, 50, 51), 0, (Mtd::NONE, ENTRY), move |thread, _| {
        let words = if first.replace(false) { down(80, 0) } else { REPLY };
        syscall(thread, words)
    });
    let one = world.spawn((110, 200), 0, 0x50_0000, 5, &[call(51)]);
    let two = world.spawn((120, 250), 0, 0x51_0000, 5, &[call(51)]);
    assert!(one.is_inside() && two.is_inside());
    world.must(up(80));
    world.steps(20);
    assert_eq!(status_of(&one.result().unwrap()), Status::Success);
    assert_eq!(status_of(&two.result().unwrap()), Status::Success);
}

#[test]
fn the_callers_of_the_dead_are_told() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(80, 0));
    world.serve((ROOT_PD, 50, 51), 0, (Mtd::NONE, ENTRY), |thread, _| syscall(thread, down(80, 0)));
    let other = world.spawn((110, 200), 0, 0x50_0000, 5, &[call(51), call(51)]);
    assert!(other.is_inside());
    world.must(revoke(50));
    world.steps(20);
    assert_eq!(status_of(&other.result().unwrap()), Status::Abort);
    assert_eq!(
        status_of(&other.result().unwrap()),
        Status::Timeout,
        "the portal is there, its EC is dead"
    );
}

#[test]
fn a_circle_of_calls_is_a_livelock() {
    let world = World::new(1, FRAMES);
    world.serve((ROOT_PD, 50, 51), 0, (Mtd::NONE, ENTRY), |thread, _| syscall(thread, call(51)));
    let status = world.status(call(51));
    assert_eq!(status, Status::Abort);
    assert_eq!(Machine::take_killed(), [(0, "Livelock")]);
}

#[test]
fn a_reply_without_a_caller_ends_a_thread() {
    let world = World::new(1, FRAMES);
    let other = world.spawn((110, 200), 0, 0x50_0000, 5, &[REPLY, up(9)]);
    assert!(other.result().is_none());
    assert_eq!(Machine::take_killed(), [(0, "reply without a caller")]);
}

#[test]
fn portals_lead_to_local_contexts_only() {
    let world = World::new(1, FRAMES);
    let create = CreateEc { global: true, ..local(50, ROOT_PD) };
    world.must(create.encode());
    let pt = CreatePt { sel: 51, owner: ROOT_PD, ec: 50, mtd: Mtd::NONE, entry: 0 };
    assert_eq!(world.status(pt.encode()), Status::BadCap);
}
