//! Reads a Multiboot 2 information block (specification 2.0, 3.6).

use crate::{BootError, BootInfo, Bytes, Entry, MODULE, display, long, word};

/// EAX at entry.
pub const MAGIC: u32 = 0x36d7_6289;

/// Tag types (3.6).
const END: u32 = 0;
const COMMAND_LINE: u32 = 1;
const MODULE_TAG: u32 = 3;
const MEMORY_MAP: u32 = 6;
const FRAME_BUFFER: u32 = 8;
const EFI32_SYSTEM_TABLE: u32 = 11;
const EFI64_SYSTEM_TABLE: u32 = 12;
const ACPI_OLD: u32 = 14;
const ACPI_NEW: u32 = 15;

/// Length of the root pointer structures (ACPI 6.4, 5.2.5.3): revision 0, and 2 onwards.
const RSDP_OLD: usize = 20;
const RSDP_NEW: usize = 36;

/// A block larger than this is nonsense.
const MOST_BYTES: u64 = 1024 * 1024;

/// Fills `info` from the block at `address`: modules and memory map in the order of their tags.
pub fn read(info: &mut BootInfo, memory: &mut impl Bytes, address: u64) -> Result<(), BootError> {
    info.multiboot = 2;
    let total = u64::from(word(memory, address)?).min(MOST_BYTES);
    let mut offset = 8;
    let mut seen_map = false;
    while offset + 8 <= total {
        let tag = Tag {
            kind: word(memory, address + offset)?,
            at: address + offset,
            size: word(memory, address + offset + 4)?.into(),
        };
        if tag.kind == END || tag.size < 8 || tag.size > total - offset {
            break;
        }
        seen_map |= tag.kind == MEMORY_MAP;
        read_tag(info, memory, tag)?;
        offset += tag.size.next_multiple_of(8);
    }
    if seen_map { Ok(()) } else { Err(BootError::NoMemoryMap) }
}

/// A tag whose `size` bytes (header included, at least 8) lie within the block.
#[derive(Clone, Copy)]
struct Tag {
    kind: u32,
    at: u64,
    size: u64,
}

fn read_tag(info: &mut BootInfo, memory: &mut impl Bytes, tag: Tag) -> Result<(), BootError> {
    match tag.kind {
        COMMAND_LINE => info.copy_command_line(memory, tag.at + 8),
        MODULE_TAG if tag.size >= 16 => {
            let start = word(memory, tag.at + 8)?;
            let end = word(memory, tag.at + 12)?;
            info.push(Entry {
                address: start.into(),
                size: end.saturating_sub(start).into(),
                kind: MODULE,
                command_line: if tag.size > 16 { tag.at + 16 } else { 0 },
            });
        }
        MEMORY_MAP if tag.size >= 16 => read_map(info, memory, tag)?,
        FRAME_BUFFER if tag.size >= 32 => info.display = Some(display(memory, tag.at + 8)?),
        EFI32_SYSTEM_TABLE | EFI64_SYSTEM_TABLE => info.uefi = true,
        ACPI_OLD if info.rsdp.is_none() => info.rsdp = rsdp(memory, tag, RSDP_OLD),
        ACPI_NEW => info.rsdp = rsdp(memory, tag, RSDP_NEW).or(info.rsdp),
        _ => {}
    }
    Ok(())
}

fn read_map(info: &mut BootInfo, memory: &mut impl Bytes, tag: Tag) -> Result<(), BootError> {
    let stride = u64::from(word(memory, tag.at + 8)?).max(24);
    let mut offset = 16;
    while offset + 24 <= tag.size {
        let record = tag.at + offset;
        info.push(Entry {
            address: long(memory, record)?,
            size: long(memory, record + 8)?,
            kind: word(memory, record + 16)?,
            command_line: 0,
        });
        offset += stride;
    }
    Ok(())
}

/// The copy of the root pointer in `tag`, if it is at least `length` bytes.
fn rsdp(memory: &mut impl Bytes, tag: Tag, length: usize) -> Option<[u8; 36]> {
    let mut copy = [0; 36];
    let out = copy.get_mut(..length)?;
    let whole = tag.size >= 8 + length as u64;
    (whole && memory.read(tag.at + 8, out)).then_some(copy)
}
