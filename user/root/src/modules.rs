//! Boot modules by name: the first word of the command line.
use abi::hip::{Memory, MemoryKind};
use alloc::string::String;
use alloc::vec::Vec;

/// Longest name.
pub const NAME: usize = 31;

/// A boot module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// First word of its command line; empty if there is none.
    pub name: String,
    /// Physical address of its first byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// All modules among the descriptors; `line` fetches the text at a physical address.
pub fn modules(
    descriptors: impl Iterator<Item = Memory>,
    mut line: impl FnMut(u64) -> Vec<u8>,
) -> Vec<Module> {
    descriptors
        .filter(|range| range.kind == MemoryKind::Module)
        .map(|range| {
            let text = if range.aux == 0 { Vec::new() } else { line(u64::from(range.aux)) };
            Module { name: first_word(&text), address: range.addr, size: range.size }
        })
        .collect()
}

/// The module with this name.
pub fn find<'a>(modules: &'a [Module], name: &str) -> Option<&'a Module> {
    modules.iter().find(|module| module.name == name)
}

/// The first word, without any directory before it (a loader may put the file's path there).
fn first_word(text: &[u8]) -> String {
    let line = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let word = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
    let name = word.unwrap_or_default().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let known = |byte: &&u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    name.iter().take(NAME).take_while(known).map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_first_words() {
        assert_eq!(first_word(b"vmm verbose\0junk"), "vmm");
        assert_eq!(first_word(b"  /boot/kernel x"), "kernel");
        assert_eq!(first_word(b""), "");
        assert_eq!(first_word(b"\xff\xfe"), "");
    }

    #[test]
    fn only_modules_are_listed() {
        let module = Memory { kind: MemoryKind::Module, addr: 0x1000, size: 5, aux: 0x20 };
        let ram = Memory { kind: MemoryKind::Ram, ..module };
        let list = modules([ram, module].into_iter(), |_| b"initrd\0".to_vec());
        assert_eq!(list.len(), 1);
        assert_eq!(find(&list, "initrd").map(|module| module.size), Some(5));
        assert!(find(&list, "kernel").is_none());
    }
}
