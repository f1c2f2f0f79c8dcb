//! Multiboot 1: judges an ELF32, ELF64 or a.out-kludge image, lays it out in guest memory.
//!
//! Source: Multiboot specification 0.6.96; System V ABI, "Object Files". Nothing is written before everything has been
//! checked; every refusal is one sentence with its numbers. An ELF64 is entered in 32-bit mode like the others, as GRUB
//! does it. It does not know framebuffers: a kernel that asks for a video mode finds none in its information.
use crate::e820;
use crate::layout;
use crate::linux::{Image, copy};
use crate::memory::GuestMemory;
use crate::screen;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// What the header begins with, and where it may lie (3.1.1, 3.1.2).
const MAGIC: u32 = 0x1bad_b002;
const SEARCHED: usize = 8192;
/// What EAX holds at the entry (3.2).
pub const LOADER: u32 = 0x2bad_b002;
/// Header flags: modules on pages, memory information, a video mode; the low half must be understood (3.1.2).
const UNDERSTOOD: u32 = 0b111;
/// Header flag: the header itself says where everything goes.
const ADDRESSES: u32 = 1 << 16;
/// Most program headers that are looked at.
const SEGMENTS: usize = 32;
const PT_LOAD: u32 = 1;

/// Why an image cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No header with a right checksum in the first 8 KiB.
    NoHeader,
    /// The header asks for what is not known here.
    Wants(u32),
    /// Neither ELF for x86 nor addresses in the header.
    NoFormat,
    /// The file ends before what its headers promise.
    Cut,
    /// A part goes where no RAM is, or below 1 MiB: first byte and end.
    Outside(u64, u64),
    /// The modules do not fit behind the kernel: bytes wanted, bytes free.
    Modules(u64, u64),
    /// More text than there is room for.
    Text,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoHeader => write!(f, "kernel has no multiboot header in its first 8 KiB"),
            Self::Wants(flags) => {
                write!(f, "kernel's multiboot header has unknown flags {flags:#x}")
            }
            Self::NoFormat => {
                write!(f, "kernel is no ELF for x86, and its header has no addresses")
            }
            Self::Cut => {
                write!(f, "kernel is truncated: its headers promise more than the file has")
            }
            Self::Outside(start, end) => {
                write!(
                    f,
                    "kernel goes to {start:#x}..{end:#x}: not between 1 MiB and the end of RAM"
                )
            }
            Self::Modules(size, room) => {
                write!(f, "modules have {size} bytes, guest memory has room for {room}")
            }
            Self::Text => write!(f, "command line and module names are too long together"),
        }
    }
}

/// A part of the file and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    offset: u64,
    size: u64,
    to: u64,
    /// Bytes in memory; what the file does not have is zero.
    memory: u64,
}

/// An image that passed all checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    parts: Vec<Part>,
    /// The first instruction.
    pub entry: u32,
    /// First byte behind the kernel.
    pub end: u64,
}

/// A module: its name, which is its string too, and its bytes.
#[derive(Clone, Copy)]
pub struct Module<'a> {
    /// Its string.
    pub name: &'a str,
    /// Its bytes.
    pub image: Image<'a>,
}

impl Kernel {
    /// Judges `head`, the first 8 KiB (or all) of a file of `length` bytes, for a guest with `memory` bytes of RAM below
    /// the hole.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(head: &[u8], length: u64, memory: u64) -> Result<Self, Refusal> {
        let head = head.get(..SEARCHED.min(head.len())).unwrap_or_default();
        let at = find(head).ok_or(Refusal::NoHeader)?;
        let flags = long(head, at + 4).ok_or(Refusal::NoHeader)?;
        if flags & 0xffff & !UNDERSTOOD != 0 {
            return Err(Refusal::Wants(flags));
        }
        let (parts, entry) = if flags & ADDRESSES != 0 {
            addressed(head, at, length)?
        } else {
            match head.get(..6) {
                Some(b"\x7fELF\x01\x01") => elf(head, &ELF32)?,
                Some(b"\x7fELF\x02\x01") => elf(head, &ELF64)?,
                _ => return Err(Refusal::NoFormat),
            }
        };
        for part in &parts {
            let end = part.to.saturating_add(part.memory.max(part.size));
            if part.to < layout::KERNEL_LOWEST || end > memory {
                return Err(Refusal::Outside(part.to, end));
            }
            if part.offset.checked_add(part.size).is_none_or(|end| end > length) {
                return Err(Refusal::Cut);
            }
        }
        let end = parts.iter().map(|part| part.to + part.memory.max(part.size)).max();
        Ok(Self { parts, entry, end: end.ok_or(Refusal::NoFormat)? })
    }
}

/// Where the header stands: the first one whose three words have the sum 0.
fn find(head: &[u8]) -> Option<usize> {
    (0..head.len()).step_by(4).find(|at| {
        let [magic, flags, sum] = [0, 4, 8].map(|word| long(head, at + word));
        magic == Some(MAGIC)
            && flags.zip(sum).is_some_and(|(f, s)| MAGIC.wrapping_add(f).wrapping_add(s) == 0)
    })
}

/// The addresses in the header (3.1.3).
fn addressed(head: &[u8], at: usize, length: u64) -> Result<(Vec<Part>, u32), Refusal> {
    let word = |index: usize| long(head, at + 12 + index * 4).map(u64::from).ok_or(Refusal::Cut);
    let (header, load, load_end, bss_end) = (word(0)?, word(1)?, word(2)?, word(3)?);
    let before = header.checked_sub(load).ok_or(Refusal::NoFormat)?;
    let offset = (at as u64).checked_sub(before).ok_or(Refusal::NoFormat)?;
    let size = match load_end {
        0 => length.saturating_sub(offset),
        end => end.checked_sub(load).ok_or(Refusal::NoFormat)?,
    };
    let memory = bss_end.saturating_sub(load).max(size);
    Ok((vec![Part { offset, size, to: load, memory }], word(4)? as u32))
}

/// Where the fields of one of the two ELF classes are, and how wide its addresses.
struct Class {
    width: usize,
    entry: usize,
    headers: usize,
    header_size: usize,
    count: usize,
    /// In a program header: offset, linked address, load address, bytes in the file, bytes in memory.
    fields: [usize; 5],
}

const ELF32: Class = Class {
    width: 4,
    entry: 24,
    headers: 28,
    header_size: 42,
    count: 44,
    fields: [4, 8, 12, 16, 20],
};
const ELF64: Class = Class {
    width: 8,
    entry: 24,
    headers: 32,
    header_size: 54,
    count: 56,
    fields: [8, 16, 24, 32, 40],
};

/// The segments of an ELF file. An entry at a linked address is one at the load address of its segment.
fn elf(head: &[u8], class: &Class) -> Result<(Vec<Part>, u32), Refusal> {
    let field = |at: usize, size: usize| number(head, at, size).ok_or(Refusal::Cut);
    let mut entry = field(class.entry, class.width)?;
    let first = field(class.headers, class.width)? as usize;
    let size = field(class.header_size, 2)? as usize;
    let count = (field(class.count, 2)? as usize).min(SEGMENTS);
    let (mut parts, mut moved) = (Vec::new(), None);
    for index in 0..count {
        let at = index.checked_mul(size).and_then(|skip| skip.checked_add(first));
        let at = at.ok_or(Refusal::Cut)?;
        if field(at, 4)? != u64::from(PT_LOAD) {
            continue;
        }
        let mut values = [0; 5];
        for (value, place) in values.iter_mut().zip(class.fields) {
            *value = field(at.saturating_add(place), class.width)?;
        }
        let [offset, linked, to, size, memory] = values;
        if entry.checked_sub(linked).is_some_and(|inside| inside < memory) {
            moved = Some(entry.wrapping_sub(linked).wrapping_add(to));
        }
        if memory > 0 {
            parts.push(Part { offset, size, to, memory });
        }
    }
    entry = moved.unwrap_or(entry);
    Ok((parts, u32::try_from(entry).map_err(|_| Refusal::Outside(entry, entry))?))
}

/// Checks all, then writes kernel, modules, strings and information. Returns the entry.
///
/// # Errors
/// The first thing that is wrong; nothing was written then.
pub fn load(
    memory: &GuestMemory,
    image: Image,
    modules: &[Module],
    command_line: &[u8],
) -> Result<u32, Refusal> {
    let mut head = [0; SEARCHED];
    let taken = SEARCHED.min(image.size() as usize);
    let head = head.get_mut(..taken).unwrap_or_default();
    image.read(0, head).ok_or(Refusal::Cut)?;
    let top = memory.size().min(layout::RAM_LIMIT);
    let kernel = Kernel::parse(head, image.size(), top)?;
    let bytes: u64 = modules.iter().map(|module| module.image.size().next_multiple_of(4096)).sum();
    let first = kernel.end.next_multiple_of(4096);
    let room = top.saturating_sub(first);
    if bytes > room {
        return Err(Refusal::Modules(bytes, room));
    }
    let strings: usize = modules.iter().map(|module| module.name.len() + 1).sum();
    if command_line.len() + 1 + strings > layout::COMMAND_LINE_SIZE
        || modules.len() > layout::MULTIBOOT_MODULES
    {
        return Err(Refusal::Text);
    }
    let cut = Refusal::Cut;
    for part in &kernel.parts {
        copy(memory, part.to, image, part.offset, part.size.min(part.memory)).ok_or(cut)?;
        clear(memory, part.to + part.size.min(part.memory), part.to + part.memory).ok_or(cut)?;
    }
    let mut text = layout::COMMAND_LINE;
    let mut string = |bytes: &[u8]| {
        let at = text;
        text += bytes.len() as u64 + 1;
        memory.write(at, bytes).and_then(|()| memory.write(text - 1, &[0])).ok().map(|()| at as u32)
    };
    let line = string(command_line).ok_or(cut)?;
    let mut to = first;
    for (index, module) in (0..).zip(modules) {
        let size = module.image.size();
        copy(memory, to, module.image, 0, size).ok_or(cut)?;
        let entry = [to as u32, (to + size) as u32, string(module.name.as_bytes()).ok_or(cut)?, 0];
        put(memory, layout::MULTIBOOT_LIST + index * 16, &entry).ok_or(cut)?;
        to += size.next_multiple_of(4096);
    }
    information(memory, line, modules.len() as u32).ok_or(cut)?;
    screen::prepare(memory).ok_or(cut)?;
    Ok(kernel.entry)
}

/// Zeros from an address to another.
fn clear(memory: &GuestMemory, mut at: u64, end: u64) -> Option<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while at < end {
        let part = ZEROS.get(..(end - at).min(4096) as usize)?;
        memory.write(at, part).ok()?;
        at += part.len() as u64;
    }
    Some(())
}

/// The information structure and the memory map (3.3).
fn information(memory: &GuestMemory, line: u32, modules: u32) -> Option<()> {
    let mut entries = 0;
    for entry in e820::map(memory.size(), memory.high(), memory.regions()) {
        let halves = |value: u64| [value as u32, (value >> 32) as u32];
        let ([base, base_high], [size, size_high]) = (halves(entry.start), halves(entry.size));
        let words = [20, base, base_high, size, size_high, entry.kind.number()];
        put(memory, layout::MULTIBOOT_MAP + entries * 24, &words)?;
        entries += 1;
    }
    let name = layout::MULTIBOOT_MAP + entries * 24;
    memory.write(name, b"Hematite\0").ok()?;
    // Memory, command line, modules, memory map, loader's name.
    const FLAGS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
    let upper = (memory.size().min(layout::RAM_LIMIT) - layout::KERNEL_LOWEST) >> 10;
    let mut words = [0; 22];
    let fields: [(usize, u32); 9] = [
        (0, FLAGS),
        (1, 639),
        (2, upper as u32),
        (4, line),
        (5, modules),
        (6, layout::MULTIBOOT_LIST as u32),
        (11, entries as u32 * 24),
        (12, layout::MULTIBOOT_MAP as u32),
        (16, name as u32),
    ];
    for (index, value) in fields {
        *words.get_mut(index)? = value;
    }
    put(memory, layout::MULTIBOOT, &words)
}

fn put(memory: &GuestMemory, at: u64, words: &[u32]) -> Option<()> {
    (0..)
        .zip(words)
        .try_for_each(|(index, word)| memory.write_number(at + index * 4, 4, u64::from(*word)).ok())
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at, 4).map(|value| value as u32)
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(size)?)?;
    Some(part.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
}

#[cfg(test)]
mod tests;
