//! Checks the built images: headers, entry, segments, and what no image may carry.

use crate::build::{ELF32, Link, PROGRAMS};
use crate::desk;
use crate::elf::{self, EXECUTE, Elf, Segment, WRITE};
use crate::guest;
use crate::layout_page;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;

/// Multiboot 0.6.96, 3.1.1.
const MULTIBOOT1: u32 = 0x1bad_b002;
/// Multiboot2 2.0, 3.1.2.
const MULTIBOOT2: u32 = 0xe852_50d6;

/// Kernel images: three segments, `PF_R | PF_X`, `PF_R`, `PF_R | PF_W`.
const KERNEL_FLAGS: [u32; 3] = [5, 4, 6];

/// What is wrong with the images in `target/hematite`; nothing is built here.
pub fn findings() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for program in PROGRAMS {
        if !program.exists()? {
            continue;
        }
        let read = |path: PathBuf| {
            fs::read(&path)
                .with_context(|| format!("{}: `cargo xtask build` first", path.display()))
        };
        let file = read(program.elf()?)?;
        let mut note = |result: Result<()>| {
            if let Err(error) = result {
                found.push(format!("{}: {error:#}", program.file));
            }
        };
        note(carries_no_path(&file));
        match program.link {
            Link::Kernel => {
                note(kernel(&file));
                let wrapped = fs::read(desk::out()?.join(ELF32)).context(ELF32)?;
                note(multiboot1(&wrapped).context(ELF32));
            }
            Link::User => note(user(&file)),
            Link::Multiboot => note(multiboot1(&read(program.path()?)?)),
            Link::Guest => note(guest::bzimage(&read(program.path()?)?)),
        }
    }
    Ok(found)
}

fn kernel(file: &[u8]) -> Result<()> {
    let elf = Elf::read(file)?;
    let flags: Vec<_> = elf.segments.iter().map(|segment| segment.flags).collect();
    if flags != KERNEL_FLAGS {
        bail!("segments have flags {flags:?}, not {KERNEL_FLAGS:?} (RX, R, RW)");
    }
    entry(&elf)?;
    layout_page::compare(&elf)?;
    multiboot1(file)?;
    multiboot2(file)
}

/// A program the kernel maps in place (abi.md, 2.2): executable type, whole segments, page offsets
/// that agree, nothing writable and executable.
fn user(file: &[u8]) -> Result<()> {
    let elf = Elf::read(file)?;
    if elf.kind != 2 {
        bail!("ELF type {}, not 2 (executable)", elf.kind);
    }
    entry(&elf)?;
    for segment in &elf.segments {
        writable_or_executable(segment)?;
        if segment.filesz != segment.memsz {
            bail!(
                "segment at {:#x}: {} bytes in the file, {} in memory; both must be the same",
                segment.vaddr,
                segment.filesz,
                segment.memsz
            );
        }
        if segment.vaddr % 4096 != segment.offset % 4096 {
            bail!(
                "segment at {:#x}: its file offset {:#x} has another place in the page",
                segment.vaddr,
                segment.offset
            );
        }
    }
    Ok(())
}

/// A silently dropped start-up assembly shows as entry 0.
fn entry(elf: &Elf) -> Result<()> {
    let code = elf.segments.iter().filter(|segment| segment.flags & EXECUTE != 0);
    let inside = |s: &Segment| {
        let length = s.memsz;
        elf.entry.checked_sub(s.vaddr).is_some_and(|at| at < length)
            || elf.entry.checked_sub(s.paddr).is_some_and(|at| at < length)
    };
    if elf.entry == 0 || !code.into_iter().any(inside) {
        bail!("entry {:#x} is in no executable segment", elf.entry);
    }
    Ok(())
}

fn writable_or_executable(segment: &Segment) -> Result<()> {
    if segment.flags & WRITE != 0 && segment.flags & EXECUTE != 0 {
        bail!("segment at {:#x} is writable and executable", segment.vaddr);
    }
    Ok(())
}

fn multiboot1(file: &[u8]) -> Result<()> {
    // In the first 8192 bytes, 4-byte aligned; magic, flags and checksum add up to 0.
    let found = (0..8192 - 12).step_by(4).any(|at| {
        let field = |index: usize| elf::word(file, at + 4 * index).unwrap_or(0);
        field(0) == MULTIBOOT1 && field(0).wrapping_add(field(1)).wrapping_add(field(2)) == 0
    });
    if !found {
        bail!("no multiboot 1 header in the first 8192 bytes");
    }
    Ok(())
}

fn multiboot2(file: &[u8]) -> Result<()> {
    // In the first 32768 bytes, 8-byte aligned; magic, architecture, length and checksum add up to 0.
    let found = (0..32768 - 16).step_by(8).any(|at| {
        let field = |index: usize| elf::word(file, at + 4 * index).unwrap_or(0);
        let sum = (0..4).fold(0_u32, |sum, index| sum.wrapping_add(field(index)));
        field(0) == MULTIBOOT2 && field(1) == 0 && sum == 0
    });
    if !found {
        bail!("no multiboot 2 header in the first 32768 bytes");
    }
    Ok(())
}

/// The checkout's place on the machine that built it tells a reader nothing and changes the image.
/// Only what is loaded counts: debug information names source files.
fn carries_no_path(file: &[u8]) -> Result<()> {
    let here = desk::root();
    let here = here.to_string_lossy();
    for segment in Elf::read(file)?.segments {
        let begin = usize::try_from(segment.offset)?;
        let end = begin + usize::try_from(segment.filesz)?;
        let loaded = file.get(begin..end).context("truncated")?;
        if loaded.windows(here.len()).any(|part| part == here.as_bytes()) {
            bail!("the segment at {:#x} names the folder it was built in", segment.vaddr);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::sample;

    fn headers() -> Vec<u8> {
        let mut code = vec![0; 64];
        let one = [MULTIBOOT1, 0, 0_u32.wrapping_sub(MULTIBOOT1)];
        let two = [MULTIBOOT2, 0, 16, 0_u32.wrapping_sub(MULTIBOOT2 + 16)];
        for (index, word) in two.into_iter().chain(one).enumerate() {
            code[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        code
    }

    const HIGH: u64 = 0xffff_ffff_8000_0000;

    fn image(entry: u64, flags: [u32; 3], code: &[u8]) -> Vec<u8> {
        let [a, b, c] = flags;
        sample(
            entry,
            &[
                (a, HIGH, 0x20_0000, code),
                (b, HIGH + 0x1000, 0x20_1000, b"r"),
                (c, HIGH + 0x2000, 0x20_2000, b"w"),
            ],
        )
    }

    #[test]
    fn a_good_kernel_passes() {
        kernel(&image(HIGH + 32, KERNEL_FLAGS, &headers())).unwrap();
        let wrapped = elf::to_elf32(&image(HIGH + 32, KERNEL_FLAGS, &headers())).unwrap();
        multiboot1(&wrapped).unwrap();
    }

    #[test]
    fn each_fault_of_a_kernel_is_found() {
        let fault = |file: Vec<u8>| kernel(&file).unwrap_err().to_string();
        assert!(fault(image(0, KERNEL_FLAGS, &headers())).contains("entry"));
        assert!(fault(image(HIGH + 0x2000, KERNEL_FLAGS, &headers())).contains("entry"));
        assert!(fault(image(HIGH, [7, 4, 6], &headers())).contains("RX, R, RW"));
        assert!(fault(image(HIGH, KERNEL_FLAGS, &[0; 64])).contains("multiboot 1"));
        let mut broken = headers();
        broken[12] ^= 1;
        assert!(fault(image(HIGH, KERNEL_FLAGS, &broken)).contains("multiboot 2"));
    }

    #[test]
    fn user_programs_keep_writable_and_executable_apart() {
        user(&sample(0x1000, &[(5, 0x1000, 0, b"code"), (6, 0x2000, 0, b"data")])).unwrap();
        assert!(user(&sample(0x1000, &[(7, 0x1000, 0, b"code")])).is_err());
        // A segment whose file offset does not agree with its address.
        assert!(user(&sample(0x1001, &[(5, 0x1001, 0, b"code")])).is_err());
    }
}
