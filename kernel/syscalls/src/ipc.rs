//! call and reply (abi.md 8).

use abi::args::{CallPortal, Reply};
use abi::cap::{PT_CALL, SM_DOWN};
use abi::crd::ItemMeta;
use abi::utcb::{MAX_TYPED, MESSAGE_WORDS, offset};
use abi::{Crd, Status};
use objects::{Cpu, Ec, Entered, Help, Passed, Pd, Pt, Resume, Sm};
use sync::{Counted, Ref, SharedPage, Token};

use crate::authority::{held, named};
use crate::event;
use crate::transfer::{Giver, Step, item};
use crate::{Outcome, Verdict, answer};

const _: () = assert!(offset::MESSAGE == 8 * SharedPage::MESSAGE, "where copy_message begins");

/// 0: goes through a portal. `first` is the call's first word.
#[inline(always)]
pub fn call(cpu: &mut Cpu, token: &Token, first: u64) {
    let CallPortal { portal, nonblocking } = CallPortal::decode([first, 0, 0, 0, 0]);
    let kernel = cpu.kernel;
    let find = |current: &Ec| named::<Pt>(current, kernel, token, portal, PT_CALL).map(Ref::get);
    // SUCCESS is the call number 0 that RDI already holds (abi.md 4).
    let mut items = 0;
    let entered = cpu.enter_portal(find, Resume::AwaitReply, |_, mine, _, theirs| {
        items = copy_message(mine.utcb(), theirs.utcb());
        if items >> 16 == 0 { Passed::All } else { Passed::More }
    });
    match entered {
        Entered::Running => {}
        Entered::Nowhere => refuse(cpu, Status::BadCap),
        Entered::More(pt) => call_with_items(cpu, token, pt, items),
        Entered::Refused(pt) => busy(cpu, pt, nonblocking),
    }
}

/// A call whose message, already copied, has typed items.
#[inline(never)]
fn call_with_items(cpu: &mut Cpu, token: &Token, pt: &Pt, items: u32) {
    let Some(current) = &cpu.current else { return };
    let (from, page) = (current.pd.clone(), current.utcb());
    transfer_items(cpu, token, &from, page, &pt.ec.pd, Windows::Page(pt.ec.utcb()), items);
    cpu.enter_portal(|_| Some(pt), Resume::AwaitReply, |_, _, _, _| Passed::All);
}

/// A status other than success.
#[cold]
#[inline(never)]
fn refuse(cpu: &mut Cpu, status: Status) {
    answer(cpu, Err(status));
}

#[cold]
#[inline(never)]
fn busy(cpu: &mut Cpu, pt: &Pt, nonblocking: bool) {
    if pt.ec.cpu() != cpu.id {
        return refuse(cpu, Status::BadCpu);
    }
    if nonblocking || pt.ec.is_dead() {
        return refuse(cpu, Status::Timeout);
    }
    match cpu.help(&pt.ec, Resume::Restart) {
        Help::Lent => {}
        Help::Livelock => cpu.kill_current("Livelock"),
    }
}

/// Copies the words and the items word; returns the items word, read once.
#[inline(always)]
fn copy_message(from: &SharedPage, to: &SharedPage) -> u32 {
    let items = from.word(offset::ITEMS / 8);
    let count = (items & 0xffff) as usize;
    if count != 0 {
        to.copy_message(from, count.min(MESSAGE_WORDS));
    }
    to.set_word(offset::ITEMS / 8, items);
    items as u32
}

/// Where a receiver's windows stand.
pub enum Windows<'a> {
    /// In its UTCB; results are written there.
    Page(&'a SharedPage),
    /// Only memory, wherever the hotspot says in the 8 TiB around an address (exception replies).
    Around(u64),
}

/// Moves all typed items of a message. An item that cannot be moved gives a null CRD.
pub fn transfer_items(
    cpu: &mut Cpu,
    token: &Token,
    from: &Counted<Pd>,
    page: &SharedPage,
    to: &Counted<Pd>,
    windows: Windows<'_>,
    items: u32,
) {
    let giver = Giver { pd: from, privileged: from.trust.privileged };
    let count = ((items >> 16) as usize).min(MAX_TYPED);
    for number in 0..count {
        let at = offset::TYPED - number * 16;
        let (send, meta) = (Crd(page.read_u64(at)), ItemMeta(page.read_u64(at + 8)));
        let doors = match windows {
            Windows::Page(utcb) => (
                Crd(utcb.read_u64(offset::TRANSLATE_WINDOW)),
                Crd(utcb.read_u64(offset::DELEGATE_WINDOW)),
            ),
            Windows::Around(address) => {
                (Crd::NULL, Crd::memory(address >> 12 & !0x7fff_ffff, 31, 7))
            }
        };
        let mut cursor = 0;
        let (crd, flags) = loop {
            match item(cpu, token, &giver, to, send, meta, doors, &mut cursor) {
                Ok(Step::More) => {}
                Ok(Step::Done { crd, flags }) => break (crd, flags),
                Err(_) => break (Crd::NULL, meta.flags()),
            }
        };
        if let Windows::Page(utcb) = windows {
            utcb.write_u64(at, crd.0);
            utcb.write_u64(at + 8, flags);
        }
    }
}

/// 1: ends a service. `first` is the call's first word.
#[inline(always)]
pub fn reply(cpu: &mut Cpu, token: &Token, first: u64) {
    let Reply { semaphore } = Reply::decode([first, 0, 0, 0, 0]);
    if semaphore != 0 {
        let outcome = reply_and_wait(cpu, token, semaphore);
        return answer(cpu, outcome);
    }
    let mut items = 0;
    let left = cpu.leave_portal(|mine, theirs, state| {
        if !matches!(state.resume, Resume::AwaitReply) {
            return event::deliver_reply(mine, state);
        }
        state.resume = Resume::User;
        items = copy_message(mine.utcb(), theirs.utcb());
        if items >> 16 != 0 {
            state.resume = Resume::AwaitReply;
            return Passed::More;
        }
        Passed::All
    });
    if left != objects::Reply::Returned {
        reply_more(cpu, token, left, items);
    }
}

/// A reply with more than words, or to nobody.
#[inline(never)]
fn reply_more(cpu: &mut Cpu, token: &Token, left: objects::Reply, items: u32) {
    let event = cpu.with_caller(|_, _, _, state| {
        let waits = matches!(state.resume, Resume::AwaitReply);
        if waits {
            state.resume = Resume::User;
        }
        !waits
    });
    match event {
        Some(true) => event::reply(cpu, token),
        Some(false) => with_ends(cpu, |cpu, mine, theirs| {
            let windows = Windows::Page(theirs.utcb());
            transfer_items(cpu, token, &mine.pd, mine.utcb(), &theirs.pd, windows, items);
        }),
        None => {}
    }
    if left == objects::Reply::NoCaller
        || cpu.leave_portal(|_, _, _| Passed::All) == objects::Reply::NoCaller
    {
        cpu.kill_current("reply without a caller");
    }
}

/// Runs `f` on the serving thread and its caller.
pub fn with_ends(cpu: &mut Cpu, f: impl FnOnce(&mut Cpu, &Ec, &Ec)) {
    let Some(mine) = cpu.current.clone() else { return };
    let Some(theirs) = cpu.state().and_then(|state| state.caller.clone()) else { return };
    f(cpu, &mine, &theirs);
}

/// The undocumented form: the caller does a down on a semaphore and then repeats its call.
#[inline(never)]
fn reply_and_wait(cpu: &mut Cpu, token: &Token, semaphore: u64) -> Outcome {
    let sm = held::<Sm>(cpu, token, semaphore, SM_DOWN)?;
    let repeats = cpu.with_caller(|_, _, _, state| {
        let calls = matches!(state.resume, Resume::AwaitReply);
        if calls {
            state.resume = Resume::Restart;
        }
        calls
    });
    // Time that was lent goes back to its owner with the reply: then nobody waits here, the caller just calls again.
    let lent = cpu.chain.is_some();
    if cpu.leave_portal(|_, _, _| Passed::All) == objects::Reply::NoCaller {
        cpu.kill_current("reply without a caller");
        return Ok(Verdict::Done);
    }
    // The caller repeats its call with its own registers, so it must not find the semaphore's status in RDI.
    if repeats == Some(true) && !lent && !sm.try_down(false) {
        let rdi = cpu.state().map(|state| state.thread.registers.rdi);
        if let Some(_status) = cpu.wait_on(sm, false, 0)
            && let (Some(state), Some(rdi)) = (cpu.state(), rdi)
        {
            state.thread.registers.rdi = rdi;
        }
    }
    Ok(Verdict::Done)
}
