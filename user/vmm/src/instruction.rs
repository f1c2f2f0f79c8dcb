//! How far to move RIP, with or without the processor's help.
//!
//! VMX reports an instruction length. SVM without its next-RIP feature does not, so the bytes at
//! RIP are looked at: the prefixes are counted, the rest is known from the exit.
use crate::memory::GuestMemory;
use crate::registers;
use abi::utcb::StatePage;

/// Longest instruction (Intel SDM vol. 2, 2.3.11).
pub const LONGEST: usize = 15;

/// The prefixes of an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// How many bytes they are.
    pub count: usize,
    /// The last segment override.
    pub segment: Option<Override>,
    /// Operand size override, 0x66.
    pub operand: bool,
    /// Address size override, 0x67.
    pub address: bool,
    /// A repeat prefix.
    pub repeat: bool,
    /// REX byte, 0 if none.
    pub rex: u8,
}

/// Segment overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Override {
    /// 0x2e
    Cs,
    /// 0x36
    Ss,
    /// 0x3e
    Ds,
    /// 0x26
    Es,
    /// 0x64
    Fs,
    /// 0x65
    Gs,
}

/// Reads the prefixes at the start of `bytes` (Intel SDM vol. 2, 2.1.1, 2.2.1).
pub fn prefixes(bytes: &[u8], long: bool) -> Prefixes {
    let mut found = Prefixes::default();
    for byte in bytes.iter().copied().take(LONGEST) {
        if found.rex != 0 {
            break;
        }
        match byte {
            0x2e => found.segment = Some(Override::Cs),
            0x36 => found.segment = Some(Override::Ss),
            0x3e => found.segment = Some(Override::Ds),
            0x26 => found.segment = Some(Override::Es),
            0x64 => found.segment = Some(Override::Fs),
            0x65 => found.segment = Some(Override::Gs),
            0x66 => found.operand = true,
            0x67 => found.address = true,
            0xf0 => {}
            0xf2 | 0xf3 => found.repeat = true,
            0x40..=0x4f if long => found.rex = byte,
            _ => break,
        }
        found.count += 1;
    }
    found
}

/// The bytes at RIP; how many could be read.
pub fn fetch(page: &StatePage, memory: &GuestMemory, out: &mut [u8; LONGEST]) -> usize {
    registers::paging(page).fetch(memory, registers::instruction_address(page), out)
}

/// Moves RIP past the instruction; `size` is its length without prefixes, for processors that do
/// not report a length. Clears the blocking that STI and MOV SS leave for one instruction.
pub fn advance(page: &mut StatePage, memory: &GuestMemory, size: u64) {
    let length = match page.inst_len {
        known @ 1..=15 => known,
        _ => {
            let mut bytes = [0; LONGEST];
            let count = fetch(page, memory, &mut bytes);
            let bytes = bytes.get(..count).unwrap_or_default();
            prefixes(bytes, registers::long_code(page)).count as u64 + size
        }
    };
    advance_by(page, length);
}

/// Moves RIP by a known length.
pub fn advance_by(page: &mut StatePage, length: u64) {
    page.rip = page.rip.wrapping_add(length);
    if !registers::long_code(page) {
        page.rip &= 0xffff_ffff;
    }
    page.intr_state &= !3;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn prefixes_are_counted() {
        let found = prefixes(&[0x66, 0xf3, 0x65, 0x48, 0x6e], true);
        assert_eq!((found.count, found.segment, found.rex), (4, Some(Override::Gs), 0x48));
        assert!(found.repeat && found.operand && !found.address);
        assert_eq!(prefixes(&[0x48, 0x0f], false).count, 0);
        assert_eq!(prefixes(&[0x66; 30], true).count, LONGEST);
    }

    #[test]
    fn rip_moves_with_and_without_help() {
        let ram: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
        let memory = GuestMemory::new(&ram);
        memory.write(0x100, &[0x67, 0x0f, 0xa2]).unwrap();
        let mut page = Box::new(StatePage::ZERO);
        page.rip = 0x100;
        page.intr_state = 1;
        advance(&mut page, &memory, 2);
        assert_eq!((page.rip, page.intr_state), (0x103, 0));
        page.inst_len = 7;
        advance(&mut page, &memory, 2);
        assert_eq!(page.rip, 0x10a);
    }
}
