//! Builds the hypervisor information page (abi.md 3) in three stages.
//!
//! ```text
//!   firmware                   build                            per CPU
//!   Firmware { .. } ---------> HipBuilder: memory(), cpu(), --> online(), withdraw()
//!                              ioapic(), offer()                         |
//!   [u8; 4096] <------------------- finalize(self) <---------------------'
//! ```
//! After `finalize` there is no builder any more, so nothing can change a page that users read.

use abi::hip::{
    CPU_COUNT, CPU_OFFSET, CPU_USABLE, CpuDesc, FLAG_SVM, FLAG_VMX, GenericAddress, IOAPIC_COUNT,
    IOAPIC_OFFSET, IoapicDesc, MEMORY_HYPERVISOR, MEMORY_MAX, MEMORY_OFFSET, MEMORY_RAM, MemDesc,
    OUR_BLOCK, Ours, SIGNATURE,
};
use core::ops::Range;

/// Memory entries that the builder remembers before it chooses which to keep.
const ENTRIES: usize = 320;
/// Bytes of a CPU, I/O APIC and memory descriptor.
const SIZES: [u16; 3] = [8, 16, 24];

/// What firmware says about the machine; all zero where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Physical address of the XSDT, else of the RSDT.
    pub xsdt_rsdt: u64,
    /// PCI configuration window: physical address.
    pub mcfg_base: u64,
    /// Its bytes.
    pub mcfg_size: u64,
    /// Its first bus.
    pub pci_bus_start: u32,
    /// Physical address of the DMAR table.
    pub dmar_table: u64,
    /// Physical address of the first HPET.
    pub hpet_base: u64,
    /// PM1a control register.
    pub pm1a_cnt: GenericAddress,
    /// PM1b control register.
    pub pm1b_cnt: GenericAddress,
}

/// What the boot processor measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// TSC frequency in kHz.
    pub tsc_khz: u32,
    /// LAPIC timer frequency in kHz.
    pub bus_khz: u32,
    /// Spurious vector register of its LAPIC, as found.
    pub lapic_svr: u32,
    /// LINT0 of its LAPIC, as found.
    pub lapic_lint0: u32,
    /// Secondary VMX controls: low half forced to one, high half allowed.
    pub vmx_secondary: u64,
}

/// How memory entries ended up on the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Omitted {
    /// Entries of RAM that were left out because the page was full.
    pub entries: usize,
    /// Their bytes together.
    pub bytes: u64,
    /// Entries other than RAM that did not fit either: too many for any page.
    pub refused: usize,
}

/// A page that is being built.
#[derive(Clone, Debug)]
pub struct HipBuilder {
    firmware: Firmware,
    measured: Measured,
    flags: u32,
    /// Flags some processor cannot keep.
    withdrawn: u32,
    cpus: [CpuDesc; CPU_COUNT],
    ioapics: [IoapicDesc; IOAPIC_COUNT],
    ioapic_count: usize,
    memory: [MemDesc; ENTRIES],
    memory_count: usize,
    omitted: Omitted,
    ours: Ours,
}

impl HipBuilder {
    /// A page that knows what firmware says and nothing else yet.
    #[must_use]
    pub const fn new(firmware: Firmware) -> Self {
        Self {
            firmware,
            measured: Measured {
                tsc_khz: 0,
                bus_khz: 0,
                lapic_svr: 0,
                lapic_lint0: 0,
                vmx_secondary: 0,
            },
            flags: 0,
            withdrawn: 0,
            cpus: [CpuDesc {
                flags: 0,
                thread: 0,
                core: 0,
                package: 0,
                acpi_id: 0,
                apic_id: 0,
                reserved: [0; 2],
            }; CPU_COUNT],
            ioapics: [IoapicDesc { id: 0, version: 0, gsi_base: 0, base: 0 }; IOAPIC_COUNT],
            ioapic_count: 0,
            memory: [MemDesc { addr: 0, size: 0, kind: 0, aux: 0 }; ENTRIES],
            memory_count: 0,
            omitted: Omitted { entries: 0, bytes: 0, refused: 0 },
            ours: Ours {
                magic: abi::hip::OUR_MAGIC,
                version: abi::hip::OUR_VERSION,
                vendor: 0,
                svm_revision: 0,
                svm_asids: 0,
                svm_features: 0,
                reserved0: 0,
                cpu_signature: 0,
                cpus_online: 0,
                xcr0: 0,
                last_call: 0,
                reserved1: 0,
                reserved2: 0,
            },
        }
    }

    /// Replaces what firmware says.
    pub const fn set_firmware(&mut self, firmware: Firmware) {
        self.firmware = firmware;
    }

    /// Sets what the boot processor measured.
    pub const fn set_measured(&mut self, measured: Measured) {
        self.measured = measured;
    }

    /// Sets the fields of our own block; magic, version and the number of processors are filled
    /// in by the builder.
    pub const fn set_ours(&mut self, ours: Ours) {
        self.ours = ours;
    }

    /// Adds a memory entry in the loader's order; equal neighbours that touch become one. The
    /// kernel's own region must be added last.
    pub fn memory(&mut self, entry: MemDesc) {
        let last = self.memory_count.checked_sub(1).and_then(|last| self.memory.get_mut(last));
        if let Some(last) = last
            && is_mergeable(last, &entry)
        {
            last.size += entry.size;
            return;
        }
        if self.memory_count == ENTRIES {
            self.drop_smallest_ram(0);
        }
        match self.memory.get_mut(self.memory_count) {
            Some(slot) => {
                *slot = entry;
                self.memory_count += 1;
            }
            None => self.omitted.refused += 1,
        }
    }

    /// Describes CPU `number`; it counts as unusable until [`HipBuilder::online`]. Numbers beyond
    /// the page are ignored.
    pub fn cpu(&mut self, number: usize, cpu: CpuDesc) {
        if let Some(slot) = self.cpus.get_mut(number) {
            *slot = CpuDesc { flags: cpu.flags & !CPU_USABLE, ..cpu };
        }
    }

    /// Adds an I/O APIC; false when the page has no room for it.
    #[must_use]
    pub fn ioapic(&mut self, ioapic: IoapicDesc) -> bool {
        match self.ioapics.get_mut(self.ioapic_count) {
            Some(slot) => {
                *slot = ioapic;
                self.ioapic_count += 1;
                true
            }
            None => false,
        }
    }

    /// Offers features (`FLAG_` bits), unless a processor withdraws them.
    pub const fn offer(&mut self, flags: u32) {
        self.flags |= flags;
    }

    /// CPU `number` is up and usable.
    pub fn online(&mut self, number: usize) {
        if let Some(slot) = self.cpus.get_mut(number) {
            slot.flags |= CPU_USABLE;
        }
    }

    /// Some processor lacks these features, so the machine does, whatever the others offer.
    pub const fn withdraw(&mut self, flags: u32) {
        self.withdrawn |= flags;
    }

    /// The features that are left.
    #[must_use]
    pub const fn flags(&self) -> u32 {
        self.flags & !self.withdrawn
    }

    /// Writes the page, with at most [`MEMORY_MAX`] memory entries: the smallest entries of RAM
    /// are left out, never others, and the kernel's region is the last. Returns what was left out.
    pub fn finalize(mut self, page: &mut [u8; 4096]) -> Omitted {
        while self.memory_count > MEMORY_MAX && self.drop_smallest_ram(1) {}
        self.keep_last_of(MEMORY_MAX);
        page.fill(0);
        let length = MEMORY_OFFSET + usize::from(SIZES[2]) * self.memory_count;
        self.write_header(page, length as u16);
        let mut out = Writer { page, at: CPU_OFFSET };
        for cpu in &self.cpus {
            out.bytes(&[cpu.flags, cpu.thread, cpu.core, cpu.package]);
            out.bytes(&[cpu.acpi_id, cpu.apic_id, 0, 0]);
        }
        for ioapic in &self.ioapics {
            out.words(&[ioapic.id, ioapic.version, ioapic.gsi_base, ioapic.base]);
        }
        for entry in self.memory.iter().take(self.memory_count) {
            out.longs(&[entry.addr, entry.size]);
            out.words(&[entry.kind, entry.aux]);
        }
        self.write_ours(page);
        let sum = sum(page, 0..length);
        let mut out = Writer { page, at: 4 };
        out.halves(&[sum.wrapping_neg()]);
        self.omitted
    }

    fn write_header(&self, page: &mut [u8; 4096], length: u16) {
        let (firmware, measured) = (&self.firmware, &self.measured);
        let has_vmx = self.flags() & FLAG_VMX != 0;
        let mut out = Writer { page, at: 0 };
        out.words(&[SIGNATURE]);
        out.halves(&[0, length, CPU_OFFSET as u16, SIZES[0], IOAPIC_OFFSET as u16, SIZES[1]]);
        out.halves(&[MEMORY_OFFSET as u16, SIZES[2]]);
        out.words(&[self.flags(), abi::API_VERSION, abi::cap::SELECTOR_COUNT as u32]);
        out.words(&[abi::cap::EXCEPTION_SELECTORS as u32, abi::cap::VM_SELECTORS as u32]);
        out.words(&[abi::cap::USER_VECTORS, abi::PAGE_SIZE as u32, abi::PAGE_SIZE as u32]);
        out.words(&[measured.tsc_khz, measured.bus_khz, firmware.pci_bus_start]);
        out.longs(&[firmware.mcfg_base, firmware.mcfg_size, firmware.dmar_table]);
        out.longs(&[firmware.hpet_base, if has_vmx { measured.vmx_secondary } else { 0 }]);
        out.longs(&[firmware.xsdt_rsdt]);
        for register in [&firmware.pm1a_cnt, &firmware.pm1b_cnt] {
            out.bytes(&[register.space, register.bit_width]);
            out.bytes(&[register.bit_offset, register.access_size]);
            out.words(&register.address);
        }
        out.words(&[measured.lapic_svr, measured.lapic_lint0]);
    }

    fn write_ours(&self, page: &mut [u8; 4096]) {
        let (ours, has_svm) = (&self.ours, self.flags() & FLAG_SVM != 0);
        let online = self.cpus.iter().filter(|cpu| cpu.flags & CPU_USABLE != 0).count();
        let svm = |value| if has_svm { value } else { 0 };
        let mut out = Writer { page, at: OUR_BLOCK };
        out.longs(&[abi::hip::OUR_MAGIC]);
        out.words(&[abi::hip::OUR_VERSION, ours.vendor, svm(ours.svm_revision)]);
        out.words(&[svm(ours.svm_asids), svm(ours.svm_features), 0]);
        out.words(&[ours.cpu_signature, online as u32]);
        out.longs(&[ours.xcr0]);
        out.words(&[ours.last_call]);
    }

    /// Leaves out the smallest entry of RAM, not looking at the last `spared` entries; false when
    /// there is none.
    fn drop_smallest_ram(&mut self, spared: usize) -> bool {
        let candidates = self.memory.iter().take(self.memory_count.saturating_sub(spared));
        let smallest = candidates
            .enumerate()
            .filter(|(_, entry)| entry.kind == MEMORY_RAM)
            .min_by_key(|(_, entry)| entry.size)
            .map(|(index, entry)| (index, entry.size));
        let Some((index, bytes)) = smallest else { return false };
        self.remove(index);
        self.omitted.entries += 1;
        self.omitted.bytes = self.omitted.bytes.saturating_add(bytes);
        true
    }

    /// Cuts the list to `most` entries, but keeps the last one: the kernel's region.
    fn keep_last_of(&mut self, most: usize) {
        while self.memory_count > most {
            self.remove(self.memory_count - 2);
            self.omitted.refused += 1;
        }
    }

    fn remove(&mut self, index: usize) {
        if let Some(rest) = self.memory.get_mut(index..self.memory_count) {
            let mut behind = MemDesc::default();
            for slot in rest.iter_mut().rev() {
                core::mem::swap(slot, &mut behind);
            }
            self.memory_count -= 1;
        }
    }
}

/// Whether the second entry continues the first. Modules and the kernel's region stay themselves.
const fn is_mergeable(first: &MemDesc, second: &MemDesc) -> bool {
    first.kind == second.kind
        && first.kind < MEMORY_HYPERVISOR - 1
        && matches!(first.addr.checked_add(first.size), Some(end) if end == second.addr)
}

/// The 16-bit sum of a range of the page.
fn sum(page: &[u8; 4096], range: Range<usize>) -> u16 {
    let bytes = page.get(range).unwrap_or_default();
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().fold(0, |sum: u16, pair| sum.wrapping_add(u16::from_le_bytes(*pair)))
}

/// Writes numbers one after another; what does not fit on the page is dropped.
struct Writer<'a> {
    page: &'a mut [u8; 4096],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        if let Some(place) = self.page.get_mut(self.at..self.at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.at += bytes.len();
    }

    fn halves(&mut self, values: &[u16]) {
        values.iter().for_each(|value| self.bytes(&value.to_le_bytes()));
    }

    fn words(&mut self, values: &[u32]) {
        values.iter().for_each(|value| self.bytes(&value.to_le_bytes()));
    }

    fn longs(&mut self, values: &[u64]) {
        values.iter().for_each(|value| self.bytes(&value.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::hip::{HipView, MEMORY_MODULE, MemoryKind};
    use proptest::prelude::*;

    const fn entry(addr: u64, size: u64, kind: u32) -> MemDesc {
        MemDesc { addr, size, kind, aux: 0 }
    }

    const KERNEL: MemDesc = entry(0x20_0000, 0x100_0000, MEMORY_HYPERVISOR);

    fn finish(builder: HipBuilder) -> (Vec<u8>, Omitted) {
        let mut page = [0xaa; 4096];
        let omitted = builder.finalize(&mut page);
        (page.to_vec(), omitted)
    }

    #[test]
    fn the_page_says_what_the_builder_was_told() {
        let mut builder = HipBuilder::new(Firmware {
            xsdt_rsdt: 0x7fe_1234,
            mcfg_base: 0xe000_0000,
            mcfg_size: 0x1000_0000,
            pci_bus_start: 3,
            dmar_table: 5,
            hpet_base: 0xfed0_0000,
            pm1a_cnt: GenericAddress {
                space: 1,
                bit_width: 16,
                address: [0x604, 0],
                ..Default::default()
            },
            pm1b_cnt: GenericAddress::default(),
        });
        builder.set_measured(Measured {
            tsc_khz: 2_000_000,
            bus_khz: 7,
            vmx_secondary: 9,
            ..Default::default()
        });
        for number in 0..3_u8 {
            builder.cpu(
                number.into(),
                CpuDesc { flags: 1, apic_id: 2 * number, ..Default::default() },
            );
        }
        builder.online(0);
        builder.online(2);
        assert!(builder.ioapic(IoapicDesc {
            id: 4 << 24,
            version: 0x17_0020,
            gsi_base: 0,
            base: 0xfec0_0000
        }));
        builder.memory(KERNEL);
        builder.offer(FLAG_VMX);
        let (page, omitted) = finish(builder);
        assert_eq!(omitted, Omitted::default());
        let view = HipView::new(&page).unwrap();
        assert_eq!((view.flags(), view.api_version()), (FLAG_VMX, 10_000));
        assert_eq!((view.selector_count(), view.user_vectors()), (1 << 26, 192));
        assert_eq!((view.tsc_khz(), view.bus_khz()), (2_000_000, 7));
        assert_eq!(view.acpi().mcfg, (0xe000_0000, 0x1000_0000, 3));
        assert_eq!((view.acpi().xsdt_rsdt, view.acpi().hpet), (0x7fe_1234, 0xfed0_0000));
        assert!(view.cpus().map(|cpu| (cpu.number, cpu.desc.apic_id)).eq([(0, 0), (2, 4)]));
        assert_eq!(view.ioapics().next().unwrap().version, 0x17_0020);
        assert_eq!(view.ours().unwrap().cpus_online, 2);
        assert_eq!(page[112..120], [1, 16, 0, 0, 4, 6, 0, 0]);
        assert_eq!((page[44..52].to_vec(), page[96]), (vec![0, 16, 0, 0, 0, 16, 0, 0], 9));
    }

    #[test]
    fn one_processor_without_a_feature_withdraws_it() {
        let mut builder = HipBuilder::new(Firmware::default());
        builder.set_measured(Measured { vmx_secondary: 9, ..Default::default() });
        builder.offer(FLAG_VMX | FLAG_SVM);
        builder.withdraw(FLAG_VMX);
        builder.offer(FLAG_VMX);
        assert_eq!(builder.flags(), FLAG_SVM);
        let (page, _) = finish(builder);
        let view = HipView::new(&page).unwrap();
        assert_eq!((view.flags(), view.vmx_secondary()), (FLAG_SVM, (0, 0)));
    }

    #[test]
    fn neighbours_of_one_kind_are_merged_but_modules_are_not() {
        let mut builder = HipBuilder::new(Firmware::default());
        for (addr, kind) in [(0, 1), (1, 1), (2, 2), (3, MEMORY_MODULE), (4, MEMORY_MODULE), (6, 1)]
        {
            builder.memory(entry(addr * 4096, 4096, kind));
        }
        builder.memory(KERNEL);
        let (page, _) = finish(builder);
        let view = HipView::new(&page).unwrap();
        let found: Vec<_> =
            view.memory().map(|memory| (memory.addr >> 12, memory.size >> 12)).collect();
        assert_eq!(found, [(0, 2), (2, 1), (3, 1), (4, 1), (6, 1), (0x200, 0x1000)]);
    }

    #[test]
    fn seventeen_ioapics_are_one_too_many() {
        let mut builder = HipBuilder::new(Firmware::default());
        let added = (0..17).filter(|_| builder.ioapic(IoapicDesc::default())).count();
        assert_eq!(added, 16);
    }

    /// Firmware with a long map: every reserved entry stays, and the largest RAM.
    #[test]
    fn more_entries_than_the_page_holds_leave_out_the_smallest_ram() {
        let mut builder = HipBuilder::new(Firmware::default());
        for number in 0..160 {
            builder.memory(entry(number * 10_000, 1 + number, 1 + (number % 2) as u32));
        }
        builder.memory(KERNEL);
        let (page, omitted) = finish(builder);
        assert_eq!((omitted.entries, omitted.refused), (61, 0));
        let view = HipView::new(&page).unwrap();
        let kept: Vec<_> = view.memory().collect();
        assert_eq!(kept.len(), MEMORY_MAX);
        let reserved = kept.iter().filter(|memory| memory.kind == MemoryKind::Other(2)).count();
        assert_eq!(reserved, 80, "a program would take a hole for memory");
        let ram = kept.iter().filter(|memory| memory.kind == MemoryKind::Ram);
        assert!(ram.clone().all(|memory| memory.size > 2 * 60), "the smallest go first");
    }

    proptest! {
        /// At most 100 entries; none but the smallest RAM is missing; the kernel's is the last.
        #[test]
        fn only_the_smallest_ram_is_left_out(
            entries in prop::collection::vec((1..1000_u64, 1..4_u32), 0..400),
        ) {
            let mut builder = HipBuilder::new(Firmware::default());
            let distinct: Vec<_> = entries.iter().enumerate()
                .map(|(index, (size, kind))| entry(index as u64 * 10_000, *size, *kind)).collect();
            distinct.iter().for_each(|entry| builder.memory(*entry));
            builder.memory(KERNEL);
            let (page, omitted) = finish(builder);
            let view = HipView::new(&page).unwrap();
            let kept: Vec<_> = view.memory().collect();
            prop_assert!(kept.len() <= MEMORY_MAX);
            prop_assert_eq!(kept.last().unwrap().kind, MemoryKind::Hypervisor);
            prop_assert_eq!(kept.len() - 1 + omitted.entries + omitted.refused, entries.len());
            if omitted.refused == 0 {
                let others = |kind| distinct.iter().filter(|entry| entry.kind == kind).count();
                let is_other = |kind| kept.iter().filter(|memory| memory.kind == MemoryKind::Other(kind)).count();
                prop_assert_eq!((is_other(2), is_other(3)), (others(2), others(3)));
            }
            if entries.len() < MEMORY_MAX {
                prop_assert_eq!(omitted, Omitted::default());
            }
        }
    }
}
