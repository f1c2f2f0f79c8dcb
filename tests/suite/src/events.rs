//! Exceptions, start-up and recall as messages.

use crate::world::{Answer, EC, Event, NOTHING, PD, World, all_but_fpu, thread_args};
use abi::args::{CreateEc, CreateSc, PtCtrl, SmCtrl};
use abi::cap::{MEM_RW, RECALL, STARTUP};
use abi::utcb::offset;
use alloc::boxed::Box;
use alloc::vec::Vec;
use rt::portal::Servant;
use rt::probe::{self, Fault, Registers, syscall_with};
use rt::sync::{Mutex, sleep_us};
use rt::{Crd, Mtd, calls, selectors, thread};

/// Start-up messages: items, RSP, RFLAGS, RIP.
static STARTED: Mutex<Vec<[u64; 4]>> = Mutex::new(Vec::new());

/// The family.
pub fn run(world: &mut World) {
    vectors(world);
    messages(world);
    quick_after_an_event(world);
    page_faults(world);
    recall(world);
    startup(world);
    killed(world);
}

/// The one event of an action.
fn one(world: &World, answer: Answer, fault: Fault) -> (u64, Option<Event>) {
    let (rbx, events) = world.events(answer, || probe::fault(fault));
    (rbx, (events.len() == 1).then(|| events[0]))
}

fn vectors(world: &mut World) {
    for (fault, vector, error) in [
        (Fault::Breakpoint, 3, 0),
        (Fault::Undefined, 6, 0),
        (Fault::Divide, 0, 0),
        (Fault::Privileged, 13, 0),
        (Fault::Interrupt, 13, 8 * 0x42 + 2),
        (Fault::PortIn, 13, 0),
    ] {
        let (_, event) = one(world, Answer::Recover, fault);
        // QEMU's interpreter counts sixteen bytes where the manual counts eight.
        let exact = |code: u64| if code == 16 * 0x42 + 2 { 8 * 0x42 + 2 } else { code };
        let got = event.map(|event| (event.id, exact(event.qual[0])));
        world.tally.equal("vector and error code", got, Some((vector, error)));
    }
}

fn messages(world: &mut World) {
    let (rbx, event) = one(world, Answer::Recover, Fault::Undefined);
    let tally = &mut world.tally;
    tally.equal("resumed with its registers", rbx, 0xb0b);
    tally.equal("items word is 80", event.map(|event| event.items), Some(80));
    tally.equal("message names its groups", event.map(|event| event.mtd), Some(all_but_fpu()));
    tally.equal("rbx in the message", event.map(|event| event.rbx), Some(0xb0b));
    tally.holds("if is set in the message", event.is_some_and(|event| event.rflags & 0x200 != 0));
    let change = Answer::Change { rbx: 0xcafe, rflags: 0x3000 | 0x1 };
    let (rbx, _) = one(world, change, Fault::Undefined);
    world.tally.equal("reply changes registers", rbx, 0xcafe);
    // A narrower portal: only RIP arrives, the rest of the page stays as it was.
    let narrow = world.event_portal(6, Mtd::RIP_LEN);
    world.tally.equal("narrow portal", narrow, Ok(()));
    if let Some(servant) = world.handler() {
        let _ = probe::write(servant.utcb() + offset::RBX as u64, 0x1111);
    }
    let (rbx, event) = one(world, Answer::Recover, Fault::Undefined);
    let tally = &mut world.tally;
    tally.equal("narrow message", event.map(|event| event.mtd), Some(Mtd::RIP_LEN));
    tally.equal("other fields stay", event.map(|event| event.rbx), Some(0x1111));
    tally.equal("and are written back", rbx, 0x1111);
    let _ = world.event_portal(6, all_but_fpu());
}

/// The kernel left the thread with all its registers (IRET), and the next call is one that it settles at once: the
/// thread finds RFLAGS, RCX and R11 as after every system call, and the others as they were.
fn quick_after_an_event(world: &mut World) {
    let (sm, pt) = (selectors::allocate(), selectors::allocate());
    let portal = world.handler().is_some_and(|handler| handler.portal(pt, Mtd::NONE, 1).is_ok());
    let made = portal && calls::create_sm(sm, PD, 1).is_ok();
    world.tally.holds("something for a quick call", made);
    let (down, up) = (SmCtrl::Down { sm, zero: false, deadline: 0 }, SmCtrl::Up { sm });
    let name = PtCtrl { pt, id: 7 };
    for (call, [first, second, third, ..]) in
        [("sm_down", down.encode()), ("sm_up", up.encode()), ("pt_ctrl", name.encode())]
    {
        let mut registers = Registers {
            words: [first, second, third, 0x5a5a_1000, 0x5a5a_2000],
            kept: core::array::from_fn(|i| 0x5a5a_0000 + i as u64),
            flags: 0x202 | 0x4_0cd5,
            ..Registers::default()
        };
        let before = registers;
        let (_, event) = one(world, Answer::Recover, Fault::Undefined);
        syscall_with(&mut registers);
        let tally = &mut world.tally;
        tally.equal("left by an event's reply", event.map(|event| event.id), Some(6));
        tally.equal(call, registers.words[0], 0);
        tally.equal("other words are kept", &registers.words[1..], &before.words[1..]);
        tally.equal("other registers are kept", registers.kept, before.kept);
        tally.equal("rsp and rcx", (registers.rsp_distance, registers.rcx_distance), (0, 0));
        tally.equal("rflags is 0x202", registers.flags, 0x202);
        tally.ours("r11 is rflags", registers.r11, 0x202);
    }
}

fn page_faults(world: &mut World) {
    let Ok(address) = rt::memory::reserve_page() else { return };
    let (value, events) = world.events(Answer::Recover, || probe::read(address + 8));
    let tally = &mut world.tally;
    tally.equal("unmapped read fails", value, None);
    let want = [(14, 4, address + 8)].to_vec();
    let got = |events: &[Event]| -> Vec<(u64, u64, u64)> {
        events.iter().map(|event| (event.id, event.qual[0], event.qual[1])).collect()
    };
    tally.equal("page fault on read", got(&events), want);
    let (_, events) = world.events(Answer::Recover, || probe::write(address, 1));
    world.tally.equal("page fault on write", got(&events), [(14, 6, address)].to_vec());
    let page = world.page();
    let _ = probe::write(page, 0xc3);
    let (_, events) = world.events(Answer::RecoverExecute, || probe::execute(page));
    world.tally.equal("page fault on execution", got(&events), [(14, 0x15, page)].to_vec());
    let answer = Answer::MapPage { page: page >> abi::PAGE_BITS };
    let (value, events) = world.events(answer, || probe::read(address));
    world.tally.equal("reply maps a page", value, Some(0xc3));
    world.tally.equal("after one fault", events.len(), 1);
    let _ = calls::revoke(Crd::memory(address >> abi::PAGE_BITS, 0, MEM_RW));
}

fn recall(world: &mut World) {
    let (result, events) = world.events(Answer::Resume, || calls::recall(EC));
    let tally = &mut world.tally;
    tally.equal("recall", result, Ok(()));
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    tally.equal("recall of oneself arrives", ids, [RECALL].to_vec());
    let (_, events) = world.events(Answer::Resume, || calls::sm_up(NOTHING));
    world.tally.equal("once", events.len(), 0);
    // Recalling a thread of its own that spins, from a higher priority.
}

fn startup(world: &mut World) {
    let base = selectors::allocate_block(5);
    let note = Servant::new(
        world.boot.cpu,
        Box::new(|_, utcb| {
            STARTED.lock().push([
                utcb.get(offset::ITEMS),
                utcb.get(offset::RSP),
                utcb.get(offset::RFLAGS),
                utcb.get(offset::RIP),
            ]);
            // It goes nowhere: the next fault has no portal and ends it.
            utcb.set(offset::RIP, 0x1000);
            utcb.set_mtd(Mtd::RIP_LEN);
        }),
    );
    let made = note.and_then(|note| note.portal(base + STARTUP, all_but_fpu(), STARTUP));
    world.tally.equal("start-up portal", made, Ok(()));
    let ec = selectors::allocate();
    let args = thread_args(ec, world.boot.cpu);
    let args = CreateEc { stack: 0x1234_5678, event_base: base as u32, ..args };
    let made = calls::create_ec(&args);
    world.tally.equal("thread to start", made, Ok(()));
    world.tally.equal("nothing happens without time", STARTED.lock().len(), 0);
    let sc = selectors::allocate();
    let args = CreateSc { sel: sc, owner: PD, ec, priority: 2, quantum_us: 1000 };
    world.tally.equal("time for it", calls::create_sc(&args), Ok(()));
    sleep_us(5000);
    let started = core::mem::take(&mut *STARTED.lock());
    world.tally.equal("one start-up message", started.len(), 1);
    let first = started.first().copied().unwrap_or_default();
    world.tally.equal("start-up items and stack", (first[0], first[1]), (80, 0x1234_5678));
}

fn killed(world: &mut World) {
    static ALIVE: Mutex<u32> = Mutex::new(0);
    let spawned = thread::spawn(world.boot.cpu, 2, || {
        *ALIVE.lock() += 1;
    });
    sleep_us(5000);
    world.tally.holds("a thread runs", spawned.is_ok() && *ALIVE.lock() == 1);
    // A thread without a start-up portal never runs, and nobody else suffers.
    let ec = selectors::allocate();
    let _ = calls::create_ec(&thread_args(ec, world.boot.cpu));
    let sc = selectors::allocate();
    let args = CreateSc { sel: sc, owner: PD, ec, priority: 3, quantum_us: 1000 };
    world.tally.equal("time for the doomed", calls::create_sc(&args), Ok(()));
    sleep_us(5000);
    world.tally.holds("the suite lives", true);
}
