//! Reads the MADT: processors and interrupt controllers (ACPI 6.4, 5.2.12).

use super::{HEADER_BYTES, List, PhysicalBytes, Table};

/// A processor that may be started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// Its local APIC.
    pub apic_id: u32,
    /// Its number in the firmware's namespace.
    pub acpi_id: u32,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoApic {
    /// Its number.
    pub id: u8,
    /// Physical address of its registers.
    pub address: u32,
    /// The global system interrupt of its first pin.
    pub gsi_base: u32,
}

/// An ISA interrupt that is wired otherwise than one would think.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// The ISA interrupt.
    pub source: u8,
    /// The global system interrupt it is.
    pub gsi: u32,
    /// Bits 1:0 polarity (1 high, 3 low), 3:2 trigger (1 edge, 3 level), 0 as the bus has it.
    pub flags: u16,
}

/// What the MADT says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Madt {
    /// Physical address of the local APICs.
    pub local_apic: u64,
    /// There are two 8259 that must be masked.
    pub has_pics: bool,
    /// Enabled processors in the order of the table: the kernel's CPU numbers.
    pub processors: List<Processor, 128>,
    /// Enabled processors left out: one of their identifiers does not fit the information page, whose fields (and
    /// the target field of an interrupt message) have eight bits.
    pub unfit: usize,
    /// I/O APICs in the order of the table.
    pub io_apics: List<IoApic, 16>,
    /// Interrupt overrides.
    pub overrides: List<Override, 32>,
}

/// Types of entries (5.2.12.1).
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const OVERRIDE: u8 = 2;
const ADDRESS_OVERRIDE: u8 = 5;
const LOCAL_X2APIC: u8 = 9;

/// Flag of processors: it may be used.
const ENABLED: u32 = 1;

/// The identifier that means all processors (Intel SDM vol. 3, 10.6.1); from here on none fits eight bits.
const BROADCAST: u32 = 0xff;

impl Madt {
    /// Reads a table with a sound checksum; `None` when it is too short for a MADT.
    #[must_use]
    pub fn read(memory: &impl PhysicalBytes, table: &Table) -> Option<Self> {
        let mut madt = Self {
            local_apic: table.word(memory, HEADER_BYTES)?.into(),
            has_pics: table.word(memory, HEADER_BYTES + 4)? & 1 != 0,
            ..Self::default()
        };
        let mut offset = HEADER_BYTES + 8;
        while let Some([kind, length]) = table.bytes(memory, offset) {
            // An entry that does not even hold its own length: nothing behind it can be found.
            if length < 2 || offset + u32::from(length) > table.length {
                break;
            }
            let entry = Table { address: table.address + u64::from(offset), length: length.into() };
            // Too short an entry says nothing.
            let _ = madt.take(memory, kind, &entry);
            offset += entry.length;
        }
        Some(madt)
    }

    fn take(&mut self, memory: &impl PhysicalBytes, kind: u8, entry: &Table) -> Option<()> {
        match kind {
            LOCAL_APIC => {
                let [acpi_id, apic_id] = entry.bytes(memory, 2)?;
                let flags = entry.word(memory, 4)?;
                self.processor(apic_id.into(), acpi_id.into(), flags);
            }
            LOCAL_X2APIC => {
                let (apic_id, flags) = (entry.word(memory, 4)?, entry.word(memory, 8)?);
                self.processor(apic_id, entry.word(memory, 12)?, flags);
            }
            IO_APIC => self.io_apics.push(IoApic {
                id: entry.byte(memory, 2)?,
                address: entry.word(memory, 4)?,
                gsi_base: entry.word(memory, 8)?,
            }),
            OVERRIDE => self.overrides.push(Override {
                source: entry.byte(memory, 3)?,
                gsi: entry.word(memory, 4)?,
                flags: entry.half(memory, 8)?,
            }),
            ADDRESS_OVERRIDE => self.local_apic = entry.long(memory, 4)?,
            _ => {}
        }
        Some(())
    }

    /// Adds an enabled processor; firmware may list it as APIC and as x2APIC.
    fn processor(&mut self, apic_id: u32, acpi_id: u32, flags: u32) {
        let is_known = self.processors.as_slice().iter().any(|known| known.apic_id == apic_id);
        if flags & ENABLED == 0 || is_known {
            return;
        }
        if apic_id >= BROADCAST || acpi_id > u32::from(u8::MAX) {
            self.unfit += 1;
        } else {
            self.processors.push(Processor { apic_id, acpi_id });
        }
    }
}
