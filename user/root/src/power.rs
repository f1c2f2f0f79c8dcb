//! Switching the machine off, starting it again, and suspending it to memory.
use crate::acpi::{Physical, Power};
use abi::args::MachineCtrl;
use abi::cap::{MEM_R, MEM_RW};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use rt::Boot;
use rt::instructions::{outb, outw};
use rt::memory::{Window, delegate_ports};

/// Bochs ends when it reads this word at its port.
const BOCHS_PORT: u16 = 0x8900;
/// The reset control register of PC chip sets: 2 then 6 is a hard reset.
const RESET_CONTROL: u16 = 0xcf9;
/// The keyboard controller's command port; 0xfe pulses the reset line.
const KEYBOARD: u16 = 0x64;
/// PM1 control: sleep enable; the type begins at bit 10. PM1 status: the machine woke (ACPI 6.4, 4.8.3).
const SLEEP_ENABLE: u16 = 1 << 13;
const WAKE_STATUS: u16 = 1 << 15;
/// Offsets of the waking vectors in the FACS (5.2.10).
const VECTOR: usize = 12;
const WIDE_VECTOR: usize = 24;

/// Physical memory of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl Physical for Machine {
    fn read(&self, address: u64, bytes: usize) -> Option<Vec<u8>> {
        let window = Window::physical(address, bytes as u64, MEM_R).ok()?;
        let mut copy = vec![0; bytes];
        let copied = window.copy_out(0, &mut copy);
        let _ = window.close();
        copied.map(|()| copy)
    }
}

/// What the machine's ACPI tables say.
///
/// # Errors
/// A sentence: there are none, or which one is broken.
pub fn tables(boot: &Boot) -> Result<Power, String> {
    /// Offset of the root table's address in the information page (abi.md 3).
    const ROOT: usize = 104;
    let root = boot.hip.0.get(ROOT..ROOT + 8).and_then(|bytes| bytes.try_into().ok());
    match root.map_or(0, u64::from_le_bytes) {
        0 => Err("the machine has no ACPI tables".into()),
        root => Power::read(&Machine, root),
    }
}

/// Writes the sleep types of `\\_S5` to the PM1 control registers. Where nobody knows them: type 0, which is S5 on QEMU's
/// boards. Then the word that ends Bochs.
pub fn off(power: &Power, types: Option<[u8; 2]>) {
    let types = types.unwrap_or([0, 0]);
    for (port, kind) in power.controls.into_iter().zip(types) {
        if port != 0 && delegate_ports(port & !1, 1).is_ok() {
            outw(port, u16::from(kind) << 10 | SLEEP_ENABLE);
        }
    }
    if delegate_ports(BOCHS_PORT, 0).is_ok() {
        for byte in *b"Shutdown" {
            outb(BOCHS_PORT, byte);
        }
    }
}

/// The reset register of the ACPI tables, then the chip set's, then the keyboard controller.
pub fn reboot(boot: &Boot) {
    if let Some((port, value)) = tables(boot).ok().and_then(|power| power.reset)
        && delegate_ports(port, 0).is_ok()
    {
        outb(port, value);
    }
    if delegate_ports(RESET_CONTROL, 0).is_ok() {
        outb(RESET_CONTROL, 2);
        outb(RESET_CONTROL, 6);
    }
    if delegate_ports(KEYBOARD, 0).is_ok() {
        outb(KEYBOARD, 0xfe);
    }
}

/// Suspends the machine to memory with these sleep types; comes back when it is awake again.
///
/// # Errors
/// A sentence that says why the machine stayed awake.
pub fn suspend(power: &Power, types: [u8; 2]) -> Result<(), String> {
    let [slp_typ_a, slp_typ_b] = types;
    // Types that do not exist: the kernel refuses, and tells the vector all the same (abi.md 10).
    let ask = MachineCtrl::Suspend { slp_typ_a: u8::MAX, slp_typ_b: u8::MAX };
    let [_, vector, ..] = rt::stub::syscall(ask.encode());
    let vector = u32::try_from(vector).ok().filter(|vector| *vector != 0);
    set_vector(power.facs, vector.ok_or("the kernel cannot suspend this machine")?)?;
    for port in power.events.into_iter().filter(|port| *port != 0) {
        if delegate_ports(port & !1, 1).is_ok() {
            outw(port, WAKE_STATUS);
        }
    }
    let refused = |status| format!("the kernel refuses to suspend: {status}");
    rt::calls::machine_ctrl(MachineCtrl::Suspend { slp_typ_a, slp_typ_b }).map_err(refused)?;
    Ok(())
}

/// Tells firmware where to go when the machine wakes.
fn set_vector(facs: u64, vector: u32) -> Result<(), String> {
    const BYTES: u64 = 64;
    if facs == 0 {
        return Err("the ACPI tables have no FACS".into());
    }
    let window = Window::physical(facs, BYTES, MEM_RW)
        .map_err(|status| format!("the FACS at {facs:#x} cannot be reached: {status:?}"))?;
    let is_facs = window.read::<u32>(0) == Some(u32::from_le_bytes(*b"FACS"));
    if is_facs {
        window.write::<u32>(VECTOR, vector);
        // The 64-bit vector counts before the other one, if it is not 0.
        window.write::<u32>(WIDE_VECTOR, 0);
        window.write::<u32>(WIDE_VECTOR + 4, 0);
    }
    let _ = window.close();
    if is_facs { Ok(()) } else { Err(format!("there is no FACS at {facs:#x}")) }
}
