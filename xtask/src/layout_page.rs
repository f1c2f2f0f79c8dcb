//! Holds the drawn memory layout against the source and the built kernel.
//!
//! `docs/memory-layout.md` is drawn by hand; a drawing that nobody compares is wrong within a year.

use crate::desk;
use crate::elf::Elf;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;

const DRAWING: &str = "docs/memory-layout.md";
const TABLES: &str = "docs/page-tables.md";
const SOURCE: &str = "kernel/arch/src/metal/layout.rs";

/// Compares the pages with `layout.rs` and the kernel's first segment.
pub fn compare(kernel: &Elf) -> Result<()> {
    let root = desk::root();
    let read = |file: &str| fs::read_to_string(root.join(file)).context(file.to_string());
    let constants = constants(&read(SOURCE)?);
    let drawn = addresses(&read(DRAWING)?);
    for (name, address) in &constants {
        if !drawn.contains(address) {
            bail!("{DRAWING} does not show {address:#x}, which {SOURCE} calls {name}");
        }
        let slot = address >> 39 & 511;
        if !read(TABLES)?.contains(&slot.to_string()) {
            bail!("{TABLES} does not mention top-level slot {slot}, where {name} lies");
        }
    }
    let image = constants.get("IMAGE").context("no IMAGE in the layout's source")?;
    let first = kernel.segments.first().context("the kernel has no segment")?.vaddr;
    if first != *image {
        bail!("the kernel is linked at {first:#x}, and {DRAWING} says {image:#x}");
    }
    Ok(())
}

/// `pub const NAME: u64 = 0x...;` of the kernel's half of the address space.
fn constants(source: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, rest) = line.trim().strip_prefix("pub const ")?.split_once(": u64 = ")?;
        let value = number(rest.strip_suffix(';')?)?;
        (value >> 63 == 1).then(|| (name.to_string(), value))
    };
    source.lines().filter_map(line).collect()
}

/// The addresses that lines of the drawing begin with.
fn addresses(page: &str) -> Vec<u64> {
    page.lines().filter_map(|line| number(line.split_whitespace().next()?)).collect()
}

fn number(word: &str) -> Option<u64> {
    u64::from_str_radix(&word.strip_prefix("0x")?.replace('_', ""), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::{EXECUTE, tests::sample};

    #[test]
    fn the_pages_agree_with_the_source() {
        let linked = |address| Elf::read(&sample(address, &[(EXECUTE, address, 0, b"x")]));
        compare(&linked(0xffff_ffff_8000_0000).unwrap()).unwrap();
        let moved = compare(&linked(0xffff_ffff_9000_0000).unwrap()).unwrap_err();
        assert!(moved.to_string().contains("is linked at 0xffffffff90000000"), "{moved}");
    }

    #[test]
    fn lines_are_read_as_drawn() {
        assert_eq!(
            addresses("x\n0xffff_0000_0000_0001  here\n  +0x10 no\n"),
            [0xffff_0000_0000_0001]
        );
        let found = constants("pub const A: u64 = 0xffff_0000_0000_0000;\npub const B: u64 = 5;");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("A".to_string(), 0xffff << 48)]);
    }
}
