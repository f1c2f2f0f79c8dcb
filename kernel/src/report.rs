//! The `report` block of the boot log: what the owner of a machine is asked to send (docs/hardware.md).

use abi::hip::{MEMORY_RAM, MemDesc};
use boot::BootInfo;
use logic::acpi::Acpi;

use crate::bring_up::{describe, processors};

/// Writes the block: the CPU, what it can do for guests, memory, firmware. Stages and what was withdrawn stand in the
/// log's other lines.
pub fn write(loader: &BootInfo, firmware: &Acpi) {
    log::info!("report: begins");
    let vendor = arch::vendor_name();
    let vendor = core::str::from_utf8(&vendor).unwrap_or("?");
    log::info!(
        "report: CPU {vendor}, signature {:#x}, {} address bits",
        arch::signature(),
        arch::physical_bits()
    );
    for (name, value) in arch::guest_words().iter().filter(|(_, value)| *value != 0) {
        log::info!("report: {name} {value:#x}");
    }
    memory(loader);
    let online = (0..arch::cpu_count()).filter(|cpu| arch::cpu_online(*cpu)).count();
    log::info!(
        "report: {online} of {} CPUs, {:?}",
        processors(firmware).len(),
        arch::guest_vendor()
    );
    if let Some(fadt) = firmware.fadt {
        let registers = fadt.registers;
        log::info!(
            "report: PM1a {:#x}, PM1b {:#x}, reset register {:#x} in space {}, FACS {:#x}",
            registers.pm1a_control.address[0],
            registers.pm1b_control.address[0],
            registers.reset.address[0],
            registers.reset.space,
            fadt.facs
        );
    }
    log::info!("report: ends");
}

/// Entries by number, and the first and last RAM.
fn memory(loader: &BootInfo) {
    let mut entries = [MemDesc::default(); boot::MAX_ENTRIES];
    let count = describe(loader, &mut entries);
    let entries = entries.get(..count).unwrap_or(&[]);
    let ram = || entries.iter().filter(|entry| entry.kind == MEMORY_RAM);
    let bytes: u64 = ram().map(|entry| entry.size).fold(0, u64::saturating_add);
    let end = ram().map(|entry| entry.addr.saturating_add(entry.size)).max().unwrap_or(0);
    log::info!(
        "report: {count} memory entries, {} of RAM, {} MiB up to {end:#x}",
        ram().count(),
        bytes >> 20
    );
}
