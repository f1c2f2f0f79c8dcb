//! Which VMX controls a virtual processor runs with, from what the monitor asked and the CPU allows.
//!
//! Pure arithmetic on capability words; reading the capability registers is `metal::vmx`'s duty.

/// Bits of the pin-based controls (Intel SDM vol. 3, 25.6.1).
pub mod pin {
    /// External interrupts exit.
    pub const EXTERNAL_INTERRUPT: u32 = 1 << 0;
    /// NMIs exit.
    pub const NMI: u32 = 1 << 3;
    /// The guest has its own NMI blocking.
    pub const VIRTUAL_NMI: u32 = 1 << 5;
    /// The preemption timer runs.
    pub const PREEMPTION_TIMER: u32 = 1 << 6;
}

/// Bits of the primary processor-based controls (25.6.2).
pub mod primary {
    /// Exit when interrupts can be delivered.
    pub const INTERRUPT_WINDOW: u32 = 1 << 2;
    /// RDTSC sees the offset.
    pub const TSC_OFFSETTING: u32 = 1 << 3;
    /// HLT exits.
    pub const HLT: u32 = 1 << 7;
    /// INVLPG exits.
    pub const INVLPG: u32 = 1 << 9;
    /// MWAIT exits.
    pub const MWAIT: u32 = 1 << 10;
    /// RDPMC exits.
    pub const RDPMC: u32 = 1 << 11;
    /// RDTSC exits.
    pub const RDTSC: u32 = 1 << 12;
    /// Writes to CR3 exit.
    pub const CR3_LOAD: u32 = 1 << 15;
    /// Reads of CR3 exit.
    pub const CR3_STORE: u32 = 1 << 16;
    /// Writes to CR8 exit.
    pub const CR8_LOAD: u32 = 1 << 19;
    /// Reads of CR8 exit.
    pub const CR8_STORE: u32 = 1 << 20;
    /// CR8 is the virtual APIC page's task priority.
    pub const TPR_SHADOW: u32 = 1 << 21;
    /// Exit when an NMI can be delivered.
    pub const NMI_WINDOW: u32 = 1 << 22;
    /// MOV to and from debug registers exits.
    pub const MOV_DR: u32 = 1 << 23;
    /// Every port access exits.
    pub const UNCONDITIONAL_IO: u32 = 1 << 24;
    /// Port accesses exit by bitmap.
    pub const IO_BITMAPS: u32 = 1 << 25;
    /// MSR accesses exit by bitmap.
    pub const MSR_BITMAPS: u32 = 1 << 28;
    /// MONITOR exits.
    pub const MONITOR: u32 = 1 << 29;
    /// PAUSE exits.
    pub const PAUSE: u32 = 1 << 30;
    /// The secondary controls count.
    pub const SECONDARY: u32 = 1 << 31;
}

/// Bits of the secondary processor-based controls (25.6.2).
pub mod secondary {
    /// Accesses to the APIC access page exit.
    pub const VIRTUAL_APIC: u32 = 1 << 0;
    /// Nested paging.
    pub const EPT: u32 = 1 << 1;
    /// Accesses to GDTR, IDTR, LDTR and TR exit.
    pub const DESCRIPTOR_TABLE: u32 = 1 << 2;
    /// RDTSCP exists.
    pub const RDTSCP: u32 = 1 << 3;
    /// Tagged translations.
    pub const VPID: u32 = 1 << 5;
    /// WBINVD exits.
    pub const WBINVD: u32 = 1 << 6;
    /// Real mode and unpaged protected mode run natively.
    pub const UNRESTRICTED: u32 = 1 << 7;
    /// Virtual interrupts are delivered by the CPU.
    pub const VIRTUAL_INTERRUPT: u32 = 1 << 9;
    /// A VMCS shadow answers VMREAD and VMWRITE.
    pub const VMCS_SHADOWING: u32 = 1 << 14;
    /// Page-modification logging.
    pub const PML: u32 = 1 << 17;
    /// EPT violations may become #VE.
    pub const EPT_VE: u32 = 1 << 18;
    /// XSAVES and XRSTORS exist.
    pub const XSAVES: u32 = 1 << 20;
    /// VM functions exist.
    pub const VMFUNC: u32 = 1 << 13;
    /// What would need a structure of the kernel that it does not give: dropped when asked for.
    pub const NOT_GIVEN: u32 = VMFUNC
        | VMCS_SHADOWING
        | PML
        | EPT_VE
        | ENCLS
        | MODE_BASED
        | SPP
        | TSC_SCALING
        | ENCLV
        | 1 << 11
        | 1 << 26
        | 1 << 27;
    const ENCLS: u32 = 1 << 15;
    const MODE_BASED: u32 = 1 << 22;
    const SPP: u32 = 1 << 23;
    const TSC_SCALING: u32 = 1 << 25;
    const ENCLV: u32 = 1 << 28;
}

/// Bits of the VM-exit controls (25.7.1).
pub mod exit {
    /// Save DR7 and DEBUGCTL.
    pub const SAVE_DEBUG: u32 = 1 << 2;
    /// The host runs in 64-bit mode.
    pub const HOST_64: u32 = 1 << 9;
    /// Acknowledge the interrupt that exits.
    pub const ACKNOWLEDGE: u32 = 1 << 15;
    /// Save PAT.
    pub const SAVE_PAT: u32 = 1 << 18;
    /// Load the host's PAT.
    pub const LOAD_PAT: u32 = 1 << 19;
    /// Save EFER.
    pub const SAVE_EFER: u32 = 1 << 20;
    /// Load the host's EFER.
    pub const LOAD_EFER: u32 = 1 << 21;
}

/// Bits of the VM-entry controls (25.8.1).
pub mod entry {
    /// Load DR7 and DEBUGCTL.
    pub const LOAD_DEBUG: u32 = 1 << 2;
    /// The guest is in IA-32e mode.
    pub const IA32E: u32 = 1 << 9;
    /// Load PAT.
    pub const LOAD_PAT: u32 = 1 << 14;
    /// Load EFER.
    pub const LOAD_EFER: u32 = 1 << 15;
}

/// One capability word: low half must be one, high half may be one (Intel SDM vol. 3, A.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed(pub u64);

impl Allowed {
    /// `wanted` with the required bits added and the impossible ones dropped.
    #[must_use]
    pub const fn adjust(self, wanted: u32) -> u32 {
        (wanted | self.required()) & self.possible()
    }

    /// Bits that must be one.
    #[must_use]
    pub const fn required(self) -> u32 {
        self.0 as u32
    }

    /// Bits that may be one.
    #[must_use]
    pub const fn possible(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether all of `bits` may be one.
    #[must_use]
    pub const fn allows(self, bits: u32) -> bool {
        self.possible() & bits == bits
    }

    /// What two CPUs have in common, one word for both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        let required = self.required() | other.required();
        let possible = self.possible() & other.possible();
        Self(required as u64 | (possible as u64) << 32)
    }
}

/// What a CPU can do, from its capability registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Pin-based controls.
    pub pin: Allowed,
    /// Primary processor-based controls.
    pub primary: Allowed,
    /// Secondary processor-based controls.
    pub secondary: Allowed,
    /// VM-exit controls.
    pub exit: Allowed,
    /// VM-entry controls.
    pub entry: Allowed,
    /// Bits of CR0 that must be one, and that may be one.
    pub cr0_fixed: [u64; 2],
    /// Bits of CR4 that must be one, and that may be one.
    pub cr4_fixed: [u64; 2],
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid: u64,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_BASIC.
    pub basic: u64,
}

const CR0_CD_NW: u64 = 3 << 29;
const CR0_PE_PG: u64 = 1 << 31 | 1;
/// Always intercepted: an alignment check storm must not hold the CPU (abi.md 11.3).
const ALIGNMENT_CHECK: u32 = 1 << 17;
/// The bit of #MC in an exception bitmap.
pub const MACHINE_CHECK: u32 = 1 << 18;

impl Capabilities {
    /// The reason why guests cannot run on this CPU, if there is one. The list is the HIP's (abi.md 3).
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        const MEMORY_WB: u64 = 1 << 14;
        const WALK_4: u64 = 1 << 6;
        const INVEPT_ALL: u64 = 1 << 20 | 1 << 25 | 1 << 26;
        let rules: [(bool, &'static str); 10] = [
            (self.secondary.allows(secondary::EPT), "VMX lacks EPT"),
            (self.secondary.allows(secondary::UNRESTRICTED), "VMX lacks unrestricted guest"),
            (
                self.pin.allows(
                    pin::EXTERNAL_INTERRUPT | pin::NMI | pin::VIRTUAL_NMI | pin::PREEMPTION_TIMER,
                ),
                "VMX lacks virtual NMIs or the preemption timer",
            ),
            (self.primary.allows(primary::SECONDARY), "VMX lacks secondary controls"),
            (self.primary.allows(primary::MSR_BITMAPS), "VMX lacks MSR bitmaps"),
            (self.primary.allows(primary::TSC_OFFSETTING), "VMX lacks TSC offsetting"),
            (
                self.exit.allows(exit::SAVE_PAT | exit::LOAD_PAT)
                    && self.entry.allows(entry::LOAD_PAT),
                "VMX lacks PAT switching",
            ),
            (
                self.exit.allows(exit::SAVE_EFER | exit::LOAD_EFER)
                    && self.entry.allows(entry::LOAD_EFER),
                "VMX lacks EFER switching",
            ),
            (self.ept_vpid & (MEMORY_WB | WALK_4) == MEMORY_WB | WALK_4, "EPT lacks 4-level WB"),
            (self.ept_vpid & INVEPT_ALL == INVEPT_ALL, "EPT lacks INVEPT"),
        ];
        rules.iter().find(|(present, _)| !present).map(|(_, reason)| *reason)
    }

    /// What this CPU and another have in common.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let fixed = |a: [u64; 2], b: [u64; 2]| [a[0] | b[0], a[1] & b[1]];
        Self {
            pin: self.pin.common(other.pin),
            primary: self.primary.common(other.primary),
            secondary: self.secondary.common(other.secondary),
            exit: self.exit.common(other.exit),
            entry: self.entry.common(other.entry),
            cr0_fixed: fixed(self.cr0_fixed, other.cr0_fixed),
            cr4_fixed: fixed(self.cr4_fixed, other.cr4_fixed),
            ept_vpid: self.ept_vpid & other.ept_vpid,
            misc: self.misc,
            basic: self.basic,
        }
    }

    /// Whether translations are tagged by VPID (25.6.12), with INVVPID for one tag.
    #[must_use]
    pub const fn vpid(&self) -> bool {
        const SINGLE: u64 = 1 << 32 | 1 << 41;
        self.secondary.allows(secondary::VPID) && self.ept_vpid & SINGLE == SINGLE
    }

    /// log2 of TSC ticks per tick of the preemption timer (A.6).
    #[must_use]
    pub const fn timer_shift(&self) -> u32 {
        (self.misc & 0x1f) as u32
    }

    /// The pin-based controls, the same for every guest.
    #[must_use]
    pub const fn pin_controls(&self) -> u32 {
        self.pin
            .adjust(pin::EXTERNAL_INTERRUPT | pin::NMI | pin::VIRTUAL_NMI | pin::PREEMPTION_TIMER)
    }

    /// The VM-exit controls, the same for every guest.
    #[must_use]
    pub const fn exit_controls(&self) -> u32 {
        use exit::*;
        self.exit.adjust(
            SAVE_DEBUG | HOST_64 | ACKNOWLEDGE | SAVE_PAT | LOAD_PAT | SAVE_EFER | LOAD_EFER,
        )
    }

    /// The VM-entry controls for a guest with or without IA-32e mode.
    #[must_use]
    pub const fn entry_controls(&self, long_mode: bool) -> u32 {
        use entry::*;
        let mode = if long_mode { IA32E } else { 0 };
        self.entry.adjust(LOAD_DEBUG | LOAD_PAT | LOAD_EFER | mode)
    }

    /// The primary controls for what the monitor asked (abi.md 11.3).
    ///
    /// `windows` are the window bits that the injection word asks for; the monitor's own are ignored.
    /// Without a port space (`ports`) every port access exits.
    #[must_use]
    pub const fn primary_controls(&self, asked: u32, windows: u32, ports: bool) -> u32 {
        use primary::*;
        let mut wanted = asked & !(INTERRUPT_WINDOW | NMI_WINDOW);
        wanted |= windows & (INTERRUPT_WINDOW | NMI_WINDOW);
        wanted |= HLT | UNCONDITIONAL_IO | SECONDARY;
        if !ports {
            wanted &= !IO_BITMAPS;
        }
        if wanted & self.primary.possible() & TPR_SHADOW == 0 {
            wanted |= CR8_LOAD | CR8_STORE;
        }
        self.primary.adjust(wanted)
    }

    /// The secondary controls for what the monitor asked. `tagged` says whether the guest has a VPID;
    /// `asked_primary` matters because the virtual APIC's controls need the TPR shadow (27.2.1.1).
    #[must_use]
    pub const fn secondary_controls(&self, asked: u32, tagged: bool) -> u32 {
        use secondary::*;
        let mut wanted = asked & !(NOT_GIVEN | VPID) | EPT | UNRESTRICTED;
        if tagged && self.vpid() {
            wanted |= VPID;
        }
        self.secondary.adjust(wanted)
    }

    /// The exception bitmap for what the monitor asked. Machine checks are the host's first; the back
    /// ends pass them on to a monitor that asked for them.
    #[must_use]
    pub const fn exceptions(asked: u32) -> u32 {
        asked | ALIGNMENT_CHECK | MACHINE_CHECK
    }

    /// The HIP word about secondary controls (abi.md 3): forced bits low, allowed bits high.
    #[must_use]
    pub const fn hip_word(&self) -> u64 {
        let forced = self.secondary_controls(0, true);
        let allowed = self.secondary.possible() & !secondary::NOT_GIVEN | forced;
        forced as u64 | (allowed as u64) << 32
    }

    /// CR0 bits that the kernel owns: fixed by VMX, except PE and PG (unrestricted guest), and CD and
    /// NW, which would turn the cache off for the host as well.
    #[must_use]
    pub const fn cr0_owned(&self) -> u64 {
        (self.cr0_fixed[0] & !CR0_PE_PG) | !self.cr0_fixed[1] | CR0_CD_NW
    }

    /// CR4 bits that the kernel owns: fixed by VMX.
    #[must_use]
    pub const fn cr4_owned(&self) -> u64 {
        self.cr4_fixed[0] | !self.cr4_fixed[1]
    }

    /// What stands in CR0 for a guest that sees `view`.
    #[must_use]
    pub const fn real_cr0(&self, view: u64) -> u64 {
        (view & !self.cr0_owned()) | (self.cr0_fixed[0] & !CR0_PE_PG)
    }

    /// What stands in CR4 for a guest that sees `view`.
    #[must_use]
    pub const fn real_cr4(&self, view: u64) -> u64 {
        (view & !self.cr4_owned()) | self.cr4_fixed[0]
    }
}

/// What a guest sees of a control register: owned bits from the shadow, others from the register.
#[must_use]
pub const fn guest_view(real: u64, shadow: u64, mask: u64) -> u64 {
    (real & !mask) | (shadow & mask)
}

#[cfg(test)]
#[path = "vmx_controls_tests.rs"]
mod tests;
