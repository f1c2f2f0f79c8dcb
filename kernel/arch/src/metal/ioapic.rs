//! I/O APICs: pins to interrupt messages. All pins are masked until somebody asks for one.
//!
//! 82093AA data sheet: an index and a data window; redirection entries from register 0x10 on.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use sync::SpinLock;

use super::layout::{DEVICES, PAGE};

/// The most I/O APICs that the HIP describes (abi.md 3).
pub const MAX: usize = 16;

const ID: u32 = 0;
const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;

static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Offset of the registers within each one's device page.
static OFFSETS: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];
/// Index and data are two accesses; and masking reads before it writes.
static LOCK: SpinLock<()> = SpinLock::new(());

/// Takes the I/O APICs whose physical addresses are given and mapped in this order behind the local
/// APIC; masks every pin.
pub fn start(addresses: impl Iterator<Item = u64>) {
    let mut count = 0;
    for (offset, address) in OFFSETS.iter().zip(addresses) {
        offset.store(address % PAGE, Relaxed);
        count += 1;
    }
    COUNT.store(count, Relaxed);
    for number in 0..count {
        for pin in 0..ioapic_pins(number) {
            ioapic_write(number, pin, MASKED, 0);
        }
    }
}

/// Redirection entries kept over a suspension: pins of all I/O APICs, one after the other.
static KEPT: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

/// All pins there are, with room to keep their entries.
fn pins() -> impl Iterator<Item = (usize, u32)> {
    (0..ioapic_count()).flat_map(|number| (0..ioapic_pins(number)).map(move |pin| (number, pin)))
}

/// Keeps all redirection entries.
pub fn keep() {
    for ((number, pin), kept) in pins().zip(&KEPT) {
        let register = REDIRECTION + 2 * pin;
        let low = access(number, register, None).unwrap_or(MASKED);
        let high = access(number, register + 1, None).unwrap_or(0);
        kept.store(u64::from(high) << 32 | u64::from(low), Relaxed);
    }
}

/// Gives them back, masked: their owners unmask what they still want (abi.md 10). Without room to keep it, an entry is
/// only masked.
pub fn restore_masked() {
    for (at, (number, pin)) in pins().enumerate() {
        let kept = KEPT.get(at).map_or(0, |kept| kept.load(Relaxed));
        ioapic_write(number, pin, kept as u32 | MASKED, (kept >> 32) as u32);
    }
}

/// How many there are.
#[must_use]
pub fn ioapic_count() -> usize {
    COUNT.load(Relaxed)
}

/// Pins of I/O APIC `number`; 0 if there is none.
#[must_use]
pub fn ioapic_pins(number: usize) -> u32 {
    access(number, VERSION, None).map_or(0, |version| (version >> 16 & 0xff) + 1)
}

/// The raw identification and version registers of I/O APIC `number`, for the HIP.
#[must_use]
pub fn ioapic_registers(number: usize) -> (u32, u32) {
    (access(number, ID, None).unwrap_or(0), access(number, VERSION, None).unwrap_or(0))
}

/// Identifier of I/O APIC `number`: bits 27:24 of its register (abi.md 13).
#[must_use]
pub fn ioapic_id(number: usize) -> u8 {
    (ioapic_registers(number).0 >> 24 & 0xf) as u8
}

/// Writes the redirection entry of a pin: masked first, unmasked (if `low` says so) last. Does nothing
/// for a pin that does not exist.
#[inline]
pub fn ioapic_write(number: usize, pin: u32, low: u32, high: u32) {
    if pin < ioapic_pins(number) {
        let _guard = LOCK.lock();
        let register = REDIRECTION + 2 * pin;
        let _ = access_locked(number, register, Some(low | MASKED));
        let _ = access_locked(number, register + 1, Some(high));
        let _ = access_locked(number, register, Some(low));
    }
}

/// Masks or unmasks a pin. Does nothing for a pin that does not exist.
pub fn ioapic_mask(number: usize, pin: u32, masked: bool) {
    if pin < ioapic_pins(number) {
        let _guard = LOCK.lock();
        let register = REDIRECTION + 2 * pin;
        if let Some(low) = access_locked(number, register, None) {
            let low = if masked { low | MASKED } else { low & !MASKED };
            let _ = access_locked(number, register, Some(low));
        }
    }
}

/// The low word of a pin's redirection entry, if it exists.
#[must_use]
pub fn ioapic_read(number: usize, pin: u32) -> Option<u32> {
    if pin < ioapic_pins(number) { access(number, REDIRECTION + 2 * pin, None) } else { None }
}

fn access(number: usize, register: u32, value: Option<u32>) -> Option<u32> {
    let _guard = LOCK.lock();
    access_locked(number, register, value)
}

/// Reads a register, or writes it.
fn access_locked(number: usize, register: u32, value: Option<u32>) -> Option<u32> {
    if number >= COUNT.load(Relaxed) {
        return None;
    }
    let base = DEVICES + (number as u64 + 1) * PAGE + OFFSETS.get(number)?.load(Relaxed);
    // SAFETY: the page is mapped as device memory; index and data registers lie at 0 and 0x10, and the
    // lock is held.
    unsafe {
        (base as *mut u32).write_volatile(register);
        let data = (base + 0x10) as *mut u32;
        match value {
            Some(value) => {
                data.write_volatile(value);
                Some(value)
            }
            None => Some(data.read_volatile()),
        }
    }
}
