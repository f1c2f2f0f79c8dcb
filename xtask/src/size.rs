//! How big it is: lines per room, image bytes, and who takes the most of it.

use crate::build::PROGRAMS;
use crate::desk;
use crate::elf::{Elf, WRITE};
use crate::layers::ROOMS;
use crate::sources::{self, Source};
use crate::symbols;
use anyhow::{Context, Result};
use std::fs;

/// Rooms that count as the kernel; the promise is fewer than 10,000 lines for all.
const KERNEL_ROOMS: &[&str] = &["boot", "logic", "sync", "arch", "objects", "syscalls", "kernel"];

/// Symbols listed per image.
const TOP: usize = 12;

/// Prints the tables.
pub fn size() -> Result<()> {
    let sources = sources::all()?;
    println!("{:>10} {:>8} {:>8}  folder", "room", "code", "tests");
    let mut kernel = 0;
    for room in ROOMS {
        let (mut code, mut tests) = (0, 0);
        for source in sources.iter().filter(|source| belongs(source, room.folder)) {
            code += sources::code_lines(source);
            tests += sources::test_lines(source);
        }
        if code + tests > 0 {
            println!("{:>10} {code:>8} {tests:>8}  {}", room.name, room.folder);
        }
        if KERNEL_ROOMS.contains(&room.name) {
            kernel += code;
        }
    }
    println!("boot and kernel rooms: {kernel} lines of code (promise: under 10000)\n");
    for program in PROGRAMS {
        let path = program.elf()?;
        if program.exists()? && path.is_file() {
            let file = fs::read(&path).with_context(|| path.display().to_string())?;
            image(program.file, &file)?;
        }
    }
    println!("images lie in {}", desk::out()?.display());
    Ok(())
}

/// A folder's own files; rooms inside it have lines of their own.
fn belongs(source: &Source, folder: &str) -> bool {
    let assembly = source.path.ends_with(".S");
    if !source.path.ends_with(".rs") && !assembly {
        return false;
    }
    let inside = |folder: &str| source.path.starts_with(&format!("{folder}/"));
    let deeper = ROOMS.iter().any(|room| {
        room.folder.len() > folder.len() && room.folder.starts_with(folder) && inside(room.folder)
    });
    inside(folder) && !deeper
}

fn image(name: &str, file: &[u8]) -> Result<()> {
    let elf = Elf::read(file)?;
    let loaded: u64 = elf.segments.iter().map(|segment| segment.filesz).sum();
    let bss: u64 = elf.segments.iter().map(|s| s.memsz.saturating_sub(s.filesz)).sum();
    let writable = elf.segments.iter().filter(|segment| segment.flags & WRITE != 0);
    let data: u64 = writable.map(|segment| segment.memsz).sum();
    println!("{name}: {loaded} bytes loaded, {bss} zeroed (BSS), {data} writable");
    let mut symbols = symbols::read(file).unwrap_or_default();
    symbols.sort_by_key(|symbol| std::cmp::Reverse(symbol.size));
    for symbol in symbols.iter().take(TOP) {
        println!("{:>10}  {}", symbol.size, symbol.name);
    }
    println!();
    Ok(())
}
