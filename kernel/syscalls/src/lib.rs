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
mod trust;
mod vcpu;

use abi::{Call, Status, call};
use objects::{Cpu, Quick};
use sync::Token;

pub use event::raise;
pub use items::go_on as move_items;
pub use vcpu::quick_poke;

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

/// Does what the running thread asks for in its registers: the table of calls (abi.md 4).
///
/// Call and reply are part of the loop itself; every other call is a function of its own ([`serve`]), so that none
/// pays for the registers that another one needs. [`quick`] comes before it for some.
///
/// `first` is the call's first word, RDI. Whether somebody runs afterwards.
#[inline(always)]
pub fn handle(cpu: &mut Cpu, token: &Token, first: u64) -> bool {
    by_number!(first, return no_such_call(cpu), {
        // Known without a look: these are the paths where instructions count.
        Call::Call => return ipc::call(cpu, token, first),
        Call::Reply => return ipc::reply(cpu, token, first),
        Call::CreatePd => serve(cpu, token, create::create_pd),
        Call::CreateEc => serve(cpu, token, create::create_ec),
        Call::CreateSc => serve(cpu, token, create::create_sc),
        Call::CreatePt => serve(cpu, token, create::create_pt),
        Call::CreateSm => serve(cpu, token, create::create_sm),
        Call::Revoke => serve(cpu, token, revoke::revoke),
        Call::PdCtrl => serve(cpu, token, delegate::pd_ctrl),
        Call::EcCtrl => serve(cpu, token, control::ec_ctrl),
        Call::ScCtrl => serve(cpu, token, control::sc_ctrl),
        Call::PtCtrl => serve(cpu, token, control::pt_ctrl),
        Call::SmCtrl => serve(cpu, token, semaphore::sm_ctrl),
        Call::AssignPci => serve(cpu, token, machine::assign_pci),
        Call::MachineCtrl => serve(cpu, token, machine::machine_ctrl),
        Call::CreateKp => serve(cpu, token, create::create_kp),
        Call::KpCtrl => serve(cpu, token, pages::kp_ctrl),
        Call::IrqCtrl => serve(cpu, token, interrupts::irq_ctrl),
        Call::CreateVcpu => serve(cpu, token, create::create_vcpu),
        Call::VcpuCtrl => vcpu::vcpu_ctrl(cpu, token, first),
        Call::QuotaGive => serve(cpu, token, quota::quota_give),
        Call::QuotaRead => serve(cpu, token, quota::quota_read),
        Call::TrustGroup => serve(cpu, token, trust::trust_group),
        Call::VcpuRunExt => serve(cpu, token, vcpu::vcpu_run_ext),
        Call::Statistics => serve(cpu, token, machine::statistics),
        Call::Log => serve(cpu, token, machine::log),
        Call::GuestSpace => return no_such_call(cpu),
    });
    cpu.current.is_some()
}

const SM_CTRL: u8 = Call::SmCtrl as u8;
const PT_CTRL: u8 = Call::PtCtrl as u8;

/// Settles a call that needs nobody else, while most registers of the running thread are still on the processor
/// (`arch::Host::quick`): docs/decisions/0080-quick-calls.md.
#[inline(always)]
pub fn quick(cpu: &mut Cpu, token: &Token) -> Quick {
    let Some(state) = cpu.state() else { return Quick::Not };
    match call::number(state.thread.registers.rdi) {
        SM_CTRL => semaphore::quick(cpu, token),
        PT_CTRL => control::quick_pt_ctrl(cpu, token),
        _ => Quick::Not,
    }
}

/// A match of the call's number, whole: through `Call` it would be asked twice, whether it exists and which it is.
macro_rules! by_number {
    ($first:expr, $none:expr, { $(Call::$name:ident => $what:expr,)* }) => {{
        /// The table's rows as numbers.
        #[expect(non_upper_case_globals, reason = "they are named as the calls are")]
        mod number {
            use abi::Call;
            $(pub const $name: u8 = Call::$name as u8;)*
            const _: () = assert!([$($name),*].len() == Call::ALL.len(), "a call is not in the table");
        }
        match abi::call::number($first) {
            $(number::$name => $what,)*
            _ => $none,
        }
    }};
}
use by_number;

/// It has no steps, so nothing of it is left behind.
#[inline(always)]
fn no_such_call(cpu: &mut Cpu) -> bool {
    let Some(state) = cpu.state() else { return false };
    state.thread.registers.rdi = Status::BadHyp as u64;
    true
}

/// Reads the words of a call, executes it and writes its status.
#[inline(never)]
fn serve(cpu: &mut Cpu, token: &Token, call: impl FnOnce(&mut Cpu, &Token, Words) -> Outcome) {
    let Some(state) = cpu.state() else { return };
    let r = &state.thread.registers;
    let words: Words = [r.rdi, r.rsi, r.rdx, r.rax, r.r8];
    let outcome = call(cpu, token, words);
    answer(cpu, outcome);
}

/// Gives the running thread its status, if it gets one.
#[inline(always)]
fn answer(cpu: &mut Cpu, outcome: Outcome) {
    let status = match outcome {
        Ok(Verdict::Done) => return,
        Ok(Verdict::Answer(status)) => status,
        Err(Status::Oom) if cpu.wait_for_frees() => return repeat(cpu),
        Err(status) => refused(cpu, status),
    };
    if let Some(state) = cpu.state() {
        state.thread.registers.rdi = status as u64;
    }
}

/// The running thread makes its call once more when its wait is over; one that is done in steps goes on where it was.
#[cold]
fn repeat(cpu: &mut Cpu) {
    if let Some(state) = cpu.state() {
        state.resume = objects::Resume::Restart;
    }
}

/// A call that was refused between two steps leaves no cursor behind for the next one.
#[cold]
#[inline(never)]
fn refused(cpu: &mut Cpu, status: Status) -> Status {
    if let Some((ec, state)) = cpu.running() {
        state.cursor = 0;
        state.making = None;
        ec.mark.clear();
    }
    status
}

/// Memory ran out.
fn oom(_: logic::Oom) -> Status {
    Status::Oom
}
