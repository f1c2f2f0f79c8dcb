//! Single instructions that user programs need.

/// The time-stamp counter.
#[inline]
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no preconditions (the kernel never disables it) and
    // touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Tells the processor that this is a spin loop.
#[inline]
pub fn pause() {
    core::hint::spin_loop();
}

/// Reads a byte from an I/O port. Without the port's capability the program
/// gets a #GP; on a host the answer is 0xff.
#[inline]
#[must_use]
pub fn inb(port: u16) -> u8 {
    #[cfg(target_os = "none")]
    {
        let value: u8;
        // SAFETY: IN touches no memory; a port without a capability faults,
        // it does not corrupt.
        unsafe {
            core::arch::asm!("in al, dx", in("dx") port, out("al") value,
                options(nomem, nostack, preserves_flags));
        }
        value
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = port;
        0xff
    }
}

/// Writes a byte to an I/O port; on a host nothing happens.
#[inline]
pub fn outb(port: u16, value: u8) {
    #[cfg(target_os = "none")]
    // SAFETY: OUT touches no memory; what a device does after it is the
    // business of the program that holds the port's capability.
    unsafe {
        core::arch::asm!("out dx, al", in("dx") port, in("al") value,
            options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_os = "none"))]
    let _ = (port, value);
}

/// Writes 16 bits to an I/O port; on a host nothing happens.
#[inline]
pub fn outw(port: u16, value: u16) {
    #[cfg(target_os = "none")]
    // SAFETY: as for `outb`.
    unsafe {
        core::arch::asm!("out dx, ax", in("dx") port, in("ax") value,
            options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_os = "none"))]
    let _ = (port, value);
}

/// Reads 16 bits from an I/O port; on a host the answer is 0xffff.
#[inline]
#[must_use]
pub fn inw(port: u16) -> u16 {
    #[cfg(target_os = "none")]
    {
        let value: u16;
        // SAFETY: as for `inb`.
        unsafe {
            core::arch::asm!("in ax, dx", in("dx") port, out("ax") value,
                options(nomem, nostack, preserves_flags));
        }
        value
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = port;
        0xffff
    }
}

/// Writes 32 bits to an I/O port; on a host nothing happens.
#[inline]
pub fn outl(port: u16, value: u32) {
    #[cfg(target_os = "none")]
    // SAFETY: as for `outb`.
    unsafe {
        core::arch::asm!("out dx, eax", in("dx") port, in("eax") value,
            options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(target_os = "none"))]
    let _ = (port, value);
}

/// Reads 32 bits from an I/O port; on a host the answer is 0xffff_ffff.
#[inline]
#[must_use]
pub fn inl(port: u16) -> u32 {
    #[cfg(target_os = "none")]
    {
        let value: u32;
        // SAFETY: as for `inb`.
        unsafe {
            core::arch::asm!("in eax, dx", in("dx") port, out("eax") value,
                options(nomem, nostack, preserves_flags));
        }
        value
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = port;
        0xffff_ffff
    }
}

/// The FS base: where this thread's UTCB is, by our convention.
#[cfg(target_os = "none")]
#[inline]
#[must_use]
pub(crate) fn fs_base() -> u64 {
    let base: u64;
    // SAFETY: `own_page` asks only where the processor has FSGSBASE, which the kernel then enables;
    // reading the register has no effect.
    unsafe {
        core::arch::asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags));
    }
    base
}

/// Sets the FS base.
#[cfg(target_os = "none")]
#[inline]
pub(crate) fn set_fs_base(base: u64) {
    // SAFETY: as above; no compiled code uses FS, because the target has no
    // thread-local storage.
    unsafe {
        core::arch::asm!("wrfsbase {}", in(reg) base, options(nomem, nostack, preserves_flags));
    }
}

/// Whether user programs can set the FS base (CPUID leaf 7 EBX bit 0).
#[cfg(target_os = "none")]
#[must_use]
pub(crate) fn has_fsgsbase() -> bool {
    #[allow(unused_unsafe, reason = "CPUID is a safe function from Rust 1.94 on")]
    // SAFETY: every 64-bit processor has CPUID; it touches no memory.
    let (top, features) = unsafe {
        use core::arch::x86_64::__cpuid_count;
        (__cpuid_count(0, 0).eax, __cpuid_count(7, 0).ebx)
    };
    top >= 7 && features & 1 != 0
}

/// The stack pointer.
#[cfg(target_os = "none")]
#[inline(always)]
#[must_use]
pub(crate) fn stack_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags));
    }
    pointer
}
