//! irq_ctrl: which semaphore an interrupt counts up (abi.md 13).

use abi::Status;
use abi::args::IrqCtrl;
use abi::cap::{KP_CT, SM_UP};
use logic::addr::PAGE_BITS;
use objects::{Cpu, Kp, Sm, VectorUse};
use sync::Token;

use crate::authority::{caller, held};
use crate::{Outcome, Verdict, Words};

const VECTORS: u8 = 192;

fn check(cpu: &Cpu, vector: u8, target: u16) -> Result<(), Status> {
    if vector >= VECTORS {
        return Err(Status::BadPar);
    }
    if !cpu.kernel.is_online(target.into()) {
        return Err(Status::BadCpu);
    }
    Ok(())
}

/// 18.
#[inline]
pub fn irq_ctrl(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let own = caller(cpu)?;
    if !own.trust.passthrough {
        return Err(Status::BadCap);
    }
    let done: Verdict = Status::Success.into();
    match IrqCtrl::decode(words) {
        IrqCtrl::ConfigureVector { vector, cpu: target, sm, kp, bit } => {
            check(cpu, vector, target)?;
            let table = cpu.irq_table(target.into()).ok_or(Status::BadCpu)?;
            let is_null = |selector| own.objects.lookup(selector, token).is_none();
            if is_null(sm) && is_null(kp) {
                drop(table.configure(vector.into(), None));
                return Ok(done);
            }
            let sm = held::<Sm>(cpu, token, sm, SM_UP)?;
            let kp = held::<Kp>(cpu, token, kp, KP_CT)?;
            drop(table.configure(vector.into(), Some(VectorUse { sm, kp, bit })));
        }
        IrqCtrl::AssignIoapicPin { vector, cpu: target, level, active_low, ioapic, pin } => {
            check(cpu, vector, target)?;
            cpu.assign_pin(vector, target.into(), level, active_low, ioapic, pin)?;
        }
        IrqCtrl::MaskIoapicPin { mask, ioapic, pin } => cpu.mask_pin(mask, ioapic, pin)?,
        IrqCtrl::AssignMsi { vector, cpu: target, device } => {
            check(cpu, vector, target)?;
            own.memory.lookup(device >> PAGE_BITS).ok_or(Status::BadDev)?;
            let (address, data) = cpu.msi(vector, target.into());
            if let Some(state) = cpu.state() {
                state.thread.registers.rsi = address;
                state.thread.registers.rdx = data;
            }
        }
        IrqCtrl::AssignLvt { vector, lvt } => {
            if vector >= VECTORS || lvt != 0 {
                return Err(Status::BadPar);
            }
            cpu.thermal(vector, false);
        }
        IrqCtrl::MaskLvt { mask, lvt } => {
            if lvt != 0 {
                return Err(Status::BadPar);
            }
            cpu.thermal(0, mask);
        }
        IrqCtrl::Unknown(_) => return Err(Status::BadPar),
    }
    Ok(done)
}
