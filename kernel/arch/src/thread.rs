//! What a user thread is to the machine: the registers that entry code stores and exit code loads.
//!
//! ```text
//!   Thread   registers   r15 .. rax       pushed by entry code
//!                        vector           the trap vector (not written by a system call)
//!                        error            pushed by the CPU, or 0
//!                        rip .. ss        pushed by the CPU
//!                        <- TSS.rsp0 points here: no copy is ever made
//!            fs_base, gs_base, exit
//! ```
//!
//! A system call stores RIP, RSP and the general registers but RCX and R11, which SYSCALL has used up.

/// User registers in the order in which entry code pushes them, last first.
///
/// Its end is 16-byte aligned, because the CPU aligns the stack before it pushes (Intel SDM vol. 3, 6.14.2).
#[repr(C, align(16))]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named after the registers")]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// How a thread goes back to user mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitKind {
    /// By SYSRET: RCX becomes RIP, R11 and RFLAGS become 0x202; the rest is loaded from `registers`.
    #[default]
    Syscall = 0,
    /// By IRETQ: every register is loaded from `registers`. Privileged flags and segments are not the
    /// thread's to choose: `run` sets them.
    Trap = 1,
}

/// A thread's state outside the FPU.
#[repr(C, align(16))]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// General registers and the exception frame.
    pub registers: Registers,
    /// FS base; valid while the thread is parked ([`crate::park`]). Only what a CPU held, hence canonical.
    pub(crate) fs_base: u64,
    /// GS base; valid while the thread is parked.
    pub(crate) gs_base: u64,
    /// How the next `run` leaves; set by `run` to how the thread came in.
    pub exit: ExitKind,
}

/// Why a thread came back from user mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It executed SYSCALL; the arguments are in its registers.
    Syscall,
    /// It caused an exception.
    Exception {
        /// Vector, 0 to 31.
        vector: u8,
        /// What the CPU pushed, 0 if it pushes nothing for this vector.
        error: u64,
        /// Of a page fault: the address. Otherwise 0.
        cr2: u64,
    },
    /// An interrupt arrived, vector 32 to 255; the receiver ends it ([`crate::end_of_interrupt`]).
    Interrupt(u8),
}

const _: () = {
    assert!(size_of::<Registers>() == 176 && size_of::<Registers>().is_multiple_of(16));
    assert!(core::mem::offset_of!(Thread, registers) == 0);
};
