//! The instructions of VMX, and the host's part of a VMCS.

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;

use super::guest_switch::rdmsr;
use super::percpu;
use crate::x86::descriptor::{KERNEL_CS, KERNEL_SS, TASK};
use crate::x86::vmx_controls::Capabilities;
use crate::x86::vmx_fields as field;
use crate::x86::vmx_state::Vmcs;

unsafe extern "C" {
    fn vmx_exit();
}

const CR4_VMXE: u64 = 1 << 13;
const CR0_NE: u64 = 1 << 5;

/// Sets CR4.VMXE and CR0.NE, which VMX operation demands (24.8).
pub fn enable_cr4() {
    // SAFETY: both bits only permit VMXON; NE sends FPU errors to #MF, which has a handler.
    unsafe {
        asm!("mov {t}, cr0", "or {t}, {ne}", "mov cr0, {t}",
             "mov {t}, cr4", "or {t}, {vmxe}", "mov cr4, {t}",
             t = out(reg) _, ne = const CR0_NE, vmxe = const CR4_VMXE, options(nostack));
    }
}

/// VMXON with the region at `address`; false if the CPU refuses. A CPU already in VMX operation
/// (bring-up ran twice without a reset) counts as success.
pub fn vmxon(address: u64) -> bool {
    by_address(
        |pointer| {
            let failed: u8;
            // SAFETY: CR4.VMXE is set, the region is a zeroed frame with the revision identifier in it,
            // given to this CPU for ever.
            unsafe {
                asm!("vmxon qword ptr [{}]", "setbe {}", in(reg) pointer, out(reg_byte) failed,
                options(nostack));
            }
            failed == 0
        },
        address,
    )
}

/// VMXOFF: the CPU hears INIT again (Intel SDM vol. 3, 24.8). It holds no VMCS.
pub fn vmxoff() {
    // SAFETY: only for a CPU in VMX operation, which its callers know; no guest is entered before the next VMXON.
    unsafe { asm!("vmxoff", options(nostack)) };
}

/// VMCLEAR: the VMCS is in memory and clear.
pub fn vmclear(address: u64) {
    by_address(
        |pointer| {
            // SAFETY: the frame belongs to a `Vmx`, which is the only one to use it.
            unsafe { asm!("vmclear qword ptr [{}]", in(reg) pointer, options(nostack)) }
        },
        address,
    );
}

/// VMPTRLD: the VMCS becomes current.
pub fn vmptrld(address: u64) {
    by_address(
        |pointer| {
            // SAFETY: as `vmclear`; a frame with the revision identifier in it.
            unsafe { asm!("vmptrld qword ptr [{}]", in(reg) pointer, options(nostack)) }
        },
        address,
    );
}

fn by_address<T>(action: impl FnOnce(*const u64) -> T, address: u64) -> T {
    action(&raw const address)
}

/// All translations of all guests go: tags start anew with a CPU.
pub fn forget_translations() {
    invept(2, 0);
    // All contexts; without VPIDs the instruction may not exist, and nothing is tagged.
    if rdmsr(0x48b) >> 37 & 1 != 0 && rdmsr(0x48c) >> 32 & 1 != 0 && rdmsr(0x48c) >> 42 & 1 != 0 {
        invvpid(2, 0);
    }
}

/// Forgets the translations of a guest: those under its tag, and with `space` those derived from its
/// guest space `ept`.
#[cold]
pub fn invalidate(cpu: &Capabilities, ept: u64, tag: u16, space: bool) {
    if space {
        invept(1, ept);
    }
    if cpu.vpid() && tag != 0 {
        invvpid(1, tag);
    }
}

fn invept(kind: u64, ept: u64) {
    let descriptor = [ept, 0];
    // SAFETY: only forgets translations; supported as `Capabilities::missing` demands.
    unsafe {
        asm!("invept {}, [{}]", in(reg) kind, in(reg) descriptor.as_ptr(), options(nostack));
    }
}

fn invvpid(kind: u64, tag: u16) {
    let descriptor = [u64::from(tag), 0];
    // SAFETY: only forgets translations; the callers asked whether it exists.
    unsafe {
        asm!("invvpid {}, [{}]", in(reg) kind, in(reg) descriptor.as_ptr(), options(nostack));
    }
}

/// CR3 as it stands: an exit must come back to the address space it left.
#[inline(always)]
pub fn read_cr3() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// What SGDT and SIDT store.
#[repr(C, packed(2))]
#[derive(Default)]
struct Table {
    limit: u16,
    base: u64,
}

/// Writes the host's part of the current VMCS for the calling CPU. The tables are those of `percpu::after_exit`; in
/// IDTR a limit of 0xffff does no harm: a vector has 8 bits, the table 256 gates.
pub fn write_host(vmcs: &mut impl Vmcs) {
    let (cr0, cr4): (u64, u64);
    let (mut gdt, mut idt) = (Table::default(), Table::default());
    // SAFETY: reads registers into locals.
    unsafe {
        asm!("mov {}, cr0", "mov {}, cr4", "sgdt [{}]", "sidt [{}]",
            out(reg) cr0, out(reg) cr4, in(reg) &raw mut gdt, in(reg) &raw mut idt,
            options(nostack));
    }
    for (field, value) in [
        (field::HOST_CR0, cr0),
        (field::HOST_CR4, cr4),
        (field::HOST_CS_SELECTOR, KERNEL_CS.into()),
        (field::HOST_SS_SELECTOR, KERNEL_SS.into()),
        // The kernel uses no other data segment; a user program in 64-bit mode does not either.
        (field::HOST_DS_SELECTOR, 0),
        (field::HOST_ES_SELECTOR, 0),
        (field::HOST_FS_SELECTOR, 0),
        (field::HOST_GS_SELECTOR, 0),
        (field::HOST_TR_SELECTOR, TASK.into()),
        // The user's FS base comes back with `guest_switch`.
        (field::HOST_FS_BASE, 0),
        (field::HOST_GS_BASE, rdmsr(0xc000_0101)),
        (field::HOST_TR_BASE, task_base()),
        (field::HOST_GDTR_BASE, gdt.base),
        (field::HOST_IDTR_BASE, idt.base),
        (field::HOST_SYSENTER_CS, 0),
        (field::HOST_SYSENTER_ESP, 0),
        (field::HOST_SYSENTER_EIP, 0),
        (field::HOST_EFER, rdmsr(0xc000_0080)),
        (field::HOST_PAT, rdmsr(0x277)),
        (field::HOST_RIP, vmx_exit as *const () as u64),
    ] {
        vmcs.write(field, value);
    }
}

/// The base in this CPU's task-state descriptor.
fn task_base() -> u64 {
    let gdt = &percpu::local().gdt;
    let index = usize::from(TASK) / 8;
    let word = |index: usize| gdt.get(index).map_or(0, |word| word.load(Relaxed));
    let (low, high) = (word(index), word(index + 1));
    (low >> 16 & 0x00ff_ffff) | (low >> 56) << 24 | high << 32
}
