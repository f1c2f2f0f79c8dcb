//! Model-specific registers that may not exist: a fault becomes an error.

use core::arch::asm;

/// Reads an MSR; an error if the CPU does not have it.
///
/// # Errors
/// The CPU answered with a general-protection fault.
pub fn read_msr(msr: u32) -> Result<u64, ()> {
    let (low, high, missing): (u32, u32, u32);
    // SAFETY: reading an MSR changes nothing that the kernel relies on; a fault is caught below.
    unsafe {
        asm!(
            "2: rdmsr",
            "xor {missing:e}, {missing:e}",
            "3:",
            ".pushsection .fixup, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            missing = inout(reg) 1u32 => missing,
            in("ecx") msr, inout("eax") 0u32 => low, inout("edx") 0u32 => high,
            options(nostack),
        );
    }
    if missing == 0 { Ok(u64::from(high) << 32 | u64::from(low)) } else { Err(()) }
}

/// Writes an MSR; an error if the CPU refuses.
///
/// The caller must not name an MSR that the kernel's own safety rests on (EFER, the SYSCALL entry, GS
/// base, PAT, APIC base): those are set here in `arch` alone.
///
/// # Errors
/// The CPU answered with a general-protection fault.
pub fn write_msr(msr: u32, value: u64) -> Result<(), ()> {
    let missing: u32;
    // SAFETY: within the kernel only `arch` and the guest code name MSRs, by constants; a fault is
    // caught below.
    unsafe {
        asm!(
            "2: wrmsr",
            "xor {missing:e}, {missing:e}",
            "3:",
            ".pushsection .fixup, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            missing = inout(reg) 1u32 => missing,
            in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
    if missing == 0 { Ok(()) } else { Err(()) }
}
