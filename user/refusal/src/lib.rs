//! Names the rule that a refused VM entry broke: field, value, manual section.
//!
//! The kernel reports a refused entry as it came from the hardware; the monitor and `xtask` hand the
//! state page to [`explain`]. Rules are those of the Intel SDM vol. 3, chapter 27 (VM entries; edition
//! 080) and the AMD APM vol. 2, 15.5.1 (revision 3.40), as far as the state page can break them: fields
//! that the kernel writes itself are not looked at. Nothing here decides whether an entry is tried.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

mod svm;
mod vmx;
mod vmx_segments;

use abi::utcb::StatePage;
use core::fmt;

/// Whose rules count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Vmx,
    /// AMD.
    Svm,
}

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The field of the state page, as `docs/spec/utcb.md` names it.
    pub field: &'static str,
    /// What it holds.
    pub value: u64,
    /// What it should be.
    pub rule: &'static str,
    /// Where the manual says so.
    pub section: &'static str,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:#x}: {} ({})", self.field, self.value, self.rule, self.section)
    }
}

/// Most rules that are told at once.
pub const MOST: usize = 16;

/// What was found, in the order in which the hardware checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    broken: [Option<Broken>; MOST],
}

impl Findings {
    /// The broken rules; none means that the state page breaks no rule known here.
    pub fn iter(&self) -> impl Iterator<Item = &Broken> {
        self.broken.iter().flatten()
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    fn check(
        &mut self,
        holds: bool,
        field: &'static str,
        value: u64,
        rule: &'static str,
        section: &'static str,
    ) {
        if holds {
            return;
        }
        if let Some(free) = self.broken.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(Broken { field, value, rule, section });
        }
    }
}

/// Which rules the state in `page` breaks on a CPU of `vendor` with `physical_bits` bits of physical
/// address. `page` is a copy, taken after the refused run with all groups.
#[must_use]
pub fn explain(vendor: Vendor, page: &StatePage, physical_bits: u8) -> Findings {
    let mut findings = Findings::default();
    extended_state(&mut findings, page);
    match vendor {
        Vendor::Vmx => vmx::check(&mut findings, page, physical_bits),
        Vendor::Svm => svm::check(&mut findings, page, physical_bits),
    }
    findings
}

/// The kernel's own refusal (abi.md 11.3).
fn extended_state(found: &mut Findings, page: &StatePage) {
    let x = page.xcr0;
    let section = "SDM vol. 1, 13.3";
    found.check(x & 1 != 0, "xcr0", x, "bit 0 (x87) is always set", section);
    found.check(x & 4 == 0 || x & 2 != 0, "xcr0", x, "AVX needs SSE", section);
    found.check(
        x & 0xe0 == 0 || x & 0xe4 == 0xe4,
        "xcr0",
        x,
        "AVX-512 is three bits and needs AVX",
        section,
    );
}

/// Bits of the fields that several rules use.
mod bit {
    pub const CR0_PE: u64 = 1 << 0;
    pub const CR0_NW: u64 = 1 << 29;
    pub const CR0_CD: u64 = 1 << 30;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_PCIDE: u64 = 1 << 17;
    pub const EFER_LME: u64 = 1 << 8;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const EFER_KNOWN: u64 = 0xd01;
    pub const RFLAGS_VM: u64 = 1 << 17;
    pub const RFLAGS_IF: u64 = 1 << 9;
}

/// Whether bits 63:47 are equal.
fn canonical(address: u64) -> bool {
    let top = address >> 47;
    top == 0 || top == 0x1_ffff
}

/// Whether each byte is a memory type (SDM vol. 3, 11.12.2).
fn valid_pat(pat: u64) -> bool {
    pat.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

#[cfg(test)]
mod tests;
