//! kp_ctrl: where a kernel page is seen (abi.md 10).

use abi::Status;
use abi::args::KpCtrl;
use abi::cap::{KP_CT, USER_TOP};
use logic::addr::{PAGE_BITS, PAGE_SIZE};
use logic::page_table::Rights;
use objects::{Cpu, Kp};
use sync::Token;

use crate::authority::{domain, held};
use crate::{Outcome, Words, oom};

/// 17.
#[inline]
pub fn kp_ctrl(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    match KpCtrl::decode(words) {
        KpCtrl::Map { kp, pd, address } => {
            let kp = held::<Kp>(cpu, token, kp, KP_CT)?;
            let pd = domain(cpu, token, pd)?;
            if address % PAGE_SIZE != 0 || address >= USER_TOP {
                return Err(Status::BadPar);
            }
            let page = address >> PAGE_BITS;
            {
                let mut mapped = kp.mapped.lock();
                if mapped.is_some() {
                    return Err(Status::BadPar);
                }
                *mapped = Some((pd.clone(), page));
            }
            let rights = Rights::READ.or(Rights::WRITE);
            if let Err(none) = cpu.map_kernel_page(&pd, page, kp.frame(), rights) {
                *kp.mapped.lock() = None;
                return Err(oom(none));
            }
            Ok(Status::Success.into())
        }
        KpCtrl::Unmap { kp } => {
            let kp = held::<Kp>(cpu, token, kp, KP_CT)?;
            let mapped = kp.mapped.lock().take();
            let (pd, page) = mapped.ok_or(Status::BadPar)?;
            cpu.unmap_kernel_page(&pd, page);
            Ok(Status::Success.into())
        }
        KpCtrl::Unknown(_) => Err(Status::BadPar),
    }
}
