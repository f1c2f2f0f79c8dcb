//! Our own calls about kernel memory: quota_give (64) and quota_read (65).

use abi::{Status, call};
use objects::Cpu;
use sync::Token;

use crate::authority::domain;
use crate::{Outcome, Words};

/// 64: sel = a domain, RSI = bytes. From now on that domain's kernel memory is limited to so many bytes.
#[inline]
pub fn quota_give(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let [first, bytes, ..] = words;
    let pd = domain(cpu, token, call::value(first))?;
    if pd.trust.privileged {
        return Err(Status::BadPar);
    }
    pd.account.set_limit(bytes);
    Ok(Status::Success.into())
}

/// 65: sel = a domain. Out RSI = bytes in use, RDX = limit (all ones: none of its own), RAX = frames of kernel
/// memory that are free, for a holder of the first domain; else as it was.
#[inline]
pub fn quota_read(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let pd = domain(cpu, token, call::value(words[0]))?;
    let (used, limit) = pd.account.state();
    let free = pd.trust.privileged.then(|| cpu.kernel.pool.free_frames() as u64);
    if let Some(state) = cpu.state() {
        state.thread.registers.rsi = used;
        state.thread.registers.rdx = limit;
        if let Some(free) = free {
            state.thread.registers.rax = free;
        }
    }
    Ok(Status::Success.into())
}
