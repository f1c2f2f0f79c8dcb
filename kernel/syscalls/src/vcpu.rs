//! vcpu_ctrl: run and poke (abi.md 11).

use abi::Status;
use abi::args::VcpuCtrl;
use abi::cap::VCPU_CT;
use objects::{Cpu, Vcpu};
use sync::Token;

use crate::authority::object;
use crate::{Outcome, Verdict, Words};

/// 20. A run returns at the first exit that concerns the monitor; the status then is SUCCESS.
#[inline(always)]
pub fn vcpu_ctrl(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    match VcpuCtrl::decode(words) {
        VcpuCtrl::Run { vcpu, mtd } => {
            let vcpu = object::<Vcpu>(cpu, token, vcpu, VCPU_CT)?.hold().ok_or(Status::BadCap)?;
            match cpu.begin_run(vcpu, mtd) {
                Status::Success => Ok(Verdict::Done),
                refused => Err(refused),
            }
        }
        VcpuCtrl::Poke { vcpu } => {
            let vcpu = object::<Vcpu>(cpu, token, vcpu, VCPU_CT)?;
            cpu.poke(&vcpu);
            Ok(Status::Success.into())
        }
        VcpuCtrl::Unknown(_) => Err(Status::BadPar),
    }
}
