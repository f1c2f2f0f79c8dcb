//! The ACPI tables a guest finds: what the virtual board has, in the form of ACPI 6.5.
//!
//! The stock Debian cloud kernel has no MP-table support, so processors, I/O APIC, power-off and
//! the serial port are told here and nowhere else. Tables start at [`layout::ACPI`], 64-byte
//! aligned; the root pointer stands at [`layout::RSDP`].
use crate::layout;
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use alloc::vec;
use alloc::vec::Vec;

const OEM: [u8; 6] = *b"HEMATI";
const TABLE: [u8; 8] = *b"HEMATITE";
const REVISION: u32 = 1;

/// The tables of one guest as bytes.
pub struct Tables {
    /// What lies at [`layout::ACPI`].
    pub body: Vec<u8>,
    /// What lies at [`layout::RSDP`].
    pub root: Vec<u8>,
}

/// Makes the tables for `vcpus` processors with local APIC ids 0, 1, and so on, and virtio devices at
/// these addresses with these pins of the I/O APIC.
pub fn tables(vcpus: u8, virtio: &[(u64, u8)]) -> Tables {
    let mut body = Vec::new();
    let facs = place(&mut body, &FACS::new());
    let dsdt = place(&mut body, &dsdt(virtio));
    let fadt = place(&mut body, &fadt(facs, dsdt));
    let madt = place(&mut body, &madt(vcpus));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&mut body, &xsdt);
    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    Tables { body, root }
}

/// Appends a table at the next 64-byte boundary (a FACS needs that) and says where it lies.
fn place(body: &mut Vec<u8>, table: &dyn Aml) -> u64 {
    while !body.len().is_multiple_of(64) {
        body.push(0);
    }
    let address = layout::ACPI + body.len() as u64;
    table.to_aml_bytes(body);
    address
}

fn port(address: u16, bits: u8) -> GAS {
    let access = if bits == 32 {
        AccessSize::DwordAccess
    } else if bits == 16 {
        AccessSize::WordAccess
    } else {
        AccessSize::ByteAccess
    };
    GAS::new(Space::SystemIo, bits, 0, access, u64::from(address))
}

fn fadt(facs: u64, dsdt: u64) -> impl Aml {
    let (reset_port, reset_value) = layout::RESET;
    let pm = layout::PM_BASE;
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_32(dsdt as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.sci_int = u16::from(layout::SCI).into();
    // No SMI command port: the machine is in ACPI mode from the start.
    fadt.pm1a_evt_blk = u32::from(pm).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(pm + 4).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(pm + 8).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm1a_evt_blk = port(pm, 32);
    fadt.x_pm1a_cnt_blk = port(pm + 4, 16);
    fadt.x_pm_tmr_blk = port(pm + 8, 32);
    // C2 and C3 do not exist (ACPI 6.5, 5.2.9: latencies above 100 and 1000).
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.century = 0x32;
    // Legacy devices yes, 8042 not announced, VGA not present (ACPI 6.5, 5.2.9.3).
    fadt.iapc_boot_arch = 0b101.into();
    fadt.reset_reg = port(reset_port, 8);
    fadt.reset_value = reset_value;
    fadt.finalize()
}

/// The crate's MADT has no override entries, so header and entries are written here.
fn madt(vcpus: u8) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 44, 5, OEM, TABLE, REVISION);
    madt.write_u32(36, layout::LAPIC as u32);
    madt.write_u32(40, 1); // PCAT_COMPAT: there are two 8259s
    let mut entries = Vec::new();
    for id in 0..vcpus {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut entries);
    }
    IoApic::new(0, layout::IOAPIC as u32, 0).to_aml_bytes(&mut entries);
    // The timer's line 0 arrives at pin 2; the SCI is level triggered, active high.
    entries.extend_from_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    entries.extend_from_slice(&[2, 10, 0, layout::SCI, layout::SCI, 0, 0, 0, 0b1101, 0]);
    // LINT1 of every processor is NMI (ACPI 6.5, 5.2.12.7).
    entries.extend_from_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt.append_slice(&entries);
    madt
}

fn dsdt(virtio: &[(u64, u8)]) -> Sdt {
    let mut code = Vec::new();
    let zero = 0u8;
    let sleep = Package::new(vec![&layout::S5_TYPE, &zero, &zero, &zero]);
    Name::new("_S5_".into(), &sleep).to_aml_bytes(&mut code);
    let host = EISAName::new("PNP0A03");
    let host = Name::new("_HID".into(), &host);
    let buses = AddressSpace::new_bus_number(0u16, 0);
    let config = IO::new(0xcf8, 0xcf8, 1, 8);
    let below = AddressSpace::new_io(0u16, 0xcf7, None);
    let above = AddressSpace::new_io(0xd00u16, 0xffff, None);
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::RAM_LIMIT as u32,
        0xfebf_ffff,
        None,
    );
    let resources = ResourceTemplate::new(vec![&buses, &config, &below, &above, &window]);
    let resources = Name::new("_CRS".into(), &resources);
    let unit = Name::new("_UID".into(), &zero);
    let bridge = Device::new("PCI0".into(), vec![&host, &unit, &resources]);
    let serial = Legacy { id: "PNP0501", name: "COM1", port: 0x3f8, ports: 8, line: 4 };
    let clock = Legacy { id: "PNP0B00", name: "RTC_", port: 0x70, ports: 2, line: 8 };
    let mut devices = Vec::new();
    bridge.to_aml_bytes(&mut devices);
    serial.to_aml_bytes(&mut devices);
    clock.to_aml_bytes(&mut devices);
    for (number, (address, line)) in (0..).zip(virtio) {
        virtio_device(number, *address as u32, (*line).into(), &mut devices);
    }
    code.extend_from_slice(&Scope::raw(Path::new("_SB_"), devices));
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    table.append_slice(&code);
    table
}

/// The identifier that Linux's driver of the MMIO transport answers to.
const VIRTIO: &str = "LNRO0005";

/// A virtio device: one page of registers, one level-triggered pin.
fn virtio_device(number: u8, address: u32, line: u32, code: &mut Vec<u8>) {
    let id = Name::new("_HID".into(), &VIRTIO);
    let unit = Name::new("_UID".into(), &number);
    let page = Memory32Fixed::new(true, address, devices::virtio::mmio::SIZE as u32);
    let line = Interrupt::new(true, false, false, false, line);
    let resources = ResourceTemplate::new(vec![&page, &line]);
    let resources = Name::new("_CRS".into(), &resources);
    let name = alloc::format!("VIO{number}");
    Device::new(name.as_str().into(), vec![&id, &unit, &resources]).to_aml_bytes(code);
}

/// A device with one port range and one edge-triggered line.
struct Legacy {
    id: &'static str,
    name: &'static str,
    port: u16,
    ports: u8,
    line: u32,
}

impl Aml for Legacy {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let id = EISAName::new(self.id);
        let id = Name::new("_HID".into(), &id);
        let unit = 0u8;
        let unit = Name::new("_UID".into(), &unit);
        let present = 0xfu8;
        let status = Name::new("_STA".into(), &present);
        let ports = IO::new(self.port, self.port, 1, self.ports);
        let line = Interrupt::new(true, true, false, false, self.line);
        let resources = ResourceTemplate::new(vec![&ports, &line]);
        let resources = Name::new("_CRS".into(), &resources);
        Device::new(self.name.into(), vec![&id, &unit, &status, &resources]).to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn table_at(tables: &Tables, address: u64) -> &[u8] {
        let at = (address - layout::ACPI) as usize;
        let size = u32::from_le_bytes(tables.body[at + 4..at + 8].try_into().unwrap());
        &tables.body[at..at + size as usize]
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
    }

    #[test]
    fn every_table_is_found_and_sums_to_zero() {
        let tables = tables(4, &[(0xfed0_0000, 16), (0xfed0_1000, 17)]);
        assert!(tables.body.len() as u64 <= layout::ACPI_END - layout::ACPI);
        assert_eq!((sum(&tables.root), sum(&tables.root[..20])), (0, 0));
        let xsdt = table_at(&tables, long(&tables.root, 24));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let fadt = table_at(&tables, long(xsdt, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        let dsdt = table_at(&tables, long(fadt, 40));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        for part in [&b"_S5_"[..], b"VIO0", b"VIO1", b"LNRO0005"] {
            assert!(dsdt.windows(part.len()).any(|name| name == part));
        }
        assert_eq!(&table_at(&tables, long(fadt, 36))[..4], b"FACS");
        assert_eq!(long(fadt, 36) % 64, 0);
        let madt = table_at(&tables, long(xsdt, 44));
        assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
        let mut at = 44;
        let mut processors = 0;
        while at < madt.len() {
            processors += usize::from(madt[at] == 0);
            at += usize::from(madt[at + 1]);
        }
        assert_eq!((at, processors), (madt.len(), 4));
    }
}
