//! MOV to and from control registers, CLTS and LMSW, where they exit.
//!
//! Only bits that hardware owns exit on VMX (abi.md 11.4): CR0.NE, CD, NW, CR4.VMXE and reserved
//! ones. Sources: Intel SDM vol. 3, 2.5 and table 28-3.
use crate::exits::{Next, fault, skip_and};
use crate::inject::GENERAL_PROTECTION;
use crate::instruction::{self, LONGEST};
use crate::machine::{Cpu, Vm};
use crate::registers;
use abi::Mtd;
use abi::utcb::StatePage;

const CR0_PE: u64 = 1;
const CR0_TS: u64 = 1 << 3;
const CR0_ET: u64 = 1 << 4;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
/// PE MP EM TS ET NE WP AM NW CD PG.
const CR0_KNOWN: u64 = 0xe005_003f;
const CR4_PAE: u64 = 1 << 5;
/// VME to OSXMMEXCPT, FSGSBASE, OSXSAVE, SMEP, SMAP; not UMIP, LA57, VMXE, PCIDE.
const CR4_KNOWN: u64 = 0x7ff | (1 << 16) | (1 << 18) | (1 << 20) | (1 << 21);
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// An access in the form of the exit qualification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Write { register: u8, from: u8 },
    Read { register: u8, to: u8 },
    ClearTaskSwitched,
    LoadStatusWord(u16),
}

/// Handles a control-register exit.
pub fn handle(cpu: &mut Cpu, page: &mut StatePage, vm: &mut Vm) -> Next {
    let Some((access, size)) = access(page, vm) else {
        return Next::Stop("a control-register access could not be decoded".into());
    };
    match access {
        Access::Write { register, from } => {
            let value = registers::get(page, from);
            let value = if registers::long_code(page) { value } else { value & 0xffff_ffff };
            write(cpu, page, vm, register, value, size)
        }
        Access::Read { register, to } => {
            let value = match register {
                0 => page.cr0,
                3 => page.cr3,
                4 => page.cr4,
                8 => u64::from(vm.board.cr8(cpu.id)),
                _ => return fault(page, crate::inject::INVALID_OPCODE),
            };
            registers::set(page, to, value);
            skip_and(page, vm, size, Mtd::GPR | Mtd::RSP)
        }
        Access::ClearTaskSwitched => {
            page.cr0 &= !CR0_TS;
            skip_and(page, vm, size, Mtd::CR)
        }
        Access::LoadStatusWord(word) => {
            // LMSW sets PE, MP, EM, TS; it cannot clear PE.
            let low = u64::from(word) & 0xf;
            let value = (page.cr0 & !0xe) | low;
            write(cpu, page, vm, 0, value, size)
        }
    }
}

fn write(
    cpu: &Cpu,
    page: &mut StatePage,
    vm: &mut Vm,
    register: u8,
    value: u64,
    size: u64,
) -> Next {
    match register {
        0 => {
            if !write_cr0(page, value) {
                return fault(page, GENERAL_PROTECTION);
            }
            load_page_pointers(page, vm);
            let changed = Mtd::CR | Mtd::EFER_PAT | Mtd::PDPTE | Mtd::TLB;
            skip_and(page, vm, size, changed)
        }
        3 => {
            page.cr3 = value & !(1 << 63);
            load_page_pointers(page, vm);
            skip_and(page, vm, size, Mtd::CR | Mtd::PDPTE | Mtd::TLB)
        }
        4 => {
            let long = page.efer & EFER_LMA != 0;
            if value & !CR4_KNOWN != 0 || (long && value & CR4_PAE == 0) {
                return fault(page, GENERAL_PROTECTION);
            }
            page.cr4 = value;
            load_page_pointers(page, vm);
            skip_and(page, vm, size, Mtd::CR | Mtd::PDPTE | Mtd::TLB)
        }
        8 if value < 16 => {
            vm.board.set_cr8(cpu.id, value as u8);
            skip_and(page, vm, size, Mtd::NONE)
        }
        8 => fault(page, GENERAL_PROTECTION),
        _ => fault(page, crate::inject::INVALID_OPCODE),
    }
}

/// Sets CR0 and what follows in EFER; false where the processor would answer #GP.
fn write_cr0(page: &mut StatePage, value: u64) -> bool {
    let bad_paging = value & CR0_PG != 0 && value & CR0_PE == 0;
    let bad_cache = value & CR0_NW != 0 && value & CR0_CD == 0;
    if value >> 32 != 0 || bad_paging || bad_cache {
        return false;
    }
    let turned_on = value & !page.cr0 & CR0_PG != 0;
    if turned_on && page.efer & EFER_LME != 0 {
        if page.cr4 & CR4_PAE == 0 || page.cs.ar & (1 << 9) != 0 {
            return false;
        }
        page.efer |= EFER_LMA;
    }
    if value & CR0_PG == 0 {
        if page.efer & EFER_LMA != 0 && registers::long_code(page) {
            return false;
        }
        page.efer &= !EFER_LMA;
    }
    page.cr0 = (value & CR0_KNOWN) | CR0_ET;
    true
}

/// In PAE paging the four pointers are loaded with CR3 (Intel SDM vol. 3, 4.4.1).
fn load_page_pointers(page: &mut StatePage, vm: &Vm) {
    if page.cr0 & CR0_PG == 0 || page.cr4 & CR4_PAE == 0 || page.efer & EFER_LMA != 0 {
        return;
    }
    for (index, entry) in (0u64..).zip(page.pdpte.iter_mut()) {
        let at = (page.cr3 & 0xffff_ffe0) + index * 8;
        *entry = vm.memory.read_number(at, 8).unwrap_or(0);
    }
}

/// The access, with the instruction's length without prefixes. VMX qualifies the exit; otherwise
/// the instruction tells.
fn access(page: &StatePage, vm: &Vm) -> Option<(Access, u64)> {
    if vm.vmx {
        let qualification = page.qual[0];
        let register = (qualification & 0xf) as u8;
        let operand = ((qualification >> 8) & 0xf) as u8;
        return Some((
            match (qualification >> 4) & 3 {
                0 => Access::Write { register, from: operand },
                1 => Access::Read { register, to: operand },
                2 => Access::ClearTaskSwitched,
                _ => Access::LoadStatusWord((qualification >> 16) as u16),
            },
            page.inst_len,
        ));
    }
    let mut bytes = [0; LONGEST];
    let count = instruction::fetch(page, &vm.memory, &mut bytes);
    let bytes = bytes.get(..count)?;
    decode(bytes, page)
}

fn decode(bytes: &[u8], page: &StatePage) -> Option<(Access, u64)> {
    let prefixes = instruction::prefixes(bytes, registers::long_code(page));
    let code = bytes.get(prefixes.count..)?;
    let (0x0f, opcode) = (*code.first()?, *code.get(1)?) else { return None };
    if opcode == 0x06 {
        return Some((Access::ClearTaskSwitched, 2));
    }
    let operands = *code.get(2)?;
    let general = (operands & 7) | ((prefixes.rex & 1) << 3);
    let register = ((operands >> 3) & 7) | ((prefixes.rex & 4) << 1);
    match opcode {
        0x20 => Some((Access::Read { register, to: general }, 3)),
        0x22 => Some((Access::Write { register, from: general }, 3)),
        0x01 if (operands >> 3) & 7 == 6 && operands >= 0xc0 => {
            Some((Access::LoadStatusWord(registers::get(page, general) as u16), 3))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read() {
        let page = Box::new(StatePage::ZERO);
        let write = Access::Write { register: 0, from: 0 };
        assert_eq!(decode(&[0x0f, 0x22, 0xc0], &page), Some((write, 3)));
        let read = Access::Read { register: 4, to: 3 };
        assert_eq!(decode(&[0x0f, 0x20, 0xe3], &page), Some((read, 3)));
        assert_eq!(decode(&[0x0f, 0x06], &page), Some((Access::ClearTaskSwitched, 2)));
        assert_eq!(decode(&[0x90], &page), None);
        assert_eq!(decode(&[0x0f], &page), None);
    }

    #[test]
    fn turning_paging_on_makes_long_mode() {
        let mut page = Box::new(StatePage::ZERO);
        page.cr0 = 0x6000_0011;
        page.efer = EFER_LME;
        page.cr4 = CR4_PAE;
        assert!(write_cr0(&mut page, 0x8005_0033));
        assert_eq!((page.efer & EFER_LMA, page.cr0), (EFER_LMA, 0x8005_0033));
        assert!(!write_cr0(&mut page, CR0_PG));
        assert!(!write_cr0(&mut page, CR0_NW | 1));
        assert!(write_cr0(&mut page, 0x11));
        assert_eq!(page.efer & EFER_LMA, 0);
    }
}
