//! PCI configuration mechanism #1 over an empty bus, and the reset register inside its address
//! port (PCI Local Bus specification 2.3, 3.2.2.3; 0xcf9: Intel ICH9 data sheet, 13.7.5).
//!
//! Modelled: the address register, byte, word and dword accesses to the data port, one device:
//! the host bridge at 00:00.0, read-only. Everything else reads all ones, as an empty slot does,
//! and writes to the data port are dropped, so there is no door for them here.
//!
//! Not modelled: memory-mapped configuration, any real device.

use crate::pm::PowerEvent;

/// The address register's port (dwords only).
pub const ADDRESS: u16 = 0xcf8;
/// The reset register's port (bytes only), the FADT's `RESET_REG`.
pub const RESET: u16 = 0xcf9;
/// What the FADT's `RESET_VALUE` must be.
pub const RESET_VALUE: u8 = 0x06;
/// First of the four data ports.
pub const DATA: u16 = 0xcfc;

/// The address register's enable bit and the bits it keeps.
const ENABLE: u32 = 1 << 31;
const ADDRESS_BITS: u32 = 0x80ff_fffc;
/// The host bridge's first four registers: "Intel virtual host bridge" as used by monitors,
/// command and status, class 06 00 00, header type 0.
const HOST_BRIDGE: [u32; 4] = [0x0d57_8086, 0, 0x0600_0000, 0];

/// The configuration space.
#[derive(Debug, Clone, Default)]
pub struct Pci {
    address: u32,
    reset: u8,
}

impl Pci {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The guest reads the address register.
    #[must_use]
    pub fn read_address(&self) -> u32 {
        self.address
    }

    /// The guest writes the address register.
    pub fn write_address(&mut self, value: u32) {
        self.address = value & ADDRESS_BITS;
    }

    /// The guest reads `size` bytes (1, 2 or 4) at `offset` (0 to 3) of the data port; bytes past
    /// its end read as ones.
    #[must_use]
    pub fn read_data(&self, offset: u16, size: u8) -> u32 {
        let shift = u32::from(offset & 3) * 8;
        let word = self.register() >> shift | u32::MAX.checked_shl(32 - shift).unwrap_or(0);
        match size {
            1 => word & 0xff,
            2 => word & 0xffff,
            _ => word,
        }
    }

    /// The guest reads port 0xcf9.
    #[must_use]
    pub fn read_reset(&self) -> u8 {
        self.reset
    }

    /// The guest writes port 0xcf9: a rising RST_CPU bit resets.
    pub fn write_reset(&mut self, value: u8) -> Option<PowerEvent> {
        let rose = value & !self.reset & 0x04 != 0;
        self.reset = value & 0x0a;
        rose.then_some(PowerEvent::Reset)
    }

    fn register(&self) -> u32 {
        if self.address & ENABLE == 0 || self.address & 0x00ff_ff00 != 0 {
            return u32::MAX;
        }
        HOST_BRIDGE.get((self.address & 0xff) as usize / 4).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_finds_mechanism_1_and_one_host_bridge() {
        let mut pci = Pci::new();
        pci.write_address(0x8000_0000);
        assert_eq!(pci.read_address(), 0x8000_0000);
        assert_eq!(pci.read_data(0, 4), 0x0d57_8086);
        assert_eq!(pci.read_data(2, 2), 0x0d57);
        pci.write_address(0x8000_0008);
        assert_eq!(pci.read_data(2, 2), 0x0600);
        assert_eq!(pci.read_data(3, 1), 0x06);
        pci.write_address(0x8000_000c);
        assert_eq!(pci.read_data(2, 1), 0, "one function only");
        pci.write_address(0x8000_0040);
        assert_eq!(pci.read_data(0, 4), 0);
        for empty in [0x8000_0800, 0x8000_0100, 0x8001_0000, 0] {
            pci.write_address(empty);
            assert_eq!(pci.read_data(0, 4), u32::MAX);
            assert_eq!(pci.read_data(1, 1), 0xff);
        }
    }

    #[test]
    fn the_reset_register_resets_on_its_rising_bit() {
        let mut pci = Pci::new();
        assert_eq!(pci.write_reset(0x02), None);
        assert_eq!(pci.read_reset(), 0x02);
        assert_eq!(pci.write_reset(RESET_VALUE), Some(PowerEvent::Reset));
    }
}
