//! The first serial port, as a place to print.

use crate::instructions::{inb, outb};
use crate::log::{Sink, set_sink};
use crate::memory::delegate_ports;
use abi::Status;

/// First I/O port of the UART.
const BASE: u16 = 0x3f8;
/// Line status register: the transmitter takes a byte.
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Line status register: a byte has come in.
const DATA_READY: u8 = 1 << 0;
/// Status reads before a byte is given up.
const PATIENCE: u32 = 100_000;

/// The port.
pub struct Com1;

/// The one instance.
pub static COM1: Com1 = Com1;

impl Sink for Com1 {
    fn write(&self, text: &str) {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
    }
}

impl Com1 {
    /// Sends one byte as it is. A port that never gets ready loses it.
    pub fn put(&self, byte: u8) {
        for _ in 0..PATIENCE {
            if inb(BASE + 5) & TRANSMITTER_EMPTY != 0 {
                break;
            }
        }
        outb(BASE, byte);
    }

    /// The byte that came in, if any.
    #[must_use]
    pub fn get(&self) -> Option<u8> {
        (inb(BASE + 5) & DATA_READY != 0).then(|| inb(BASE))
    }
}

/// Takes the port from the kernel (the root program can), sets it to 115200
/// 8N1 without interrupts and prints there from now on.
///
/// # Errors
/// What `pd_ctrl` refuses.
pub fn open() -> Result<(), Status> {
    delegate_ports(BASE, 3)?;
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 0xb)] {
        outb(BASE + register, value);
    }
    set_sink(&COM1);
    Ok(())
}
