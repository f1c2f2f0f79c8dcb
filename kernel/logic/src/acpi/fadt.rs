//! Reads the FADT: power management registers (ACPI 6.4, 5.2.9).

use super::{PhysicalBytes, Table};
use abi::hip::GenericAddress;

/// The registers for power management. Those that the machine does not have are all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PowerManagement {
    /// PM1a control.
    pub pm1a_control: GenericAddress,
    /// PM1b control.
    pub pm1b_control: GenericAddress,
    /// PM timer, 3.579545 MHz.
    pub timer: GenericAddress,
    /// Reset register.
    pub reset: GenericAddress,
}

/// What the FADT says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fadt {
    /// The registers.
    pub registers: PowerManagement,
    /// The PM timer counts 32 bits instead of 24.
    pub timer_is_32_bit: bool,
    /// What to write to the reset register, where there is one.
    pub reset_value: u8,
    /// Physical address of the FACS (waking vector), or 0.
    pub facs: u64,
    /// Physical address of the DSDT, or 0.
    pub dsdt: u64,
}

/// Flags (5.2.9, table 5.10).
const TIMER_32_BIT: u32 = 1 << 8;
const HAS_RESET: u32 = 1 << 10;

const SPACE_IO: u8 = 1;

impl Fadt {
    /// Reads a table with a sound checksum; fields behind its end count as absent. `None` when it
    /// is too short even for version 1.
    #[must_use]
    pub fn read(memory: &impl PhysicalBytes, table: &Table) -> Option<Self> {
        let flags = table.word(memory, 112)?;
        let long = |offset| table.long(memory, offset).filter(|&address| address != 0);
        let either = |new, old| long(new).or(table.word(memory, old).map(u64::from)).unwrap_or(0);
        let register = |new, old, length_at| {
            let bits = table.byte(memory, length_at).unwrap_or(0).saturating_mul(8);
            let old = table.word(memory, old).filter(|&port| port != 0);
            let old = old.map(|port| port_register(port, bits));
            generic_address(memory, table, new).or(old).unwrap_or_default()
        };
        let reset = generic_address(memory, table, 116).filter(|_| flags & HAS_RESET != 0);
        Some(Self {
            registers: PowerManagement {
                pm1a_control: register(172, 64, 89),
                pm1b_control: register(184, 68, 89),
                timer: register(208, 76, 91),
                reset: reset.unwrap_or_default(),
            },
            timer_is_32_bit: flags & TIMER_32_BIT != 0,
            reset_value: table.byte(memory, 128).unwrap_or(0),
            facs: either(132, 36),
            dsdt: either(140, 40),
        })
    }
}

/// A generic address (5.2.3.2) that is not empty.
fn generic_address(
    memory: &impl PhysicalBytes,
    table: &Table,
    offset: u32,
) -> Option<GenericAddress> {
    let [space, bit_width, bit_offset, access_size] = table.bytes(memory, offset)?;
    let address = [table.word(memory, offset + 4)?, table.word(memory, offset + 8)?];
    let register = GenericAddress { space, bit_width, bit_offset, access_size, address };
    (address != [0; 2]).then_some(register)
}

/// A register that version 1 gives as a port number.
const fn port_register(port: u32, bit_width: u8) -> GenericAddress {
    let access_size = if bit_width == 32 { 3 } else { 2 };
    GenericAddress { space: SPACE_IO, bit_width, bit_offset: 0, access_size, address: [port, 0] }
}
