//! `abi/include/hematite.h`: the binary interface for users in other languages.
//!
//! Made from the Rust types themselves: values, field types, sizes and offsets are what the compiler
//! says, and the header asserts them again for the C compiler. The text around them is
//! `header/prologue.h` and `header/epilogue.h`.

mod constants;
mod structures;

use crate::desk;
use abi::exit::ExitReason;
use abi::{Call, Status};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;

/// Where it lies.
const PATH: &str = "abi/include/hematite.h";

/// `cargo xtask header`: writes it.
pub fn write() -> Result<()> {
    let path = desk::root().join(PATH);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    desk::write_if_changed(&path, text()?.as_bytes())?;
    println!("{PATH}");
    Ok(())
}

/// Whether the file is what would be written.
pub fn findings() -> Result<Vec<String>> {
    let there = fs::read_to_string(desk::root().join(PATH)).unwrap_or_default();
    let stale = there != text()?;
    Ok(if stale { vec![format!("{PATH} is not what `cargo xtask header` writes")] } else { vec![] })
}

/// The whole header.
fn text() -> Result<String> {
    let mut out = include_str!("header/prologue.h").to_string();
    writeln!(out, "\n/* The calls (docs/spec/index.md). */\nenum hem_call {{")?;
    for call in Call::ALL {
        writeln!(out, "    HEM_{} = {},", upper(&format!("{call:?}")), call as u8)?;
    }
    writeln!(out, "}};\n\n/* What a call answers, in the low byte of RDI. */\nenum hem_status {{")?;
    for status in (0..=u8::MAX).map_while(Status::from_u8) {
        writeln!(out, "    HEM_{} = {},", status.name(), status as u8)?;
    }
    writeln!(out, "}};\n\n/* Why a virtual processor stopped. */\nenum hem_exit {{")?;
    for number in 0..=u32::from(u8::MAX) {
        let reason = ExitReason::from_word(number);
        if !matches!(reason, ExitReason::Unknown(_)) {
            writeln!(out, "    HEM_EXIT_{} = {number},", upper(&format!("{reason:?}")))?;
        }
    }
    writeln!(out, "}};")?;
    let mut known: Vec<String> = Vec::new();
    for group in constants::groups() {
        writeln!(out, "\n/* abi/src/{} */", group.file)?;
        for (name, value) in group.constants {
            let name = format!("HEM_{}{name}", group.prefix);
            // The reasons that are enumerators already.
            if !out.contains(&format!("    {name} = ")) {
                writeln!(out, "#define {name} {value}")?;
            }
            known.push(name);
        }
    }
    known.sort();
    let twice = known.windows(2).find(|pair| pair.first() == pair.last());
    if let Some(name) = twice.and_then(|pair| pair.first()) {
        return Err(anyhow::anyhow!("two constants are called {name}")).context("header");
    }
    structures::write(&mut out)?;
    out.push_str(include_str!("header/epilogue.h"));
    Ok(out)
}

/// `CreatePd` as `CREATE_PD`.
fn upper(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(letter.to_uppercase());
    }
    out
}

/// A Rust type that C has too.
trait C {
    /// The C type, or that of an element.
    fn name() -> String;
    /// `[4]` of an array.
    fn dimension() -> String {
        String::new()
    }
    /// The value as a C literal; structures have none.
    fn literal(&self) -> String {
        String::new()
    }
}

macro_rules! integers {
    ($($rust:ty: $name:literal, $suffix:literal;)*) => {
        $(impl C for $rust {
            fn name() -> String {
                $name.to_string()
            }
            fn literal(&self) -> String {
                format!("{self:#x}{}", $suffix)
            }
        })*
    };
}

integers! {
    u8: "uint8_t", "u";
    u16: "uint16_t", "u";
    u32: "uint32_t", "u";
    u64: "uint64_t", "ull";
    usize: "uint64_t", "u";
}

impl<T: C, const N: usize> C for [T; N] {
    fn name() -> String {
        T::name()
    }
    fn dimension() -> String {
        format!("[{N}]{}", T::dimension())
    }
}

impl C for abi::Crd {
    fn name() -> String {
        u64::name()
    }
}

impl C for abi::crd::ItemMeta {
    fn name() -> String {
        u64::name()
    }
}

impl C for abi::Mtd {
    fn name() -> String {
        u32::name()
    }
    fn literal(&self) -> String {
        self.0.literal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_one_in_the_tree() {
        assert_eq!(findings().unwrap(), Vec::<String>::new());
    }

    /// `pub const NAME: ...` at the left margin, or inside `impl Mtd`.
    fn declared(file: &str) -> Vec<String> {
        let text = fs::read_to_string(desk::root().join("abi/src").join(file)).unwrap();
        let margin = if file == "mtd.rs" { "    pub const " } else { "pub const " };
        let names = text.lines().filter_map(|line| {
            line.strip_prefix(margin).filter(|rest| !rest.contains(": ["))?.split(':').next()
        });
        names
            .filter(|name| {
                name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            })
            .map(str::to_string)
            .collect()
    }

    #[test]
    fn no_constant_is_forgotten() {
        for group in constants::groups() {
            let listed: Vec<_> = group.constants.iter().map(|(name, _)| *name).collect();
            assert_eq!(
                listed,
                declared(group.file),
                "xtask/src/header/constants.rs: {}",
                group.file
            );
        }
    }

    #[test]
    fn names_are_those_of_c() {
        assert_eq!(upper("CreatePd"), "CREATE_PD");
        assert_eq!(0xfeed_u64.literal(), "0xfeedull");
        assert_eq!(<[[u32; 2]; 3]>::dimension(), "[3][2]");
    }
}
