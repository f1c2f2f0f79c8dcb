//! vcpu_ctrl: run and poke (abi.md 11); our vcpu_run_ext.

use abi::Status;
use abi::args::{VcpuCtrl, VcpuRunExt};
use abi::cap::VCPU_CT;
use objects::{Cpu, Kept, Quick, RunOrder, Vcpu};
use sync::{Ref, Token};

use crate::authority::object;
use crate::{Outcome, Verdict, Words, serve};

/// 20. A run returns at the first exit that concerns the monitor; the status then is SUCCESS.
#[inline(always)]
pub fn vcpu_ctrl(cpu: &mut Cpu, token: &Token, first: u64) {
    match VcpuCtrl::decode([first, 0, 0, 0, 0]) {
        VcpuCtrl::Run { .. } => serve(cpu, token, begin_run),
        _ => serve(cpu, token, poke_or_refuse),
    }
}

#[inline(always)]
fn begin_run(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let VcpuCtrl::Run { vcpu, mtd } = VcpuCtrl::decode(words) else {
        return Err(Status::BadPar);
    };
    let vcpu = object::<Vcpu>(cpu, token, vcpu, VCPU_CT)?;
    run(cpu, vcpu, RunOrder::version10(mtd))
}

#[inline]
fn poke_or_refuse(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let VcpuCtrl::Poke { vcpu } = VcpuCtrl::decode(words) else { return Err(Status::BadPar) };
    object::<Vcpu>(cpu, token, vcpu, VCPU_CT)?.poke(cpu.kernel, cpu.id);
    Ok(Status::Success.into())
}

/// A poke through one of the first selectors, without a round of the loop, as [`quick`](crate::quick).
#[inline(always)]
pub fn quick_poke(cpu: &mut Cpu, token: &Token) -> Quick {
    let (kernel, here) = (cpu.kernel, cpu.id);
    let Some((current, state)) = cpu.running() else { return Quick::Not };
    let rdi = &mut state.thread.registers.rdi;
    let VcpuCtrl::Poke { vcpu } = VcpuCtrl::decode([*rdi, 0, 0, 0, 0]) else { return Quick::Not };
    let near = current.pd.objects.find_near(vcpu, token, VCPU_CT, Vcpu::slab(kernel));
    let Some(vcpu) = near else { return Quick::Not };
    vcpu.poke(kernel, here);
    *rdi = Status::Success as u64;
    Quick::Done
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
