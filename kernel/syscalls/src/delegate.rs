//! pd_ctrl: lookup, map_access_page, delegate (in steps), msr_access (abi.md 10).

use abi::args::PdCtrl;
use abi::{Crd, CrdKind, Status};
use logic::addr::is_user_block;
use logic::page_table::Rights;
use objects::Cpu;
use sync::Token;

use crate::authority::{caller_ref, domain_ref};
use crate::transfer::{Giver, Step, item};
use crate::{Outcome, Verdict, Words, oom, revoke};

/// 8.
#[inline]
pub fn pd_ctrl(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    match PdCtrl::decode(words) {
        PdCtrl::Lookup { crd } => lookup(cpu, token, crd),
        PdCtrl::MapAccessPage { crd } => map_access_page(cpu, token, crd),
        PdCtrl::Delegate { source, destination, crd, meta, window } => {
            let from = domain_ref(cpu, token, source)?.get();
            let to = domain_ref(cpu, token, destination)?;
            let giver = Giver { pd: from, privileged: from.trust.privileged };
            let mut cursor = cpu.state().map_or(0, |state| state.cursor);
            let step = item(cpu, token, &giver, to, crd, meta, (window, window), &mut cursor);
            let (crd, flags) = match step {
                Ok(Step::More) => return revoke::again(cpu, Some(cursor)),
                Ok(Step::Done { crd, flags }) => (crd, flags),
                Err(refused) => return Err(refused),
            };
            let Some(state) = cpu.state() else { return Ok(Verdict::Done) };
            state.cursor = 0;
            state.thread.registers.rdi = Status::Success as u64;
            state.thread.registers.rdx = crd.0;
            state.thread.registers.rax = flags;
            Ok(Verdict::Done)
        }
        PdCtrl::MsrAccess { write, msr, value } => msr_access(cpu, token, write, msr, value),
    }
}

#[inline]
fn lookup(cpu: &mut Cpu, token: &Token, crd: Crd) -> Outcome {
    let own = caller_ref(cpu, token)?;
    let found = match crd.kind() {
        CrdKind::Object => own
            .objects
            .lookup(crd.base(), token)
            .map(|cap| Crd::objects(crd.base(), 0, cap.permissions)),
        CrdKind::Port => {
            let port = crd.base().min(0xffff) as u32;
            let found = cpu.kernel.ports.lock().find(own.identity(), port);
            found.map(|(base, count, permissions)| {
                Crd::ports(base.into(), logic::addr::order_for(count.into()), permissions)
            })
        }
        CrdKind::Memory | CrdKind::Null => None,
    };
    if let Some(state) = cpu.state() {
        state.thread.registers.rsi = found.unwrap_or(Crd::NULL).0;
    }
    Ok(Status::Success.into())
}

#[inline]
fn map_access_page(cpu: &mut Cpu, token: &Token, crd: Crd) -> Outcome {
    let fits = crd.kind() == CrdKind::Memory && crd.perms() == 3 && crd.order() == 0;
    if !fits || !is_user_block(crd.base(), 0) {
        return Err(Status::BadPar);
    }
    let own = caller_ref(cpu, token)?;
    let spare = own.spare_access_page(cpu.kernel.pool).map_err(oom)?;
    let progress = {
        let mut page = own.access_page.lock();
        let frame = page.as_ref().or(spare.as_ref()).map(|page| page.frame()).ok_or(Status::Oom)?;
        let rights = Rights::READ.or(Rights::WRITE);
        let progress = own.memory.map_guest_page(crd.base(), frame, rights);
        if page.is_none() && !progress.oom {
            *page = spare;
        }
        progress
    };
    cpu.settle(own.identity(), &progress);
    if progress.oom { Err(Status::Oom) } else { Ok(Status::Success.into()) }
}

/// Registers that nobody outside the kernel may touch (abi.md 10).
fn is_private(msr: u32) -> bool {
    matches!(msr,
        0x10 | 0x1b | 0x3b | 0x174..=0x176 | 0x480..=0x491 | 0x600 | 0x6e0 | 0x800..=0x8ff
        | 0xc000_0080 | 0xc000_0101..=0xc000_0103)
}

/// Registers that nobody outside the kernel may write.
fn is_read_only(msr: u32) -> bool {
    matches!(msr, 0x3a | 0x200..=0x26f | 0x277 | 0x2ff)
}

#[inline]
fn msr_access(cpu: &mut Cpu, token: &Token, write: bool, msr: u32, value: u64) -> Outcome {
    if !caller_ref(cpu, token)?.trust.passthrough {
        return Err(Status::BadCap);
    }
    if is_private(msr) || write && is_read_only(msr) {
        if let (false, Some(state)) = (write, cpu.state()) {
            state.thread.registers.rsi = 0;
        }
        return Err(Status::BadPar);
    }
    if write {
        return if objects::machine::write_msr(msr, value) {
            Ok(Status::Success.into())
        } else {
            Err(Status::BadPar)
        };
    }
    let value = objects::machine::read_msr(msr);
    if let Some(state) = cpu.state() {
        state.thread.registers.rsi = value.unwrap_or(0);
    }
    value.map(|_| Verdict::Answer(Status::Success)).ok_or(Status::BadPar)
}
