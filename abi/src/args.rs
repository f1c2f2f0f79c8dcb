//! The five argument registers of each call, encoded and decoded side by side.
//!
//! Words stand in the order RDI, RSI, RDX, RAX, R8. `encode` puts each field
//! where the kernel looks for it (bits that do not fit are dropped); `decode`
//! never fails: bits without a name are ignored, and a sub-operation that does
//! not exist is a variant of its own, because the kernel refuses it later, in
//! its own order of checks.

mod create;
mod ctrl;
mod ipc;
mod machine;
#[cfg(test)]
mod tests;

pub use create::{CreateEc, CreateKp, CreatePd, CreatePt, CreateSc, CreateSm, CreateVcpu};
pub use ctrl::{EcCtrl, KpCtrl, PdCtrl, PtCtrl, Revoke, ScCtrl, SmCtrl, VcpuCtrl, VcpuRunExt};
pub use ipc::{CallPortal, Reply};
pub use machine::{AssignPci, IrqCtrl, Log, MachineCtrl, Statistics};

/// RDI, RSI, RDX, RAX, R8.
pub type Words = [u64; 5];

/// Twelve low bits, as used for processor numbers.
const LOW12: u64 = 0xfff;

/// Bits `low..low + width` of `word` (`width` below 64).
const fn field(word: u64, low: u32, width: u32) -> u64 {
    word >> low & ((1 << width) - 1)
}
