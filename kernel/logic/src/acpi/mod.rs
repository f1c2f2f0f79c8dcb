//! Reads the firmware's ACPI tables into plain values.
//!
//! It runs no AML and maps nothing: bytes come through [`PhysicalBytes`] and are copied before
//! they are judged. A broken table is left out and named, never trusted half.
//! Source: ACPI specification 6.4, chapter 5.2.
//!
//! ```text
//!   RSDP --> XSDT (or RSDT) --> FADT  power management registers, FACS
//!                           |-> MADT  processors, I/O APICs, interrupt overrides
//!                           |-> MCFG  PCI configuration window
//!                           |-> HPET  timer
//!                           '-> DMAR  IOMMUs (only its address)
//! ```

mod fadt;
mod list;
mod madt;
mod rsdp;
#[cfg(test)]
mod tests;

pub use fadt::{Fadt, PowerManagement};
pub use list::List;
pub use madt::{IoApic, Madt, Override, Processor};
pub use rsdp::{Root, find_root};

/// Physical memory that can be read before it is mapped.
pub trait PhysicalBytes {
    /// Copies the bytes from `address` on into `out`; false if they cannot be read (then `out` is
    /// undefined).
    fn read(&self, address: u64, out: &mut [u8]) -> bool;
}

/// A table whose checksum was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where it is, physically.
    pub address: u64,
    /// Bytes of it, header included.
    pub length: u32,
}

/// Bytes of the header that all tables begin with.
const HEADER_BYTES: u32 = 36;
/// A table larger than this is nonsense.
const MOST_BYTES: u32 = 1 << 20;

impl Table {
    /// The table at `address`, if its length makes sense and its bytes add up to 0.
    #[must_use]
    pub fn at(memory: &impl PhysicalBytes, address: u64) -> Option<Self> {
        let mut word = [0; 4];
        if !memory.read(address.checked_add(4)?, &mut word) {
            return None;
        }
        let length = u32::from_le_bytes(word);
        let is_sane = (HEADER_BYTES..=MOST_BYTES).contains(&length);
        let is_table = is_sane && checksum(memory, address, length) == Some(0);
        is_table.then_some(Self { address, length })
    }

    /// `N` bytes at `offset`, if the table has them.
    fn bytes<const N: usize>(&self, memory: &impl PhysicalBytes, offset: u32) -> Option<[u8; N]> {
        let end = offset.checked_add(u32::try_from(N).ok()?)?;
        let address = self.address.checked_add(u64::from(offset))?;
        let mut bytes = [0; N];
        (end <= self.length && memory.read(address, &mut bytes)).then_some(bytes)
    }

    fn byte(&self, memory: &impl PhysicalBytes, offset: u32) -> Option<u8> {
        self.bytes(memory, offset).map(|[byte]| byte)
    }

    fn half(&self, memory: &impl PhysicalBytes, offset: u32) -> Option<u16> {
        self.bytes(memory, offset).map(u16::from_le_bytes)
    }

    fn word(&self, memory: &impl PhysicalBytes, offset: u32) -> Option<u32> {
        self.bytes(memory, offset).map(u32::from_le_bytes)
    }

    fn long(&self, memory: &impl PhysicalBytes, offset: u32) -> Option<u64> {
        self.bytes(memory, offset).map(u64::from_le_bytes)
    }
}

/// The PCI configuration window (PCI firmware specification 3.2, 4.1.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciWindow {
    /// Physical address of bus 0's space, even where that bus is not in the window.
    pub base: u64,
    /// First and last bus.
    pub buses: (u8, u8),
}

impl PciWindow {
    /// Bytes of the window: 1 MiB per bus.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        (self.buses.1.saturating_sub(self.buses.0) as u64 + 1) << 20
    }
}

/// What the tables say about the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acpi {
    /// Physical address of the XSDT, else of the RSDT.
    pub xsdt_rsdt: u64,
    /// Processors and interrupt controllers.
    pub madt: Option<Madt>,
    /// Power management.
    pub fadt: Option<Fadt>,
    /// The first PCI configuration window, of segment 0.
    pub pci: Option<PciWindow>,
    /// Physical address of the first HPET.
    pub hpet: Option<u64>,
    /// Physical address of the DMAR table.
    pub dmar: Option<u64>,
    /// Entries of the root table that led to no sound table.
    pub broken: usize,
}

impl Acpi {
    /// Reads all tables that the root names; `None` when the root table itself is broken.
    #[must_use]
    pub fn read(memory: &impl PhysicalBytes, root: Root) -> Option<Self> {
        let (table, entry_bytes) = root.table(memory)?;
        let mut acpi = Self { xsdt_rsdt: table.address, ..Self::default() };
        let mut offset = HEADER_BYTES;
        while offset + entry_bytes <= table.length {
            let address = if entry_bytes == 8 {
                table.long(memory, offset)
            } else {
                table.word(memory, offset).map(u64::from)
            };
            offset += entry_bytes;
            match address.and_then(|address| Table::at(memory, address)) {
                Some(table) => acpi.take(memory, &table),
                None => acpi.broken += 1,
            }
        }
        Some(acpi)
    }

    /// Takes from a table what it is there for; the first of each kind counts.
    fn take(&mut self, memory: &impl PhysicalBytes, table: &Table) {
        match &table.bytes::<4>(memory, 0).unwrap_or_default() {
            b"APIC" if self.madt.is_none() => self.madt = Madt::read(memory, table),
            b"FACP" if self.fadt.is_none() => self.fadt = Fadt::read(memory, table),
            b"MCFG" if self.pci.is_none() => self.pci = pci_window(memory, table),
            // A generic address follows four bytes of block id (HPET specification 1.0a, 3.2.4).
            b"HPET" if self.hpet.is_none() => self.hpet = table.long(memory, HEADER_BYTES + 8),
            b"DMAR" if self.dmar.is_none() => self.dmar = Some(table.address),
            _ => {}
        }
    }
}

/// The first allocation of segment 0; entries of 16 bytes follow 8 reserved bytes.
fn pci_window(memory: &impl PhysicalBytes, table: &Table) -> Option<PciWindow> {
    let mut offset = HEADER_BYTES + 8;
    loop {
        let base = table.long(memory, offset)?;
        let [segment_low, segment_high, first, last] = table.bytes(memory, offset + 8)?;
        if (segment_low, segment_high) == (0, 0) && first <= last {
            return Some(PciWindow { base, buses: (first, last) });
        }
        offset += 16;
    }
}

/// The sum of `length` bytes; `None` when they cannot be read.
fn checksum(memory: &impl PhysicalBytes, address: u64, length: u32) -> Option<u8> {
    let (mut sum, mut done) = (0_u8, 0);
    let mut chunk = [0; 64];
    while done < length {
        let part = chunk.get_mut(..(length - done).min(64) as usize)?;
        if !memory.read(address.checked_add(u64::from(done))?, part) {
            return None;
        }
        sum = part.iter().fold(sum, |sum, byte| sum.wrapping_add(*byte));
        done += 64;
    }
    Some(sum)
}
