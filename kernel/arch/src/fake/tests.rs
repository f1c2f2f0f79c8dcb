//! The fake machine keeps its promises to the tests above it.

use super::names::run_thread;
use super::*;
use crate::{Event, ExitKind, GuestEnv, GuestEvent, GuestPlace, GuestVendor, Thread, vector};
use logic::addr::Frame;
use sync::Site;

fn thread(rip: u64) -> Thread {
    let mut thread = Thread::default();
    thread.registers.rip = rip;
    thread
}

#[test]
fn programs_run_at_their_address() {
    Machine::install(1, 16);
    let mut steps = 0;
    Machine::program(0x1000, move |thread| {
        steps += 1;
        thread.registers.rdi = steps;
        Event::Syscall
    });
    let mut user = thread(0x1000);
    assert_eq!((run_thread(&mut user), user.registers.rdi), (Event::Syscall, 1));
    assert_eq!(
        (run_thread(&mut user), user.registers.rdi, user.registers.r11),
        (Event::Syscall, 2, 0x202)
    );
    user.registers.rip = 0x2000;
    assert_eq!(run_thread(&mut user), Event::Exception { vector: 14, error: 0x14, cr2: 0x2000 });
    assert_eq!(user.exit, ExitKind::Trap);
    user.registers.rip = 1 << 47;
    assert_eq!(run_thread(&mut user), Event::Exception { vector: 13, error: 0, cr2: 0 });
}

#[test]
fn interrupts_come_before_programs_and_on_their_cpu() {
    Machine::install(2, 16);
    set_deadline(Some(100));
    set_deadline(Some(100));
    send_ipi(1, vector::RESCHEDULE);
    let mut user = thread(0);
    assert!(matches!(run_thread(&mut user), Event::Exception { .. }));
    Machine::advance(100);
    assert_eq!(run_thread(&mut user), Event::Interrupt(vector::TIMER));
    assert_eq!(Machine::deadline(0), None);
    Machine::set_cpu(1);
    assert_eq!(idle(), Some(vector::RESCHEDULE));
    assert_eq!(idle(), None);
    let timer = Machine::take_deeds();
    let armed = timer.iter().filter(|deed| **deed == (0, Deed::Deadline(Some(100)))).count();
    assert_eq!(armed, 1);
}

#[test]
fn registers_of_the_fpu_travel_through_areas() {
    let pool = Machine::install(2, 16);
    let [first, second] = [(); 2].map(|()| pool.page(pool.alloc_zeroed(0, Site::Boot).unwrap()));
    fpu_init(first);
    first.set_word(20, 77);
    fpu_restore(first).unwrap();
    fpu_save(second);
    assert_eq!((second.word(20), second.word(3)), (77, 0x1f80));
    Machine::set_cpu(1);
    fpu_save(second);
    assert_eq!(second.word(20), 0);
    first.set_word(64, 8);
    assert_eq!(fpu_restore(first), Err(()));
}

#[test]
fn waiting_lets_the_others_work() {
    Machine::install(2, 16);
    Machine::while_waiting(|| {
        Machine::set_cpu(1);
        flush_space(None);
    });
    relax();
    assert_eq!(cpu_number(), 0);
    assert_eq!(Machine::take_deeds(), [(1, Deed::FlushSpace(None))]);
}

#[test]
fn memory_types_and_physical_pages() {
    Machine::install(1, 16);
    assert_eq!(memory_type(Frame(0xbfe00), 9), Some(6));
    assert_eq!(memory_type(Frame(0xbfe00), 10), None);
    assert_eq!(memory_type(Frame(0xc_0000), 18), Some(0));
    assert_eq!(memory_type(Frame(0), 18), Some(6));
    with_physical(Frame(5), &mut |page| page.set_word(1, 9));
    with_physical(Frame(6), &mut |page| assert_eq!(page.word(1), 0));
    with_physical(Frame(5), &mut |page| assert_eq!(page.word(1), 9));
}

#[test]
fn guests_follow_their_scripts() {
    let pool = Machine::install(1, 16);
    Machine::set_vendor(GuestVendor::Vmx);
    let page = pool.page(pool.alloc_zeroed(0, Site::Boot).unwrap());
    let mut guest = Guest::new(pool).unwrap();
    page.write_u64(0x30, 0x1234);
    Machine::guest(|words| {
        words[6] += 2;
        GuestEvent::Exit(10)
    });
    let place = GuestPlace { table: Frame(0), vlapic: Frame(0), apic_access: Frame(0) };
    let mut env = GuestEnv {
        pool,
        place: &place,
        tag: 1,
        flush_tag: true,
        ports: Frame(0),
        fpu: page,
        monitor: page,
        host_deadline: None,
        pending_poke: false,
    };
    let started = guest.start(page, Default::default(), false, || env);
    assert_eq!(started, GuestEvent::Exit(10));
    guest.store(pool, page, 10, abi::Mtd(!0));
    assert_eq!((page.read_u64(0x30), page.read_u32(0x298)), (0x1236, 10));
    assert_eq!(guest.enter(env), GuestEvent::Exit(12));
    env.pending_poke = true;
    assert_eq!(guest.enter(env), GuestEvent::Exit(255));
    guest.retire();
    guest.free(pool);
}
