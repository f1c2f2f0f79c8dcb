//! An I/O APIC with 24 pins (Intel 82093AA data sheet, 290566-001; the EOI register: Intel ICH
//! data sheets, "I/O APIC: EOI register").
//!
//! Modelled: indirect registers, edge and level pins, masks, remote IRR, EOI by broadcast and by
//! register (version 0x20), clearing remote IRR by a switch to edge. An edge on a masked pin is
//! forgotten, as the data sheet says.
//!
//! Not modelled: polarity (a wire is asserted or not; ACPI tables say which way), arbitration.
//! Messages arrive at once, so delivery status is always idle.

use crate::message::{Destination, Message, Mode, Trigger};

/// Physical address of the register page.
pub const BASE: u64 = 0xfec0_0000;
/// Number of pins.
pub const PINS: usize = 24;

/// Redirection entry: logical destination, delivery status, remote IRR, level, masked.
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// The bits of an entry that software sets.
const WRITABLE: u64 = 0xff00_0000_0001_afff;
/// Version 0x20, highest entry 23.
const VERSION: u32 = 0x0017_0020;

/// The controller.
#[derive(Debug, Clone)]
pub struct IoApic {
    id: u8,
    select: u8,
    entries: [u64; PINS],
    lines: u32,
    /// Edges that wait for [`IoApic::take_message`].
    edges: u32,
}

impl IoApic {
    /// After reset: all pins masked.
    #[must_use]
    pub fn new(id: u8) -> Self {
        Self { id: id & 0xf, select: 0, entries: [MASKED; PINS], lines: 0, edges: 0 }
    }

    /// The guest reads 32 bits at `offset` of the register page.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset & 0xff0 {
            0x00 => self.select.into(),
            0x10 => match self.select {
                0 | 2 => u32::from(self.id) << 24,
                1 => VERSION,
                select => self.entry(select).map_or(0, |entry| {
                    let half = if select & 1 == 0 { entry } else { entry >> 32 };
                    half as u32
                }),
            },
            _ => 0,
        }
    }

    /// The guest writes 32 bits at `offset` of the register page. Messages may be ready
    /// afterwards.
    pub fn write(&mut self, offset: u64, value: u32) {
        match (offset & 0xff0, self.select) {
            (0x00, _) => self.select = value as u8,
            (0x10, 0) => self.id = (value >> 24) as u8 & 0xf,
            (0x10, select) => {
                let Some(old) = self.entry(select) else { return };
                let new = if select & 1 == 0 {
                    old & !0xffff_ffff | u64::from(value)
                } else {
                    old & 0xffff_ffff | u64::from(value) << 32
                };
                let mut entry = new & WRITABLE | old & REMOTE_IRR;
                if entry & LEVEL == 0 {
                    entry &= !REMOTE_IRR;
                }
                if let Some(slot) = self.entries.get_mut(usize::from(select - 0x10) / 2) {
                    *slot = entry;
                }
            }
            (0x40, _) => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }

    /// A device drives the wire of `pin`; pins from 24 up are ignored. Messages may be ready
    /// afterwards.
    pub fn set_line(&mut self, pin: u8, high: bool) {
        let Some(entry) = self.entries.get(usize::from(pin)) else { return };
        let bit = 1 << (pin & 31);
        if !high {
            self.lines &= !bit;
            return;
        }
        if self.lines & bit == 0 && entry & (LEVEL | MASKED) == 0 {
            self.edges |= bit;
        }
        self.lines |= bit;
    }

    /// A level-triggered interrupt with `vector` ended on some processor. A pin that is still
    /// asserted has a new message ready afterwards.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.entries {
            if *entry & LEVEL != 0 && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
            }
        }
    }

    /// Takes the next message to deliver, lowest pin first. Call until there is none.
    pub fn take_message(&mut self) -> Option<Message> {
        // Most of the time nothing is asserted, and this is asked after every access.
        let mut asserted = self.edges | self.lines;
        while asserted != 0 {
            let pin = asserted.trailing_zeros();
            let bit = 1 << pin;
            asserted &= !bit;
            let Some(entry) = self.entries.get_mut(pin as usize) else { break };
            let level = *entry & LEVEL != 0;
            let due = if level {
                self.lines & bit != 0 && *entry & REMOTE_IRR == 0
            } else {
                self.edges & bit != 0
            };
            self.edges &= !bit;
            if !due || *entry & MASKED != 0 {
                continue;
            }
            if level {
                *entry |= REMOTE_IRR;
            }
            // Start-up messages cannot come from a pin; a reserved mode sends nothing.
            let Some(mode) = Mode::from_bits((*entry >> 8) as u32).filter(|m| *m != Mode::StartUp)
            else {
                continue;
            };
            return Some(Message {
                vector: *entry as u8,
                mode,
                trigger: if level { Trigger::Level } else { Trigger::Edge },
                destination: Destination::from_byte((*entry >> 56) as u8, *entry & LOGICAL != 0),
            });
        }
        None
    }

    fn entry(&self, select: u8) -> Option<u64> {
        self.entries.get(usize::from(select.checked_sub(0x10)?) / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(apic: &mut IoApic, pin: u8, entry: u64) {
        for (half, value) in [(1, (entry >> 32) as u32), (0, entry as u32)] {
            apic.write(0, u32::from(0x10 + 2 * pin + half));
            apic.write(0x10, value);
        }
    }

    fn low_half(apic: &mut IoApic, pin: u8) -> u32 {
        apic.write(0, u32::from(0x10 + 2 * pin));
        apic.read(0x10)
    }

    #[test]
    fn linux_reads_identifier_and_version() {
        let mut apic = IoApic::new(5);
        apic.write(0, 1);
        assert_eq!(apic.read(0x10), 0x0017_0020);
        apic.write(0, 0);
        assert_eq!(apic.read(0x10), 5 << 24);
        assert_eq!(low_half(&mut apic, 23), 0x1_0000);
        apic.write(0, 0x40);
        assert_eq!(apic.read(0x10), 0);
    }

    #[test]
    fn an_edge_is_one_message_and_none_while_masked() {
        let mut apic = IoApic::new(0);
        apic.set_line(4, true);
        assert_eq!(apic.take_message(), None);
        program(&mut apic, 4, 3 << 56 | LOGICAL | 0x31);
        assert_eq!(apic.take_message(), None, "edges while masked are forgotten");
        apic.set_line(4, false);
        apic.set_line(4, true);
        let expected = Message {
            vector: 0x31,
            mode: Mode::Fixed,
            trigger: Trigger::Edge,
            destination: Destination::Logical(3),
        };
        assert_eq!(apic.take_message(), Some(expected));
        assert_eq!(apic.take_message(), None);
    }

    #[test]
    fn a_level_waits_for_its_eoi() {
        let mut apic = IoApic::new(0);
        program(&mut apic, 9, LEVEL | 0x39);
        apic.set_line(9, true);
        assert_eq!(apic.take_message().unwrap().trigger, Trigger::Level);
        assert_eq!(low_half(&mut apic, 9), 0xc039);
        assert_eq!(apic.take_message(), None);
        apic.end_of_interrupt(0x38);
        assert_eq!(apic.take_message(), None);
        apic.end_of_interrupt(0x39);
        assert!(apic.take_message().is_some(), "still asserted");
        apic.set_line(9, false);
        apic.write(0x40, 0x39);
        assert_eq!(apic.take_message(), None);
        assert_eq!(low_half(&mut apic, 9), 0x8039);
    }

    #[test]
    fn switching_to_edge_clears_remote_irr() {
        let mut apic = IoApic::new(0);
        program(&mut apic, 9, LEVEL | 0x39);
        apic.set_line(9, true);
        assert!(apic.take_message().is_some());
        program(&mut apic, 9, MASKED | 0x39);
        program(&mut apic, 9, MASKED | LEVEL | 0x39);
        assert_eq!(low_half(&mut apic, 9) & 0x4000, 0);
    }
}
