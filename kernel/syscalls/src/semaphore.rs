//! sm_ctrl: up, and down with or without a deadline (abi.md 10).

use abi::Status;
use abi::args::SmCtrl;
use abi::cap::{SM_DOWN, SM_UP};
use objects::{Cpu, Sc, Sm};
use sync::{Counted, Ref, Token};

use crate::authority::named;
use crate::{Verdict, answer};

/// 12. What need not wait or wake ends here; the rest is apart, so that this part keeps nothing on the stack.
#[inline(never)]
pub fn sm_ctrl(cpu: &mut Cpu, token: &Token) {
    let kernel = cpu.kernel;
    let Some((current, state)) = cpu.running() else { return };
    let r = &mut state.thread.registers;
    match SmCtrl::decode([r.rdi, r.rsi, r.rdx, 0, 0]) {
        SmCtrl::Up { sm } => {
            let Some(sm) = named::<Sm>(current, kernel, token, sm, SM_UP) else {
                r.rdi = Status::BadCap as u64;
                return;
            };
            r.rdi = Status::Success as u64;
            if let Some(sc) = sm.up() {
                wake(cpu, sc);
            }
        }
        SmCtrl::Down { sm, zero, deadline } => {
            let Some(sm) = named::<Sm>(current, kernel, token, sm, SM_DOWN) else {
                r.rdi = Status::BadCap as u64;
                return;
            };
            if sm.try_down(zero) {
                r.rdi = Status::Success as u64;
                return;
            }
            wait(cpu, sm, zero, deadline);
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
