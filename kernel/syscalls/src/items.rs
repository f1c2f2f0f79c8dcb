//! Typed items between the two ends of a call, in steps (abi.md 6, 8).
//!
//! The serving thread moves them, on the caller's time: those of a call before its first instruction, those of a reply
//! after its last. All the while the caller waits in its call. Between two steps the CPU passes through the loop,
//! so interrupts, other threads and death get in; each step looks the authority up anew. What it does not do
//! is to judge an item: that is `transfer.rs`.

use abi::crd::ItemMeta;
use abi::utcb::{MAX_TYPED, offset, typed_offset};
use abi::{Crd, Status};
use objects::{Cpu, Ec, Frees, Item, Moving, Resume};
use sync::{Counted, Token};

use crate::transfer::{Giver, Step, item};
use crate::{event, ipc};

/// Items finished in one step, at most; a large one is as much as all of them.
const PER_STEP: usize = 4;
/// log2 of the pages, ports or selectors of the largest item that is not large.
const SMALL: u8 = 2;

/// The running thread moves as many items as the items word says, then goes on as `resume` says: `ReceiveItems` runs
/// the service, `SendItems` ends it.
#[cold]
pub fn begin(cpu: &mut Cpu, token: &Token, resume: Resume, items: u32) {
    let count = ((items >> 16) as usize).min(MAX_TYPED);
    if let Some(state) = cpu.state() {
        state.moving = Moving { count, done: 0, item: None };
        state.resume = resume;
    }
    go_on(cpu, token);
}

/// The next step of the running thread, whose `resume` is `ReceiveItems` or `SendItems`.
pub fn go_on(cpu: &mut Cpu, token: &Token) {
    let Some((server, caller)) = ends(cpu) else { return };
    let Some(state) = cpu.state() else { return };
    let mut moving = core::mem::take(&mut state.moving);
    let is_call = matches!(state.resume, Resume::ReceiveItems);
    let (from, to) = if is_call { (&caller, &server) } else { (&server, &caller) };
    let around = fault_address(cpu, &caller);
    let mut left = PER_STEP;
    while left != 0
        && moving.done < moving.count
        && let Some(cost) = step(cpu, token, (from, to), around, &mut moving)
    {
        left = left.saturating_sub(cost);
    }
    let is_done = moving.done == moving.count;
    let Some(state) = cpu.state() else { return };
    state.moving = moving;
    if is_done {
        state.frees = Frees::Unasked;
    }
    match (is_done, is_call) {
        (false, _) => {}
        (true, true) => state.resume = Resume::User,
        (true, false) => {
            state.resume = Resume::User;
            finish_reply(cpu);
        }
    }
}

/// Serving thread and caller. A reply without a caller is the thread's end.
fn ends(cpu: &mut Cpu) -> Option<(Counted<Ec>, Counted<Ec>)> {
    let server = cpu.current.clone()?;
    let caller = cpu.state().and_then(|state| state.caller.clone());
    if caller.is_none() {
        cpu.kill_current("reply without a caller");
    }
    Some((server, caller?))
}

/// Where the caller's exception was, if that is what it waits for.
fn fault_address(cpu: &mut Cpu, caller: &Counted<Ec>) -> Option<u64> {
    let state = caller.cell.open(&mut cpu.key)?;
    matches!(state.resume, Resume::AwaitEventReply).then_some(state.fault_address)
}

/// A step of the present item; its share of [`PER_STEP`] if that finished it. An item that cannot be moved gives a
/// null CRD.
fn step(
    cpu: &mut Cpu,
    token: &Token,
    (from, to): (&Counted<Ec>, &Counted<Ec>),
    around: Option<u64>,
    moving: &mut Moving,
) -> Option<usize> {
    let Some(at) = typed_offset(moving.done) else {
        moving.done += 1;
        return Some(1);
    };
    // Each item is read once: what a program writes there between two steps is not looked at.
    let mut now = moving.item.take().unwrap_or_else(|| read(from, to, around, at));
    let giver = Giver { pd: &from.pd, privileged: from.pd.trust.privileged };
    let (send, meta) = (Crd(now.send), ItemMeta(now.meta));
    let windows = (Crd(now.translate), Crd(now.delegate));
    let result = item(cpu, token, &giver, to.pd.borrow(), send, meta, windows, &mut now.cursor);
    let (crd, flags) = match result {
        Ok(Step::More) => {
            moving.item = Some(now);
            return None;
        }
        Ok(Step::Done { crd, flags }) => (crd, flags),
        Err(Status::Oom) if cpu.wait_for_frees() => {
            moving.item = Some(now);
            return None;
        }
        Err(_) => (Crd::NULL, meta.flags()),
    };
    if around.is_none() {
        to.utcb().write_u64(at, crd.0);
        to.utcb().write_u64(at + 8, flags);
    }
    moving.done += 1;
    Some(if send.order() > SMALL { PER_STEP } else { 1 })
}

/// An item and the receiver's windows. An exception's reply may give memory only, wherever the hotspot says in the
/// 8 TiB around the fault.
fn read(from: &Ec, to: &Ec, around: Option<u64>, at: usize) -> Item {
    let (sender, receiver) = (from.utcb(), to.utcb());
    let (translate, delegate) = match around {
        None => (
            receiver.read_u64(offset::TRANSLATE_WINDOW),
            receiver.read_u64(offset::DELEGATE_WINDOW),
        ),
        Some(address) => (Crd::NULL.0, Crd::memory(address >> 12 & !0x7fff_ffff, 31, 7).0),
    };
    Item {
        send: sender.read_u64(at),
        meta: sender.read_u64(at + 8),
        translate,
        delegate,
        cursor: 0,
    }
}

/// The last part of a reply: the caller has its answer, the serving thread parks.
pub fn finish_reply(cpu: &mut Cpu) {
    let was_event = cpu.with_caller(|_, _, _, state| match state.resume {
        Resume::AwaitReply => {
            state.resume = Resume::User;
            false
        }
        Resume::AwaitEventReply => true,
        _ => false,
    });
    if was_event == Some(true) {
        event::reply(cpu);
    }
    ipc::leave(cpu);
}
