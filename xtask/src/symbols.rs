//! The symbol table of an ELF64 file (System V ABI, "Symbol Table").

use crate::elf;
use anyhow::Result;

/// A name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The linked address.
    pub address: u64,
    /// Bytes; 0 for a label of an assembly file.
    pub size: u64,
    /// The compiler made it and says that it is code.
    pub function: bool,
    /// The name as the linker knows it.
    pub name: String,
}

const SYMTAB: u32 = 2;
const STT_FUNC: u8 = 2;
const STT_SECTION: u8 = 3;
/// Sections from here on are none: absolute numbers and the like.
const SHN_LORESERVE: u16 = 0xff00;

/// The names that lie in the image; section and file names and plain numbers are left out.
///
/// # Errors
/// A truncated file.
pub fn read(file: &[u8]) -> Result<Vec<Symbol>> {
    let table = usize::try_from(elf::long(file, 40)?)?;
    let (size, count) = (usize::from(elf::half(file, 58)?), usize::from(elf::half(file, 60)?));
    let section = |index: usize| table + index * size;
    let mut all = Vec::new();
    for index in 0..count {
        let at = section(index);
        if elf::word(file, at + 4)? != SYMTAB {
            continue;
        }
        let begin = usize::try_from(elf::long(file, at + 24)?)?;
        let bytes = usize::try_from(elf::long(file, at + 32)?)?;
        let strings = section(usize::try_from(elf::word(file, at + 40)?)?);
        let strings = usize::try_from(elf::long(file, strings + 24)?)?;
        for symbol in (begin..begin + bytes).step_by(24) {
            let [kind] = elf::bytes::<1>(file, symbol + 4)?;
            let home = elf::half(file, symbol + 6)?;
            let kind = kind & 0xf;
            if home == 0 || home >= SHN_LORESERVE || kind >= STT_SECTION {
                continue;
            }
            let name = strings + usize::try_from(elf::word(file, symbol)?)?;
            let text = file.get(name..).and_then(|rest| rest.split(|b| *b == 0).next());
            all.push(Symbol {
                address: elf::long(file, symbol + 8)?,
                size: elf::long(file, symbol + 16)?,
                function: kind == STT_FUNC,
                name: String::from_utf8_lossy(text.unwrap_or_default()).into_owned(),
            });
        }
    }
    all.retain(|symbol| !symbol.name.is_empty());
    Ok(all)
}
