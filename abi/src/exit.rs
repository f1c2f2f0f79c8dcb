//! Why a virtual processor stopped: the exit reasons a monitor can see.
//!
//! Numbers are the basic exit reasons of the Intel SDM vol. 3, appendix C, on
//! either vendor's hardware, and three of the kernel's own.

/// Bit 31 of the reason word: the guest was not entered.
pub const ENTRY_FAILURE_BIT: u32 = 1 << 31;
/// The whole reason word for an invalid guest state, found by the hardware or
/// by the kernel (invalid XCR0, FPU page that does not load).
pub const INVALID_STATE: u32 = ENTRY_FAILURE_BIT | 33;
/// The entry instruction itself failed: invalid control fields.
pub const ENTRY_FAILED: u32 = 253;
/// The virtual processor was poked.
pub const POKED: u32 = 255;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// A decoded reason word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ExitReason {
            $($(#[$doc])* $name,)*
            /// The guest state is invalid ([`INVALID_STATE`]).
            InvalidState,
            /// Any other word.
            Unknown(u32),
        }

        impl ExitReason {
            /// What the `exit_reason` field of a state page says.
            #[must_use]
            pub const fn from_word(word: u32) -> Self {
                match word {
                    $($number => Self::$name,)*
                    INVALID_STATE => Self::InvalidState,
                    other => Self::Unknown(other),
                }
            }

            /// The word for the `exit_reason` field.
            #[must_use]
            pub const fn word(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                    Self::InvalidState => INVALID_STATE,
                    Self::Unknown(other) => other,
                }
            }
        }
    };
}

reasons! {
    /// An exception, or an NMI (which the kernel keeps).
    Exception = 0,
    /// An external interrupt; never reported.
    ExternalInterrupt = 1,
    /// A triple fault.
    TripleFault = 2,
    /// An INIT signal.
    Init = 3,
    /// A start-up IPI.
    Sipi = 4,
    /// An interrupt window opened.
    InterruptWindow = 7,
    /// An NMI window opened.
    NmiWindow = 8,
    /// A task switch.
    TaskSwitch = 9,
    /// CPUID.
    Cpuid = 10,
    /// GETSEC.
    Getsec = 11,
    /// HLT.
    Hlt = 12,
    /// INVD.
    Invd = 13,
    /// INVLPG.
    Invlpg = 14,
    /// RDPMC.
    Rdpmc = 15,
    /// RDTSC.
    Rdtsc = 16,
    /// RSM.
    Rsm = 17,
    /// VMCALL.
    Vmcall = 18,
    /// VMCLEAR.
    Vmclear = 19,
    /// VMLAUNCH.
    Vmlaunch = 20,
    /// VMPTRLD.
    Vmptrld = 21,
    /// VMPTRST.
    Vmptrst = 22,
    /// VMREAD.
    Vmread = 23,
    /// VMRESUME.
    Vmresume = 24,
    /// VMWRITE.
    Vmwrite = 25,
    /// VMXOFF.
    Vmxoff = 26,
    /// VMXON.
    Vmxon = 27,
    /// An access to a control register.
    ControlRegister = 28,
    /// An access to a debug register.
    DebugRegister = 29,
    /// An I/O instruction.
    Io = 30,
    /// RDMSR.
    Rdmsr = 31,
    /// WRMSR.
    Wrmsr = 32,
    /// MWAIT.
    Mwait = 36,
    /// The monitor trap flag.
    MonitorTrap = 37,
    /// MONITOR.
    Monitor = 39,
    /// PAUSE.
    Pause = 40,
    /// A machine check at entry.
    MachineCheck = 41,
    /// The task priority fell below the threshold.
    TprBelowThreshold = 43,
    /// An access to the APIC access page.
    ApicAccess = 44,
    /// A virtual end of interrupt.
    VirtualEoi = 45,
    /// An access to GDTR or IDTR.
    GdtrIdtr = 46,
    /// An access to LDTR or TR.
    LdtrTr = 47,
    /// A guest-physical access that the guest space forbids.
    EptViolation = 48,
    /// A malformed guest page table of the kernel's.
    EptMisconfiguration = 49,
    /// INVEPT.
    Invept = 50,
    /// RDTSCP.
    Rdtscp = 51,
    /// The guest's time-out, or a timer that ran out by itself.
    PreemptionTimer = 52,
    /// INVVPID.
    Invvpid = 53,
    /// WBINVD.
    Wbinvd = 54,
    /// XSETBV.
    Xsetbv = 55,
    /// A write to the virtual APIC.
    ApicWrite = 56,
    /// RDRAND.
    Rdrand = 57,
    /// INVPCID.
    Invpcid = 58,
    /// VMFUNC.
    Vmfunc = 59,
    /// ENCLS.
    Encls = 60,
    /// RDSEED.
    Rdseed = 61,
    /// The page modification log is full.
    PmlFull = 62,
    /// XSAVES.
    Xsaves = 63,
    /// XRSTORS.
    Xrstors = 64,
    /// The entry instruction failed ([`ENTRY_FAILED`]).
    EntryFailed = 253,
    /// The virtual processor was poked ([`POKED`]).
    Poked = 255,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for word in (0..300).chain([INVALID_STATE, u32::MAX, 0x8000_0022]) {
            assert_eq!(ExitReason::from_word(word).word(), word);
        }
        assert_eq!(ExitReason::from_word(POKED), ExitReason::Poked);
        assert_eq!(ExitReason::from_word(ENTRY_FAILED), ExitReason::EntryFailed);
        assert_eq!(ExitReason::from_word(INVALID_STATE), ExitReason::InvalidState);
        assert_eq!(ExitReason::from_word(INVALID_STATE).word(), 0x8000_0021);
    }
}
