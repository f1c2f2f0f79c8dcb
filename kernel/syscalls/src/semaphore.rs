//! sm_ctrl: up, and down with or without a deadline (abi.md 10).

use abi::Status;
use abi::args::SmCtrl;
use abi::cap::{SM_DOWN, SM_UP};
use objects::{Cpu, Kept, Quick, Sc, Sm};
use sync::{Counted, Ref, Token};

use crate::authority::object;
use crate::{Outcome, Verdict, Words};

/// 12, on a semaphore whose selector is near. What need not wait or wake calls nothing, so it saves no registers.
#[inline(always)]
pub fn quick(cpu: &mut Cpu, token: &Token) -> Quick {
    let slab = Sm::slab(cpu.kernel);
    let Some((current, state)) = cpu.running() else { return Quick::Not };
    let r = &mut state.thread.registers;
    let near = &current.pd.objects;
    match SmCtrl::decode([r.rdi, r.rsi, r.rdx, 0, 0]) {
        SmCtrl::Up { sm } => {
            let Some(sm) = near.find_near(sm, token, SM_UP, slab) else { return Quick::Not };
            r.rdi = Status::Success as u64;
            match sm.up() {
                None => Quick::Done,
                Some(sc) => wake(cpu, sc),
            }
        }
        SmCtrl::Down { sm, zero, deadline } => {
            let Some(sm) = near.find_near(sm, token, SM_DOWN, slab) else { return Quick::Not };
            r.rdi = Status::Success as u64;
            if sm.try_down(zero) { Quick::Done } else { wait_quickly(cpu, sm, zero, deadline) }
        }
    }
}

/// Somebody waits: the caller's status is there already.
#[inline(never)]
fn wake(cpu: &mut Cpu, sc: Counted<Sc>) -> Quick {
    if cpu.wake_and_choose(sc) { Quick::Done } else { Quick::Look }
}

/// The caller has to wait, unless its time is over: then somebody else runs.
#[inline(never)]
fn wait_quickly(cpu: &mut Cpu, sm: Ref<'_, Sm>, zero: bool, deadline: u64) -> Quick {
    let outcome = wait(cpu, sm, zero, deadline);
    if outcome == Ok(Verdict::Done) {
        cpu.choose();
        return Quick::Look;
    }
    crate::answer(cpu, outcome);
    Quick::Done
}

/// 12, on any semaphore.
#[inline]
pub fn sm_ctrl(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    match SmCtrl::decode(words) {
        SmCtrl::Up { sm } => {
            let sm = object::<Sm>(cpu, token, sm, SM_UP)?;
            if let Some(sc) = sm.up() {
                cpu.wake(sc, Status::Success);
            }
            Ok(Status::Success.into())
        }
        SmCtrl::Down { sm, zero, deadline } => {
            let sm = object::<Sm>(cpu, token, sm, SM_DOWN)?;
            if sm.try_down(zero) {
                return Ok(Status::Success.into());
            }
            wait(cpu, sm, zero, deadline)
        }
    }
}

/// Who waits is no longer the running thread; its status comes when it is woken.
fn wait(cpu: &mut Cpu, sm: Ref<'_, Sm>, zero: bool, deadline: u64) -> Outcome {
    let sm = sm.hold().ok_or(Status::BadCap)?;
    Ok(cpu.wait_on(sm, zero, deadline).map_or(Verdict::Done, Verdict::Answer))
}
