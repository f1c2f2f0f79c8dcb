//! A program's ELF file turned into a list of pages to map.
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_W, PF_X, PT_LOAD};
use elf::endian::LittleEndian;

const PAGE: u64 = 4096;

/// A part of a program: whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First virtual address, page aligned.
    pub address: u64,
    /// Bytes to map, whole pages.
    pub size: u64,
    /// Bytes before the first byte of the file on the first page.
    pub skip: u64,
    /// Where the bytes lie in the file.
    pub file_offset: u64,
    /// How many there are; the rest is zero.
    pub file_size: u64,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// First instruction.
    pub entry: u64,
    /// What to map.
    pub segments: Vec<Segment>,
}

/// Judges an ELF file. User addresses end at `top`.
///
/// # Errors
/// One sentence.
pub fn parse(file: &[u8], top: u64) -> Result<Program, String> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|error| error.to_string())?;
    if elf.ehdr.e_type != ET_EXEC || elf.ehdr.e_machine != EM_X86_64 {
        return Err("not an x86-64 executable".into());
    }
    let headers = elf.segments().ok_or("no program headers")?;
    let mut segments = Vec::new();
    for header in headers.iter().filter(|header| header.p_type == PT_LOAD && header.p_memsz > 0) {
        let end = header.p_vaddr.checked_add(header.p_memsz).filter(|end| *end <= top);
        let in_file = header.p_offset.checked_add(header.p_filesz);
        if end.is_none() || in_file.is_none_or(|end| end > file.len() as u64) {
            return Err("a segment lies outside the file or the address space".into());
        }
        let address = header.p_vaddr & !(PAGE - 1);
        segments.push(Segment {
            address,
            size: (header.p_vaddr + header.p_memsz - address).next_multiple_of(PAGE),
            skip: header.p_vaddr - address,
            file_offset: header.p_offset,
            file_size: header.p_filesz.min(header.p_memsz),
            write: header.p_flags & PF_W != 0,
            execute: header.p_flags & PF_X != 0,
        });
    }
    segments.sort_unstable_by_key(|segment| segment.address);
    if segments.windows(2).any(|pair| match pair {
        [one, two] => one.address + one.size > two.address,
        _ => false,
    }) {
        return Err("two segments share a page".into());
    }
    Ok(Program { entry: elf.ehdr.e_entry, segments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut file = vec![0u8; 0x2000];
        file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            file[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(&mut file, 16, &[2, 0, 62, 0, 1, 0, 0, 0]);
        put(&mut file, 24, &0x20_1010u64.to_le_bytes());
        put(&mut file, 32, &64u64.to_le_bytes());
        put(&mut file, 52, &[64, 0, 56, 0, 2, 0]);
        for (index, (flags, offset, address, in_file, in_memory)) in [
            (5u32, 0x1000u64, 0x20_1000u64, 0x800u64, 0x800u64),
            (6, 0x1800, 0x20_2800, 0x100, 0x4000),
        ]
        .into_iter()
        .enumerate()
        {
            let at = 64 + index * 56;
            put(&mut file, at, &1u32.to_le_bytes());
            put(&mut file, at + 4, &flags.to_le_bytes());
            put(&mut file, at + 8, &offset.to_le_bytes());
            put(&mut file, at + 16, &address.to_le_bytes());
            put(&mut file, at + 32, &in_file.to_le_bytes());
            put(&mut file, at + 40, &in_memory.to_le_bytes());
        }
        file
    }

    #[test]
    fn segments_become_pages() {
        let program = parse(&file(), 1 << 47).unwrap();
        assert_eq!(program.entry, 0x20_1010);
        let data = program.segments[1];
        assert_eq!((data.address, data.size, data.skip), (0x20_2000, 0x5000, 0x800));
        assert!(data.write && !data.execute);
        assert!(program.segments[0].execute);
    }

    #[test]
    fn wrong_files_are_refused_and_never_panic() {
        assert!(parse(b"hello", 1 << 47).is_err());
        assert!(parse(&file()[..0x1810], 1 << 47).is_err());
        assert!(parse(&file(), 0x1000).is_err());
        let mut seed = 9u64;
        for _ in 0..50_000 {
            let mut bytes = file();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes[(seed >> 33) as usize % 176] = (seed >> 24) as u8;
            let _ = parse(&bytes, 1 << 47);
        }
    }
}
