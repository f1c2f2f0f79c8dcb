//! The virtual machine control block: where its fields lie and what their bits mean (AMD APM vol. 2,
//! appendix B).
//!
//! Byte offsets into the 4 KiB block. Translation between these words and the monitor's lies in
//! `svm_state`, `svm_controls` and `svm_exit`.

macro_rules! offsets {
    ($($name:ident = $offset:literal),* $(,)?) => {
        $(
            #[doc = concat!("The field `", stringify!($name), "`.")]
            pub const $name: usize = $offset;
        )*
        /// All offsets named here, for tests.
        pub const ALL: &[usize] = &[$($name),*];
    };
}

offsets! {
    INTERCEPT_CR = 0x000,
    INTERCEPT_DR = 0x004,
    INTERCEPT_EXCEPTIONS = 0x008,
    INTERCEPT_MISC1 = 0x00c,
    INTERCEPT_MISC2 = 0x010,
    INTERCEPT_MISC3 = 0x014,
    IOPM_BASE = 0x040,
    MSRPM_BASE = 0x048,
    TSC_OFFSET = 0x050,
    ASID_TLB = 0x058,
    VIRTUAL_INTERRUPT = 0x060,
    INTERRUPT_SHADOW = 0x068,
    EXIT_CODE = 0x070,
    EXIT_INFO_1 = 0x078,
    EXIT_INFO_2 = 0x080,
    EXIT_INT_INFO = 0x088,
    NESTED_CONTROL = 0x090,
    EVENT_INJECTION = 0x0a8,
    NESTED_CR3 = 0x0b0,
    CLEAN_BITS = 0x0c0,
    NEXT_RIP = 0x0c8,
    INSTRUCTION_BYTES = 0x0d0,
    ES = 0x400,
    CS = 0x410,
    SS = 0x420,
    DS = 0x430,
    FS = 0x440,
    GS = 0x450,
    GDTR = 0x460,
    LDTR = 0x470,
    IDTR = 0x480,
    TR = 0x490,
    CPL = 0x4cb,
    EFER = 0x4d0,
    CR4 = 0x548,
    CR3 = 0x550,
    CR0 = 0x558,
    DR7 = 0x560,
    DR6 = 0x568,
    RFLAGS = 0x570,
    RIP = 0x578,
    RSP = 0x5d8,
    RAX = 0x5f8,
    STAR = 0x600,
    LSTAR = 0x608,
    CSTAR = 0x610,
    FMASK = 0x618,
    KERNEL_GS_BASE = 0x620,
    SYSENTER_CS = 0x628,
    SYSENTER_RSP = 0x630,
    SYSENTER_RIP = 0x638,
    CR2 = 0x640,
    PAT = 0x668,
    DEBUGCTL = 0x670,
}

/// Bits of `INTERCEPT_MISC1`.
pub mod misc1 {
    /// Physical interrupts.
    pub const INTR: u32 = 1 << 0;
    /// Physical NMIs.
    pub const NMI: u32 = 1 << 1;
    /// INIT.
    pub const INIT: u32 = 1 << 3;
    /// Virtual interrupt taken: the interrupt window.
    pub const VINTR: u32 = 1 << 4;
    /// Reads of IDTR, GDTR, LDTR, TR and writes of the four: bits 6 to 13.
    pub const TABLES: u32 = 0xff << 6;
    /// RDTSC.
    pub const RDTSC: u32 = 1 << 14;
    /// RDPMC.
    pub const RDPMC: u32 = 1 << 15;
    /// CPUID.
    pub const CPUID: u32 = 1 << 18;
    /// RSM.
    pub const RSM: u32 = 1 << 19;
    /// IRET.
    pub const IRET: u32 = 1 << 20;
    /// INVD.
    pub const INVD: u32 = 1 << 22;
    /// PAUSE.
    pub const PAUSE: u32 = 1 << 23;
    /// HLT.
    pub const HLT: u32 = 1 << 24;
    /// INVLPG.
    pub const INVLPG: u32 = 1 << 25;
    /// INVLPGA.
    pub const INVLPGA: u32 = 1 << 26;
    /// Ports by permission map.
    pub const IOIO: u32 = 1 << 27;
    /// MSRs by permission map.
    pub const MSR: u32 = 1 << 28;
    /// Task switches.
    pub const TASK_SWITCH: u32 = 1 << 29;
    /// Shutdown: a triple fault.
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of `INTERCEPT_MISC2`.
pub mod misc2 {
    /// VMRUN: the hardware demands it.
    pub const VMRUN: u32 = 1 << 0;
    /// VMMCALL.
    pub const VMMCALL: u32 = 1 << 1;
    /// VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
    pub const SVM_OTHERS: u32 = 0x1f << 2;
    /// RDTSCP.
    pub const RDTSCP: u32 = 1 << 7;
    /// WBINVD.
    pub const WBINVD: u32 = 1 << 9;
    /// MONITOR.
    pub const MONITOR: u32 = 1 << 10;
    /// MWAIT, armed or not.
    pub const MWAIT: u32 = 3 << 11;
    /// XSETBV.
    pub const XSETBV: u32 = 1 << 13;
}

/// Bits of `INTERCEPT_MISC3`.
pub mod misc3 {
    /// INVPCID.
    pub const INVPCID: u32 = 1 << 2;
}

/// Bits of `VIRTUAL_INTERRUPT`.
pub mod virtual_interrupt {
    /// The guest's task priority, bits 3:0 of the low byte.
    pub const TPR: u64 = 0xf;
    /// A virtual interrupt waits.
    pub const IRQ: u64 = 1 << 8;
    /// Its priority: the highest.
    pub const PRIORITY: u64 = 0xf << 16;
    /// It does not look at the task priority.
    pub const IGNORE_TPR: u64 = 1 << 20;
    /// The guest's IF masks virtual interrupts only; the host's masks physical ones.
    pub const MASKING: u64 = 1 << 24;
    /// Position of the virtual interrupt's vector, 8 bits.
    pub const VECTOR_SHIFT: u32 = 32;
}

/// Groups of the clean word (15.15.3): bit set means unchanged since the last run.
pub mod clean {
    /// Intercepts, TSC offset, pause filter.
    pub const INTERCEPTS: u32 = 1 << 0;
    /// Permission maps.
    pub const PERMISSIONS: u32 = 1 << 1;
    /// ASID.
    pub const ASID: u32 = 1 << 2;
    /// Virtual interrupt word.
    pub const TPR: u32 = 1 << 3;
    /// Nested paging and PAT.
    pub const NESTED: u32 = 1 << 4;
    /// CR0, CR3, CR4, EFER.
    pub const CR: u32 = 1 << 5;
    /// DR6, DR7.
    pub const DR: u32 = 1 << 6;
    /// GDTR, IDTR.
    pub const TABLES: u32 = 1 << 7;
    /// CS, SS, DS, ES, CPL.
    pub const SEGMENTS: u32 = 1 << 8;
    /// CR2.
    pub const CR2: u32 = 1 << 9;
    /// All of these.
    pub const ALL: u32 = 0x3ff;
}

/// EFER.SVME: VMRUN demands it in the guest's EFER (15.5.1); the guest does not see it.
pub const EFER_SVME: u64 = 1 << 12;

/// Bit position of an MSR's read permission in the MSR permission map (15.11); the write permission is
/// the next bit. `None` for an MSR outside the three ranges, which always exits.
#[must_use]
pub const fn msr_permission_bit(msr: u32) -> Option<usize> {
    let (base, first) = match msr {
        0..=0x1fff => (0x0000, 0),
        0xc000_0000..=0xc000_1fff => (0x0800, 0xc000_0000),
        0xc001_0000..=0xc001_1fff => (0x1000, 0xc001_0000),
        _ => return None,
    };
    Some(base * 8 + 2 * (msr - first) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_distinct() {
        for (i, offset) in ALL.iter().enumerate() {
            assert!(*offset < 4096 && !ALL[..i].contains(offset), "{offset:#x}");
        }
    }

    #[test]
    fn permission_bits_stay_in_two_pages() {
        assert_eq!(msr_permission_bit(0), Some(0));
        assert_eq!(msr_permission_bit(0xc000_0100), Some(0x800 * 8 + 0x200));
        assert_eq!(msr_permission_bit(0x4000_0000), None);
        for msr in (0..=0xffff_u32).chain(0xc000_0000..=0xc001_ffff) {
            assert!(msr_permission_bit(msr).is_none_or(|bit| bit + 1 < 2 * 4096 * 8));
        }
    }
}
