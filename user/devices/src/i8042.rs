//! A keyboard controller with nothing plugged in (IBM PC/AT technical reference, "keyboard
//! controller"; Intel 8042 as Linux's `drivers/input/serio/i8042.c` uses it).
//!
//! Modelled: command byte, self test, interface tests, output port with the reset line, the
//! pulse command by which PCs reset. A byte sent to the missing keyboard is answered at once by
//! "resend" with the time-out flag, so a driver that probes gives up quickly; the auxiliary port
//! answers its loop test through the wrong buffer, so a driver sees that there is none.
//!
//! Not modelled: the A20 gate (memory never wraps), a keyboard, a mouse, the password.

use alloc::collections::VecDeque;

/// Data port, and status (read) and command (write) port.
pub const PORTS: [u16; 2] = [0x60, 0x64];

/// Status: output buffer full, system flag, last write was a command, not locked, time-out.
const STATUS_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;
const STATUS_TIMEOUT: u8 = 1 << 6;
/// Command byte: keyboard interrupt.
const INTERRUPT: u8 = 1 << 0;
/// Answers that wait at most; a driver that never reads gets no more.
const WAITING: usize = 16;
/// "Resend", what a controller puts in the buffer when the keyboard does not take a byte.
const RESEND: u8 = 0xfe;

/// Where the next byte written to the data port goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Keyboard,
    Memory(u8),
    OutputPort,
    /// Echoed into the output buffer (commands 0xd2 and 0xd3).
    Echo,
    /// The auxiliary device, which does not exist.
    Nowhere,
}

/// The controller.
#[derive(Debug, Clone)]
pub struct I8042 {
    memory: [u8; 32],
    answers: VecDeque<(u8, bool)>,
    target: Target,
    last_was_command: bool,
}

impl Default for I8042 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8042 {
    /// As firmware leaves it: system flag set, both ports disabled, no interrupts.
    #[must_use]
    pub fn new() -> Self {
        let mut memory = [0; 32];
        memory[0] = 0x34;
        Self { memory, answers: VecDeque::new(), target: Target::Keyboard, last_was_command: false }
    }

    /// The guest reads one of [`PORTS`]; all ones from any other.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            // An empty buffer shows 0; no driver reads it without looking at the status.
            0x60 => self.answers.pop_front().map_or(0, |(byte, _)| byte),
            0x64 => {
                let mut status = STATUS_UNLOCKED | self.memory[0] & STATUS_SYSTEM;
                if self.last_was_command {
                    status |= STATUS_COMMAND;
                }
                if let Some((_, timed_out)) = self.answers.front() {
                    status |= STATUS_FULL | if *timed_out { STATUS_TIMEOUT } else { 0 };
                }
                status
            }
            _ => 0xff,
        }
    }

    /// The guest writes one of [`PORTS`]; dropped at any other. `true`: the processor's reset
    /// line was pulsed.
    #[must_use]
    pub fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            0x60 => {
                self.last_was_command = false;
                self.write_data(value)
            }
            0x64 => {
                self.last_was_command = true;
                self.command(value)
            }
            _ => false,
        }
    }

    /// The keyboard interrupt, IRQ 1.
    #[must_use]
    pub fn irq(&self) -> bool {
        self.memory[0] & INTERRUPT != 0 && !self.answers.is_empty()
    }

    fn answer(&mut self, byte: u8, timed_out: bool) {
        if self.answers.len() < WAITING {
            self.answers.push_back((byte, timed_out));
        }
    }

    fn write_data(&mut self, value: u8) -> bool {
        match core::mem::replace(&mut self.target, Target::Keyboard) {
            Target::Keyboard => self.answer(RESEND, true),
            Target::Memory(cell) => self.memory[usize::from(cell & 31)] = value,
            // Output port bit 0 is the reset line, active low.
            Target::OutputPort => return value & 1 == 0,
            Target::Echo => self.answer(value, false),
            Target::Nowhere => {}
        }
        false
    }

    fn command(&mut self, value: u8) -> bool {
        self.target = Target::Keyboard;
        match value {
            0x20..=0x3f => self.answer(self.memory[usize::from(value & 31)], false),
            0x60..=0x7f => self.target = Target::Memory(value & 31),
            0xa7 => self.memory[0] |= 1 << 5,
            0xa8 => self.memory[0] &= !(1 << 5),
            // Auxiliary interface test: "clock line stuck low", that is, nothing there.
            0xa9 => self.answer(0x01, false),
            0xaa => {
                self.answers.clear();
                self.memory[0] |= STATUS_SYSTEM;
                self.answer(0x55, false);
            }
            0xab => self.answer(0x00, false),
            0xad => self.memory[0] |= 1 << 4,
            0xae => self.memory[0] &= !(1 << 4),
            0xd0 => self.answer(0x03, false),
            0xd1 => self.target = Target::OutputPort,
            0xd2 | 0xd3 => self.target = Target::Echo,
            0xd4 => self.target = Target::Nowhere,
            // Pulse the lines whose bits are 0; bit 0 is reset.
            0xf0..=0xff => return value & 1 == 0,
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pulse_resets() {
        let mut controller = I8042::new();
        assert!(controller.write(0x64, 0xfe));
        assert!(!controller.write(0x64, 0xff));
        assert!(!controller.write(0x64, 0xd1));
        assert!(controller.write(0x60, 0x02));
    }

    #[test]
    fn linux_probe_ends_quickly() {
        let mut controller = I8042::new();
        // i8042_flush() finds nothing, the self test passes.
        assert_eq!(controller.read(0x64) & STATUS_FULL, 0);
        assert!(!controller.write(0x64, 0xaa));
        assert_eq!(controller.read(0x60), 0x55);
        // The loop test of the auxiliary port answers without the AUX bit: "no such port".
        assert!(!controller.write(0x64, 0xd3));
        assert!(!controller.write(0x60, 0x5a));
        assert_eq!(controller.read(0x64) & 0x21, STATUS_FULL);
        assert_eq!(controller.read(0x60), 0x5a);
        // The keyboard times out at once, with an interrupt.
        assert!(!controller.write(0x64, 0x60));
        assert!(!controller.write(0x60, 0x45));
        assert!(!controller.write(0x60, 0xf2));
        assert!(controller.irq());
        assert_eq!(controller.read(0x64) & (STATUS_FULL | STATUS_TIMEOUT), 0x41);
        assert_eq!(controller.read(0x60), RESEND);
        assert!(!controller.irq());
    }

    #[test]
    fn answers_are_bounded() {
        let mut controller = I8042::new();
        for _ in 0..1000 {
            assert!(!controller.write(0x60, 0xff));
        }
        assert_eq!(controller.answers.len(), WAITING);
    }
}
