//! Wraps a flat program as a bzImage, for guests of our own.
//!
//! Source: Linux `Documentation/arch/x86/boot.rst`, protocol 2.15; only what a loader needs that
//! enters at the 64-bit entry.

use crate::elf::Elf;
use anyhow::{Context, Result, bail};

/// Boot sector and one set-up sector come before the program.
const SETUP: usize = 1024;
/// The 64-bit entry lies this far into the program.
const ENTRY: u64 = 0x200;
/// Protocol 2.15.
const PROTOCOL: u16 = 0x20f;
/// LOADED_HIGH: the program goes to 1 MiB or higher.
const LOADED_HIGH: u8 = 1;
/// XLF_KERNEL_64: there is a 64-bit entry.
const KERNEL_64: u16 = 1;
/// Longest command line.
const COMMAND_LINE: u32 = 2047;
/// No program of ours needs more memory.
const LARGEST: u64 = 16 << 20;

/// The program's segments in one piece, behind a setup header.
///
/// # Errors
/// When the file is no ELF64, is too large, or is entered elsewhere.
pub fn wrap(file: &[u8]) -> Result<Vec<u8>> {
    let elf = Elf::read(file)?;
    let base = elf.segments.iter().map(|s| s.paddr).min().context("nothing to load")?;
    let end = elf.segments.iter().map(|s| s.paddr.saturating_add(s.memsz)).max();
    let size = end.unwrap_or(base) - base;
    if size > LARGEST {
        bail!("{size} bytes in memory; at most {LARGEST}");
    }
    if elf.physical_entry() != base + ENTRY {
        bail!("entry {:#x}, not {:#x}", elf.physical_entry(), base + ENTRY);
    }
    // syssize counts 16-byte paragraphs; what has no bytes in the file is zero here.
    let size = usize::try_from(size)?.next_multiple_of(16);
    let mut out = header(base, size)?;
    out.resize(SETUP + size, 0);
    for segment in &elf.segments {
        let content = file.get(segment.bytes()?).context("truncated")?;
        let at = SETUP + usize::try_from(segment.paddr - base)?;
        let place = out.get_mut(at..at + content.len()).context("segment out of range")?;
        place.copy_from_slice(content);
    }
    Ok(out)
}

fn header(base: u64, size: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; SETUP];
    let size = u32::try_from(size)?;
    let fields: [(usize, &[u8]); 14] = [
        (0x1f1, &[1]), // setup_sects
        (0x1f4, &(size / 16).to_le_bytes()),
        (0x1fe, &[0x55, 0xaa]),
        (0x200, &[0xeb, 0x6a]), // a jump, whose distance tells the header's end
        (0x202, b"HdrS"),
        (0x206, &PROTOCOL.to_le_bytes()),
        (0x211, &[LOADED_HIGH]),
        (0x214, &u32::try_from(base)?.to_le_bytes()), // code32_start
        (0x22c, &u32::MAX.to_le_bytes()),             // initrd_addr_max
        (0x230, &4096_u32.to_le_bytes()),             // kernel_alignment
        (0x236, &KERNEL_64.to_le_bytes()),
        (0x238, &COMMAND_LINE.to_le_bytes()),
        (0x258, &base.to_le_bytes()), // pref_address
        (0x260, &size.to_le_bytes()), // init_size
    ];
    for (at, bytes) in fields {
        out.get_mut(at..at + bytes.len()).context("header")?.copy_from_slice(bytes);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::sample;
    use crate::guest;

    #[test]
    fn a_wrapped_program_is_a_bzimage() {
        let mut code = vec![0; 0x210];
        code[0x200] = 0x90;
        let file = sample(
            0x20_0200,
            &[(5, 0x20_0000, 0x20_0000, &code), (6, 0x20_1000, 0x20_1000, b"data")],
        );
        let out = wrap(&file).unwrap();
        guest::bzimage(&out).unwrap();
        assert_eq!(out.len(), SETUP + 0x1010);
        assert_eq!(
            (out[SETUP + 0x200], &out[SETUP + 0x1000..SETUP + 0x1004]),
            (0x90, &b"data"[..])
        );
    }

    #[test]
    fn another_entry_is_refused() {
        let file = sample(0x20_0000, &[(5, 0x20_0000, 0x20_0000, b"code")]);
        assert!(wrap(&file).unwrap_err().to_string().contains("0x200000, not 0x200200"));
    }
}
