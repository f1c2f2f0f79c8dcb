//! From power-on to one value: every instruction before the first line of Rust, and what the boot
//! loader said, as plain data.
//!
//! ```text
//!   start.S      first processor: 32-bit entry -> long mode -> kernel_main(magic, information, base)
//!   ap_start.S   other processors: 16-bit entry -> the same door
//!   multiboot1   bytes -> BootInfo          multiboot2   bytes -> BootInfo
//! ```
//!
//! It decides nothing: which memory the kernel takes and what the command line means is settled in
//! `logic`. Loader bytes are read through [`Bytes`], copied, and never referred to again.

#![cfg_attr(target_os = "none", no_std)]
#![deny(unsafe_code)]

mod multiboot1;
mod multiboot2;

/// The assembly files, the only thing in this room that the compiler cannot check.
#[cfg(target_os = "none")]
#[allow(unsafe_code, reason = "assembly is linked in, nothing else here is unsafe")]
mod assembly {
    core::arch::global_asm!(include_str!("start.S"));
    core::arch::global_asm!(include_str!("ap_start.S"));
}

/// Most entries a [`BootInfo`] holds; the rest is counted in [`BootInfo::lost`].
pub const MAX_ENTRIES: usize = 256;
/// Most bytes kept of the kernel's command line; what is longer is cut off.
pub const MAX_COMMAND_LINE: usize = 512;
/// E820 type of RAM that anyone may use.
pub const RAM: u32 = 1;
/// Type of an entry that is a boot module (abi.md 3).
pub const MODULE: u32 = 0xffff_fffe;

/// Physical memory, as far as it can be read before the kernel has its own page tables.
pub trait Bytes {
    /// Copies the bytes from physical `address` on into `out`; false if they cannot be read (then
    /// `out` is undefined).
    fn read(&mut self, address: u64, out: &mut [u8]) -> bool;
}

/// One piece of memory that the loader named, in the loader's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// First physical address, in bytes.
    pub address: u64,
    /// Length in bytes.
    pub size: u64,
    /// E820 type, or [`MODULE`].
    pub kind: u32,
    /// Of a module: physical address of its NUL-terminated command line, 0 if it has none.
    pub command_line: u64,
}

/// The screen that the loader left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Display {
    /// Physical address of its memory.
    pub address: u64,
    /// Bytes from one row to the next.
    pub pitch: u32,
    /// Columns: pixels, or characters of a text screen.
    pub width: u32,
    /// Rows, counted as columns are.
    pub height: u32,
    /// Bits of a pixel, or of a character.
    pub bits: u8,
    /// 1 colour pixels, 2 VGA text (Multiboot 2.0, 3.6.12); others have a palette.
    pub kind: u8,
}

/// Why the loader's information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The magic number belongs to no protocol we know.
    Magic(u32),
    /// The information block, or something it points to, cannot be read; where.
    Unreadable(u64),
    /// There is no memory map in it.
    NoMemoryMap,
}

/// What the loader said. Plain data; nothing in it refers to the loader's memory.
#[derive(Clone)]
pub struct BootInfo {
    /// The protocol, for the log: 1 or 2.
    pub multiboot: u8,
    entries: [Entry; MAX_ENTRIES],
    count: usize,
    /// Entries that did not fit.
    pub lost: usize,
    command_line: [u8; MAX_COMMAND_LINE],
    command_line_length: usize,
    /// A copy of the ACPI root pointer (20 or 36 bytes are meaningful), if the loader made one.
    pub rsdp: Option<[u8; 36]>,
    /// The machine was started by UEFI firmware.
    pub uefi: bool,
    /// The screen, if the loader told of one.
    pub display: Option<Display>,
}

impl BootInfo {
    /// Nothing said yet.
    pub const EMPTY: Self = Self {
        multiboot: 0,
        entries: [Entry { address: 0, size: 0, kind: 0, command_line: 0 }; MAX_ENTRIES],
        count: 0,
        lost: 0,
        command_line: [0; MAX_COMMAND_LINE],
        command_line_length: 0,
        rsdp: None,
        uefi: false,
        display: None,
    };

    /// Reads what the loader left: `magic` and `information` as it put them in EAX and EBX.
    ///
    /// # Errors
    /// See [`BootError`]; `self` is then half filled and of no use.
    pub fn read(
        &mut self,
        memory: &mut impl Bytes,
        magic: u32,
        information: u64,
    ) -> Result<(), BootError> {
        match magic {
            multiboot1::MAGIC => multiboot1::read(self, memory, information),
            multiboot2::MAGIC => multiboot2::read(self, memory, information),
            other => Err(BootError::Magic(other)),
        }
    }

    /// Memory map and modules, in the loader's order (abi.md 3).
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        self.entries.get(..self.count).unwrap_or(&[])
    }

    /// The modules alone, in the loader's order; the first is the root task.
    pub fn modules(&self) -> impl Iterator<Item = &Entry> {
        self.entries().iter().filter(|entry| entry.kind == MODULE)
    }

    /// The kernel's command line, without the NUL.
    #[must_use]
    pub fn command_line(&self) -> &[u8] {
        self.command_line.get(..self.command_line_length).unwrap_or(&[])
    }

    /// Adds an entry, or counts it as lost. Empty ones are skipped, except modules.
    fn push(&mut self, entry: Entry) {
        if entry.size == 0 && entry.kind != MODULE {
            return;
        }
        match self.entries.get_mut(self.count) {
            Some(slot) => {
                *slot = entry;
                self.count += 1;
            }
            None => self.lost += 1,
        }
    }

    /// Copies the NUL-terminated kernel command line from `address`.
    fn copy_command_line(&mut self, memory: &mut impl Bytes, address: u64) {
        self.command_line_length = 0;
        for (index, byte) in self.command_line.iter_mut().enumerate() {
            let mut read = [0];
            let Some(from) = address.checked_add(index as u64) else { return };
            if !memory.read(from, &mut read) || read == [0] {
                return;
            }
            *byte = read[0];
            self.command_line_length = index + 1;
        }
    }
}

/// Reads a little-endian word of 32 bits.
fn word(memory: &mut impl Bytes, address: u64) -> Result<u32, BootError> {
    let mut bytes = [0; 4];
    if memory.read(address, &mut bytes) {
        Ok(u32::from_le_bytes(bytes))
    } else {
        Err(BootError::Unreadable(address))
    }
}

/// Reads what both protocols say of the screen, from its address field on (1: 3.3, 2: 3.6.12).
fn display(memory: &mut impl Bytes, at: u64) -> Result<Display, BootError> {
    let [bits, kind, ..] = word(memory, at + 20)?.to_le_bytes();
    Ok(Display {
        address: long(memory, at)?,
        pitch: word(memory, at + 8)?,
        width: word(memory, at + 12)?,
        height: word(memory, at + 16)?,
        bits,
        kind,
    })
}

/// Reads a little-endian word of 64 bits.
fn long(memory: &mut impl Bytes, address: u64) -> Result<u64, BootError> {
    let mut bytes = [0; 8];
    if memory.read(address, &mut bytes) {
        Ok(u64::from_le_bytes(bytes))
    } else {
        Err(BootError::Unreadable(address))
    }
}

#[cfg(test)]
mod tests;
