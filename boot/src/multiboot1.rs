//! Reads a Multiboot 1 information block (specification 0.6.96, 3.3).

use crate::{BootError, BootInfo, Bytes, Entry, MODULE, display, long, word};

/// EAX at entry.
pub const MAGIC: u32 = 0x2bad_b002;

/// `flags`: which fields are valid.
const COMMAND_LINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const MEMORY_MAP: u32 = 1 << 6;
const FRAME_BUFFER: u32 = 1 << 12;

/// Offsets of the fields in the block.
const AT_COMMAND_LINE: u64 = 16;
const AT_MODULES: u64 = 20;
const AT_MEMORY_MAP: u64 = 44;
const AT_FRAME_BUFFER: u64 = 88;

/// Bytes of one module's record: start, end, command line, reserved.
const MODULE_RECORD: u64 = 16;
/// Bounds on what a loader may claim, so that nonsense ends.
const MOST_MODULES: u32 = 1024;
const MOST_MAP_BYTES: u64 = 64 * 1024;

/// Fills `info` from the block at `address`: modules come first, as the block has them.
pub fn read(info: &mut BootInfo, memory: &mut impl Bytes, address: u64) -> Result<(), BootError> {
    info.multiboot = 1;
    let flags = word(memory, address)?;
    if flags & COMMAND_LINE != 0 {
        let line = word(memory, address + AT_COMMAND_LINE)?;
        if line != 0 {
            info.copy_command_line(memory, line.into());
        }
    }
    if flags & FRAME_BUFFER != 0 {
        info.display = Some(display(memory, address + AT_FRAME_BUFFER)?);
    }
    if flags & MODULES != 0 {
        read_modules(info, memory, address)?;
    }
    if flags & MEMORY_MAP == 0 {
        return Err(BootError::NoMemoryMap);
    }
    read_map(info, memory, address)
}

fn read_modules(
    info: &mut BootInfo,
    memory: &mut impl Bytes,
    address: u64,
) -> Result<(), BootError> {
    let count = word(memory, address + AT_MODULES)?.min(MOST_MODULES);
    let first = u64::from(word(memory, address + AT_MODULES + 4)?);
    for index in 0..u64::from(count) {
        let record = first + index * MODULE_RECORD;
        let start = word(memory, record)?;
        let end = word(memory, record + 4)?;
        let command_line = word(memory, record + 8)?;
        info.push(Entry {
            address: start.into(),
            size: end.saturating_sub(start).into(),
            kind: MODULE,
            command_line: command_line.into(),
        });
    }
    Ok(())
}

fn read_map(info: &mut BootInfo, memory: &mut impl Bytes, address: u64) -> Result<(), BootError> {
    let bytes = u64::from(word(memory, address + AT_MEMORY_MAP)?).min(MOST_MAP_BYTES);
    let first = u64::from(word(memory, address + AT_MEMORY_MAP + 4)?);
    let mut offset = 0;
    // A record is its size (without this word), then base, length, type.
    while offset + 24 <= bytes {
        let record = first + offset;
        let size = u64::from(word(memory, record)?);
        info.push(Entry {
            address: long(memory, record + 4)?,
            size: long(memory, record + 12)?,
            kind: word(memory, record + 20)?,
            command_line: 0,
        });
        offset += size.max(20) + 4;
    }
    Ok(())
}
