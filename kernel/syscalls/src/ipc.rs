//! call and reply (abi.md 8).

use abi::Status;
use abi::args::{CallPortal, Reply};
use abi::cap::{PT_CALL, SM_DOWN};
use abi::utcb::{MESSAGE_WORDS, offset};
use objects::{Cpu, Ec, Entered, Help, Passed, Pt, Resume, Sm};
use sync::{Ref, SharedPage, Token};

use crate::authority::{held, named};
use crate::{Outcome, Verdict, answer, event, items};

const _: () = assert!(offset::MESSAGE == 8 * SharedPage::MESSAGE, "where copy_message begins");

/// 0: goes through a portal. `first` is the call's first word. Whether somebody runs afterwards.
#[inline(always)]
pub fn call(cpu: &mut Cpu, token: &Token, first: u64) -> bool {
    let CallPortal { portal, nonblocking } = CallPortal::decode([first, 0, 0, 0, 0]);
    let kernel = cpu.kernel;
    let find = |current: &Ec| named::<Pt>(current, kernel, token, portal, PT_CALL).map(Ref::get);
    // SUCCESS is the call number 0 that RDI already holds (abi.md 4).
    let mut items = 0;
    let entered = cpu.enter_portal(find, Resume::AwaitReply, |_, mine, _, theirs| {
        items = copy_message(mine.utcb(), theirs.utcb());
        Passed::All
    });
    match entered {
        Entered::Running if items >> 16 == 0 => return true,
        Entered::Running => items::begin(cpu, token, Resume::ReceiveItems, items),
        Entered::Nowhere => refuse(cpu, Status::BadCap),
        Entered::More(pt) | Entered::Refused(pt) => busy(cpu, pt, nonblocking),
    }
    cpu.current.is_some()
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

/// 1: ends a service. `first` is the call's first word. Whether somebody runs afterwards.
#[inline(always)]
pub fn reply(cpu: &mut Cpu, token: &Token, first: u64) -> bool {
    let Reply { semaphore } = Reply::decode([first, 0, 0, 0, 0]);
    if semaphore != 0 {
        let outcome = reply_and_wait(cpu, token, semaphore);
        answer(cpu, outcome);
        return cpu.current.is_some();
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
    if left == objects::Reply::Returned {
        return true;
    }
    reply_more(cpu, token, left, items);
    cpu.current.is_some()
}

/// A reply with more than words or registers (`items` is a message's items word), or to nobody.
#[cold]
#[inline(never)]
fn reply_more(cpu: &mut Cpu, token: &Token, left: objects::Reply, items: u32) {
    if left == objects::Reply::NoCaller {
        return cpu.kill_current("reply without a caller");
    }
    let items = cpu.with_caller(|mine, _, _, state| match state.resume {
        Resume::AwaitReply => items,
        _ => mine.utcb().read_u32(offset::ITEMS),
    });
    match items {
        Some(items) if items >> 16 != 0 => items::begin(cpu, token, Resume::SendItems, items),
        _ => {
            event::reply(cpu);
            leave(cpu);
        }
    }
}

/// The serving thread parks; without a caller it dies.
pub fn leave(cpu: &mut Cpu) {
    if cpu.leave_portal(|_, _, _| Passed::All) == objects::Reply::NoCaller {
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
