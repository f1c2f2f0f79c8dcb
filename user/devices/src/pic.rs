//! The pair of 8259A interrupt controllers of a PC/AT (Intel 8259A data sheet, 231468-003; ELCR:
//! Intel 82371SB PIIX3 data sheet, 2.5.5).
//!
//! Modelled: ICW1 to ICW4, OCW1 to OCW3, fixed and rotating priorities, special mask mode, poll
//! mode, automatic EOI, special fully nested mode, level and edge inputs by ELCR, the cascade on
//! the master's input 2, spurious interrupts (IR7 of the chip asked).
//!
//! Not modelled: the MCS-80/85 mode and its call vectors, buffered mode, slaves elsewhere than on
//! input 2. An edge stays latched when its input falls before it is acknowledged, as in the
//! south bridges of PCs and unlike the original chip.

/// I/O ports: master command, master data, slave command, slave data.
pub const PORTS: [u16; 4] = [0x20, 0x21, 0xa0, 0xa1];
/// I/O ports of the two edge/level control registers.
pub const ELCR_PORTS: [u16; 2] = [0x4d0, 0x4d1];
/// The master's input that the slave's output is wired to.
const CASCADE: u8 = 2;
/// ELCR bits that can be set: IRQ 0, 1, 2, 8 and 13 are always edge-triggered.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// Which initialisation word the data port takes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// One chip.
#[derive(Debug, Clone)]
struct Chip {
    /// Input wires, latched requests, in-service, mask, level-triggered inputs.
    lines: u8,
    requests: u8,
    service: u8,
    mask: u8,
    level: u8,
    /// Vector of input 0; the low three bits are clear.
    base: u8,
    /// The input with the highest priority.
    top: u8,
    expect: Expect,
    wants_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    fully_nested: bool,
    poll: bool,
    read_service: bool,
    /// Inputs with a chip behind them (the master's cascade).
    slaves: u8,
}

impl Chip {
    fn new(slaves: u8) -> Self {
        Self {
            lines: 0,
            requests: 0,
            service: 0,
            mask: 0xff,
            level: 0,
            base: 0,
            top: 0,
            expect: Expect::Mask,
            wants_icw4: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            fully_nested: false,
            poll: false,
            read_service: false,
            slaves,
        }
    }

    fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1 << (input & 7);
        if !high {
            self.lines &= !bit;
            if self.level & bit != 0 {
                self.requests &= !bit;
            }
        } else {
            if self.level & bit != 0 || self.lines & bit == 0 {
                self.requests |= bit;
            }
            self.lines |= bit;
        }
    }

    /// The most urgent input in `set`, and how many inputs come before it.
    fn most_urgent(&self, set: u8) -> Option<(u8, u8)> {
        // From the input with the highest priority on, which comes to stand at bit 0.
        let ranked = set.rotate_right(self.top.into());
        let rank = u8::try_from(ranked.trailing_zeros()).ok().filter(|_| set != 0)?;
        Some((self.top.wrapping_add(rank) & 7, rank))
    }

    /// The input that the chip asks the processor to serve.
    fn output(&self) -> Option<u8> {
        let (input, rank) = self.most_urgent(self.requests & !self.mask)?;
        let mut service = self.service;
        if self.special_mask {
            service &= !self.mask;
        }
        // In special fully nested mode a slave in service does not lock out its other inputs.
        if self.fully_nested {
            service &= !(self.slaves & 1 << input);
        }
        match self.most_urgent(service) {
            Some((_, served)) if served <= rank => None,
            _ => Some(input),
        }
    }

    /// The processor acknowledges `input`: from requested to in service.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << (input & 7);
        if self.level & bit == 0 {
            self.requests &= !bit;
        }
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.top = input.wrapping_add(1) & 7;
            }
        } else {
            self.service |= bit;
        }
    }

    fn end(&mut self, input: u8, rotate: bool) {
        self.service &= !(1 << (input & 7));
        if rotate {
            self.top = input.wrapping_add(1) & 7;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1 (data sheet, "Initialization command words"): the edge sense circuits, the
            // mask, in-service and priorities are reset. The inputs and ELCR stay.
            let fresh = Chip {
                lines: self.lines,
                requests: self.lines & self.level,
                level: self.level,
                mask: 0,
                expect: Expect::Icw2,
                wants_icw4: value & 1 != 0,
                single: value & 2 != 0,
                ..Chip::new(self.slaves)
            };
            *self = fresh;
        } else if value & 0x08 != 0 {
            if value & 0x04 != 0 {
                self.poll = true;
            }
            if value & 0x02 != 0 {
                self.read_service = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            let rotate = value & 0x80 != 0;
            match value >> 5 {
                // Non-specific EOI. In special mask mode a masked input is not ended.
                1 | 5 => {
                    let hidden = if self.special_mask { self.mask } else { 0 };
                    if let Some((input, _)) = self.most_urgent(self.service & !hidden) {
                        self.end(input, rotate);
                    }
                }
                3 | 7 => self.end(value & 7, rotate),
                6 => self.top = value.wrapping_add(1) & 7,
                0 | 4 => self.rotate_on_auto_eoi = rotate,
                _ => {}
            }
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expect = match self.expect {
            Expect::Mask => {
                self.mask = value;
                Expect::Mask
            }
            Expect::Icw2 => {
                self.base = value & 0xf8;
                match (self.single, self.wants_icw4) {
                    (false, _) => Expect::Icw3,
                    (true, true) => Expect::Icw4,
                    (true, false) => Expect::Mask,
                }
            }
            Expect::Icw3 if self.wants_icw4 => Expect::Icw4,
            Expect::Icw3 => Expect::Mask,
            Expect::Icw4 => {
                self.auto_eoi = value & 0x02 != 0;
                self.fully_nested = value & 0x10 != 0;
                Expect::Mask
            }
        };
    }

    fn read(&mut self, data: bool) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.output() {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (data, self.read_service) {
            (true, _) => self.mask,
            (false, true) => self.service,
            (false, false) => self.requests,
        }
    }
}

/// Master and slave, wired as in a PC: IRQ 0 to 7 and 8 to 15.
#[derive(Debug, Clone)]
pub struct PicPair {
    master: Chip,
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self::new()
    }
}

impl PicPair {
    /// Both chips masked and uninitialised.
    #[must_use]
    pub fn new() -> Self {
        Self { master: Chip::new(1 << CASCADE), slave: Chip::new(0) }
    }

    /// The guest reads one of [`PORTS`] or [`ELCR_PORTS`]; all ones from any other port.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 => self.master.read(port & 1 != 0),
            0xa0 | 0xa1 => self.slave.read(port & 1 != 0),
            0x4d0 => self.master.level,
            0x4d1 => self.slave.level,
            _ => 0xff,
        };
        self.cascade();
        value
    }

    /// The guest writes one of [`PORTS`] or [`ELCR_PORTS`]; dropped at any other port.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.master.write_command(value),
            0x21 => self.master.write_data(value),
            0xa0 => self.slave.write_command(value),
            0xa1 => self.slave.write_data(value),
            0x4d0 => self.master.level = value & ELCR_MASK[0],
            0x4d1 => self.slave.level = value & ELCR_MASK[1],
            _ => {}
        }
        self.cascade();
    }

    /// A device drives its interrupt wire; `irq` 0 to 15, others and 2 (the cascade) are ignored.
    pub fn set_line(&mut self, irq: u8, high: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.master.set_line(irq, high),
            8..16 => self.slave.set_line(irq & 7, high),
            _ => {}
        }
        self.cascade();
    }

    /// The INT output to the processor (or its local APIC's LINT0).
    #[must_use]
    pub fn pending(&self) -> bool {
        self.master.output().is_some()
    }

    /// The processor's two INTA cycles: the vector to deliver. With nothing pending this is the
    /// spurious vector, input 7, and nothing goes into service.
    pub fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.output() else {
            return self.master.base | 7;
        };
        self.master.acknowledge(input);
        let vector = if input == CASCADE {
            match self.slave.output() {
                Some(behind) => {
                    self.slave.acknowledge(behind);
                    self.slave.base | behind
                }
                None => self.slave.base | 7,
            }
        } else {
            self.master.base | input
        };
        self.cascade();
        vector
    }

    /// The slave's output is the master's input 2. Each request of the slave is a new edge for
    /// the master: the wire falls when the slave has been acknowledged.
    fn cascade(&mut self) {
        let asks = self.slave.output().is_some();
        if !asks {
            self.master.requests &= !(1 << CASCADE);
        }
        self.master.set_line(CASCADE, false);
        self.master.set_line(CASCADE, asks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Initialised as Linux does: vectors 0x30 and 0x38, nothing masked.
    fn ready() -> PicPair {
        let mut pic = PicPair::new();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 2),
            (0xa1, 1),
            (0x21, 0),
            (0xa1, 0),
        ] {
            pic.write(port, value);
        }
        pic
    }

    #[test]
    fn edge_is_served_once() {
        let mut pic = ready();
        pic.set_line(4, true);
        assert!(pic.pending());
        assert_eq!(pic.acknowledge(), 0x34);
        assert!(!pic.pending());
        pic.write(0x20, 0x64);
        assert!(!pic.pending(), "no new edge");
        pic.set_line(4, false);
        pic.set_line(4, true);
        assert!(pic.pending());
    }

    #[test]
    fn level_comes_back_until_the_wire_falls() {
        let mut pic = ready();
        pic.write(0x4d1, 0x02);
        assert_eq!(pic.read(0x4d1), 0x02);
        pic.set_line(9, true);
        assert_eq!(pic.acknowledge(), 0x39);
        assert!(!pic.pending());
        pic.write(0xa0, 0x61);
        pic.write(0x20, 0x62);
        assert!(pic.pending());
        pic.set_line(9, false);
        assert!(!pic.pending());
        pic.write(0x4d0, 0xff);
        assert_eq!(pic.read(0x4d0), 0xf8);
    }

    #[test]
    fn priorities_nest_and_rotate() {
        let mut pic = ready();
        pic.set_line(5, true);
        assert_eq!(pic.acknowledge(), 0x35);
        pic.set_line(6, true);
        assert!(!pic.pending());
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x31);
        pic.write(0x20, 0x20);
        assert!(!pic.pending(), "5 still in service");
        pic.write(0x20, 0xa0);
        assert_eq!(pic.acknowledge(), 0x36);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0x40);
        // After the rotation 6 is the most urgent, 5 the least.
        pic.write(0x20, 0x20);
        pic.set_line(5, false);
        pic.set_line(5, true);
        pic.set_line(7, true);
        assert_eq!(pic.acknowledge(), 0x37);
    }

    #[test]
    fn slave_requests_follow_each_other() {
        let mut pic = ready();
        pic.set_line(8, true);
        pic.set_line(12, true);
        assert_eq!(pic.acknowledge(), 0x38);
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x3c);
    }

    #[test]
    fn spurious_and_poll() {
        let mut pic = ready();
        assert_eq!(pic.acknowledge(), 0x37);
        assert!(!pic.pending());
        pic.set_line(3, true);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0x83);
        assert!(!pic.pending());
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0);
    }

    #[test]
    fn special_mask_and_auto_eoi() {
        let mut pic = ready();
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x30);
        pic.write(0x21, 0x01);
        pic.write(0x20, 0x68);
        pic.set_line(7, true);
        assert!(pic.pending());
        let mut auto = ready();
        for (port, value) in [(0x20, 0x11), (0x21, 0x40), (0x21, 4), (0x21, 3), (0x21, 0)] {
            auto.write(port, value);
        }
        auto.set_line(2, true);
        assert!(!auto.pending());
        auto.set_line(7, true);
        assert_eq!(auto.acknowledge(), 0x47);
        auto.set_line(6, true);
        assert_eq!(auto.acknowledge(), 0x46);
    }

    #[test]
    fn linux_probe_reads_its_mask_back() {
        let mut pic = ready();
        pic.write(0xa1, 0xff);
        pic.write(0x21, 0xfb);
        assert_eq!(pic.read(0x21), 0xfb);
    }
}
