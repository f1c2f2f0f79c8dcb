//! Readers of tables against tables made here, whole and damaged.

use super::*;
use proptest::prelude::*;

/// Memory from `START` on.
struct Memory(Vec<u8>);

const START: u64 = 0xe_0000;

impl PhysicalBytes for Memory {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        let bytes = address.checked_sub(START).and_then(|offset| self.0.get(offset as usize..));
        match bytes.and_then(|bytes| bytes.get(..out.len())) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => return false,
        }
        true
    }
}

fn seal(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[at] = sum.wrapping_neg();
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut table = vec![0; HEADER_BYTES as usize];
    table[..4].copy_from_slice(signature);
    table[4..8].copy_from_slice(&(HEADER_BYTES + body.len() as u32).to_le_bytes());
    table.extend(body);
    seal(&mut table, 9);
    table
}

fn madt() -> Vec<u8> {
    let mut body = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    body.extend([0, 8, 7, 0, 1, 0, 0, 0]);
    body.extend([0, 8, 8, 1, 0, 0, 0, 0]);
    body.extend([0, 8, 9, 2, 1, 0, 0, 0]);
    body.extend([1, 12, 5, 0, 0, 0, 0xc0, 0xfe, 24, 0, 0, 0]);
    body.extend([2, 10, 0, 9, 20, 0, 0, 0, 0xd, 0]);
    body.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 44, 0, 0, 0]);
    body.extend([9, 16, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0]);
    body.extend([77, 3, 0]);
    table(b"APIC", &body)
}

fn fadt(length: usize) -> Vec<u8> {
    let mut fadt = vec![0; 244 - HEADER_BYTES as usize];
    let mut put = |offset: usize, bytes: &[u8]| {
        let at = offset - HEADER_BYTES as usize;
        fadt[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(36, &0x1000_u32.to_le_bytes());
    put(64, &0x604_u32.to_le_bytes());
    put(76, &0x608_u32.to_le_bytes());
    put(89, &[2, 0, 4]);
    put(112, &(TIMER_AND_RESET).to_le_bytes());
    put(116, &[1, 8, 0, 1, 0xf9, 0x0c]);
    put(128, &[15]);
    put(132, &0x2000_u64.to_le_bytes());
    put(172, &[1, 16, 0, 2, 0x34, 0x12]);
    fadt.truncate(length - HEADER_BYTES as usize);
    table(b"FACP", &fadt)
}

const TIMER_AND_RESET: u32 = 1 << 8 | 1 << 10;

/// A machine's tables, with the root pointer somewhere in the BIOS area.
fn machine(is_new: bool, fadt_bytes: usize) -> Memory {
    let mut memory = vec![0; 0x2_0000];
    let mut mcfg = vec![0; 8];
    mcfg.extend([0, 0, 0, 0xf0, 0, 0, 0, 0, 1, 0, 0, 255, 0, 0, 0, 0]);
    mcfg.extend([0, 0, 0, 0xe0, 0, 0, 0, 0, 0, 0, 2, 17, 0, 0, 0, 0]);
    let mut hpet = vec![0x01, 0xa2, 0x86, 0x80, 0, 64, 0, 0];
    hpet.extend(0xfed0_0000_u64.to_le_bytes());
    let tables = [
        madt(),
        fadt(fadt_bytes),
        table(b"MCFG", &mcfg),
        table(b"HPET", &hpet),
        table(b"DMAR", &[38, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        table(b"OEMX", &[1, 2, 3]),
    ];
    let mut entries = Vec::new();
    let mut at = 0x1000;
    for table in &tables {
        memory[at..at + table.len()].copy_from_slice(table);
        let address = START + at as u64;
        entries.extend(&address.to_le_bytes()[..if is_new { 8 } else { 4 }]);
        at += 0x400;
    }
    entries.extend(vec![0x99; if is_new { 8 } else { 4 }]);
    let root = table(if is_new { b"XSDT" } else { b"RSDT" }, &entries);
    memory[0x800..0x800 + root.len()].copy_from_slice(&root);
    let root = START + 0x800;
    let mut pointer = b"RSD PTR ".to_vec();
    pointer.extend([0, 0, 0, 0, 0, 0, 0, if is_new { 2 } else { 0 }]);
    pointer.extend((if is_new { 0 } else { root as u32 }).to_le_bytes());
    seal(&mut pointer, 8);
    pointer.extend([36, 0, 0, 0]);
    pointer.extend((if is_new { root } else { 0 }).to_le_bytes());
    pointer.extend([0; 4]);
    seal(&mut pointer, 32);
    memory[0x1_5550..0x1_5550 + 36].copy_from_slice(&pointer);
    Memory(memory)
}

#[test]
fn all_tables_are_found_and_read() {
    for is_new in [false, true] {
        let memory = machine(is_new, 244);
        let acpi = Acpi::read(&memory, find_root(&memory).unwrap()).unwrap();
        assert_eq!((acpi.xsdt_rsdt, acpi.broken), (START + 0x800, 1));
        let madt = acpi.madt.unwrap();
        assert_eq!((madt.local_apic, madt.has_pics), (0xfee0_0000, true));
        let ids: Vec<_> =
            madt.processors.as_slice().iter().map(|cpu| (cpu.apic_id, cpu.acpi_id)).collect();
        // One is disabled, one is listed twice, and one has an identifier above eight bits.
        assert_eq!((ids.as_slice(), madt.unfit), (&[(0, 7), (2, 9)][..], 1));
        assert_eq!(
            madt.io_apics.as_slice(),
            [IoApic { id: 5, address: 0xfec0_0000, gsi_base: 24 }]
        );
        assert_eq!(madt.overrides.as_slice(), [Override { source: 9, gsi: 20, flags: 0xd }]);
        let pci = acpi.pci.unwrap();
        assert_eq!((pci.base, pci.bytes()), (0xe000_0000, 16 << 20));
        assert_eq!((acpi.hpet, acpi.dmar), (Some(0xfed0_0000), Some(START + 0x2000)));
        let fadt = acpi.fadt.unwrap();
        assert_eq!(fadt.registers.pm1a_control.address, [0x1234, 0]);
        assert_eq!(fadt.registers.pm1b_control, Default::default());
        assert_eq!(fadt.registers.timer.address, [0x608, 0]);
        assert_eq!((fadt.registers.reset.address, fadt.reset_value), ([0xcf9, 0], 15));
        assert_eq!((fadt.facs, fadt.timer_is_32_bit), (0x2000, true));
    }
}

#[test]
fn an_old_fadt_gives_ports() {
    let memory = machine(false, 116);
    let fadt = Acpi::read(&memory, find_root(&memory).unwrap()).unwrap().fadt.unwrap();
    let control = fadt.registers.pm1a_control;
    assert_eq!((control.space, control.bit_width, control.address), (1, 16, [0x604, 0]));
    assert_eq!((fadt.facs, fadt.registers.reset), (0x1000, Default::default()));
}

#[test]
fn damaged_roots_are_not_followed() {
    let memory = machine(true, 244);
    for (at, what) in [(0x1_5550, "signature"), (0x1_5551, "signature"), (0x1_5561, "sum")] {
        let mut memory = Memory(memory.0.clone());
        memory.0[at] ^= 1;
        assert_eq!(find_root(&memory), None, "{what}");
    }
    let mut damaged = Memory(memory.0.clone());
    damaged.0[0x820] ^= 1;
    assert_eq!(Acpi::read(&damaged, find_root(&damaged).unwrap()), None);
    assert_eq!(find_root(&Memory(Vec::new())), None);
}

proptest! {
    /// Damage at any place, with the checksums made right again, ends in no surprise.
    #[test]
    fn damaged_tables_can_be_read(
        which in 0..6_usize,
        changes in prop::collection::vec((0..260_usize, any::<u8>()), 1..6),
    ) {
        let mut memory = machine(true, 244);
        let at = 0x1000 + 0x400 * which;
        changes.into_iter().for_each(|(offset, byte)| memory.0[at + offset] = byte);
        let length = u32::from_le_bytes(*memory.0[at + 4..].first_chunk().unwrap()) as usize;
        if let Some(bytes) = memory.0.get_mut(at..at.saturating_add(length)) && length > 9 {
            seal(bytes, 9);
        }
        let acpi = Acpi::read(&memory, find_root(&memory).unwrap()).unwrap();
        prop_assert!(acpi.broken <= 2);
    }

    #[test]
    fn random_root_pointers_can_be_parsed(mut bytes: [u8; 32], is_sealed: bool) {
        let mut pointer = [0; 36];
        bytes[..8].copy_from_slice(b"RSD PTR ");
        pointer[..32].copy_from_slice(&bytes);
        if is_sealed {
            seal(&mut pointer[..20], 8);
        }
        prop_assert!(Root::parse(&pointer).is_some() || !is_sealed);
    }
}
