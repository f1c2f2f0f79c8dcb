//! Writes to COM1, the kernel's console.
//!
//! Nothing waits for ever: a machine without the port (all reads ones) or with a stuck one loses text,
//! not time. Registers: 16550 data sheet; port numbers as on every PC.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use x86_64::instructions::port::Port;

const COM1: u16 = 0x3f8;
/// Line status: transmitter holding register empty.
const EMPTY: u8 = 1 << 5;
/// Polls before a byte is given up.
const PATIENCE: u32 = 100_000;

static PRESENT: AtomicBool = AtomicBool::new(false);

/// Programs 115200 baud, 8 bits, no parity, FIFO on, no interrupts; finds out whether there is a port.
pub fn start() {
    // 8 bits first: some emulators start in 5-bit mode. Then divisor 1 behind DLAB.
    for (register, value) in
        [(3, 0x03), (1, 0x00), (3, 0x83), (0, 1), (1, 0), (3, 0x03), (2, 0xc7), (4, 0x03)]
    {
        write(register, value);
    }
    // The scratch register keeps what it is given if a UART is there.
    write(7, 0x5a);
    PRESENT.store(read(7) == 0x5a || read(5) != 0xff, Relaxed);
}

/// Sends bytes; LF becomes CR LF.
pub fn send(bytes: &[u8]) {
    if !PRESENT.load(Relaxed) {
        return;
    }
    for &byte in bytes {
        if byte == b'\n' {
            send_byte(b'\r');
        }
        send_byte(byte);
    }
}

fn send_byte(byte: u8) {
    for _ in 0..PATIENCE {
        if read(5) & EMPTY != 0 {
            break;
        }
        core::hint::spin_loop();
    }
    write(0, byte);
}

fn write(register: u16, value: u8) {
    // SAFETY: the COM1 registers; writing them affects nothing but the serial line.
    unsafe { Port::new(COM1 + register).write(value) }
}

fn read(register: u16) -> u8 {
    // SAFETY: as `write`; no register read here has a side effect that anybody relies on.
    unsafe { Port::new(COM1 + register).read() }
}
