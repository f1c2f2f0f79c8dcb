//! machine_ctrl, assign_pci (abi.md 10), and our own statistics (68) and log (69).

use core::sync::atomic::Ordering::Relaxed;

use abi::Status;
use abi::args::{AssignPci, Log, MachineCtrl, Statistics};
use abi::log as told;
use abi::utcb::offset;
use objects::{Cpu, Refused};
use sync::Token;

use crate::authority::{caller, domain};
use crate::{Outcome, Words, revoke};

/// Sleep types have three bits (ACPI 6.4, 4.8.3.2.1).
const MOST_SLEEP_TYPE: u8 = 7;
/// The most bytes of a microcode update; its field in the call holds less.
const MOST_MICROCODE: u32 = 2 << 20;

/// 15. Suspend: the waking vector comes in RSI whatever the answer is. Microcode is copied and loaded on every CPU, in steps.
#[inline]
pub fn machine_ctrl(cpu: &mut Cpu, _token: &Token, words: Words) -> Outcome {
    if !caller(cpu)?.trust.passthrough {
        return Err(Status::BadCap);
    }
    match MachineCtrl::decode(words) {
        MachineCtrl::Suspend { slp_typ_a, slp_typ_b } => {
            let vector = objects::waking_vector().unwrap_or(0);
            let cursor = cpu.state().map_or(0, |state| state.cursor);
            if let Some(state) = cpu.state() {
                state.thread.registers.rsi = vector;
            }
            if slp_typ_a > MOST_SLEEP_TYPE || slp_typ_b > MOST_SLEEP_TYPE {
                return Err(Status::BadPar);
            }
            let next = cpu.suspend([slp_typ_a, slp_typ_b], cursor);
            if next.is_err()
                && let Some(state) = cpu.state()
            {
                state.cursor = 0;
            }
            revoke::again(cpu, next.map_err(|_| Status::BadPar)?)
        }
        MachineCtrl::UpdateMicrocode { size, .. } if size > MOST_MICROCODE => Err(Status::BadPar),
        MachineCtrl::UpdateMicrocode { size, physical } => {
            let cursor = cpu.state().map_or(0, |state| state.cursor);
            match cpu.load_microcode(physical, size.into(), cursor) {
                Ok(next) => revoke::again(cpu, next),
                Err(Refused::Memory) => Err(Status::Oom),
                Err(Refused::Busy) => Err(Status::BadPar),
            }
        }
        MachineCtrl::Unknown(_) => Err(Status::BadPar),
    }
}

/// 13. Without an IOMMU driver no device has one: BAD_DEV.
#[inline]
pub fn assign_pci(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    domain(cpu, token, AssignPci::decode(words).pd)?;
    Err(Status::BadDev)
}

/// 68: a counter of a processor or of the machine, into RSI.
#[inline]
pub fn statistics(cpu: &mut Cpu, _token: &Token, words: Words) -> Outcome {
    let Statistics { cpu: of, counter } = Statistics::decode(words);
    if !caller(cpu)?.trust.passthrough {
        return Err(Status::BadCap);
    }
    if !cpu.kernel.is_online(of) {
        return Err(Status::BadCpu);
    }
    let of = usize::try_from(of).map_err(|_| Status::BadCpu)?;
    let value = match counter {
        told::UNOWNED_INTERRUPTS => cpu.irq_table(of).map_or(0, |table| table.unowned()),
        told::SHOOTDOWNS => {
            cpu.kernel.remotes.get(of).map_or(0, |cpu| cpu.flush_done.load(Relaxed))
        }
        told::FREE_FRAMES => cpu.kernel.pool.free_frames() as u64,
        told::LOG_RECORDS => cpu.kernel.log.written(),
        other => {
            let label = other.checked_sub(told::STRETCHES).ok_or(Status::BadPar)?;
            objects::machine::longest_stretch(label).ok_or(Status::BadPar)?
        }
    };
    if let Some(state) = cpu.state() {
        state.thread.registers.rsi = value;
    }
    Ok(Status::Success.into())
}

/// 69: the kernel's log. Records go into the caller's message, as many as it holds; RSI is the number to ask for next,
/// RDX how many came, RAX how many were lost since the one asked for.
#[inline]
pub fn log(cpu: &mut Cpu, _token: &Token, words: Words) -> Outcome {
    if !caller(cpu)?.trust.passthrough {
        return Err(Status::BadCap);
    }
    let from = match Log::decode(words) {
        Log::Claim => {
            cpu.kernel.log.claim();
            return Ok(Status::Success.into());
        }
        Log::Read { from } => from,
        Log::Unknown(_) => return Err(Status::BadPar),
    };
    let Some(page) = cpu.current.as_ref().map(|current| current.utcb()) else {
        return Err(Status::BadCap);
    };
    let (mut next, mut count, mut lost) = (from, 0, 0);
    while count < told::RECORDS {
        let Some((record, missing)) = cpu.kernel.log.from(next) else { break };
        let place = offset::MESSAGE + 8 * told::RECORD_WORDS * count;
        for (index, word) in record.words().into_iter().enumerate() {
            page.write_u64(place + 8 * index, word);
        }
        (next, count, lost) = (record.number + 1, count + 1, lost + missing);
    }
    if let Some(state) = cpu.state() {
        let registers = &mut state.thread.registers;
        (registers.rsi, registers.rdx, registers.rax) = (next, count as u64, lost);
    }
    Ok(Status::Success.into())
}
