//! Instructions that fault on purpose, and a way back: for tests.
//!
//! Each probe runs one instruction at a known address. The test's exception
//! handler passes the message to [`recover`], which lets the probe return that
//! it did not work.

use crate::utcb::Utcb;
use abi::args::Words;

/// The registers before and after a system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// RDI, RSI, RDX, RAX, R8.
    pub words: Words,
    /// RBX, RBP, R9, R10, R12, R13, R14, R15.
    pub kept: [u64; 8],
    /// R11.
    pub r11: u64,
    /// RFLAGS; before the call, the bits to set.
    pub flags: u64,
    /// RCX minus the address of the instruction after SYSCALL.
    pub rcx_distance: u64,
    /// The stack pointer after the call minus that before it.
    pub rsp_distance: u64,
}

/// Executes a system call with every register under control, and reports every
/// register after it. On a host the registers come back unchanged.
pub fn syscall_with(registers: &mut Registers) {
    #[cfg(target_os = "none")]
    machine::syscall_with(registers);
    #[cfg(not(target_os = "none"))]
    let _ = registers;
}

/// The 64 bits at an address; `None` if reading faults.
#[must_use]
pub fn read(address: u64) -> Option<u64> {
    #[cfg(target_os = "none")]
    {
        machine::read(address)
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = address;
        None
    }
}

/// Writes 64 bits that no Rust object occupies; `None` if it faults.
pub fn write(address: u64, value: u64) -> Option<()> {
    #[cfg(target_os = "none")]
    {
        machine::write(address, value)
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = (address, value);
        None
    }
}

/// Calls an address that holds a RET instruction; `None` if it faults.
pub fn execute(address: u64) -> Option<()> {
    #[cfg(target_os = "none")]
    {
        machine::execute(address)
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = address;
        None
    }
}

/// An instruction to run with all general registers known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// INT3: one byte, vector 3, RIP after it.
    Breakpoint,
    /// UD2: two bytes, vector 6.
    Undefined,
    /// DIV by zero: vector 0.
    Divide,
    /// HLT: privileged, vector 13 with error code 0.
    Privileged,
    /// INT 0x42: vector 13 with error code 8 * 0x42 + 2.
    Interrupt,
    /// IN from port 0x70: vector 13 unless the program has the port.
    PortIn,
}

/// Runs a faulting instruction. The handler must go on at [`after`] or behind
/// it; RBX comes back as the handler left it (before: 0xb0b).
pub fn fault(fault: Fault) -> u64 {
    #[cfg(target_os = "none")]
    {
        machine::fault(fault)
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = fault;
        0
    }
}

/// Where a probe goes on after the fault at `rip`; `None` if no probe lies
/// there.
#[must_use]
pub fn after(rip: u64) -> Option<u64> {
    #[cfg(target_os = "none")]
    {
        machine::after(rip)
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = rip;
        None
    }
}

/// Answers an exception message of [`execute`]: returns as the RET at the
/// target would have, with the answer that it did not work. The message must
/// hold RIP and RSP.
pub fn recover_execute(utcb: &mut Utcb) {
    use abi::Mtd;
    use abi::utcb::offset;
    let rsp = utcb.get(offset::RSP);
    utcb.set(offset::RIP, read(rsp).unwrap_or(0));
    utcb.set(offset::RSP, rsp.wrapping_add(8));
    utcb.set(offset::RAX, 0);
    utcb.set_mtd(Mtd::RIP_LEN | Mtd::RSP | Mtd::ACDB);
}

/// Answers an exception message so that the probe that faulted returns; `false`
/// if no probe did. The message must hold RIP, and RAX's group for `read`,
/// `write` and `execute`.
pub fn recover(utcb: &mut Utcb) -> bool {
    use abi::Mtd;
    use abi::utcb::offset;
    let Some(next) = after(utcb.get(offset::RIP)) else { return false };
    utcb.set(offset::RIP, next);
    utcb.set(offset::RAX, 0);
    utcb.set_mtd(Mtd::RIP_LEN | Mtd::ACDB);
    true
}

#[cfg(target_os = "none")]
mod machine {
    use super::{Fault, Registers};

    // Each probe: a label before the instruction that may fault, one after.
    // RAX is 1 if it worked; `recover` makes it 0.
    core::arch::global_asm!(
        ".global rt_probe_read",
        "rt_probe_read:",
        "mov eax, 1",
        "rt_probe_read_at: mov rdx, [rdi]",
        "rt_probe_read_after: ret",
        ".global rt_probe_write",
        "rt_probe_write:",
        "mov eax, 1",
        "rt_probe_write_at: mov [rdi], rsi",
        "rt_probe_write_after: ret",
        // Execute: the fault is at the target, as after a CALL.
        ".global rt_probe_execute",
        "rt_probe_execute:",
        "mov eax, 1",
        "call rdi",
        "rt_probe_execute_after: ret",
        ".global rt_probe_fault",
        "rt_probe_fault:",
        "push rbx",
        "mov ebx, 0xb0b",
        "xor eax, eax",
        "xor edx, edx",
        "cmp edi, 0",
        "je rt_probe_int3_at",
        "cmp edi, 1",
        "je rt_probe_ud2_at",
        "cmp edi, 2",
        "je rt_probe_div_at",
        "cmp edi, 3",
        "je rt_probe_hlt_at",
        "cmp edi, 5",
        "je rt_probe_in_at",
        "rt_probe_int_at: int 0x42",
        "rt_probe_in_at: in al, 0x70",
        "jmp rt_probe_fault_after",
        "rt_probe_hlt_at: hlt",
        "rt_probe_div_at: div eax",
        "rt_probe_ud2_at: ud2",
        "rt_probe_int3_at: int3",
        "rt_probe_fault_after: mov rax, rbx",
        "pop rbx",
        "ret",
        ".global rt_probe_syscall",
        "rt_probe_syscall:",
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "mov [rip + rt_probe_rsp], rsp",
        "push qword ptr [rdi + 14*8]",
        "mov rsi, [rdi + 1*8]",
        "mov rdx, [rdi + 2*8]",
        "mov rax, [rdi + 3*8]",
        "mov r8,  [rdi + 4*8]",
        "mov rbx, [rdi + 5*8]",
        "mov rbp, [rdi + 6*8]",
        "mov r9,  [rdi + 7*8]",
        "mov r10, [rdi + 8*8]",
        "mov r12, [rdi + 9*8]",
        "mov r13, [rdi + 10*8]",
        "mov r14, [rdi + 11*8]",
        "mov r15, [rdi + 12*8]",
        "mov rdi, [rdi + 0*8]",
        "popfq",
        "syscall",
        "rt_probe_syscall_after:",
        "pushfq",
        "cld",
        "push rdi",
        "mov rdi, [rsp + 16]",
        "mov [rdi + 1*8], rsi",
        "mov [rdi + 2*8], rdx",
        "mov [rdi + 3*8], rax",
        "mov [rdi + 4*8], r8",
        "mov [rdi + 5*8], rbx",
        "mov [rdi + 6*8], rbp",
        "mov [rdi + 7*8], r9",
        "mov [rdi + 8*8], r10",
        "mov [rdi + 9*8], r12",
        "mov [rdi + 10*8], r13",
        "mov [rdi + 11*8], r14",
        "mov [rdi + 12*8], r15",
        "mov [rdi + 13*8], r11",
        "pop rax",
        "mov [rdi + 0*8], rax",
        "pop rax",
        "mov [rdi + 14*8], rax",
        "lea rax, [rip + rt_probe_syscall_after]",
        "sub rcx, rax",
        "mov [rdi + 15*8], rcx",
        "mov rax, rsp",
        "sub rax, [rip + rt_probe_rsp]",
        "mov [rdi + 16*8], rax",
        "pop rdi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        ".section .data.rt_probe, \"aw\"",
        ".balign 8",
        "rt_probe_rsp: .quad 0",
        ".text",
        ".global rt_probe_after",
        "rt_probe_after:",
        "xor eax, eax",
        "lea rdx, [rip + rt_probe_read_at]",
        "lea rcx, [rip + rt_probe_read_after]",
        "cmp rdi, rdx",
        "cmove rax, rcx",
        "lea rdx, [rip + rt_probe_write_at]",
        "lea rcx, [rip + rt_probe_write_after]",
        "cmp rdi, rdx",
        "cmove rax, rcx",
        "lea rcx, [rip + rt_probe_fault_after]",
        "lea rdx, [rip + rt_probe_int_at]",
        "cmp rdi, rdx",
        "cmove rax, rcx",
        "lea rdx, [rip + rt_probe_in_at]",
        "cmp rdi, rdx",
        "cmove rax, rcx",
        "lea rdx, [rip + rt_probe_hlt_at]",
        "cmp rdi, rdx",
        "cmove rax, rcx",
        "lea rdx, [rip + rt_probe_div_at]",
        "cmp rdi, rdx",
        "cmove rax, rcx",
        "lea rdx, [rip + rt_probe_ud2_at]",
        "cmp rdi, rdx",
        "cmove rax, rcx",
        "lea rdx, [rip + rt_probe_int3_at]",
        "cmp rdi, rdx",
        "cmove rax, rcx",
        "cmp rdi, rcx",
        "cmove rax, rcx",
        "ret",
    );

    // SAFETY: defined above, with these signatures. `rt_probe_syscall` and
    // `rt_probe_after` take what their types say; the others may fault, which
    // is what they are for.
    unsafe extern "C" {
        fn rt_probe_read(address: u64) -> Pair;
        fn rt_probe_write(address: u64, value: u64) -> u64;
        fn rt_probe_execute(address: u64) -> u64;
        safe fn rt_probe_fault(which: u32) -> u64;
        safe fn rt_probe_syscall(registers: &mut Registers);
        safe fn rt_probe_after(rip: u64) -> u64;
    }

    /// RAX and RDX.
    #[repr(C)]
    struct Pair {
        worked: u64,
        value: u64,
    }

    pub(super) fn syscall_with(registers: &mut Registers) {
        rt_probe_syscall(registers);
    }

    pub(super) fn read(address: u64) -> Option<u64> {
        // SAFETY: a read of mapped memory has no effect; one of unmapped memory
        // faults and is recovered.
        let Pair { worked, value } = unsafe { rt_probe_read(address) };
        (worked == 1).then_some(value)
    }

    pub(super) fn write(address: u64, value: u64) -> Option<()> {
        // SAFETY: the caller names memory that no Rust object occupies.
        let worked = unsafe { rt_probe_write(address, value) };
        (worked == 1).then_some(())
    }

    pub(super) fn execute(address: u64) -> Option<()> {
        // SAFETY: the target is a RET instruction or cannot be executed; then
        // the handler returns as the RET would have (`recover_execute`).
        let worked = unsafe { rt_probe_execute(address) };
        (worked == 1).then_some(())
    }

    pub(super) fn fault(fault: Fault) -> u64 {
        rt_probe_fault(match fault {
            Fault::Breakpoint => 0,
            Fault::Undefined => 1,
            Fault::Divide => 2,
            Fault::Privileged => 3,
            Fault::Interrupt => 4,
            Fault::PortIn => 5,
        })
    }

    pub(super) fn after(rip: u64) -> Option<u64> {
        match rt_probe_after(rip) {
            0 => None,
            next => Some(next),
        }
    }
}
