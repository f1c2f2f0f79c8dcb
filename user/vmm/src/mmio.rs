//! Accesses to guest-physical memory that is not RAM.
use crate::exits::Next;
use crate::machine::{Cpu, Now, Vm};
use abi::utcb::StatePage;

/// Handles an EPT violation.
pub fn handle(cpu: &mut Cpu, page: &mut StatePage, vm: &mut Vm, now: Now) -> Next {
    let _ = (cpu, page, vm, now);
    Next::Stop("mmio".into())
}
