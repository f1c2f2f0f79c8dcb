//! sm_ctrl: up, and down with or without a deadline (abi.md 10).

use abi::args::SmCtrl;
use abi::cap::{SM_DOWN, SM_UP};
use abi::{Selector, Status};
use objects::{Cpu, Kept, Sc, Sm};
use sync::{Counted, Ref, Token};

use crate::authority::object;
use crate::{Verdict, answer};

/// 12. What finds its semaphore near and need not wait or wake ends here and calls nothing: so it saves no registers.
#[inline(never)]
pub fn sm_ctrl(cpu: &mut Cpu, token: &Token) {
    let kernel = cpu.kernel;
    let Some((current, state)) = cpu.running() else { return };
    let r = &mut state.thread.registers;
    let call = SmCtrl::decode([r.rdi, r.rsi, r.rdx, 0, 0]);
    let (selector, permission) = wanted(call);
    let near = current.pd.objects.find_near(selector, token, permission, Sm::slab(kernel));
    let Some(sm) = near else { return far(cpu, token, call) };
    r.rdi = Status::Success as u64;
    operate(cpu, sm, call);
}

/// The selector of a call, and what it takes.
#[inline(always)]
fn wanted(call: SmCtrl) -> (Selector, u8) {
    match call {
        SmCtrl::Up { sm } => (sm, SM_UP),
        SmCtrl::Down { sm, .. } => (sm, SM_DOWN),
    }
}

/// A semaphore behind a high selector, or none.
#[cold]
#[inline(never)]
fn far(cpu: &mut Cpu, token: &Token, call: SmCtrl) {
    let (selector, permission) = wanted(call);
    match object::<Sm>(cpu, token, selector, permission) {
        Ok(sm) => {
            answer(cpu, Ok(Status::Success.into()));
            operate(cpu, sm, call);
        }
        Err(status) => answer(cpu, Err(status)),
    }
}

/// Ups or downs; SUCCESS is the thread's status already.
#[inline(always)]
fn operate(cpu: &mut Cpu, sm: Ref<'_, Sm>, call: SmCtrl) {
    match call {
        SmCtrl::Up { .. } => {
            if let Some(sc) = sm.up() {
                wake(cpu, sc);
            }
        }
        SmCtrl::Down { zero, deadline, .. } => {
            if !sm.try_down(zero) {
                wait(cpu, sm, zero, deadline);
            }
        }
    }
}

#[inline(never)]
fn wake(cpu: &mut Cpu, sc: Counted<Sc>) {
    cpu.wake(sc, Status::Success);
}

#[inline(never)]
fn wait(cpu: &mut Cpu, sm: Ref<'_, Sm>, zero: bool, deadline: u64) {
    let outcome = match sm.hold() {
        None => Err(Status::BadCap),
        Some(sm) => Ok(cpu.wait_on(sm, zero, deadline).map_or(Verdict::Done, Verdict::Answer)),
    };
    answer(cpu, outcome);
}
