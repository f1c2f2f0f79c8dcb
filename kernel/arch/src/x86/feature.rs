//! Lists what the kernel wants of a CPU, as data: where CPUID says so, and what it is for.

use Register::{Eax, Ebx, Ecx, Edx};

bitflags::bitflags! {
    /// Features that may be missing; the kernel does without.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// RDFSBASE and its sisters, also in user mode.
        const FSGSBASE = 1 << 0;
        /// No kernel execution of user pages.
        const SMEP = 1 << 1;
        /// No kernel access to user pages.
        const SMAP = 1 << 2;
        /// No SGDT and its sisters in user mode.
        const UMIP = 1 << 3;
        /// Tagged address spaces.
        const PCID = 1 << 4;
        /// Single-context invalidation by tag.
        const INVPCID = 1 << 5;
        /// Extended state save.
        const XSAVE = 1 << 6;
        /// Extended state save that skips what is unchanged.
        const XSAVEOPT = 1 << 7;
        /// 1 GiB pages.
        const GIB_PAGES = 1 << 8;
        /// The timer's deadline mode.
        const TSC_DEADLINE = 1 << 9;
        /// The local APIC through MSRs.
        const X2APIC = 1 << 10;
        /// RDTSCP and TSC_AUX.
        const RDTSCP = 1 << 11;
    }
}

/// One of CPUID's four answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the registers")]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// A bit of CPUID (Intel SDM vol. 2, CPUID; AMD64 vol. 3, appendix E).
#[derive(Clone, Copy, Debug)]
pub struct Bit {
    /// EAX and ECX of the question.
    pub leaf: (u32, u32),
    /// Which word of the answer.
    pub register: Register,
    /// Which bit of it.
    pub bit: u8,
}

/// A required feature.
#[derive(Clone, Copy, Debug)]
pub struct Required {
    /// Where CPUID says so.
    pub bit: Bit,
    /// Its usual name.
    pub name: &'static str,
    /// What the kernel needs it for.
    pub purpose: &'static str,
}

const fn bit(leaf: u32, register: Register, bit: u8) -> Bit {
    Bit { leaf: (leaf, 0), register, bit }
}

const fn required(bit: Bit, name: &'static str, purpose: &'static str) -> Required {
    Required { bit, name, purpose }
}

/// Without these the kernel does not start.
pub const REQUIRED: &[Required] = &[
    required(bit(1, Edx, 4), "TSC", "the one time base"),
    required(bit(1, Edx, 5), "MSR", "every part of the set-up"),
    required(bit(1, Edx, 6), "PAE", "page tables"),
    required(bit(1, Edx, 9), "APIC", "timer and interrupts of each CPU"),
    required(bit(1, Edx, 13), "PGE", "kernel translations that survive CR3 loads"),
    required(bit(1, Edx, 16), "PAT", "memory types of pages"),
    required(bit(1, Edx, 24), "FXSR", "saving floating-point state"),
    required(bit(1, Edx, 26), "SSE2", "user programs for x86-64"),
    required(bit(0x8000_0001, Edx, 11), "SYSCALL", "system calls"),
    required(bit(0x8000_0001, Edx, 20), "NX", "no page both writable and executable"),
    required(bit(0x8000_0001, Edx, 29), "LM", "64-bit mode"),
];

/// The kernel uses these where they are.
pub const OPTIONAL: &[(Features, Bit)] = &[
    (Features::FSGSBASE, bit(7, Ebx, 0)),
    (Features::SMEP, bit(7, Ebx, 7)),
    (Features::SMAP, bit(7, Ebx, 20)),
    (Features::UMIP, bit(7, Ecx, 2)),
    (Features::PCID, bit(1, Ecx, 17)),
    (Features::INVPCID, bit(7, Ebx, 10)),
    (Features::XSAVE, bit(1, Ecx, 26)),
    (Features::XSAVEOPT, Bit { leaf: (0xd, 1), register: Eax, bit: 0 }),
    (Features::GIB_PAGES, bit(0x8000_0001, Edx, 26)),
    (Features::TSC_DEADLINE, bit(1, Ecx, 24)),
    (Features::X2APIC, bit(1, Ecx, 21)),
    (Features::RDTSCP, bit(0x8000_0001, Edx, 27)),
];

impl Bit {
    /// Asks `cpuid` (question: EAX, ECX; answer: EAX, EBX, ECX, EDX). A leaf above the highest one of
    /// its range says no.
    pub fn is_set(self, cpuid: impl Fn(u32, u32) -> [u32; 4]) -> bool {
        let (leaf, subleaf) = self.leaf;
        let [highest, ..] = cpuid(leaf & 0x8000_0000, 0);
        if leaf > highest {
            return false;
        }
        let [eax, ebx, ecx, edx] = cpuid(leaf, subleaf);
        let word = match self.register {
            Eax => eax,
            Ebx => ebx,
            Ecx => ecx,
            Edx => edx,
        };
        word >> self.bit & 1 != 0
    }
}

/// The optional features that `cpuid` reports. XSAVEOPT needs XSAVE; INVPCID is of no use without PCID.
pub fn optional(cpuid: impl Fn(u32, u32) -> [u32; 4] + Copy) -> Features {
    let mut found = Features::empty();
    for (feature, bit) in OPTIONAL {
        found.set(*feature, bit.is_set(cpuid));
    }
    if !found.contains(Features::XSAVE) {
        found.remove(Features::XSAVEOPT);
    }
    if !found.contains(Features::PCID) {
        found.remove(Features::INVPCID);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_above_the_highest_say_no() {
        let old = |leaf: u32, _| if leaf == 0 { [1, 0, 0, 0] } else { [u32::MAX; 4] };
        let found = optional(old);
        assert!(found.contains(Features::X2APIC | Features::GIB_PAGES));
        assert!(!found.intersects(Features::SMEP | Features::XSAVEOPT));
    }

    #[test]
    fn everything_is_found_on_a_cpu_that_has_everything() {
        let all = |_, _| [u32::MAX; 4];
        assert_eq!(optional(all), Features::all());
        assert!(REQUIRED.iter().all(|feature| feature.bit.is_set(all)));
        let none = |leaf: u32, _| [leaf | 0xffff, 0, 0, 0];
        assert!(optional(none).is_empty());
        assert!(!REQUIRED.iter().any(|feature| feature.bit.is_set(none)));
    }
}
