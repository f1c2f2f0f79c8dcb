//! The one instruction below every system call.

use abi::args::Words;

/// Executes a system call: RDI, RSI, RDX, RAX, R8 in and out.
///
/// On a host there is no kernel: the status is `BAD_HYP`.
#[cfg(target_os = "none")]
#[inline]
#[must_use]
pub fn syscall(words: Words) -> Words {
    let [mut rdi, mut rsi, mut rdx, mut rax, mut r8] = words;
    #[cfg(feature = "pairs")]
    let number = rdi;
    // SAFETY: SYSCALL keeps every register but RCX, R11 and the outputs named
    // here, and sets RFLAGS to 0x202 (docs/spec/index.md). The kernel may
    // write this thread's message page, which is only read through volatile
    // accesses; the block may touch any memory as far as the compiler knows.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rdi") rdi,
            inlateout("rsi") rsi,
            inlateout("rdx") rdx,
            inlateout("rax") rax,
            inlateout("r8") r8,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(feature = "pairs")]
    crate::pairs::note(number, rdi);
    [rdi, rsi, rdx, rax, r8]
}

/// Executes a system call: RDI, RSI, RDX, RAX, R8 in and out.
///
/// On a host there is no kernel: the status is `BAD_HYP`.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn syscall(words: Words) -> Words {
    let [_, rsi, rdx, rax, r8] = words;
    [abi::Status::BadHyp as u64, rsi, rdx, rax, r8]
}
