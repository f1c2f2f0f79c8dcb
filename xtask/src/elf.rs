//! Reads ELF64 images and wraps one as ELF32 for multiboot 1.
//!
//! No binutils: a loader looks at the header and the program headers only, so that is all the
//! wrapper has. (System V ABI, "Object Files"; Multiboot 0.6.96, 3.1.)

use anyhow::{Context, Result, bail};
use std::ops::Range;

/// A `PT_LOAD` segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `PF_X` 1, `PF_W` 2, `PF_R` 4.
    pub flags: u32,
    /// Offset in the file.
    pub offset: u64,
    /// Linked address.
    pub vaddr: u64,
    /// Load address.
    pub paddr: u64,
    /// Bytes in the file.
    pub filesz: u64,
    /// Bytes in memory.
    pub memsz: u64,
    /// Alignment in bytes.
    pub align: u64,
}

/// What we need of an ELF64 file.
#[derive(Clone, Debug)]
pub struct Elf {
    /// Where it is entered.
    pub entry: u64,
    /// `ET_EXEC` is 2.
    pub kind: u16,
    /// Segments to load, in file order.
    pub segments: Vec<Segment>,
}

/// `PF_X`.
pub const EXECUTE: u32 = 1;
/// `PF_W`.
pub const WRITE: u32 = 2;

const PT_LOAD: u32 = 1;

impl Elf {
    /// Reads an ELF64 x86-64 executable.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn read(file: &[u8]) -> Result<Self> {
        if file.get(..4) != Some(b"\x7fELF") {
            bail!("not an ELF file");
        }
        if file.get(4..6) != Some(&[2, 1]) {
            bail!("not a 64-bit little-endian ELF file");
        }
        if half(file, 18)? != 62 {
            bail!("not for x86-64");
        }
        let table = usize::try_from(long(file, 32)?)?;
        let (size, count) = (usize::from(half(file, 54)?), usize::from(half(file, 56)?));
        if size < 56 {
            bail!("program headers of {size} bytes");
        }
        let mut segments = Vec::new();
        for index in 0..count {
            let at = table.checked_add(index * size).context("program headers out of range")?;
            if word(file, at)? != PT_LOAD {
                continue;
            }
            let segment = Segment {
                flags: word(file, at + 4)?,
                offset: long(file, at + 8)?,
                vaddr: long(file, at + 16)?,
                paddr: long(file, at + 24)?,
                filesz: long(file, at + 32)?,
                memsz: long(file, at + 40)?,
                align: long(file, at + 48)?,
            };
            if file.get(segment.bytes()?).is_none() {
                bail!("truncated: a segment ends behind the end of the file");
            }
            segments.push(segment);
        }
        if segments.is_empty() {
            bail!("nothing to load");
        }
        Ok(Self { entry: long(file, 24)?, kind: half(file, 16)?, segments })
    }

    /// The entry as a load address: it may be given as either.
    pub fn physical_entry(&self) -> u64 {
        let inside =
            |s: &&Segment| (s.vaddr..s.vaddr.saturating_add(s.memsz)).contains(&self.entry);
        self.segments.iter().find(inside).map_or(self.entry, |s| self.entry - s.vaddr + s.paddr)
    }
}

impl Segment {
    /// Its place in the file.
    ///
    /// # Errors
    /// When it is no place.
    pub fn bytes(&self) -> Result<Range<usize>> {
        let end = self.offset.checked_add(self.filesz).context("segment out of range")?;
        Ok(usize::try_from(self.offset)?..usize::try_from(end)?)
    }
}

/// The same image as ELF32, linked where it is loaded.
///
/// # Errors
/// When a segment lies above 4 GiB, or the file is none that [`Elf::read`] takes.
pub fn to_elf32(file: &[u8]) -> Result<Vec<u8>> {
    const PAGE: usize = 4096;
    let elf = Elf::read(file)?;
    let mut out = Vec::new();
    out.extend_from_slice(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 3] {
        out.extend_from_slice(&half.to_le_bytes()); // ET_EXEC, EM_386
    }
    for word in [1, narrow(elf.physical_entry(), "entry")?, 52, 0, 0] {
        out.extend_from_slice(&word.to_le_bytes()); // version, entry, phoff, shoff, flags
    }
    let count = u16::try_from(elf.segments.len())?;
    for half in [52, 32, count, 40, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    // Segments stay page aligned; the first begins at the second page, so a multiboot header at
    // its start is within the first 8 KiB (Multiboot 0.6.96, 3.1).
    let mut place = PAGE;
    let mut body = Vec::new();
    for segment in &elf.segments {
        let paddr = narrow(segment.paddr, "load address")?;
        let inside = usize::try_from(segment.paddr)? % PAGE;
        let begin = place + inside;
        let header = [
            PT_LOAD,
            narrow(begin as u64, "offset")?,
            paddr,
            paddr,
            narrow(segment.filesz, "size")?,
            narrow(segment.memsz, "size")?,
            segment.flags,
            PAGE as u32,
        ];
        for word in header {
            out.extend_from_slice(&word.to_le_bytes());
        }
        body.resize(begin - PAGE, 0);
        body.extend_from_slice(file.get(segment.bytes()?).context("truncated")?);
        place = (begin + usize::try_from(segment.filesz)?).next_multiple_of(PAGE);
    }
    out.resize(PAGE, 0);
    out.extend_from_slice(&body);
    Ok(out)
}

fn narrow(value: u64, what: &str) -> Result<u32> {
    u32::try_from(value).with_context(|| format!("{what} {value:#x} does not fit ELF32"))
}

/// `N` bytes at an offset.
pub fn bytes<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    let end = at.checked_add(N).context("truncated")?;
    Ok(file.get(at..end).context("truncated")?.try_into()?)
}

/// Little-endian 16 bits at an offset.
pub fn half(file: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(file, at)?))
}

/// Little-endian 32 bits at an offset.
pub fn word(file: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(file, at)?))
}

/// Little-endian 64 bits at an offset.
pub fn long(file: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(file, at)?))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A small ELF64: each segment is (flags, vaddr, paddr, content).
    pub fn sample(entry: u64, segments: &[(u32, u64, u64, &[u8])]) -> Vec<u8> {
        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        out.extend(2_u16.to_le_bytes());
        out.extend(62_u16.to_le_bytes());
        out.extend(1_u32.to_le_bytes());
        for long in [entry, 64, 0] {
            out.extend(long.to_le_bytes());
        }
        out.extend(0_u32.to_le_bytes());
        for half in [64, 56, segments.len() as u16, 64, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        let mut at = 4096_u64;
        for (flags, vaddr, paddr, content) in segments {
            out.extend(PT_LOAD.to_le_bytes());
            out.extend(flags.to_le_bytes());
            let size = content.len() as u64;
            for long in [at, *vaddr, *paddr, size, size, 4096] {
                out.extend(long.to_le_bytes());
            }
            at += size.next_multiple_of(4096);
        }
        for (_, _, _, content) in segments {
            out.resize(out.len().next_multiple_of(4096), 0);
            out.extend_from_slice(content);
        }
        out
    }

    #[test]
    fn the_wrapper_keeps_bytes_and_turns_the_entry_physical() {
        let high = 0xffff_ffff_8100_0000_u64;
        let file = sample(
            high + 4,
            &[(5, high, 0x20_0000, b"code!"), (6, high + 0x1000, 0x20_1000, b"data")],
        );
        let out = to_elf32(&file).unwrap();
        assert_eq!(word(&out, 24).unwrap(), 0x20_0004);
        assert_eq!(half(&out, 44).unwrap(), 2);
        let second = 52 + 32;
        let offset = word(&out, second + 4).unwrap() as usize;
        assert_eq!(offset, 0x2000);
        assert_eq!(word(&out, second + 8).unwrap(), 0x20_1000);
        assert_eq!(out.get(offset..offset + 4).unwrap(), b"data");
        assert_eq!(out.get(0x1000..0x1005).unwrap(), b"code!");
    }

    #[test]
    fn broken_files_are_named_not_read() {
        let file = sample(0x1000, &[(5, 0x1000, 0x1000, b"code")]);
        assert!(Elf::read(b"#!/bin/sh").unwrap_err().to_string().contains("not an ELF"));
        for cut in 0..file.len() {
            assert!(Elf::read(&file[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Elf::read(&file).is_ok());
    }
}
