//! Call and reply: words, items, refusals, busy and dead servants.

use crate::world::{EC, NOTHING, World};
use abi::cap::{PT_CALL, PT_CT};
use abi::utcb::{MESSAGE_WORDS, offset};
use alloc::boxed::Box;
use alloc::vec::Vec;
use rt::portal::{Handler, Servant};
use rt::probe::{Registers, syscall_with};
use rt::sync::Mutex;
use rt::{Crd, Mtd, Selector, Status, Utcb, calls, thread};

/// The identity of the portals below.
const ID: u64 = 0xfeed_0000_0000_0001;

/// What the servant saw: identity, items word, first words, stack address.
static SEEN: Mutex<Vec<(u64, u64, u64)>> = Mutex::new(Vec::new());

/// The family.
pub fn run(world: &mut World) {
    refusals(world);
    words(world);
    nesting(world);
    busy(world);
    dead(world);
}

/// A portal to a new servant.
fn serve(world: &World, handler: Handler) -> (Selector, Option<Servant>) {
    match Servant::new(world.boot.cpu, handler) {
        Ok(servant) => {
            let portal = servant.new_portal(Mtd::NONE, ID).unwrap_or(NOTHING);
            (portal, Some(servant))
        }
        Err(_) => (NOTHING, None),
    }
}

/// Sends `message`; the answer, or the status.
fn ask(portal: Selector, message: &[u64]) -> Result<Vec<u64>, Status> {
    let mut utcb = Utcb::current().ok_or(Status::BadHyp)?;
    utcb.set_message(message);
    calls::call(portal)?;
    Ok((0..utcb.words()).map(|index| utcb.word(index)).collect())
}

fn refusals(world: &mut World) {
    let (portal, _) = serve(world, Box::new(|_, _| ()));
    let (uncallable, callable) = (world.reduced(portal, PT_CT), world.reduced(portal, PT_CALL));
    let tally = &mut world.tally;
    tally.equal("call of nothing", calls::call(NOTHING), Err(Status::BadCap));
    tally.equal("call of a thread", calls::call(EC), Err(Status::BadCap));
    tally.ours("call without permission", calls::call(uncallable), Err(Status::BadCap));
    tally.equal("call with it", calls::call(callable), Ok(()));
}

fn words(world: &mut World) {
    let echo: Handler = Box::new(|id, utcb| {
        let stack = 0u64;
        SEEN.lock().push((id, utcb.get(offset::ITEMS), &raw const stack as u64));
        let count = utcb.words();
        for index in 0..count {
            utcb.set_word(index, utcb.word(index) + 1);
        }
    });
    let (portal, servant) = serve(world, echo);
    let tally = &mut world.tally;
    tally.equal("one word", ask(portal, &[41]), Ok([42].to_vec()));
    tally.equal("no words", ask(portal, &[]), Ok(Vec::new()));
    let many: Vec<u64> = (0..MESSAGE_WORDS as u64).collect();
    let want: Vec<u64> = (1..=MESSAGE_WORDS as u64).collect();
    tally.holds("508 words", ask(portal, &many) == Ok(want));
    let seen = core::mem::take(&mut *SEEN.lock());
    tally.equal("identity", seen.iter().map(|seen| seen.0).collect(), [ID; 3].to_vec());
    tally.equal("items word", seen.iter().map(|seen| seen.1).collect(), [1, 0, 508].to_vec());
    tally.holds("same stack each time", seen.windows(2).all(|pair| pair[0].2 == pair[1].2));
    let _ = calls::set_portal_id(portal, 77);
    let _ = ask(portal, &[]);
    let id = SEEN.lock().pop().map(|seen| seen.0);
    tally.equal("new identity", id, Some(77));
    // The items word counts more than there is: only 508 words move.
    if let Some(mut utcb) = Utcb::current() {
        utcb.set(offset::TLS, 0x1234);
        utcb.set(offset::ITEMS, 0xffff);
        tally.equal("too many words", calls::call(portal), Ok(()));
        tally.equal("tls word stays", utcb.get(offset::TLS), 0x1234);
        utcb.set_items(0, 0);
    }
    if let Some(servant) = &servant {
        let window = Crd::objects(0x700, 4, 0x1f);
        servant.set_windows(window, window);
        let _ = ask(portal, &[1]);
        let at = |field: usize| rt::probe::read(servant.utcb() + field as u64);
        tally.equal("windows stay", at(offset::DELEGATE_WINDOW), Some(window.0));
    }
    let mut registers = Registers {
        words: [portal << 12, 1, 2, 3, 4],
        kept: [11, 12, 13, 14, 15, 16, 17, 18],
        flags: 0x202,
        ..Registers::default()
    };
    let before = registers;
    syscall_with(&mut registers);
    tally.equal("rdi keeps the number", registers.words[0] & 0xff, 0);
    tally.equal("registers survive a call", registers.kept, before.kept);
    tally.equal("arguments survive a call", &registers.words[1..], &before.words[1..]);
    tally.equal("flags after a call", registers.flags, 0x202);
}

fn nesting(world: &mut World) {
    let (inner, _) = serve(world, Box::new(|_, utcb| utcb.set_message(&[utcb.word(0) * 2])));
    let outer: Handler = Box::new(move |_, utcb| {
        let status = calls::call(inner);
        let answer = utcb.word(0);
        utcb.set_message(&[answer + 1, u64::from(status.is_ok())]);
    });
    let (outer, _) = serve(world, outer);
    world.tally.equal("a servant may call", ask(outer, &[20]), Ok([41, 1].to_vec()));
}

fn busy(world: &mut World) {
    let gate = world.semaphore();
    let slow: Handler = Box::new(move |_, _| {
        let _ = calls::sm_down(gate, 0);
    });
    let (portal, _) = serve(world, slow);
    let done = world.semaphore();
    let _ = thread::spawn(world.boot.cpu, 2, move || {
        let _ = calls::call(portal);
        let _ = calls::sm_up(done);
    });
    let tally = &mut world.tally;
    // The thread above has a higher priority: it is in the servant, blocked.
    let answer = calls::call_nonblocking(portal);
    tally.equal("busy servant, not blocking", answer, Err(Status::Timeout));
    let opener = thread::spawn(world.boot.cpu, 2, move || {
        rt::sync::sleep_us(20_000);
        let _ = calls::sm_up(gate);
        let _ = calls::sm_up(gate);
    });
    tally.holds("opener starts", opener.is_ok());
    tally.equal("busy servant, blocking", calls::call(portal), Ok(()));
    tally.equal("first caller was answered", calls::sm_down(done, crate::world::soon()), Ok(()));
    let _ = calls::sm_up(gate);
    tally.equal("servant is free again", calls::call_nonblocking(portal), Ok(()));
}

fn dead(world: &mut World) {
    // Its event base holds no portals: the first fault is the last.
    let fatal: Handler = Box::new(|_, _| {
        let _ = rt::probe::fault(rt::probe::Fault::Undefined);
    });
    let servant = Servant::with_events(world.boot.cpu, NOTHING as u32, fatal);
    let portal = servant.and_then(|servant| servant.new_portal(Mtd::NONE, 0)).unwrap_or(NOTHING);
    let tally = &mut world.tally;
    tally.equal("servant dies", calls::call(portal), Err(Status::Abort));
    tally.equal("servant is dead", calls::call(portal), Err(Status::Timeout));
    tally.equal("still dead", calls::call_nonblocking(portal), Err(Status::Timeout));
}
