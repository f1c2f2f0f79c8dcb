//! Exceptions, startup and recall as messages (abi.md 9).

use std::cell::Cell;
use std::rc::Rc;

use abi::args::{EcCtrl, Reply};
use abi::cap::ROOT_PD;
use abi::utcb::offset;
use abi::{Mtd, Status};
use arch::{Event, Machine};

use crate::world::{World, create_sm, down, status_of, syscall, up};

const FRAMES: usize = 2048;
const ENTRY: u64 = 0x60_0000;
const REPLY: [u64; 5] = Reply { semaphore: 0 }.encode();

#[test]
fn a_fault_is_a_message_and_its_reply_moves_the_thread() {
    let world = World::new(1, FRAMES);
    let mtd = Mtd::ACDB | Mtd::RIP_LEN | Mtd::QUAL | Mtd::RFLAGS;
    world.serve((ROOT_PD, 50, 14), 0, (mtd, ENTRY), move |thread, utcb| {
        assert_eq!(utcb.read_u64(offset::RIP), 0x70_0000);
        assert_eq!(utcb.read_u64(offset::RAX), 77);
        assert_eq!((utcb.read_u64(offset::QUAL0), utcb.read_u64(offset::QUAL1)), (0x14, 0x70_0000));
        assert_eq!((utcb.word(0), utcb.read_u64(offset::MTD)), (80, mtd.0.into()));
        utcb.write_u64(offset::RAX, 78);
        utcb.write_u64(offset::RIP, 0x71_0000);
        utcb.write_u64(offset::RFLAGS, u64::MAX);
        syscall(thread, REPLY)
    });
    Machine::program(crate::world::ROOT_ENTRY, |thread| {
        thread.registers.rip = 0x70_0000;
        thread.registers.rax = 77;
        Event::Interrupt(arch::vector::SPURIOUS)
    });
    let seen = Rc::new(Cell::new((0, 0)));
    let note = seen.clone();
    Machine::program(0x71_0000, move |thread| {
        note.set((thread.registers.rax, thread.registers.rflags));
        Event::Interrupt(arch::vector::SPURIOUS)
    });
    world.steps(10);
    let (rax, flags) = seen.get();
    assert_eq!(rax, 78);
    assert_eq!(flags & 0x202, 0x202, "interrupts stay on");
    assert_eq!(flags & 0x1b_3000, 0, "VIP, VIF, VM, RF and IOPL stay off");
}

#[test]
fn a_thread_without_a_handler_dies() {
    let world = World::new(1, FRAMES);
    Machine::program(crate::world::ROOT_ENTRY, |_| Event::Exception {
        vector: 6,
        error: 0,
        cr2: 0,
    });
    world.steps(10);
    assert_eq!(Machine::take_killed(), [(0, "PT not found")]);
}

#[test]
fn a_handler_on_another_cpu_does_not_help() {
    let world = World::new(2, FRAMES);
    world.serve((ROOT_PD, 50, 6), 1, (Mtd::NONE, ENTRY), |thread, _| syscall(thread, REPLY));
    Machine::program(crate::world::ROOT_ENTRY, |_| Event::Exception {
        vector: 6,
        error: 0,
        cr2: 0,
    });
    world.steps(10);
    assert_eq!(Machine::take_killed(), [(0, "PT wrong CPU")]);
}

#[test]
fn recall_reaches_a_thread_in_a_call() {
    let world = World::new(2, FRAMES);
    world.must(create_sm(100, 0));
    let other = world.spawn((110, 200), 1, 0x50_0000, 5, &[down(100, 0)]);
    let count = Rc::new(Cell::new(0));
    let recalls = count.clone();
    world.serve((ROOT_PD, 50, 200 + 31), 1, (Mtd::RIP_LEN, ENTRY), move |thread, utcb| {
        recalls.set(recalls.get() + 1);
        utcb.write_u64(offset::MTD, 0);
        syscall(thread, REPLY)
    });
    world.must(EcCtrl::Recall { ec: 110 }.encode());
    world.steps(10);
    assert_eq!(count.get(), 0, "it does not wake a blocked thread");
    world.must(up(100));
    world.steps(10);
    assert_eq!(count.get(), 1);
    assert_eq!(status_of(&other.result().unwrap()), Status::Success);
    world.terminal.order(EcCtrl::Recall { ec: 33 }.encode());
    world.steps(5);
    assert_eq!(
        Machine::take_killed(),
        [(0, "PT not found")],
        "the root program has no portal for it"
    );
}
