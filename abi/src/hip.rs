//! The hypervisor information page: what the kernel tells the root program
//! about the machine.
//!
//! The kernel builds the page elsewhere; here are its layout and a reader that
//! never leaves the bytes it was given.

mod view;

pub use view::{Acpi, Cpu, HipView, Ioapic, Memory, MemoryKind, OurBlock};

use core::mem::{offset_of, size_of};

/// `HDRN`, the first word of the page.
pub const SIGNATURE: u32 = 0x4e52_4448;
/// API flag: an IOMMU is in use.
pub const FLAG_IOMMU: u32 = 1 << 0;
/// API flag: VMX is usable.
pub const FLAG_VMX: u32 = 1 << 1;
/// API flag: SVM is usable (an addition of ours).
pub const FLAG_SVM: u32 = 1 << 2;
/// API flag: booted by UEFI.
pub const FLAG_UEFI: u32 = 1 << 3;

/// CPU descriptor flag: the processor is usable.
pub const CPU_USABLE: u8 = 1;

/// Memory type: ordinary memory (E820).
pub const MEMORY_RAM: u32 = 1;
/// Memory type: the kernel's own; exactly one, the last.
pub const MEMORY_HYPERVISOR: u32 = 0xffff_ffff;
/// Memory type: a boot module.
pub const MEMORY_MODULE: u32 = 0xffff_fffe;

/// Slots for CPU descriptors.
pub const CPU_COUNT: usize = 128;
/// Slots for I/O APIC descriptors.
pub const IOAPIC_COUNT: usize = 16;
/// Offset of the CPU descriptors.
pub const CPU_OFFSET: usize = 144;
/// Offset of the I/O APIC descriptors.
pub const IOAPIC_OFFSET: usize = 1168;
/// Offset of the memory descriptors.
pub const MEMORY_OFFSET: usize = 1424;
/// Most memory descriptors our kernel writes.
pub const MEMORY_MAX: usize = 100;
/// Offset of our block; it lies outside `length`.
pub const OUR_BLOCK: usize = 0xf00;
/// `HEMATITE`, the first word of our block.
pub const OUR_MAGIC: u64 = u64::from_le_bytes(*b"HEMATITE");
/// Version of our block.
pub const OUR_VERSION: u32 = 1;

/// Vendor in our block: not known.
pub const VENDOR_OTHER: u32 = 0;
/// Vendor in our block: Intel.
pub const VENDOR_INTEL: u32 = 1;
/// Vendor in our block: AMD.
pub const VENDOR_AMD: u32 = 2;

/// An ACPI generic address without padding (twelve bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GenericAddress {
    /// 0 memory, 1 I/O.
    pub space: u8,
    /// Width of the register in bits.
    pub bit_width: u8,
    /// Offset of the register in bits.
    pub bit_offset: u8,
    /// Access size code.
    pub access_size: u8,
    /// Low and high half of the address.
    pub address: [u32; 2],
}

/// The fixed part of the page, 144 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`SIGNATURE`].
    pub signature: u32,
    /// Makes the 16-bit sum of `length` bytes 0.
    pub checksum: u16,
    /// Bytes with descriptors.
    pub length: u16,
    /// [`CPU_OFFSET`].
    pub cpu_offset: u16,
    /// Bytes of a CPU descriptor.
    pub cpu_size: u16,
    /// [`IOAPIC_OFFSET`].
    pub ioapic_offset: u16,
    /// Bytes of an I/O APIC descriptor.
    pub ioapic_size: u16,
    /// [`MEMORY_OFFSET`].
    pub mem_offset: u16,
    /// Bytes of a memory descriptor.
    pub mem_size: u16,
    /// `FLAG_` bits.
    pub api_flg: u32,
    /// [`crate::API_VERSION`].
    pub api_ver: u32,
    /// Selectors in an object space.
    pub sel_num: u32,
    /// Exception selectors of an EC.
    pub sel_exc: u32,
    /// VM selectors.
    pub sel_vmi: u32,
    /// User interrupt vectors of a processor.
    pub num_user_vectors: u32,
    /// Bytes in a page.
    pub cfg_page: u32,
    /// Bytes in a UTCB.
    pub cfg_utcb: u32,
    /// TSC frequency in kHz.
    pub freq_tsc: u32,
    /// LAPIC timer frequency in kHz.
    pub freq_bus: u32,
    /// First bus of the PCI configuration window.
    pub pci_bus_start: u32,
    /// Physical address of the PCI configuration window, or 0.
    pub mcfg_base: u64,
    /// Its bytes.
    pub mcfg_size: u64,
    /// Physical address of the DMAR table, or 0.
    pub dmar_table: u64,
    /// Physical address of the first HPET, or 0.
    pub hpet_base: u64,
    /// Secondary VMX controls: low half forced to one, high half allowed.
    pub cap_vmx_sec_exec: u64,
    /// Physical address of the XSDT, else of the RSDT.
    pub xsdt_rsdt: u64,
    /// ACPI PM1a control register.
    pub pm1a_cnt: GenericAddress,
    /// ACPI PM1b control register.
    pub pm1b_cnt: GenericAddress,
    /// Spurious vector register of the boot processor's LAPIC, as found.
    pub bsp_lapic_svr: u32,
    /// LINT0 of the boot processor's LAPIC, as found.
    pub bsp_lapic_lint0: u32,
}

/// A CPU descriptor. Its index is the CPU number in system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CpuDesc {
    /// Bit 0: usable.
    pub flags: u8,
    /// Thread in the core.
    pub thread: u8,
    /// Core in the package.
    pub core: u8,
    /// Package.
    pub package: u8,
    /// ACPI processor id.
    pub acpi_id: u8,
    /// LAPIC id.
    pub apic_id: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// An I/O APIC descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct IoapicDesc {
    /// The raw ID register: the number used by `irq_ctrl` is in bits 27:24.
    pub id: u32,
    /// The raw version register: bits 23:16 hold the last pin.
    pub version: u32,
    /// First global system interrupt.
    pub gsi_base: u32,
    /// Physical address.
    pub base: u32,
}

/// A memory descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemDesc {
    /// Physical address.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// E820 type, [`MEMORY_HYPERVISOR`] or [`MEMORY_MODULE`].
    pub kind: u32,
    /// For modules the physical address of the command line, or 0.
    pub aux: u32,
}

/// Our block at [`OUR_BLOCK`], 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ours {
    /// [`OUR_MAGIC`].
    pub magic: u64,
    /// [`OUR_VERSION`].
    pub version: u32,
    /// `VENDOR_` number of the processors.
    pub vendor: u32,
    /// CPUID 8000_000A EAX, or 0 without SVM: revision in bits 7:0.
    pub svm_revision: u32,
    /// CPUID 8000_000A EBX: address space identifiers.
    pub svm_asids: u32,
    /// CPUID 8000_000A EDX: SVM features.
    pub svm_features: u32,
    /// Zero.
    pub reserved0: u32,
    /// CPUID leaf 1 EAX of the boot processor: family, model, stepping.
    pub cpu_signature: u32,
    /// Processors online.
    pub cpus_online: u32,
    /// XCR0 bits that user programs and guests may use.
    pub xcr0: u64,
    /// Highest call number the kernel serves.
    pub last_call: u32,
    /// Zero.
    pub reserved1: u32,
    /// Zero.
    pub reserved2: u64,
}

macro_rules! at {
    ($what:ty: $($field:ident = $offset:expr,)*) => {
        $(const _: () = assert!(offset_of!($what, $field) == $offset);)*
    };
}

const _: () = assert!(size_of::<Header>() == CPU_OFFSET);
const _: () = assert!(size_of::<GenericAddress>() == 12);
const _: () = assert!(size_of::<CpuDesc>() == 8);
const _: () = assert!(size_of::<IoapicDesc>() == 16);
const _: () = assert!(size_of::<MemDesc>() == 24);
const _: () = assert!(size_of::<Ours>() == 64);
const _: () = assert!(CPU_OFFSET + 8 * CPU_COUNT == IOAPIC_OFFSET);
const _: () = assert!(IOAPIC_OFFSET + 16 * IOAPIC_COUNT == MEMORY_OFFSET);
const _: () = assert!(MEMORY_OFFSET + 24 * MEMORY_MAX <= OUR_BLOCK);
at! { Header:
    signature = 0,
    checksum = 4,
    length = 6,
    cpu_offset = 8,
    mem_size = 18,
    api_flg = 20,
    api_ver = 24,
    sel_num = 28,
    sel_exc = 32,
    sel_vmi = 36,
    num_user_vectors = 40,
    cfg_page = 44,
    cfg_utcb = 48,
    freq_tsc = 52,
    freq_bus = 56,
    pci_bus_start = 60,
    mcfg_base = 64,
    mcfg_size = 72,
    dmar_table = 80,
    hpet_base = 88,
    cap_vmx_sec_exec = 96,
    xsdt_rsdt = 104,
    pm1a_cnt = 112,
    pm1b_cnt = 124,
    bsp_lapic_svr = 136,
    bsp_lapic_lint0 = 140,
}
at! { Ours:
    magic = 0,
    version = 8,
    vendor = 12,
    svm_revision = 16,
    svm_asids = 20,
    svm_features = 24,
    cpu_signature = 32,
    cpus_online = 36,
    xcr0 = 40,
    last_call = 48,
}
