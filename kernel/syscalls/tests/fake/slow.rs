//! The slow instructions of each operation, counted: what an emulator that counts instructions does not show.
//!
//! The table in docs/costs.md says what must come out, to the last one.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;

use abi::args::{
    CallPortal, CreateKp, CreatePd, CreateVcpu, PdCtrl, PtCtrl, Reply, Revoke, VcpuCtrl, Words,
};
use abi::cap::ROOT_PD;
use abi::crd::ItemMeta;
use abi::utcb::offset;
use abi::{Crd, Mtd, Status};
use arch::{Deed, Event, GuestEvent, GuestVendor, Machine, Thread, vector};
use sync::Locked;

use crate::world::{ROOT_ENTRY, World, create_sm, down, syscall, up};

const FRAMES: usize = 4096;
const CHILD: u64 = 70;
const ENTRY: u64 = 0x60_0000;
/// Where the root program makes the call that is looked at.
const HERE: u64 = 0x50_0000;
/// The number of no call.
const NO_CALL: Words = [14, 0, 0, 0, 0];
const REPLY: Words = Reply { semaphore: 0 }.encode();
const PAGE: &str = include_str!("../../../../docs/costs.md");

/// What is counted, in the order of the table's columns.
const COLUMNS: usize = 9;

/// Adds up what CPUs did.
fn slow(deeds: &[(usize, Deed)], irets: u64, before: Locked) -> [u64; COLUMNS] {
    let count =
        |wanted: fn(&Deed) -> bool| deeds.iter().filter(|(_, deed)| wanted(deed)).count() as u64;
    let now = Locked::so_far();
    [
        count(|deed| matches!(deed, Deed::LoadSpace { .. })),
        count(|deed| matches!(deed, Deed::FpuSave | Deed::FpuRestore)),
        count(|deed| matches!(deed, Deed::FlushPage(_) | Deed::FlushSpace(_))),
        count(|deed| matches!(deed, Deed::Ipi { .. })),
        count(|deed| matches!(deed, Deed::WriteMsr(..) | Deed::Deadline(_) | Deed::EndOfInterrupt)),
        count(|deed| matches!(deed, Deed::EnterGuest { .. })),
        irets,
        now.counts - before.counts,
        now.locks - before.locks,
    ]
}

/// The slow instructions of all CPUs between the root program's call and the moment it goes on, and its status.
fn cost(world: &World, words: Words) -> [u64; COLUMNS] {
    let wanted = if words == NO_CALL { Status::BadHyp } else { Status::Success };
    cost_of(world, move |thread| syscall(thread, words), wanted)
}

/// The same for what else a program may do; `wanted` is in RDI afterwards.
fn cost_of(
    world: &World,
    act: impl Fn(&mut Thread) -> Event + 'static,
    wanted: Status,
) -> [u64; COLUMNS] {
    let (found, begun) = (Rc::new(Cell::new(None)), Cell::new(None));
    let result = found.clone();
    Machine::program(HERE, move |thread| match begun.get() {
        None => {
            let _ = Machine::take_deeds();
            begun.set(Some((Machine::irets(), Locked::so_far())));
            act(thread)
        }
        Some((irets, before)) => {
            if result.get().is_none() {
                assert_eq!(thread.registers.rdi & 0xff, wanted as u64, "it works");
                let row = slow(&Machine::take_deeds(), Machine::irets() - irets, before);
                result.set(Some(row));
            }
            Event::Interrupt(vector::SPURIOUS)
        }
    });
    world.jump(HERE);
    for _ in 0..100 {
        world.step(0);
        if let Some(row) = found.get() {
            world.jump(ROOT_ENTRY);
            world.settle();
            return row;
        }
    }
    panic!("it never came back");
}

fn revoke(crd: Crd) -> Words {
    Revoke { own: true, remote: false, crd, pd: 0 }.encode()
}

fn give(crd: Crd, to: u64, at: u64, flags: ItemMeta) -> Words {
    let window = Crd::new(crd.kind(), at, crd.order(), 0x1f);
    let meta = (ItemMeta::DELEGATE | flags).at(at);
    PdCtrl::Delegate { source: ROOT_PD, destination: to, crd, meta, window }.encode()
}

/// The rows of the table.
struct Sheet(String);

impl Sheet {
    /// The cost of the second time: the first may make tables and wake what sleeps.
    fn row(&mut self, name: &str, row: [u64; COLUMNS]) {
        let _ = write!(self.0, "| {name} |");
        for count in row {
            let _ = write!(self.0, " {count} |");
        }
        self.0.push('\n');
    }
}

#[test]
fn slow_instructions_are_as_documented() {
    let mut sheet = Sheet(String::new());
    calls(&mut sheet);
    semaphores(&mut sheet);
    spaces(&mut sheet);
    guests(&mut sheet);
    assert!(PAGE.contains(&sheet.0), "docs/costs.md should have this table:\n{}", sheet.0);
}

fn calls(sheet: &mut Sheet) {
    let world = World::new(1, FRAMES);
    let reply = |thread: &mut Thread, utcb: &sync::SharedPage| {
        utcb.set_word(0, 0);
        syscall(thread, REPLY)
    };
    world.must(
        CreatePd { sel: CHILD, passthrough: false, parent: ROOT_PD, crd: Crd::NULL }.encode(),
    );
    world.serve((ROOT_PD, 50, 51), 0, (Mtd::NONE, ENTRY), reply);
    world.serve((CHILD, 52, 53), 0, (Mtd::NONE, ENTRY + 1), reply);
    sheet.row("no such call", cost(&world, NO_CALL));
    sheet.row("pt_ctrl", cost(&world, PtCtrl { pt: 51, id: 1 }.encode()));
    for (name, portal) in [("call and reply", 51), ("call and reply across domains", 53)] {
        let call = CallPortal { portal, nonblocking: false }.encode();
        let _ = cost(&world, call);
        sheet.row(name, cost(&world, call));
    }
    world.serve((ROOT_PD, 54, 6), 0, (Mtd::RIP_LEN, ENTRY + 2), |thread, utcb| {
        utcb.write_u64(offset::MTD, Mtd::RIP_LEN.0.into());
        syscall(thread, REPLY)
    });
    let fault = |thread: &mut Thread| {
        thread.registers.rdi = 0;
        Event::Exception { vector: 6, error: 0, cr2: 0 }
    };
    sheet.row("exception, handled", cost_of(&world, fault, Status::Success));
    world.must(create_sm(80, 0));
    let mine = world.utcb(33);
    let theirs = world.utcb(52);
    theirs.write_u64(offset::DELEGATE_WINDOW, Crd::objects(0x100, 0, 0x1f).0);
    let [crd, meta] = abi::TypedItem::delegate(Crd::objects(80, 0, 1), 0x100).words();
    mine.set_word(0, abi::utcb::items(0, 1));
    mine.write_u64(offset::TYPED, crd);
    mine.write_u64(offset::TYPED + 8, meta);
    let call = CallPortal { portal: 53, nonblocking: false }.encode();
    sheet.row("call across domains that gives a capability", cost(&world, call));
}

fn semaphores(sheet: &mut Sheet) {
    let world = World::new(2, FRAMES);
    world.must(create_sm(80, 0));
    sheet.row("semaphore up, nobody waits", cost(&world, up(80)));
    sheet.row("semaphore down, count there", cost(&world, down(80, 0)));
    for (name, cpu, first, priority) in [
        ("up that wakes, same CPU, to its next wait", 0, 0x300, 5),
        ("up that wakes, other CPU, the up alone", 1, 0x400, 1),
    ] {
        world.must(create_sm(first + 8, 0));
        let base = first as u32 + 0x20;
        let orders = [down(first + 8, 0)];
        let _thread = world.spawn((first, base), cpu, ENTRY + 16 * first, priority, &orders);
        world.settle();
        sheet.row(name, cost(&world, up(first + 8)));
    }
}

fn spaces(sheet: &mut Sheet) {
    let world = World::new(2, FRAMES);
    world.must(
        CreatePd { sel: CHILD, passthrough: false, parent: ROOT_PD, crd: Crd::NULL }.encode(),
    );
    world.must(give(Crd::memory(0x2000, 0, 3), ROOT_PD, 0x1000, ItemMeta::FROM_KERNEL));
    world.must(create_sm(80, 0));
    let (page, theirs) = (Crd::memory(0x1000, 0, 3), Crd::memory(0x8000, 0, 7));
    let take = |crd| Revoke { own: true, remote: true, crd, pd: CHILD }.encode();
    for (what, crd, at, back) in [
        ("a page", page, 0x8000, theirs),
        ("a capability", Crd::objects(80, 0, 0x1f), 0x100, Crd::objects(0x100, 0, 0x1f)),
    ] {
        world.must(give(crd, CHILD, at, ItemMeta(0)));
        world.must(take(back));
        sheet.row(&format!("delegate {what}"), cost(&world, give(crd, CHILD, at, ItemMeta(0))));
        sheet.row(&format!("revoke {what}"), cost(&world, take(back)));
    }
    sheet.row("revoke a page of one's own", cost(&world, revoke(page)));
}

fn guests(sheet: &mut Sheet) {
    let world = World::new(1, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    for kp in [81, 82, 83] {
        world.must(CreateKp { sel: kp, owner: ROOT_PD }.encode());
    }
    let vcpu = CreateVcpu { sel: 84, cpu: 0, parent: ROOT_PD, state: 81, vlapic: 82, fpu: 83 };
    world.must(vcpu.encode());
    let run = VcpuCtrl::Run { vcpu: 84, mtd: Mtd::RIP_LEN }.encode();
    for _ in 0..2 {
        Machine::guest(|_| GuestEvent::Exit(10));
    }
    world.must(run);
    sheet.row("vCPU run to an exit", cost(&world, run));
}
