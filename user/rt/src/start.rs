//! From the first instruction to `main`.
//!
//! The kernel starts the root program with its stack pointer at the end of its
//! UTCB, so the first thing is a stack of our own. A program started by another
//! finds the same: processor number in RDI, HIP and UTCB at the root's
//! addresses, its domain and thread at selectors 32 and 33.

use abi::Selector;
use abi::cap::ROOT_PD;
use abi::hip::HipView;

/// What `main` is told.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// The processor `main` runs on.
    pub cpu: u16,
    /// The hypervisor information page.
    pub hip: HipView<'static>,
}

/// The selector of this program's own domain.
#[must_use]
pub const fn own_pd() -> Selector {
    ROOT_PD
}

/// The hypervisor information page; on a host an empty one.
#[must_use]
pub fn hip() -> HipView<'static> {
    #[cfg(target_os = "none")]
    {
        // SAFETY: the kernel maps the page here, read-only, before the first
        // instruction, and never changes it (docs/spec/hip.md).
        let page = unsafe {
            core::slice::from_raw_parts(abi::cap::ROOT_HIP as *const u8, abi::PAGE_SIZE as usize)
        };
        HipView(page)
    }
    #[cfg(not(target_os = "none"))]
    {
        HipView(&[])
    }
}

/// Where the program's image lies: first address, and first address after it.
#[must_use]
pub fn image() -> (u64, u64) {
    #[cfg(target_os = "none")]
    {
        machine::image()
    }
    #[cfg(not(target_os = "none"))]
    {
        (0, 0)
    }
}

#[cfg(target_os = "none")]
mod machine {
    use super::Boot;
    use core::cell::UnsafeCell;

    /// Bytes of the first thread's stack.
    const STACK_SIZE: usize = 256 * 1024;

    /// Memory that only the first thread's stack pointer names.
    #[repr(C, align(4096))]
    struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

    // SAFETY: no Rust code ever makes a reference to the bytes.
    unsafe impl Sync for Stack {}

    static STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));

    core::arch::global_asm!(
        ".section .text.start, \"ax\"",
        ".global _start",
        "_start:",
        "lea rsp, [rip + {stack} + {size}]",
        "xor ebp, ebp",
        "call {start}",
        "ud2",
        ".text",
        stack = sym STACK,
        size = const STACK_SIZE,
        start = sym start,
    );

    // SAFETY: `entry!` defines this symbol with this type, once per program.
    unsafe extern "Rust" {
        fn rt_main(boot: Boot);
    }

    // SAFETY: the linker script defines the end; `_start` is the first byte.
    unsafe extern "C" {
        static rt_image_end: u8;
        static _start: u8;
    }

    /// The addresses of the image.
    pub(super) fn image() -> (u64, u64) {
        (&raw const _start as u64, &raw const rt_image_end as u64)
    }

    /// The first Rust function: `cpu` is what the kernel left in RDI.
    extern "C" fn start(cpu: u64) -> ! {
        crate::own_page::set(abi::cap::ROOT_UTCB);
        crate::sync::start();
        let boot = Boot { cpu: (cpu & 0xfff) as u16, hip: super::hip() };
        // SAFETY: see the declaration.
        unsafe { rt_main(boot) };
        crate::sync::stop()
    }
}
