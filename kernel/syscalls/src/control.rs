//! ec_ctrl, sc_ctrl, pt_ctrl (abi.md 10).

use core::sync::atomic::Ordering::Relaxed;

use abi::Status;
use abi::args::{EcCtrl, PtCtrl, ScCtrl};
use abi::cap::{EC_CT, PT_CT, SC_CT};
use objects::{Attention, Cpu, Ec, Kept, Pt, Quick, Sc};
use sync::Token;

use crate::authority::object;
use crate::{Outcome, Words};

/// 9: recall, the only operation on a context: it takes event 31 before it next returns to user mode.
#[inline(always)]
pub fn ec_ctrl(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let EcCtrl::Recall { ec } = EcCtrl::decode(words) else { return Err(Status::BadPar) };
    let ec = object::<Ec>(cpu, token, ec, EC_CT)?;
    ec.ask(Attention::RECALL);
    cpu.tell(ec.cpu());
    Ok(Status::Success.into())
}

/// 10: the time a scheduling context has used, in microseconds.
#[inline]
pub fn sc_ctrl(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let sc = object::<Sc>(cpu, token, ScCtrl::decode(words).sc, SC_CT)?;
    let used = cpu.microseconds(sc.used.load(Relaxed));
    if let Some(state) = cpu.state() {
        state.thread.registers.rsi = used >> 32;
        state.thread.registers.rdx = used;
    }
    Ok(Status::Success.into())
}

/// 11: sets the word that a portal's handler finds in RDI. On a portal whose selector is near.
#[inline(always)]
pub fn quick_pt_ctrl(cpu: &mut Cpu, token: &Token) -> Quick {
    let slab = Pt::slab(cpu.kernel);
    let Some((current, state)) = cpu.running() else { return Quick::Not };
    let r = &mut state.thread.registers;
    let PtCtrl { pt, id } = PtCtrl::decode([r.rdi, r.rsi, 0, 0, 0]);
    let near = current.pd.objects.find_near(pt, token, PT_CT, slab);
    let Some(pt) = near else { return Quick::Not };
    pt.set_id(id);
    r.rdi = Status::Success as u64;
    Quick::Done
}

/// 11, on any portal.
#[inline]
pub fn pt_ctrl(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let PtCtrl { pt, id } = PtCtrl::decode(words);
    object::<Pt>(cpu, token, pt, PT_CT)?.set_id(id);
    Ok(Status::Success.into())
}
