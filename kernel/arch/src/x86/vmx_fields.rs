//! VMCS field encodings (Intel SDM vol. 3, appendix B).
//!
//! Numbers only. What the fields mean to us stands where they are used: `vmx_state` for the guest,
//! `metal::vmx` for the host.

macro_rules! fields {
    ($($name:ident = $encoding:literal),* $(,)?) => {
        $(
            #[doc = concat!("The field `", stringify!($name), "`.")]
            pub const $name: u32 = $encoding;
        )*
        /// All fields named here, for tests.
        pub const ALL: &[u32] = &[$($name),*];
    };
}

fields! {
    // 16 bit: control, guest, host
    VPID = 0x0000,
    GUEST_ES_SELECTOR = 0x0800,
    GUEST_INTERRUPT_STATUS = 0x0810,
    HOST_ES_SELECTOR = 0x0c00,
    HOST_CS_SELECTOR = 0x0c02,
    HOST_SS_SELECTOR = 0x0c04,
    HOST_DS_SELECTOR = 0x0c06,
    HOST_FS_SELECTOR = 0x0c08,
    HOST_GS_SELECTOR = 0x0c0a,
    HOST_TR_SELECTOR = 0x0c0c,
    // 64 bit: control
    IO_BITMAP_A = 0x2000,
    IO_BITMAP_B = 0x2002,
    MSR_BITMAP = 0x2004,
    TSC_OFFSET = 0x2010,
    VIRTUAL_APIC_ADDRESS = 0x2012,
    APIC_ACCESS_ADDRESS = 0x2014,
    EPT_POINTER = 0x201a,
    EOI_EXIT_BITMAP_0 = 0x201c,
    EOI_EXIT_BITMAP_1 = 0x201e,
    EOI_EXIT_BITMAP_2 = 0x2020,
    EOI_EXIT_BITMAP_3 = 0x2022,
    XSS_EXITING_BITMAP = 0x202c,
    // 64 bit: read-only, guest, host
    GUEST_PHYSICAL_ADDRESS = 0x2400,
    VMCS_LINK_POINTER = 0x2800,
    GUEST_DEBUGCTL = 0x2802,
    GUEST_PAT = 0x2804,
    GUEST_EFER = 0x2806,
    GUEST_PDPTE_0 = 0x280a,
    GUEST_PDPTE_1 = 0x280c,
    GUEST_PDPTE_2 = 0x280e,
    GUEST_PDPTE_3 = 0x2810,
    HOST_PAT = 0x2c00,
    HOST_EFER = 0x2c02,
    // 32 bit: control
    PIN_CONTROLS = 0x4000,
    PRIMARY_CONTROLS = 0x4002,
    EXCEPTION_BITMAP = 0x4004,
    PAGE_FAULT_MASK = 0x4006,
    PAGE_FAULT_MATCH = 0x4008,
    CR3_TARGET_COUNT = 0x400a,
    EXIT_CONTROLS = 0x400c,
    EXIT_MSR_STORE_COUNT = 0x400e,
    EXIT_MSR_LOAD_COUNT = 0x4010,
    ENTRY_CONTROLS = 0x4012,
    ENTRY_MSR_LOAD_COUNT = 0x4014,
    ENTRY_INTERRUPT_INFO = 0x4016,
    ENTRY_ERROR_CODE = 0x4018,
    ENTRY_INSTRUCTION_LENGTH = 0x401a,
    TPR_THRESHOLD = 0x401c,
    SECONDARY_CONTROLS = 0x401e,
    // 32 bit: read-only
    INSTRUCTION_ERROR = 0x4400,
    EXIT_REASON = 0x4402,
    EXIT_INTERRUPT_INFO = 0x4404,
    EXIT_ERROR_CODE = 0x4406,
    VECTORING_INFO = 0x4408,
    VECTORING_ERROR_CODE = 0x440a,
    EXIT_INSTRUCTION_LENGTH = 0x440c,
    EXIT_INSTRUCTION_INFO = 0x440e,
    // 32 bit: guest, host
    GUEST_ES_LIMIT = 0x4800,
    GUEST_GDTR_LIMIT = 0x4810,
    GUEST_IDTR_LIMIT = 0x4812,
    GUEST_ES_RIGHTS = 0x4814,
    GUEST_INTERRUPTIBILITY = 0x4824,
    GUEST_ACTIVITY = 0x4826,
    GUEST_SYSENTER_CS = 0x482a,
    PREEMPTION_TIMER = 0x482e,
    HOST_SYSENTER_CS = 0x4c00,
    // natural width: control, read-only
    CR0_MASK = 0x6000,
    CR4_MASK = 0x6002,
    CR0_SHADOW = 0x6004,
    CR4_SHADOW = 0x6006,
    EXIT_QUALIFICATION = 0x6400,
    GUEST_LINEAR_ADDRESS = 0x640a,
    // natural width: guest, host
    GUEST_CR0 = 0x6800,
    GUEST_CR3 = 0x6802,
    GUEST_CR4 = 0x6804,
    GUEST_ES_BASE = 0x6806,
    GUEST_GDTR_BASE = 0x6816,
    GUEST_IDTR_BASE = 0x6818,
    GUEST_DR7 = 0x681a,
    GUEST_RSP = 0x681c,
    GUEST_RIP = 0x681e,
    GUEST_RFLAGS = 0x6820,
    GUEST_PENDING_DEBUG = 0x6822,
    GUEST_SYSENTER_ESP = 0x6824,
    GUEST_SYSENTER_EIP = 0x6826,
    HOST_CR0 = 0x6c00,
    HOST_CR3 = 0x6c02,
    HOST_CR4 = 0x6c04,
    HOST_FS_BASE = 0x6c06,
    HOST_GS_BASE = 0x6c08,
    HOST_TR_BASE = 0x6c0a,
    HOST_GDTR_BASE = 0x6c0c,
    HOST_IDTR_BASE = 0x6c0e,
    HOST_SYSENTER_ESP = 0x6c10,
    HOST_SYSENTER_EIP = 0x6c12,
    HOST_RSP = 0x6c14,
    HOST_RIP = 0x6c16,
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn encodings_are_well_formed_and_distinct() {
        for (i, field) in ALL.iter().enumerate() {
            // Bit 0 selects the high half, bits 31:15 and bit 12 are reserved.
            assert_eq!(field & !0x6ffe, 0, "{field:#x}");
            assert!(!ALL[..i].contains(field), "{field:#x} twice");
        }
    }
}
