//! Text to COM1, a 16550 (National Semiconductor PC16550D).

use crate::machine;
use core::fmt;

const COM1: u16 = 0x3f8;
/// Line status register.
const STATUS: u16 = COM1 + 5;
/// The transmitter takes a byte.
const READY: u8 = 1 << 5;

/// The serial line.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while machine::in8(STATUS) & READY == 0 {}
            machine::out8(COM1, byte);
        }
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($words:tt)*) => {{
        use core::fmt::Write as _;
        // The serial line takes everything.
        let _ = writeln!($crate::console::Console, $($words)*);
    }};
}
