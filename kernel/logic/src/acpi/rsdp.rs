//! Finds the root of the ACPI tables (ACPI 6.4, 5.2.5).

use super::{PhysicalBytes, Table, checksum};

const SIGNATURE: [u8; 8] = *b"RSD PTR ";
/// Bytes of the structure: revision 0, and 2 onwards.
const OLD_BYTES: usize = 20;
const NEW_BYTES: usize = 36;
/// Firmware puts the pointer at a multiple of 16 bytes here, or in the first KiB of the EBDA.
const BIOS: core::ops::Range<u64> = 0xe_0000..0x10_0000;
/// The BIOS data area holds the EBDA's segment here.
const EBDA_SEGMENT: u64 = 0x40e;

/// Where the root tables are; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// Physical address of the RSDT.
    pub rsdt: u64,
    /// Physical address of the XSDT.
    pub xsdt: u64,
}

impl Root {
    /// Reads a root pointer, such as a boot loader's copy; `None` when it is not sound.
    #[must_use]
    pub fn parse(bytes: &[u8; NEW_BYTES]) -> Option<Self> {
        let sum = |length: usize| {
            bytes.iter().take(length).fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
        };
        let (signature, rest) = bytes.split_first_chunk::<8>()?;
        if *signature != SIGNATURE || sum(OLD_BYTES) != 0 {
            return None;
        }
        let revision = *rest.get(7)?;
        let rsdt = u32::from_le_bytes(*rest.get(8..)?.first_chunk()?);
        let xsdt = u64::from_le_bytes(*rest.get(16..)?.first_chunk()?);
        let has_xsdt = revision >= 2 && sum(NEW_BYTES) == 0;
        Some(Self { rsdt: rsdt.into(), xsdt: if has_xsdt { xsdt } else { 0 } })
    }

    /// The root table and the bytes of its entries: the XSDT if it is sound, else the RSDT.
    pub(super) fn table(self, memory: &impl PhysicalBytes) -> Option<(Table, u32)> {
        let sound = |address: u64, signature: &[u8; 4]| {
            let table = Table::at(memory, address).filter(|_| address != 0)?;
            (table.bytes(memory, 0)? == *signature).then_some(table)
        };
        let new = sound(self.xsdt, b"XSDT").map(|table| (table, 8));
        new.or_else(|| sound(self.rsdt, b"RSDT").map(|table| (table, 4)))
    }
}

/// Searches where a BIOS puts the root pointer, for loaders that do not hand it over.
#[must_use]
pub fn find_root(memory: &impl PhysicalBytes) -> Option<Root> {
    let mut segment = [0; 2];
    let ebda = memory
        .read(EBDA_SEGMENT, &mut segment)
        .then(|| u64::from(u16::from_le_bytes(segment)) << 4);
    let ebda = ebda.map_or(0..0, |start| start..start + 1024);
    ebda.step_by(16).chain(BIOS.step_by(16)).find_map(|address| root_at(memory, address))
}

fn root_at(memory: &impl PhysicalBytes, address: u64) -> Option<Root> {
    let mut bytes = [0; NEW_BYTES];
    let signature = bytes.get_mut(..SIGNATURE.len())?;
    if !memory.read(address, signature) || *signature != SIGNATURE {
        return None;
    }
    if checksum(memory, address, OLD_BYTES as u32) != Some(0) || !memory.read(address, &mut bytes) {
        return None;
    }
    Root::parse(&bytes)
}
