//! Keys and bytes between the serial line, the prompt and the guests.
use crate::guest::Running;
use crate::serial::Serial;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use root::console::{Action, Console, Focus};
use rt::Boot;
use rt::instructions::{outb, outw};
use rt::sync::{Semaphore, after_us};
use vmm::control::End;

/// Longest sleep when keys announce themselves, and when they do not, in microseconds.
const LONG_US: u64 = 100_000;
const SHORT_US: u64 = 5_000;
const CHUNK: usize = 4096;
/// Bochs ends when it reads this word at its port.
const BOCHS_PORT: u16 = 0x8900;

/// The console with everything it serves.
pub struct Terminal {
    /// The machine.
    pub boot: Boot,
    /// The line.
    pub serial: Serial,
    /// Up when there is something to do.
    pub wake: Semaphore,
    /// Guests that were started.
    pub guests: Vec<Running>,
    /// Names of guests in the manifest that were not started.
    pub others: Vec<String>,
    /// Who has the keys, how lines stay apart.
    pub console: Console,
}

impl Terminal {
    /// Serves for ever.
    pub fn serve(&mut self) -> ! {
        let mut out = Vec::new();
        if self.console.focus() == Focus::Prompt {
            self.console.to_prompt(&mut out);
        }
        loop {
            self.serial.acknowledge();
            while let Some(key) = self.serial.key() {
                match self.console.key(key, &mut out) {
                    Action::None => {}
                    Action::Guest(index, byte) => self.to_guest(index, byte),
                    Action::Command(line) => self.command(&line, &mut out),
                }
            }
            for index in 0..self.guests.len() {
                self.from_guest(index, &mut out);
            }
            self.serial.send(&out);
            out.clear();
            let pause = if self.serial.interrupts() { LONG_US } else { SHORT_US };
            let _ = rt::calls::sm_down_all(self.wake.selector(), after_us(pause));
        }
    }

    fn to_guest(&self, index: usize, byte: u8) {
        let Some(guest) = self.guests.get(index) else { return };
        guest.keys.write(&[byte]);
        let _ = guest.wake.up();
    }

    /// Bytes of the guest, lines of its monitor, its end.
    fn from_guest(&mut self, index: usize, out: &mut Vec<u8>) {
        let Some(guest) = self.guests.get_mut(index) else { return };
        let mut buffer = vec![0; CHUNK];
        let ended = End::from_word(guest.messages.status());
        let count = guest.out.read(&mut buffer);
        self.console.guest_output(buffer.get(..count).unwrap_or_default(), out);
        let count = guest.messages.read(&mut buffer);
        let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
        let who = format!("vmm {}", guest.name);
        for line in text.lines() {
            self.console.message(&who, line, out);
        }
        if ended != End::Running && !guest.ended {
            guest.ended = true;
            self.console.set_home(None);
            if self.console.focus() == Focus::Guest(index) {
                self.console.to_prompt(out);
            }
        }
    }

    fn command(&mut self, line: &str, out: &mut Vec<u8>) {
        match line.trim() {
            "" => {}
            "help" => {
                for text in [
                    "list           guests and how they are",
                    "attach [NAME]  the keys go to a guest; Ctrl-] comes back here",
                    "poweroff       switch the machine off",
                ] {
                    out.extend_from_slice(format!("{text}\r\n").as_bytes());
                }
            }
            "list" => self.list(out),
            attach if attach == "attach" || attach.starts_with("attach ") => {
                let name = attach.strip_prefix("attach").unwrap_or_default().trim();
                let wanted =
                    |guest: &Running| !guest.ended && (name.is_empty() || guest.name == name);
                match self.guests.iter().position(wanted) {
                    Some(index) => return self.console.to_guest(index, out),
                    None => out.extend_from_slice(b"no such guest runs\r\n"),
                }
            }
            "poweroff" => self.power_off(),
            other => out.extend_from_slice(format!("{other}? try help\r\n").as_bytes()),
        }
        self.console.to_prompt(out);
    }

    fn list(&self, out: &mut Vec<u8>) {
        for guest in &self.guests {
            let state = match End::from_word(guest.messages.status()) {
                End::Running => "runs",
                End::PoweredOff => "powered off",
                End::Reset => "reset itself",
                End::Stopped => "stopped",
            };
            out.extend_from_slice(format!("{:15} {state}\r\n", guest.name).as_bytes());
        }
        for name in &self.others {
            out.extend_from_slice(format!("{name:15} not started\r\n").as_bytes());
        }
    }

    /// Writes SLP_EN with sleep type 0 to the PM1a control register, which is S5 on QEMU's boards;
    /// the firmware's own \_S5 type is not looked up yet. Then the word that ends Bochs.
    fn power_off(&self) {
        let acpi = self.boot.hip.0;
        let port = acpi.get(116..118).map_or(0, |bytes| match bytes {
            [low, high] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        });
        if port != 0 && rt::memory::delegate_ports(port & !1, 1).is_ok() {
            outw(port, 1 << 13);
        }
        if rt::memory::delegate_ports(BOCHS_PORT, 0).is_ok() {
            for byte in *b"Shutdown" {
                outb(BOCHS_PORT, byte);
            }
        }
    }
}
