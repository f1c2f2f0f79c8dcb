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

use abi::Call;

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

/// Bit N: a [`Host`] may settle call number N (modulo 32) at once; of `vcpu_ctrl` all but a run (sub-operation 0). None in a kernel that measures its stretches: there every call goes the way that is measured.
pub const QUICK_CALLS: u32 = if cfg!(feature = "stretch") {
    0
} else {
    1 << Call::PtCtrl as u32 | 1 << Call::SmCtrl as u32 | 1 << Call::VcpuCtrl as u32
};

/// What [`crate::run`] runs a thread for.
pub trait Host {
    /// The thread that runs next, if there is one.
    fn thread(&mut self) -> Option<&mut Thread>;

    /// The thread makes one of the [`QUICK_CALLS`].
    ///
    /// RAX, RDX, RSI, RDI and R8 to R10 are in its registers and come from there afterwards. RBX, RBP and R12 to R15
    /// are still on the processor: whoever settles a call here reads and writes none of them.
    fn quick(&mut self) -> Quick;

    /// The same for `vcpu_ctrl`, apart from the others so that they do not ask for it.
    fn quick_vcpu_ctrl(&mut self) -> Quick;
}

/// What became of a quick call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Quick {
    /// Nothing was done: it goes the long way.
    Not = 0,
    /// It is done; the loop has something to look after before the thread goes on.
    Look = 2,
    /// It is done: the thread goes on.
    Done = 3,
}

/// A host, and the doors by which entry code comes to it: assembly knows that they are the first words.
///
/// There is one on each CPU, while [`crate::with_seat`] runs.
#[repr(C)]
pub struct Seat<H> {
    door: extern "C" fn(&mut Seat<H>) -> Quick,
    vcpu_door: extern "C" fn(&mut Seat<H>) -> Quick,
    /// Who decides.
    pub host: H,
}

impl<H: Host> Seat<H> {
    pub(crate) fn new(host: H) -> Self {
        Seat { door: Self::quick, vcpu_door: Self::quick_vcpu_ctrl, host }
    }

    extern "C" fn quick(&mut self) -> Quick {
        self.host.quick()
    }

    extern "C" fn quick_vcpu_ctrl(&mut self) -> Quick {
        self.host.quick_vcpu_ctrl()
    }
}

/// Why a thread came back from user mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It executed SYSCALL; the arguments are in its registers.
    Syscall,
    /// Its call is settled already ([`Host::quick`]).
    Settled,
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
