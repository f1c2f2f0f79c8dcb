//! Message transfer descriptors: which groups of registers a message carries.

use core::ops::{BitAnd, BitOr, BitOrAssign, Not};

/// A set of register groups. Which bits have an effect depends on the message:
/// an exception moves only [`Mtd::EXCEPTION`], a vCPU everything but `FPU`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Mtd(pub u32);

impl Mtd {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// rax, rcx, rdx, rbx.
    pub const ACDB: Self = Self(1 << 0);
    /// rbp, rsi, rdi.
    pub const BSD: Self = Self(1 << 1);
    /// rsp.
    pub const RSP: Self = Self(1 << 2);
    /// rip; for a vCPU also the instruction length.
    pub const RIP_LEN: Self = Self(1 << 3);
    /// rflags.
    pub const RFLAGS: Self = Self(1 << 4);
    /// ds, es.
    pub const DS_ES: Self = Self(1 << 5);
    /// fs, gs.
    pub const FS_GS: Self = Self(1 << 6);
    /// cs, ss.
    pub const CS_SS: Self = Self(1 << 7);
    /// tr.
    pub const TR: Self = Self(1 << 8);
    /// ldtr.
    pub const LDTR: Self = Self(1 << 9);
    /// gdtr.
    pub const GDTR: Self = Self(1 << 10);
    /// idtr.
    pub const IDTR: Self = Self(1 << 11);
    /// cr0, cr2, cr3, cr4, xcr0, spec_ctrl.
    pub const CR: Self = Self(1 << 12);
    /// dr7.
    pub const DR: Self = Self(1 << 13);
    /// sysenter_cs, sysenter_rsp, sysenter_rip.
    pub const SYSENTER: Self = Self(1 << 14);
    /// The two qualification words.
    pub const QUAL: Self = Self(1 << 15);
    /// Execution controls, exception bitmap, cr0_mon, cr4_mon.
    pub const CTRL: Self = Self(1 << 16);
    /// Event injection and, at exit, the interrupted event.
    pub const INJ: Self = Self(1 << 17);
    /// Interruptibility and activity state.
    pub const STA: Self = Self(1 << 18);
    /// tsc_off, tsc_aux; at exit tsc_val.
    pub const TSC: Self = Self(1 << 19);
    /// efer, pat.
    pub const EFER_PAT: Self = Self(1 << 20);
    /// The four PAE page-directory-pointer entries.
    pub const PDPTE: Self = Self(1 << 21);
    /// r8 to r15.
    pub const R8_R15: Self = Self(1 << 22);
    /// star, lstar, fmask, kernel_gs_base.
    pub const SYSCALL_SWAPGS: Self = Self(1 << 23);
    /// tsc_timeout.
    pub const TSC_TIMEOUT: Self = Self(1 << 24);
    /// vintr_status.
    pub const VINTR: Self = Self(1 << 26);
    /// eoi_bitmap.
    pub const EOI: Self = Self(1 << 27);
    /// tpr_threshold.
    pub const TPR: Self = Self(1 << 28);
    /// Flush the guest's tagged translations.
    pub const TLB: Self = Self(1 << 30);
    /// The FPU registers of the faulting EC.
    pub const FPU: Self = Self(1 << 31);

    /// All general purpose registers but the stack pointer.
    pub const GPR: Self = Self(Self::ACDB.0 | Self::BSD.0 | Self::R8_R15.0);
    /// All a handler of exceptions can see.
    pub const EXCEPTION: Self = Self(
        Self::GPR.0 | Self::RSP.0 | Self::RIP_LEN.0 | Self::RFLAGS.0 | Self::QUAL.0 | Self::FPU.0,
    );
    /// The mtd word in the state page after a vCPU exit.
    pub const VCPU_EXIT: Self = Self(0x23ff_ffff);
    /// The same when virtual interrupt delivery is on.
    pub const VCPU_EXIT_VINTR: Self = Self(0x27ff_ffff);

    /// Whether every bit of `groups` is set.
    #[must_use]
    pub const fn contains(self, groups: Self) -> bool {
        self.0 & groups.0 == groups.0
    }

    /// Whether no bit is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The bits of both; usable in constants.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for Mtd {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitOrAssign for Mtd {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Mtd {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Mtd {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups() {
        assert_eq!(Mtd::EXCEPTION.0, 0x8040_801f);
        assert!((Mtd::ACDB | Mtd::RSP).contains(Mtd::RSP));
        assert!(!Mtd::ACDB.contains(Mtd::ACDB | Mtd::RSP));
        assert!((Mtd::EXCEPTION & !Mtd::EXCEPTION).is_empty());
    }
}
