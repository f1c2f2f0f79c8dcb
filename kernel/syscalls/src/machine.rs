//! machine_ctrl, assign_pci (abi.md 10).

use abi::Status;
use abi::args::{AssignPci, MachineCtrl};
use objects::Cpu;
use sync::Token;

use crate::authority::{caller, domain};
use crate::{Outcome, Words};

/// Microcode update trigger (Intel SDM vol. 3, 10.11.6): takes the linear address of the data.
const MOST_MICROCODE: u32 = 2 << 20;

/// 15. Suspend is refused while this kernel cannot resume; a microcode blob is checked for its size.
pub fn machine_ctrl(cpu: &mut Cpu, _token: &Token, words: Words) -> Outcome {
    if !caller(cpu)?.trust.passthrough {
        return Err(Status::BadCap);
    }
    match MachineCtrl::decode(words) {
        MachineCtrl::Suspend { .. } => Err(Status::BadPar),
        MachineCtrl::UpdateMicrocode { size, .. } if size > MOST_MICROCODE => Err(Status::BadPar),
        MachineCtrl::UpdateMicrocode { .. } => Err(Status::BadFtr),
        MachineCtrl::Unknown(_) => Err(Status::BadPar),
    }
}

/// 13. Without an IOMMU driver no device has one: BAD_DEV.
pub fn assign_pci(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    domain(cpu, token, AssignPci::decode(words).pd)?;
    Err(Status::BadDev)
}
