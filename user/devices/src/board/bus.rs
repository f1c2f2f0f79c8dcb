//! Which device answers at which port or address.

use super::{Board, Event, Space, Unclaimed};
use crate::{i8042, ioapic, pci, pic, pm, rtc};

/// The first serial port.
pub(super) const SERIAL: u16 = 0x3f8;
/// System control port A: bit 0 resets, bit 1 is the A20 gate.
const CONTROL_A: u16 = 0x92;
/// Ports that are known and do nothing: POST codes, delays, FPU reset, and the bytes of the PCI
/// address register, through which Linux asks for configuration mechanism #2.
const SILENT: [u16; 8] = [0x80, 0xeb, 0xed, 0xf0, 0xf1, 0xcf8, 0xcfa, 0xcfb];

/// All ones, `size` bytes wide.
fn ones(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

impl Board {
    /// The guest reads `size` bytes (1, 2 or 4) at `port`. Accesses wider than a device's
    /// registers are split into bytes; what nobody claims reads all ones.
    pub fn port_read(&mut self, port: u16, size: u8, now_ns: u64) -> u32 {
        let value = if let Some(offset) = within(port, size, pm::BASE, pm::SIZE) {
            self.pm.read(offset, size, now_ns)
        } else if port == pci::ADDRESS && size == 4 {
            self.pci.read_address()
        } else if let Some(offset) = within(port, size, pci::DATA, 4) {
            self.pci.read_data(offset, size)
        } else {
            let mut value = 0;
            let mut claimed = false;
            for index in 0..size.min(4) {
                let byte = self.read_byte(port.wrapping_add(index.into()), now_ns);
                claimed |= byte.is_some();
                value |= u32::from(byte.unwrap_or(0xff)) << (8 * u32::from(index));
            }
            if !claimed {
                self.note(Space::Port, port.into(), size, false);
            }
            value
        };
        self.settle();
        value
    }

    /// The guest writes `size` bytes (1, 2 or 4) at `port`. Accesses wider than a device's
    /// registers are split into bytes; what nobody claims is dropped.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32, now_ns: u64) {
        if let Some(offset) = within(port, size, pm::BASE, pm::SIZE) {
            let event = self.pm.write(offset, size, value, now_ns);
            self.power(event);
        } else if port == pci::ADDRESS && size == 4 {
            self.pci.write_address(value);
        } else if within(port, size, pci::DATA, 4).is_some() {
            // Nothing there can be configured.
        } else {
            let mut claimed = false;
            for (index, byte) in (0..size.min(4)).zip(value.to_le_bytes()) {
                claimed |= self.write_byte(port.wrapping_add(index.into()), byte, now_ns);
                // Two edges of a wire within one word access would otherwise melt into one level.
                self.settle();
            }
            if !claimed {
                self.note(Space::Port, port.into(), size, true);
            }
            return;
        }
        self.settle();
    }

    /// Processor `vcpu` reads `size` bytes (1, 2, 4 or 8) of device memory. `None`: nobody claims
    /// the address, which has been noted; the guest should read all ones. (So the monitor asks its
    /// own devices first.)
    pub fn mmio_read(&mut self, address: u64, size: u8, vcpu: usize, now_ns: u64) -> Option<u64> {
        let word = if let Some(offset) = self.local_apic(address, vcpu) {
            let lapic = self.lapics.get_mut(vcpu)?;
            if offset & 0xc == 0 { lapic.read(offset, now_ns) } else { 0 }
        } else if let Some(offset) = in_page(address, ioapic::BASE) {
            if offset & 0xc == 0 { self.ioapic.read(offset) } else { 0 }
        } else {
            self.note(Space::Memory, address, size, false);
            return None;
        };
        self.settle();
        Some(u64::from(word) >> (8 * (address & 3)) & ones(size))
    }

    /// Processor `vcpu` writes `size` bytes (1, 2, 4 or 8) of device memory. Registers are 32 bits
    /// wide at multiples of 16; narrower writes are zero-extended, writes elsewhere in a claimed
    /// page are dropped. `None`: nobody claims the address, which has been noted.
    pub fn mmio_write(
        &mut self,
        address: u64,
        size: u8,
        value: u64,
        vcpu: usize,
        now_ns: u64,
    ) -> Option<()> {
        let word = (value & ones(size)) as u32;
        if let Some(offset) = self.local_apic(address, vcpu) {
            if offset & 0xf == 0 {
                let effect = self.lapics.get_mut(vcpu)?.write(offset, word, now_ns);
                self.apply(vcpu, effect);
            }
        } else if let Some(offset) = in_page(address, ioapic::BASE) {
            if offset & 0xf == 0 {
                self.ioapic.write(offset, word);
            }
        } else {
            self.note(Space::Memory, address, size, true);
            return None;
        }
        self.settle();
        Some(())
    }

    /// The offset in the local APIC's page, where this processor's APIC has one.
    fn local_apic(&self, address: u64, vcpu: usize) -> Option<u64> {
        in_page(address, self.lapics.get(vcpu)?.page()?)
    }

    fn note(&mut self, space: Space, address: u64, size: u8, write: bool) {
        self.unclaimed.note(Unclaimed { space, address, size, write });
    }

    fn read_byte(&mut self, port: u16, now_ns: u64) -> Option<u8> {
        Some(match port {
            _ if pic::PORTS.contains(&port) || pic::ELCR_PORTS.contains(&port) => {
                self.pic.read(port)
            }
            0x40..=0x43 | 0x61 => {
                self.advance_pit(now_ns);
                self.pit.read(port, now_ns)
            }
            _ if i8042::PORTS.contains(&port) => self.i8042.read(port),
            _ if rtc::PORTS.contains(&port) => self.rtc.read(port, now_ns),
            _ if SILENT.contains(&port) => 0xff,
            CONTROL_A => 0x02,
            SERIAL..=0x3ff => self.uart.read(port - SERIAL),
            pci::RESET => self.pci.read_reset(),
            _ => return self.vga.read(port),
        })
    }

    /// Whether someone claimed the byte.
    fn write_byte(&mut self, port: u16, value: u8, now_ns: u64) -> bool {
        match port {
            _ if pic::PORTS.contains(&port) || pic::ELCR_PORTS.contains(&port) => {
                self.pic.write(port, value);
            }
            0x40..=0x43 | 0x61 => {
                self.advance_pit(now_ns);
                self.pit.write(port, value, now_ns);
            }
            _ if i8042::PORTS.contains(&port) => {
                if self.i8042.write(port, value) {
                    self.push(Event::Reset);
                }
            }
            _ if rtc::PORTS.contains(&port) => self.rtc.write(port, value, now_ns),
            _ if SILENT.contains(&port) => {}
            CONTROL_A => {
                if value & 1 != 0 {
                    self.push(Event::Reset);
                }
            }
            SERIAL..=0x3ff => {
                self.uart.write(port - SERIAL, value);
            }
            pci::RESET => {
                let event = self.pci.write_reset(value);
                self.power(event);
            }
            _ => return self.vga.write(port, value),
        }
        true
    }
}

/// The offset of an access that lies entirely in a block of ports.
fn within(port: u16, size: u8, base: u16, length: u16) -> Option<u16> {
    let offset = port.checked_sub(base)?;
    (offset.checked_add(size.into())? <= length).then_some(offset)
}

/// The offset in a 4 KiB page.
fn in_page(address: u64, page: u64) -> Option<u64> {
    (address & !0xfff == page).then_some(address & 0xfff)
}
