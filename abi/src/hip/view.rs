//! Reading the information page from bytes.

use super::{
    CPU_COUNT, CPU_USABLE, CpuDesc, IOAPIC_COUNT, IoapicDesc, MEMORY_HYPERVISOR, MEMORY_MODULE,
    MEMORY_RAM, MemDesc, OUR_BLOCK, OUR_MAGIC, Ours, SIGNATURE,
};
use crate::cap::MAX_CPUS;

/// A CPU with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The number used in system calls.
    pub number: u16,
    /// What the kernel says about it.
    pub desc: CpuDesc,
}

/// An I/O APIC.
pub type Ioapic = IoapicDesc;

/// What a memory range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Ordinary memory; may overlap modules and the kernel.
    Ram,
    /// The kernel's own.
    Hypervisor,
    /// A boot module.
    Module,
    /// Another E820 type.
    Other(u32),
}

/// A memory range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What it is.
    pub kind: MemoryKind,
    /// Physical address.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// For modules the physical address of the command line, or 0.
    pub aux: u32,
}

/// The addresses of firmware tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acpi {
    /// XSDT or RSDT, or 0.
    pub xsdt_rsdt: u64,
    /// DMAR table, or 0.
    pub dmar: u64,
    /// First HPET, or 0.
    pub hpet: u64,
    /// PCI configuration window: address, bytes, first bus.
    pub mcfg: (u64, u64, u32),
}

/// Our block.
pub type OurBlock = Ours;

/// A reader of the page. Fields outside the bytes read as 0.
#[derive(Clone, Copy, Debug)]
pub struct HipView<'a>(pub &'a [u8]);

impl<'a> HipView<'a> {
    /// A view of a page that has the right signature and checksum.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let view = Self(bytes);
        let length = usize::from(view.u16(6));
        let sum = bytes
            .get(..length)?
            .chunks_exact(2)
            .fold(0u16, |sum, pair| sum.wrapping_add(u16::from_le_bytes([pair[0], pair[1]])));
        (view.u32(0) == SIGNATURE && sum == 0).then_some(view)
    }

    /// Little-endian 16 bits at a byte offset.
    fn u16(&self, offset: usize) -> u16 {
        self.bytes(offset).map_or(0, u16::from_le_bytes)
    }

    /// Little-endian 32 bits at a byte offset.
    fn u32(&self, offset: usize) -> u32 {
        self.bytes(offset).map_or(0, u32::from_le_bytes)
    }

    /// Little-endian 64 bits at a byte offset.
    fn u64(&self, offset: usize) -> u64 {
        self.bytes(offset).map_or(0, u64::from_le_bytes)
    }

    /// Bytes at an offset, if they are there.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    /// Bytes of the page that count, with descriptors.
    #[must_use]
    pub fn length(&self) -> u16 {
        self.u16(6)
    }

    /// `FLAG_` bits.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.u32(20)
    }

    /// Version of the interface.
    #[must_use]
    pub fn api_version(&self) -> u32 {
        self.u32(24)
    }

    /// Selectors in an object space.
    #[must_use]
    pub fn selector_count(&self) -> u32 {
        self.u32(28)
    }

    /// Exception selectors of an EC.
    #[must_use]
    pub fn exception_selectors(&self) -> u32 {
        self.u32(32)
    }

    /// User interrupt vectors of a processor.
    #[must_use]
    pub fn user_vectors(&self) -> u32 {
        self.u32(40)
    }

    /// TSC frequency in kHz.
    #[must_use]
    pub fn tsc_khz(&self) -> u32 {
        self.u32(52)
    }

    /// LAPIC timer frequency in kHz.
    #[must_use]
    pub fn bus_khz(&self) -> u32 {
        self.u32(56)
    }

    /// Secondary VMX controls: (forced to one, allowed).
    #[must_use]
    pub fn vmx_secondary(&self) -> (u32, u32) {
        (self.u32(96), self.u32(100))
    }

    /// Where the firmware tables are.
    #[must_use]
    pub fn acpi(&self) -> Acpi {
        Acpi {
            xsdt_rsdt: self.u64(104),
            dmar: self.u64(80),
            hpet: self.u64(88),
            mcfg: (self.u64(64), self.u64(72), self.u32(60)),
        }
    }

    /// The usable processors, by number.
    pub fn cpus(&self) -> impl Iterator<Item = Cpu> + use<'a> {
        let view = *self;
        let (start, size) = (usize::from(view.u16(8)), usize::from(view.u16(10)));
        (0..CPU_COUNT.min(MAX_CPUS)).filter_map(move |index| {
            let [flags, thread, core, package, acpi_id, apic_id, _, _] =
                view.bytes(start + size * index)?;
            let desc = CpuDesc { flags, thread, core, package, acpi_id, apic_id, reserved: [0; 2] };
            (flags & CPU_USABLE != 0).then_some(Cpu { number: index as u16, desc })
        })
    }

    /// The I/O APICs.
    pub fn ioapics(&self) -> impl Iterator<Item = Ioapic> + use<'a> {
        let view = *self;
        let (start, size) = (usize::from(view.u16(12)), usize::from(view.u16(14)));
        (0..IOAPIC_COUNT).map_while(move |index| {
            let at = start + size * index;
            let desc = IoapicDesc {
                id: view.u32(at),
                version: view.u32(at + 4),
                gsi_base: view.u32(at + 8),
                base: view.u32(at + 12),
            };
            (desc.base != 0).then_some(desc)
        })
    }

    /// The memory ranges, in the order of the page.
    pub fn memory(&self) -> impl Iterator<Item = Memory> + use<'a> {
        let view = *self;
        let (start, size) = (usize::from(view.u16(16)), usize::from(view.u16(18)).max(24));
        let count = usize::from(view.length()).saturating_sub(start) / size;
        (0..count).map(move |index| {
            let at = start + size * index;
            let desc = MemDesc {
                addr: view.u64(at),
                size: view.u64(at + 8),
                kind: view.u32(at + 16),
                aux: view.u32(at + 20),
            };
            Memory { kind: kind(desc.kind), addr: desc.addr, size: desc.size, aux: desc.aux }
        })
    }

    /// The boot modules, the root program first.
    pub fn modules(&self) -> impl Iterator<Item = Memory> + use<'a> {
        self.memory().filter(|memory| memory.kind == MemoryKind::Module)
    }

    /// Our block, if this kernel has one.
    #[must_use]
    pub fn ours(&self) -> Option<OurBlock> {
        (self.u64(OUR_BLOCK) == OUR_MAGIC).then(|| Ours {
            magic: OUR_MAGIC,
            version: self.u32(OUR_BLOCK + 8),
            vendor: self.u32(OUR_BLOCK + 12),
            svm_revision: self.u32(OUR_BLOCK + 16),
            svm_asids: self.u32(OUR_BLOCK + 20),
            svm_features: self.u32(OUR_BLOCK + 24),
            reserved0: 0,
            cpu_signature: self.u32(OUR_BLOCK + 32),
            cpus_online: self.u32(OUR_BLOCK + 36),
            xcr0: self.u64(OUR_BLOCK + 40),
            last_call: self.u32(OUR_BLOCK + 48),
            reserved1: 0,
            reserved2: 0,
        })
    }
}

/// The kind a descriptor's type word means.
const fn kind(word: u32) -> MemoryKind {
    match word {
        MEMORY_RAM => MemoryKind::Ram,
        MEMORY_HYPERVISOR => MemoryKind::Hypervisor,
        MEMORY_MODULE => MemoryKind::Module,
        other => MemoryKind::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hip::{CPU_OFFSET, IOAPIC_OFFSET, MEMORY_OFFSET};
    use proptest::prelude::*;

    fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn sample() -> Vec<u8> {
        let mut page = vec![0; 4096];
        put(&mut page, 0, &SIGNATURE.to_le_bytes());
        let length = (MEMORY_OFFSET + 48) as u16;
        for (offset, value) in [
            (6, length),
            (8, CPU_OFFSET as u16),
            (10, 8),
            (12, IOAPIC_OFFSET as u16),
            (14, 16),
            (16, MEMORY_OFFSET as u16),
            (18, 24),
        ] {
            put(&mut page, offset, &value.to_le_bytes());
        }
        put(&mut page, CPU_OFFSET + 8, &[1, 2, 3, 4, 5, 6]);
        put(&mut page, IOAPIC_OFFSET + 12, &0xfec0_0000u32.to_le_bytes());
        put(&mut page, MEMORY_OFFSET + 16, &MEMORY_MODULE.to_le_bytes());
        put(&mut page, MEMORY_OFFSET + 24, &0x1000u64.to_le_bytes());
        put(&mut page, MEMORY_OFFSET + 40, &MEMORY_HYPERVISOR.to_le_bytes());
        put(&mut page, OUR_BLOCK, &OUR_MAGIC.to_le_bytes());
        let sum = page[..usize::from(length)]
            .chunks_exact(2)
            .fold(0u16, |sum, pair| sum.wrapping_add(u16::from_le_bytes([pair[0], pair[1]])));
        put(&mut page, 4, &sum.wrapping_neg().to_le_bytes());
        page
    }

    #[test]
    fn a_page_is_read() {
        let page = sample();
        let view = HipView::new(&page).unwrap();
        let cpus: Vec<_> = view.cpus().collect();
        assert_eq!(cpus.len(), 1);
        assert_eq!((cpus[0].number, cpus[0].desc.apic_id), (1, 6));
        assert_eq!(view.ioapics().count(), 1);
        let memory: Vec<_> = view.memory().collect();
        assert_eq!(memory.len(), 2);
        assert_eq!(memory[1].kind, MemoryKind::Hypervisor);
        assert_eq!(memory[1].addr, 0x1000);
        assert_eq!(view.modules().count(), 1);
        assert!(view.ours().is_some());
    }

    #[test]
    fn a_spoilt_page_is_refused() {
        let mut page = sample();
        page[30] ^= 1;
        assert!(HipView::new(&page).is_none());
        assert!(HipView::new(&[]).is_none());
    }

    proptest! {
        #[test]
        fn random_bytes_never_stop_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let view = HipView(&bytes);
            let _ = (view.cpus().count(), view.ioapics().count(), view.memory().count());
            let _ = (view.ours(), view.acpi(), HipView::new(&bytes).is_some());
        }
    }
}
