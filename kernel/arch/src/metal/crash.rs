//! Breaks the kernel on purpose, so that tests can see what its last words are worth.

use core::arch::asm;

/// Ways to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The stack grows into its guard page.
    Stack,
    /// A read of address 0x10.
    Fault,
    /// An interrupt on an exception vector that has an error code, as an unmoved 8259 would send it.
    Vector,
    /// A write to the kernel's code.
    Code,
}

impl Crash {
    /// The way that the word `crash=NAME` on the command line asks for.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"stack" => Some(Self::Stack),
            b"fault" => Some(Self::Fault),
            b"vector" => Some(Self::Vector),
            b"code" => Some(Self::Code),
            _ => None,
        }
    }
}

/// Breaks the calling CPU; returns only if the kernel failed to notice.
pub fn crash(how: Crash) {
    match how {
        Crash::Stack => {
            deeper(0);
        }
        // SAFETY: nothing is mapped there; the exception is what is wanted.
        Crash::Fault => unsafe {
            asm!("mov {}, [{}]", out(reg) _, in(reg) 0x10u64, options(nostack, readonly));
        },
        // SAFETY: pushes no error code and ends in the dump.
        Crash::Vector => unsafe { asm!("int 13") },
        // SAFETY: the page is not writable; the exception is what is wanted.
        Crash::Code => unsafe {
            asm!("mov byte ptr [{}], 0", in(reg) deeper as *const () as usize, options(nostack));
        },
    }
}

/// Calls itself until the stack ends, long before the depth does.
#[inline(never)]
fn deeper(depth: u64) -> u64 {
    if depth == u64::MAX {
        return 0;
    }
    let words = core::hint::black_box([depth; 64]);
    deeper(depth + 1).wrapping_add(words[(depth % 64) as usize])
}
