//! One I/O APIC of 24 pins, and the interrupts that need none.

use super::machine::{Deed, Pin, with};

/// How many I/O APICs there are.
#[must_use]
pub fn ioapic_count() -> usize {
    with(|state| state.ioapics.len())
}

/// How many pins one has; 0 for one that does not exist.
#[must_use]
pub fn ioapic_pins(index: usize) -> u32 {
    with(|state| state.ioapics.get(index).map_or(0, |pins| pins.len() as u32))
}

/// The number in its ID register.
#[must_use]
pub fn ioapic_id(index: usize) -> u8 {
    index as u8
}

/// Writes a pin's entry, unmasked unless bit 16 is set; a pin that does not exist is ignored.
pub fn ioapic_write(index: usize, pin: u32, low: u32, high: u32) {
    change(index, pin, |entry| *entry = Pin { low, high, is_masked: low & 1 << 16 != 0 });
}

/// The low word of a pin's entry, if it exists.
#[must_use]
pub fn ioapic_read(index: usize, pin: u32) -> Option<u32> {
    with(|state| Some(state.ioapics.get(index)?.get(pin as usize)?.low))
}

/// Masks or unmasks a pin.
pub fn ioapic_mask(index: usize, pin: u32, mask: bool) {
    change(index, pin, |entry| entry.is_masked = mask);
}

/// The APIC id of a CPU.
#[must_use]
pub fn msi_target(cpu: usize) -> u32 {
    cpu as u32
}

/// Sets the thermal interrupt; the fake never gets warm.
pub fn lvt_thermal(_vector: u8, _mask: bool) {}

fn change(index: usize, pin: u32, work: impl FnOnce(&mut Pin)) {
    with(|state| {
        state.record(Deed::IoApic { index, pin });
        if let Some(entry) =
            state.ioapics.get_mut(index).and_then(|pins| pins.get_mut(pin as usize))
        {
            work(entry);
        }
    });
}
