//! What a system call means: decode, decide, do.
//!
//! Each call reads its words through the struct of its name in `abi`, checks all authority, reserves all memory, and only
//! then writes, in a part that cannot fail: a refused call has changed nothing. Calls that may take long (marked
//! "in steps") do a bounded part, keep a cursor in their thread and are repeated by the loop.
//!
//! This room does not know what machine it runs on.

#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

mod authority;
mod control;
mod create;
mod delegate;
mod event;
mod interrupts;
mod ipc;
mod items;
mod machine;
mod pages;
mod quota;
mod revoke;
mod semaphore;
mod transfer;
mod vcpu;

use abi::{Call, Status};
use objects::Cpu;
use sync::Token;

pub use event::raise;
pub use items::go_on as move_items;

/// How a call goes on.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The running thread gets this status and goes on.
    Answer(Status),
    /// Nothing more to say to the thread that called: it waits, has its answer already, or calls again.
    Done,
}

impl From<Status> for Verdict {
    fn from(status: Status) -> Verdict {
        Verdict::Answer(status)
    }
}

/// A refusal, or how the call goes on.
type Outcome = Result<Verdict, Status>;

/// The five argument words of the call that the running thread makes.
type Words = abi::args::Words;

/// Does what the running thread asks for in its registers.
#[inline]
pub fn handle(cpu: &mut Cpu, token: &Token) {
    let Some(state) = cpu.state() else { return };
    let r = &state.thread.registers;
    let words: Words = [r.rdi, r.rsi, r.rdx, r.rax, r.r8];
    let status = match dispatch(cpu, token, words) {
        Ok(Verdict::Done) => return,
        Ok(Verdict::Answer(status)) => status,
        Err(status) => refused(cpu, status),
    };
    if let Some(state) = cpu.state() {
        state.thread.registers.rdi = status as u64;
    }
}

/// A call that was refused between two steps leaves no cursor behind for the next one.
#[cold]
fn refused(cpu: &mut Cpu, status: Status) -> Status {
    if let Some(state) = cpu.state() {
        state.cursor = 0;
        state.making = None;
    }
    status
}

/// The table of calls (abi.md 4).
#[inline]
fn dispatch(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    match Call::from_word(words[0]).map_err(|_| Status::BadHyp)? {
        Call::Call => ipc::call(cpu, token, words),
        Call::Reply => ipc::reply(cpu, token, words),
        Call::CreatePd => create::create_pd(cpu, token, words),
        Call::CreateEc => create::create_ec(cpu, token, words),
        Call::CreateSc => create::create_sc(cpu, token, words),
        Call::CreatePt => create::create_pt(cpu, token, words),
        Call::CreateSm => create::create_sm(cpu, token, words),
        Call::Revoke => revoke::revoke(cpu, token, words),
        Call::PdCtrl => delegate::pd_ctrl(cpu, token, words),
        Call::EcCtrl => control::ec_ctrl(cpu, token, words),
        Call::ScCtrl => control::sc_ctrl(cpu, token, words),
        Call::PtCtrl => control::pt_ctrl(cpu, token, words),
        Call::SmCtrl => semaphore::sm_ctrl(cpu, token, words),
        Call::AssignPci => machine::assign_pci(cpu, token, words),
        Call::MachineCtrl => machine::machine_ctrl(cpu, token, words),
        Call::CreateKp => create::create_kp(cpu, token, words),
        Call::KpCtrl => pages::kp_ctrl(cpu, token, words),
        Call::IrqCtrl => interrupts::irq_ctrl(cpu, token, words),
        Call::CreateVcpu => create::create_vcpu(cpu, token, words),
        Call::VcpuCtrl => vcpu::vcpu_ctrl(cpu, token, words),
        Call::QuotaGive => quota::quota_give(cpu, token, words),
        Call::QuotaRead => quota::quota_read(cpu, token, words),
        Call::VcpuRunExt => vcpu::vcpu_run_ext(cpu, token, words),
        Call::GuestSpace | Call::Statistics | Call::Log => Err(Status::BadHyp),
    }
}

/// Memory ran out.
fn oom(_: logic::Oom) -> Status {
    Status::Oom
}
