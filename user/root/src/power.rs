//! Switching the machine off and starting it again.
use rt::Boot;
use rt::instructions::{outb, outw};

/// Bochs ends when it reads this word at its port.
const BOCHS_PORT: u16 = 0x8900;
/// The reset control register of PC chip sets: 2 then 6 is a hard reset.
const RESET_CONTROL: u16 = 0xcf9;
/// The keyboard controller's command port; 0xfe pulses the reset line.
const KEYBOARD: u16 = 0x64;

/// Writes SLP_EN with sleep type 0 to the PM1a control register, which is S5 on QEMU's boards;
/// the firmware's own \_S5 type is not looked up yet. Then the word that ends Bochs.
pub fn off(boot: &Boot) {
    let port = match boot.hip.0.get(116..118) {
        Some([low, high]) => u16::from_le_bytes([*low, *high]),
        _ => 0,
    };
    if port != 0 && rt::memory::delegate_ports(port & !1, 1).is_ok() {
        outw(port, 1 << 13);
    }
    if rt::memory::delegate_ports(BOCHS_PORT, 0).is_ok() {
        for byte in *b"Shutdown" {
            outb(BOCHS_PORT, byte);
        }
    }
}

/// The chip set's reset register, then the keyboard controller.
pub fn reboot(_boot: &Boot) {
    if rt::memory::delegate_ports(RESET_CONTROL, 0).is_ok() {
        outb(RESET_CONTROL, 2);
        outb(RESET_CONTROL, 6);
    }
    if rt::memory::delegate_ports(KEYBOARD, 0).is_ok() {
        outb(KEYBOARD, 0xfe);
    }
}
