//! vcpu_ctrl: run and poke (abi.md 11); our vcpu_run_ext.

use abi::args::{VcpuCtrl, VcpuRunExt};
use abi::cap::VCPU_CT;
use abi::{Selector, Status};
use objects::{Cpu, RunOrder, Vcpu};
use sync::{Ref, Token};

use crate::authority::{named, object};
use crate::{Outcome, Verdict, Words, serve};

/// 20. A run returns at the first exit that concerns the monitor; the status then is SUCCESS.
#[inline(always)]
pub fn vcpu_ctrl(cpu: &mut Cpu, token: &Token, first: u64) {
    match VcpuCtrl::decode([first, 0, 0, 0, 0]) {
        VcpuCtrl::Poke { vcpu } => poke(cpu, token, vcpu),
        _ => serve(cpu, token, run_or_refuse),
    }
}

#[inline(always)]
fn poke(cpu: &mut Cpu, token: &Token, vcpu: Selector) {
    let (kernel, here) = (cpu.kernel, cpu.id);
    let Some((current, state)) = cpu.running() else { return };
    state.thread.registers.rdi = match named::<Vcpu>(current, kernel, token, vcpu, VCPU_CT) {
        Some(vcpu) => {
            vcpu.poke(kernel, here);
            Status::Success as u64
        }
        None => Status::BadCap as u64,
    };
}

#[inline(always)]
fn run_or_refuse(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let VcpuCtrl::Run { vcpu, mtd } = VcpuCtrl::decode(words) else {
        return Err(Status::BadPar);
    };
    let vcpu = object::<Vcpu>(cpu, token, vcpu, VCPU_CT)?;
    run(cpu, vcpu, RunOrder::version10(mtd))
}

/// 66: a run that says what it wants to be told.
#[inline]
pub fn vcpu_run_ext(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let VcpuRunExt { vcpu, load, tell, load_extended, tell_extended, reserved } =
        VcpuRunExt::decode(words);
    if reserved != 0 {
        return Err(Status::BadPar);
    }
    let vcpu = object::<Vcpu>(cpu, token, vcpu, VCPU_CT)?;
    run(cpu, vcpu, RunOrder { load, tell, load_extended, tell_extended })
}

/// If the run is not over, its status is in the thread's RDI when it is, which may be much later.
#[inline(always)]
fn run(cpu: &mut Cpu, vcpu: Ref<'_, Vcpu>, order: RunOrder) -> Outcome {
    match cpu.begin_run(vcpu, order) {
        Some(Status::Success) => Ok(Status::Success.into()),
        Some(refused) => Err(refused),
        None => Ok(Verdict::Done),
    }
}
