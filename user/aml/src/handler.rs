//! What the interpreter may reach: copies of the firmware's memory, to read. All else is refused and noted.
#![allow(unsafe_code, reason = "what the interpreter's trait asks for")]

use acpi::address::{AddressSpace, GenericAddress, MappedGas};
use acpi::aml::AmlError;
use acpi::registers::{FixedRegisters, Pm1ControlRegisterBlock, Pm1EventRegisterBlock};
use acpi::{Handle, Handler, PciAddress, PhysicalMapping};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Display;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use rt::sync::Mutex;

/// The firmware's memory, and the first access that was refused. Clones are the same one.
#[derive(Clone)]
pub struct Firmware(Arc<Inner>);

struct Inner {
    memory: Vec<(u64, Vec<u8>)>,
    refused: Mutex<Option<String>>,
    mutexes: AtomicU32,
    time_ns: AtomicU64,
}

impl Firmware {
    /// With copies of memory: physical address and bytes.
    pub fn new(memory: impl Iterator<Item = (u64, Vec<u8>)>) -> Self {
        Self(Arc::new(Inner {
            memory: memory.collect(),
            refused: Mutex::new(None),
            mutexes: AtomicU32::new(0),
            time_ns: AtomicU64::new(0),
        }))
    }

    /// What was refused first, as a reason.
    pub fn refused(&self) -> Option<String> {
        self.0.refused.lock().clone()
    }

    /// Notes what AML wanted; all ones.
    fn refuse(&self, what: impl Display) -> u64 {
        self.0.refused.lock().get_or_insert_with(|| format!("AML wants {what}"));
        u64::MAX
    }

    /// A number of so many bytes.
    fn read(&self, address: usize, bytes: usize) -> u64 {
        let found = self.0.memory.iter().find_map(|(base, piece)| {
            let at = usize::try_from((address as u64).checked_sub(*base)?).ok()?;
            piece.get(at..at.checked_add(bytes)?)
        });
        match found {
            Some(found) => found.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)),
            None => self.refuse(format_args!("to read memory at {address:#x}")),
        }
    }

    fn write(&self, address: usize) {
        self.refuse(format_args!("to write memory at {address:#x}"));
    }

    fn port(&self, port: u16) -> u64 {
        self.refuse(format_args!("port {port:#x}"))
    }

    fn pci(&self, device: PciAddress, offset: u16) -> u64 {
        self.refuse(format_args!("register {offset:#x} of PCI device {device}"))
    }
}

/// The PM1 registers, which nothing that is evaluated here needs: ports that are refused.
#[allow(
    clippy::arc_with_non_send_sync,
    reason = "the interpreter wants an Arc; there is one thread"
)]
pub fn registers(firmware: &Firmware) -> Arc<FixedRegisters<Firmware>> {
    let register = || {
        let (address_space, access_size) = (AddressSpace::SystemIo, 2);
        let port =
            GenericAddress { address_space, bit_width: 16, bit_offset: 0, access_size, address: 0 };
        // SAFETY: a register in port space maps nothing, and all accesses go through `firmware`, which refuses them.
        unsafe { MappedGas::map_gas(port, firmware) }
    };
    let (events, controls) = (register(), register());
    let (Ok(events), Ok(controls)) = (events, controls) else { no_mapping() };
    Arc::new(FixedRegisters {
        pm1_event_registers: Pm1EventRegisterBlock {
            pm1_event_length: 4,
            pm1a: events,
            pm1b: None,
        },
        pm1_control_registers: Pm1ControlRegisterBlock { pm1a: controls, pm1b: None },
    })
}

/// The end of this program: the interpreter asked for what it was given no reason to ask.
#[allow(clippy::panic, reason = "the domain ends, whoever asked says so and goes on")]
fn no_mapping() -> ! {
    panic!("the interpreter wants memory mapped")
}

impl Handler for Firmware {
    // SAFETY: never returns.
    unsafe fn map_physical_region<T>(&self, _: usize, _: usize) -> PhysicalMapping<Self, T> {
        no_mapping()
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}

    fn read_u8(&self, address: usize) -> u8 {
        self.read(address, 1) as u8
    }

    fn read_u16(&self, address: usize) -> u16 {
        self.read(address, 2) as u16
    }

    fn read_u32(&self, address: usize) -> u32 {
        self.read(address, 4) as u32
    }

    fn read_u64(&self, address: usize) -> u64 {
        self.read(address, 8)
    }

    fn write_u8(&self, address: usize, _: u8) {
        self.write(address);
    }

    fn write_u16(&self, address: usize, _: u16) {
        self.write(address);
    }

    fn write_u32(&self, address: usize, _: u32) {
        self.write(address);
    }

    fn write_u64(&self, address: usize, _: u64) {
        self.write(address);
    }

    fn read_io_u8(&self, port: u16) -> u8 {
        self.port(port) as u8
    }

    fn read_io_u16(&self, port: u16) -> u16 {
        self.port(port) as u16
    }

    fn read_io_u32(&self, port: u16) -> u32 {
        self.port(port) as u32
    }

    fn write_io_u8(&self, port: u16, _: u8) {
        self.port(port);
    }

    fn write_io_u16(&self, port: u16, _: u16) {
        self.port(port);
    }

    fn write_io_u32(&self, port: u16, _: u32) {
        self.port(port);
    }

    fn read_pci_u8(&self, device: PciAddress, offset: u16) -> u8 {
        self.pci(device, offset) as u8
    }

    fn read_pci_u16(&self, device: PciAddress, offset: u16) -> u16 {
        self.pci(device, offset) as u16
    }

    fn read_pci_u32(&self, device: PciAddress, offset: u16) -> u32 {
        self.pci(device, offset) as u32
    }

    fn write_pci_u8(&self, device: PciAddress, offset: u16, _: u8) {
        self.pci(device, offset);
    }

    fn write_pci_u16(&self, device: PciAddress, offset: u16, _: u16) {
        self.pci(device, offset);
    }

    fn write_pci_u32(&self, device: PciAddress, offset: u16, _: u32) {
        self.pci(device, offset);
    }

    /// Time passes with each look, so that AML that waits for it does not wait.
    fn nanos_since_boot(&self) -> u64 {
        self.0.time_ns.fetch_add(1_000_000, Ordering::Relaxed)
    }

    fn stall(&self, microseconds: u64) {
        self.0.time_ns.fetch_add(microseconds.saturating_mul(1000), Ordering::Relaxed);
    }

    fn sleep(&self, milliseconds: u64) {
        self.0.time_ns.fetch_add(milliseconds.saturating_mul(1_000_000), Ordering::Relaxed);
    }

    fn create_mutex(&self) -> Handle {
        Handle(self.0.mutexes.fetch_add(1, Ordering::Relaxed))
    }

    /// There is one thread: all mutexes are free.
    fn acquire(&self, _: Handle, _: u16) -> Result<(), AmlError> {
        Ok(())
    }

    fn release(&self, _: Handle) {}
}
