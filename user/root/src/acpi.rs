//! What the machine's own ACPI tables say about sleep, power-off and reset (ACPI 6.4, 5.2).
//!
//! The sleep types stand in AML, which is evaluated elsewhere ([`crate::evaluation`]).
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

/// Physical memory that can be read.
pub trait Physical {
    /// The bytes from `address` on; `None` if they cannot be read.
    fn read(&self, address: u64, bytes: usize) -> Option<Vec<u8>>;
}

/// What is needed to switch the machine off, or to suspend it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// PM1a and PM1b event blocks: ports, 0 for none.
    pub events: [u16; 2],
    /// PM1a and PM1b control: ports, 0 for none.
    pub controls: [u16; 2],
    /// Physical address of the FACS, 0 for none.
    pub facs: u64,
    /// Tables with AML: the DSDT, then all SSDTs.
    pub programs: Vec<Vec<u8>>,
    /// The port that resets the machine, and what to write there.
    pub reset: Option<(u16, u8)>,
    /// Where PCI configuration space lies in memory.
    pub configuration: Vec<Range<u64>>,
}

/// A table larger than this is nonsense.
const MOST_BYTES: u32 = 1 << 20;
/// Bytes of the header of all tables.
const HEADER: usize = 36;
/// FADT flags (table 5.10): a reset register exists; the sleep registers are others.
const HAS_RESET: u32 = 1 << 10;
const HARDWARE_REDUCED: u32 = 1 << 20;

impl Power {
    /// Follows the root table at `root`, an XSDT or an RSDT.
    ///
    /// # Errors
    /// A sentence that says which table is missing or broken.
    pub fn read(memory: &impl Physical, root: u64) -> Result<Self, String> {
        let list = table(memory, root).ok_or("the root table is broken")?;
        let wide = list.starts_with(b"XSDT");
        let mut power = None;
        let mut programs = Vec::new();
        let mut configuration = Vec::new();
        for entry in list.get(HEADER..).unwrap_or_default().chunks_exact(if wide { 8 } else { 4 }) {
            let address = entry.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
            let Some(table) = table(memory, address) else { continue };
            match table.get(..4) {
                Some(b"FACP") if power.is_none() => {
                    // The DSDT comes first, wherever the FADT stands.
                    programs.splice(..0, self::table(memory, either(&table, 140, 40)));
                    power = Some(registers(&table)?);
                }
                Some(b"SSDT") => programs.push(table),
                Some(b"MCFG") => configuration.extend(spaces(&table)),
                _ => {}
            }
        }
        let mut power: Self = power.ok_or("there is no FADT")?;
        power.programs = programs;
        power.configuration = configuration;
        Ok(power)
    }

    /// The first ports of the register blocks that rule the machine's power, each at most four.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        let reset = self.reset.map(|(port, _)| port);
        let all = self.events.into_iter().chain(self.controls).chain(reset);
        all.filter(|port| *port != 0)
    }
}

/// A whole table whose bytes add up to 0.
fn table(memory: &impl Physical, address: u64) -> Option<Vec<u8>> {
    let header = memory.read(address, HEADER)?;
    let length = word(&header, 4)?;
    if !(HEADER as u32..=MOST_BYTES).contains(&length) {
        return None;
    }
    let bytes = memory.read(address, length as usize)?;
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    (sum == 0).then_some(bytes)
}

/// The ranges of an MCFG: 1 MiB for each bus, counted from bus 0 (PCI Firmware 3.2, table 4-3).
fn spaces(mcfg: &[u8]) -> impl Iterator<Item = Range<u64>> {
    let (entries, _) = mcfg.get(HEADER + 8..).unwrap_or_default().as_chunks::<16>();
    entries.iter().filter_map(|entry| {
        let base = u64::from(word(entry, 0)?) | u64::from(word(entry, 4)?) << 32;
        let (first, last) = (*entry.get(10)?, *entry.get(11)?);
        let bus = |number: u64| base.checked_add(number << 20);
        Some(bus(first.into())?..bus(u64::from(last) + 1)?)
    })
}

/// The FADT's registers.
fn registers(fadt: &[u8]) -> Result<Power, String> {
    let flags = word(fadt, 112).ok_or("the FADT is too short")?;
    if flags & HARDWARE_REDUCED != 0 {
        return Err(format!("hardware-reduced ACPI: no PM1 registers (FADT flags {flags:#x})"));
    }
    let port = |wide, old| {
        // A generic address in I/O space (5.2.3.2), else a port number.
        let generic = (fadt.get(wide) == Some(&1)).then(|| word(fadt, wide + 4)).flatten();
        let number = generic.filter(|port| *port != 0).or(word(fadt, old)).unwrap_or(0);
        u16::try_from(number).unwrap_or(0)
    };
    let reset = (flags & HAS_RESET != 0 && fadt.get(116) == Some(&1)).then(|| {
        let port = word(fadt, 120).and_then(|port| u16::try_from(port).ok());
        port.filter(|port| *port != 0).zip(fadt.get(128).copied())
    });
    Ok(Power {
        events: [port(148, 56), port(160, 60)],
        controls: [port(172, 64), port(184, 68)],
        facs: either(fadt, 132, 36),
        reset: reset.flatten(),
        ..Power::default()
    })
}

/// The wide address at `wide`, else the one at `old`; 0 for none.
fn either(fadt: &[u8], wide: usize, old: usize) -> u64 {
    let low = word(fadt, wide).zip(word(fadt, wide + 4));
    let wide = low.map_or(0, |(low, high)| u64::from(low) | u64::from(high) << 32);
    if wide != 0 { wide } else { word(fadt, old).map_or(0, u64::from) }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory from 0x1000 on.
    struct Memory(Vec<u8>);

    impl Physical for Memory {
        fn read(&self, address: u64, bytes: usize) -> Option<Vec<u8>> {
            let at = usize::try_from(address.checked_sub(0x1000)?).ok()?;
            self.0.get(at..at.checked_add(bytes)?).map(<[u8]>::to_vec)
        }
    }

    /// `Name (_S3, Package (0x04) {One, One, Zero, Zero})`.
    const AML: &[u8] = b"\x08_S3_\x12\x06\x04\x01\x01\x00\x00";

    fn sealed(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut table = vec![0; HEADER];
        table[..4].copy_from_slice(signature);
        table.extend(body);
        let length = table.len() as u32;
        table[4..8].copy_from_slice(&length.to_le_bytes());
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        table[9] = sum.wrapping_neg();
        table
    }

    fn machine() -> Memory {
        let mut fadt = vec![0; 244 - HEADER];
        let mut put = |at: usize, bytes: &[u8]| {
            fadt[at - HEADER..at - HEADER + bytes.len()].copy_from_slice(bytes);
        };
        put(36, &0x9000_u32.to_le_bytes());
        put(40, &0x1400_u32.to_le_bytes());
        put(56, &0x600_u32.to_le_bytes());
        put(64, &0x604_u32.to_le_bytes());
        put(112, &HAS_RESET.to_le_bytes());
        put(116, &[1, 8, 0, 1, 0xf9, 0x0c]);
        put(128, &[6]);
        let mut memory = vec![0; 0x1000];
        let entries = [0x1600_u32, 0x1200, 0x1680].map(u32::to_le_bytes);
        let buses = [0xb000_0000_u64.to_le_bytes(), [0, 0, 1, 3, 0, 0, 0, 0]];
        let mcfg = [&[0; 8], buses.as_flattened()].concat();
        let root = sealed(b"RSDT", entries.as_flattened());
        for (at, table) in [
            (0, root),
            (0x200, sealed(b"FACP", &fadt)),
            (0x400, sealed(b"DSDT", AML)),
            (0x600, sealed(b"SSDT", b"\xa3")),
            (0x680, sealed(b"MCFG", &mcfg)),
        ] {
            memory[at..at + table.len()].copy_from_slice(&table);
        }
        Memory(memory)
    }

    #[test]
    fn the_machine_says_how_it_sleeps() {
        let expected = Power {
            events: [0x600, 0],
            controls: [0x604, 0],
            facs: 0x9000,
            programs: vec![sealed(b"DSDT", AML), sealed(b"SSDT", b"\xa3")],
            reset: Some((0xcf9, 6)),
            configuration: std::iter::once(0xb010_0000..0xb040_0000).collect(),
        };
        assert_eq!(expected.ports().collect::<Vec<_>>(), [0x600, 0x604, 0xcf9]);
        assert_eq!(Power::read(&machine(), 0x1000), Ok(expected));
    }

    #[test]
    fn damage_is_named_or_survived() {
        assert!(Power::read(&machine(), 0x1200).is_err(), "a FADT is no root table");
        let whole = machine().0;
        for at in 0..0x800 {
            for bit in [0, 3, 7] {
                let mut memory = whole.clone();
                memory[at] ^= 1 << bit;
                let _ = Power::read(&Memory(memory), 0x1000);
            }
        }
    }
}
