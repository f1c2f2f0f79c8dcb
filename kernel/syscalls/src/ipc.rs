//! call and reply (abi.md 8).

use abi::Status;
use abi::args::{CallPortal, Reply};
use abi::cap::{PT_CALL, SM_DOWN};
use abi::utcb::{MESSAGE_WORDS, offset};
use objects::{Cpu, Ec, Help, Pt, Resume, Sm};
use sync::{SharedPage, Token};

use crate::authority::{held, object};
use crate::{Outcome, Verdict, Words, event, items};

/// First message word's number in the page.
const FIRST: usize = offset::MESSAGE / 8;

/// 0: goes through a portal.
#[inline]
pub fn call(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let CallPortal { portal, nonblocking } = CallPortal::decode(words);
    let pt = object::<Pt>(cpu, token, portal, PT_CALL)?.get();
    if pt.ec.cpu() != cpu.id {
        return Err(Status::BadCpu);
    }
    if cpu.idle_callee(pt).is_none() {
        return busy(cpu, pt, nonblocking);
    }
    let Some(current) = &cpu.current else { return Ok(Verdict::Done) };
    let items = copy_message(current.utcb(), pt.ec.utcb());
    // SUCCESS is the call number 0 that RDI already holds (abi.md 4).
    cpu.enter_portal(pt, Resume::AwaitReply);
    if items >> 16 != 0 {
        items::begin(cpu, token, Resume::ReceiveItems, items);
    }
    Ok(Verdict::Done)
}

#[cold]
fn busy(cpu: &mut Cpu, pt: &Pt, nonblocking: bool) -> Outcome {
    if nonblocking || pt.ec.is_dead() {
        return Err(Status::Timeout);
    }
    match cpu.help(&pt.ec, Resume::Restart) {
        Help::Lent => {}
        Help::Livelock => cpu.kill_current("Livelock"),
    }
    Ok(Verdict::Done)
}

/// Copies the words and the items word; returns the items word, read once.
#[inline(always)]
fn copy_message(from: &SharedPage, to: &SharedPage) -> u32 {
    let items = from.word(offset::ITEMS / 8);
    let count = (items & 0xffff) as usize;
    if count != 0 {
        to.copy_words(from, FIRST, count.min(MESSAGE_WORDS));
    }
    to.set_word(offset::ITEMS / 8, items);
    items as u32
}

/// 1: ends a service.
#[inline]
pub fn reply(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let Reply { semaphore } = Reply::decode(words);
    if semaphore != 0 {
        return reply_and_wait(cpu, token, semaphore);
    }
    let delivered = cpu.with_caller(|mine, _, theirs, state| match state.resume {
        Resume::AwaitReply => {
            let items = copy_message(mine.utcb(), theirs.utcb());
            if items >> 16 == 0 {
                state.resume = Resume::User;
                return Delivered::All;
            }
            Delivered::But(items)
        }
        Resume::AwaitEventReply => Delivered::But(mine.utcb().read_u32(offset::ITEMS)),
        _ => Delivered::All,
    });
    match delivered {
        Some(Delivered::But(items)) if items >> 16 != 0 => {
            items::begin(cpu, token, Resume::SendItems, items);
        }
        Some(Delivered::But(_)) => {
            event::reply(cpu);
            leave(cpu);
        }
        _ => leave(cpu),
    }
    Ok(Verdict::Done)
}

/// What a reply has done already.
enum Delivered {
    /// Its words are there, or nobody waits for any.
    All,
    /// All but the typed items of this items word, or all of an exception's answer.
    But(u32),
}

/// The serving thread parks; without a caller it dies.
#[inline(always)]
pub fn leave(cpu: &mut Cpu) {
    if cpu.leave_portal() == objects::Reply::NoCaller {
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
    if cpu.leave_portal() == objects::Reply::NoCaller {
        cpu.kill_current("reply without a caller");
        return Ok(Verdict::Done);
    }
    // The caller repeats its call with its own registers, so it must not find the semaphore's status in RDI.
    if repeats == Some(true) && !lent && !sm.try_down(false) {
        let rdi = cpu.state().map(|state| state.thread.registers.rdi);
        if let Some(_status) = cpu.wait_on(&sm, false, 0)
            && let (Some(state), Some(rdi)) = (cpu.state(), rdi)
        {
            state.thread.registers.rdi = rdi;
        }
    }
    Ok(Verdict::Done)
}
