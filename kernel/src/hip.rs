//! Fills the hypervisor information page from what was found at boot (abi.md 3).

use core::ops::Range;

use abi::hip::{
    CpuDesc, FLAG_SVM, FLAG_UEFI, FLAG_VMX, IoapicDesc, MEMORY_HYPERVISOR, MemDesc, OUR_MAGIC,
    OUR_VERSION, Ours, VENDOR_AMD, VENDOR_INTEL,
};
use arch::GuestVendor;
use boot::BootInfo;
use logic::acpi::Acpi;
use logic::hip::{Firmware, HipBuilder, Measured};
use sync::SharedPage;

use crate::bring_up::{describe, processors};

/// Writes the page. All CPUs have been brought up: what one of them lacks is not offered.
pub fn write(page: &SharedPage, loader: &BootInfo, acpi: &Acpi, own: &Range<u64>) {
    let mut builder = HipBuilder::new(firmware(acpi));
    builder.set_measured(measured());
    builder.set_ours(ours());
    add_memory(&mut builder, loader, own);
    add_processors(&mut builder, acpi);
    add_io_apics(&mut builder, acpi);
    if loader.uefi {
        builder.offer(FLAG_UEFI);
    }
    builder.offer(FLAG_VMX | FLAG_SVM);
    builder.withdraw(match arch::guest_vendor() {
        GuestVendor::Vmx => FLAG_SVM,
        GuestVendor::Svm => FLAG_VMX,
        GuestVendor::None => FLAG_VMX | FLAG_SVM,
    });
    let mut bytes = [0; 4096];
    let omitted = builder.finalize(&mut bytes);
    if omitted.entries + omitted.refused != 0 {
        log::warn!("memory map too long for the information page: left out {omitted:?}");
    }
    for (index, word) in bytes.chunks_exact(8).enumerate() {
        let mut copy = [0; 8];
        copy.copy_from_slice(word);
        page.set_word(index, u64::from_le_bytes(copy));
    }
}

fn firmware(acpi: &Acpi) -> Firmware {
    let pci = acpi.pci.unwrap_or_default();
    let registers = acpi.fadt.map(|fadt| fadt.registers).unwrap_or_default();
    Firmware {
        xsdt_rsdt: acpi.xsdt_rsdt,
        mcfg_base: pci.base,
        mcfg_size: if acpi.pci.is_some() { pci.bytes() } else { 0 },
        pci_bus_start: pci.buses.0.into(),
        dmar_table: acpi.dmar.unwrap_or(0),
        hpet_base: acpi.hpet.unwrap_or(0),
        pm1a_cnt: registers.pm1a_control,
        pm1b_cnt: registers.pm1b_control,
    }
}

fn measured() -> Measured {
    let (lapic_svr, lapic_lint0) = arch::found_registers();
    Measured {
        tsc_khz: u32::try_from(arch::tsc_khz()).unwrap_or(u32::MAX),
        bus_khz: u32::try_from(arch::bus_khz()).unwrap_or(u32::MAX),
        lapic_svr,
        lapic_lint0,
        vmx_secondary: arch::guest_secondary_controls(),
    }
}

fn ours() -> Ours {
    let [svm_revision, svm_asids, svm_features] = arch::svm_words();
    Ours {
        magic: OUR_MAGIC,
        version: OUR_VERSION,
        vendor: match &arch::vendor_name() {
            b"GenuineIntel" => VENDOR_INTEL,
            b"AuthenticAMD" => VENDOR_AMD,
            _ => 0,
        },
        svm_revision,
        svm_asids,
        svm_features,
        reserved0: 0,
        cpu_signature: arch::signature(),
        cpus_online: 0,
        xcr0: arch::xstate(),
        last_call: abi::call::Call::Log as u32,
        reserved1: 0,
        reserved2: 0,
    }
}

/// The loader's entries, then the kernel's own region.
fn add_memory(builder: &mut HipBuilder, loader: &BootInfo, own: &Range<u64>) {
    let mut entries = [MemDesc::default(); boot::MAX_ENTRIES];
    let count = describe(loader, &mut entries);
    entries.iter().take(count).for_each(|entry| builder.memory(*entry));
    builder.memory(MemDesc {
        addr: own.start,
        size: own.end - own.start,
        kind: MEMORY_HYPERVISOR,
        aux: 0,
    });
}

fn add_processors(builder: &mut HipBuilder, acpi: &Acpi) {
    for (number, processor) in processors(acpi).iter().enumerate() {
        let (thread, core, package) = arch::topology(processor.apic_id);
        let cpu = CpuDesc {
            flags: 0,
            thread,
            core,
            package,
            acpi_id: processor.acpi_id as u8,
            apic_id: processor.apic_id as u8,
            reserved: [0; 2],
        };
        builder.cpu(number, cpu);
        if arch::cpu_online(number) {
            builder.online(number);
        }
    }
}

fn add_io_apics(builder: &mut HipBuilder, acpi: &Acpi) {
    let list = acpi.madt.as_ref().map_or(&[][..], |madt| madt.io_apics.as_slice());
    for (number, io_apic) in list.iter().enumerate() {
        let (id, version) = arch::ioapic_registers(number);
        let entry = IoapicDesc { id, version, gsi_base: io_apic.gsi_base, base: io_apic.address };
        if !builder.ioapic(entry) {
            log::warn!("no room for I/O APIC {number} on the information page");
        }
    }
}
