//! The MP table: processors, I/O APIC and wires for kernels that do not read ACPI.
//!
//! Source: Intel MultiProcessor Specification 1.4, chapter 4. It says what the MADT says (`acpi.rs`); the two agree because
//! both are made from the same constants.
use crate::layout;
use alloc::vec::Vec;

/// Versions of the two APICs and of the specification.
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x20;
const REVISION: u8 = 4;
/// Buses: their identifiers here.
const PCI: u8 = 0;
const ISA: u8 = 1;
/// All local APICs.
const ALL: u8 = 0xff;
/// The identifier of the I/O APIC, as in the MADT.
const IOAPIC: u8 = 0;
/// Interrupt types (table 4-10).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXTINT: u8 = 3;
/// Level-triggered, active high (4.3.4); 0 is what the bus usually has.
const LEVEL_HIGH: u16 = 0b1101;

/// The floating pointer and the table behind it, for [`layout::MP`]; `signature` and `features` are CPUID leaf 1's EAX and EDX.
pub fn table(vcpus: u8, signature: u32, features: u32) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0_u16;
    let mut add = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..vcpus {
        // Bit 0: usable; bit 1: the one that boots.
        let flags = if id == 0 { 3 } else { 1 };
        let mut entry = Vec::new();
        entry.extend_from_slice(&[0, id, LAPIC_VERSION, flags]);
        entry.extend_from_slice(&signature.to_le_bytes());
        entry.extend_from_slice(&features.to_le_bytes());
        entry.extend_from_slice(&[0; 8]);
        add(&entry);
    }
    for (id, name) in [(PCI, b"PCI   "), (ISA, b"ISA   ")] {
        let [a, b, c, d, e, f] = *name;
        add(&[1, id, a, b, c, d, e, f]);
    }
    let [a, b, c, d] = (layout::IOAPIC as u32).to_le_bytes();
    add(&[2, IOAPIC, IOAPIC_VERSION, 1, a, b, c, d]);
    for irq in (0..16).filter(|irq| *irq != 2) {
        let pin = if irq == 0 { 2 } else { irq };
        let flags = if irq == layout::SCI { LEVEL_HIGH } else { 0 };
        let [low, high] = flags.to_le_bytes();
        add(&[3, INT, low, high, ISA, irq, IOAPIC, pin]);
    }
    add(&[4, EXTINT, 0, 0, ISA, 0, ALL, 0]);
    add(&[4, NMI, 0, 0, ISA, 0, ALL, 1]);
    let mut table = Vec::new();
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&(44 + entries.len() as u16).to_le_bytes());
    table.extend_from_slice(&[REVISION, 0]);
    table.extend_from_slice(b"HEMATITEVM          ");
    table.extend_from_slice(&[0; 6]);
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&(layout::LAPIC as u32).to_le_bytes());
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(&entries);
    close(&mut table, 7);
    let mut pointer = Vec::new();
    pointer.extend_from_slice(b"_MP_");
    pointer.extend_from_slice(&(layout::MP as u32 + 16).to_le_bytes());
    // One paragraph; the last five bytes: a table is there, and there is no IMCR.
    pointer.extend_from_slice(&[1, REVISION, 0, 0, 0, 0, 0, 0]);
    close(&mut pointer, 10);
    pointer.extend_from_slice(&table);
    pointer
}

/// Makes the sum of all bytes 0 by the byte at this place.
fn close(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = 0_u8.wrapping_sub(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn pointer_and_table_are_sound() {
        for vcpus in [1, 2, 64] {
            let bytes = table(vcpus, 0x806ea, 0x201);
            let (pointer, table) = bytes.split_at(16);
            assert_eq!((&pointer[..4], sum(pointer), pointer[11]), (&b"_MP_"[..], 0, 0));
            assert_eq!(&pointer[4..8], (layout::MP as u32 + 16).to_le_bytes());
            assert_eq!((&table[..4], sum(table)), (&b"PCMP"[..], 0));
            let length = usize::from(u16::from_le_bytes([table[4], table[5]]));
            assert_eq!(length, table.len());
            assert!(layout::MP + (bytes.len() as u64) < layout::KERNEL_LOWEST);
            // Walk the entries as a kernel does.
            let (mut at, mut kinds) = (44, [0_u16; 5]);
            while at < length {
                kinds[usize::from(table[at])] += 1;
                at += if table[at] == 0 { 20 } else { 8 };
            }
            assert_eq!((at, kinds), (length, [u16::from(vcpus), 2, 1, 15, 2]));
            assert_eq!(u16::from_le_bytes([table[34], table[35]]), kinds.iter().sum::<u16>());
        }
    }

    #[test]
    fn the_timer_is_on_pin_2_and_the_sci_is_level() {
        let bytes = table(1, 0, 0);
        let wires: Vec<_> = bytes[16 + 44 + 20..].chunks(8).filter(|entry| entry[0] == 3).collect();
        assert_eq!(wires[0], [3, 0, 0, 0, ISA, 0, 0, 2]);
        assert!(wires.contains(&&[3, 0, 0x0d, 0, ISA, 9, 0, 9][..]));
    }
}
