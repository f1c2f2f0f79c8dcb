//! sm_ctrl: up, and down with or without a deadline (abi.md 10).

use abi::Status;
use abi::args::SmCtrl;
use abi::cap::{SM_DOWN, SM_UP};
use objects::{Cpu, Sm};
use sync::Token;

use crate::authority::object;
use crate::{Outcome, Verdict, Words};

/// 12.
#[inline(always)]
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
            let sm = sm.hold().ok_or(Status::BadCap)?;
            match cpu.wait_on(&sm, zero, deadline) {
                Some(status) => Ok(status.into()),
                None => Ok(Verdict::Done),
            }
        }
    }
}
