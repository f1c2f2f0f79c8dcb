//! Connects the user's terminal with a machine's serial line, both ways, until it ends or the user
//! leaves with Ctrl-\. Ctrl-] belongs to the machine: it switches between a guest and the prompt.

use anyhow::{Context, Result};
use driver::serial::Serial;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read, stdin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Ctrl-\.
const ESCAPE: u8 = 0x1c;

/// Why the conversation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The user typed Ctrl-\, or a signal asked us to go.
    ByKey,
    /// The machine ended.
    MachineEnded,
}

/// The terminal as it was; dropping this puts it back.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        // Output keeps its line ends: messages of our own stay readable.
        raw.output_modes = before.output_modes;
        tcsetattr(stdin(), OptionalActions::Now, &raw)
            .context("cannot change the terminal's settings")?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing better can be done if the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Whether there is a terminal to connect.
pub fn present() -> bool {
    stdin().is_terminal()
}

/// Lets the user talk to the machine. Without a terminal the bytes of standard input are passed on
/// as they are, and its end ends nothing.
pub fn converse(serial: &mut Serial, interrupted: &AtomicBool) -> Result<Left> {
    let raw = if present() { Some(Raw::enter()?) } else { None };
    let keys = keyboard();
    let left = loop {
        if interrupted.load(Ordering::Relaxed) {
            break Left::ByKey;
        }
        let mut escaped = false;
        for byte in keys.try_iter() {
            if raw.is_some() && byte == ESCAPE {
                escaped = true;
                break;
            }
            serial.emulator().type_byte(byte);
        }
        if escaped {
            break Left::ByKey;
        }
        serial.listen(Duration::from_millis(10))?;
        if serial.closed() {
            break Left::MachineEnded;
        }
    };
    drop(raw);
    Ok(left)
}

/// Standard input, byte by byte. The thread stays in its read when we leave; it ends with us.
fn keyboard() -> Receiver<u8> {
    let (sender, bytes) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stdin().lock().read(&mut buffer) {
            for byte in buffer.iter().take(count) {
                if sender.send(*byte).is_err() {
                    return;
                }
            }
        }
    });
    bytes
}
