//! The constants of `abi`, each by its place: (file, prefix in C, (name, value)).

use super::C;

/// The constants of a file of `abi`.
pub struct Group {
    /// The file, from `abi/src`.
    pub file: &'static str,
    /// What stands before each name in C, after `HEM_`.
    pub prefix: &'static str,
    /// Name, value as C, in the order of the file.
    pub constants: Vec<(&'static str, String)>,
}

macro_rules! group {
    ($file:literal, $prefix:literal, $module:ident: $($name:ident)*) => {
        Group {
            file: $file,
            prefix: $prefix,
            constants: vec![$((stringify!($name), $module::$name.literal())),*],
        }
    };
}

/// All of them. A test compares the lists with the files.
pub fn groups() -> Vec<Group> {
    use abi::utcb::{extended_offset, offset};
    use abi::{Mtd, call, cap, exit, hip, log, utcb};
    vec![
        group!("lib.rs", "", abi:
            API_VERSION PAGE_SIZE PAGE_BITS
        ),
        group!("call.rs", "CALL_", call:
            FLAGS_SHIFT VALUE_SHIFT
        ),
        group!("cap.rs", "", cap:
            SELECTOR_COUNT EXCEPTION_SELECTORS VM_SELECTORS USER_VECTORS MAX_CPUS
            PRIORITY_MIN PRIORITY_MAX USER_TOP ROOT_HIP ROOT_UTCB ROOT_STACK ROOT_PD ROOT_EC
            ROOT_SC ROOT_FREE ROOT_EVENT_BASE ROOT_PRIORITY ROOT_QUANTUM_US STARTUP RECALL
            MEM_R MEM_W MEM_X MEM_RW MEM_RWX PORT_ACCESS PORT_KERNEL PD_CREATE EC_CT EC_SC
            EC_PT EC_ALL SC_CT PT_CT PT_CALL PT_ALL SM_UP SM_DOWN SM_ALL KP_CT VCPU_CT ALL
        ),
        group!("mtd.rs", "MTD_", Mtd:
            NONE ACDB BSD RSP RIP_LEN RFLAGS DS_ES FS_GS CS_SS TR LDTR GDTR IDTR CR DR
            SYSENTER QUAL CTRL INJ STA TSC EFER_PAT PDPTE R8_R15 SYSCALL_SWAPGS TSC_TIMEOUT
            VINTR EOI TPR TLB FPU GPR EXCEPTION VCPU_EXIT VCPU_EXIT_VINTR
        ),
        group!("utcb.rs", "UTCB_", utcb:
            MESSAGE_WORDS ARCH_WORDS MAX_TYPED
        ),
        group!("utcb/offset.rs", "AT_", offset:
            ITEMS TRANSLATE_WINDOW DELEGATE_WINDOW TLS MESSAGE MTD INST_LEN RIP RFLAGS
            INTR_STATE ACTV_STATE INTR_INFO INTR_ERROR VECT_INFO VECT_ERROR RAX RCX RDX RBX
            RSP RBP RSI RDI R8 R15 QUAL0 QUAL1 CTRL0 CTRL1 XCR0 CR0 CR2 CR3 CR4 PDPTE CR8
            EFER PAT STAR LSTAR FMASK KERNEL_GS_BASE DR7 SYSENTER_CS SYSENTER_RSP
            SYSENTER_RIP ES CS SS DS FS GS LDTR TR GDTR IDTR TSC_VAL TSC_OFF TSC_AUX
            EXC_BITMAP TPR_THRESHOLD EOI_BITMAP VINTR_STATUS CR0_MON CR4_MON SPEC_CTRL
            TSC_TIMEOUT EXIT_REASON EXTENDED EXTENDED_END TYPED
        ),
        group!("utcb/extended_offset.rs", "AT_", extended_offset:
            DR0 DR6 DEBUGCTL PENDING_DEBUG GUEST_LINEAR INSTRUCTION_ERROR INSTRUCTION_INFO
            RAW_EXIT RAW_INFO1 RAW_INFO2 RAW_INT_INFO INSTRUCTION_BYTES
        ),
        group!("hip.rs", "HIP_", hip:
            SIGNATURE FLAG_IOMMU FLAG_VMX FLAG_SVM FLAG_UEFI CPU_USABLE MEMORY_RAM
            MEMORY_HYPERVISOR MEMORY_MODULE CPU_COUNT IOAPIC_COUNT CPU_OFFSET IOAPIC_OFFSET
            MEMORY_OFFSET MEMORY_MAX OUR_BLOCK OUR_MAGIC OUR_VERSION VENDOR_OTHER
            VENDOR_INTEL VENDOR_AMD
        ),
        group!("exit.rs", "EXIT_", exit:
            ENTRY_FAILURE_BIT INVALID_STATE ENTRY_FAILED POKED
        ),
        group!("log.rs", "LOG_", log:
            UNOWNED KILLED FAULT RECORD_WORDS RECORDS UNOWNED_INTERRUPTS SHOOTDOWNS FREE_FRAMES LOG_RECORDS
            STRETCHES STRETCH_LABELS STRETCH_EXCEPTION STRETCH_INTERRUPT STRETCH_GUEST
        ),
    ]
}
