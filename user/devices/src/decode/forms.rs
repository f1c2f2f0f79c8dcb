//! The opcode maps: which opcodes are covered, and what follows them (Intel SDM vol. 2, tables A-2,
//!

use super::{Mode, Prefixes};

/// Which opcode map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Map {
    /// One byte.
    First,
    /// 0F and a byte.
    Second,
}

/// What constant follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Immediate {
    None,
    Byte,
    Word,
    /// ENTER.
    WordAndByte,
    /// Of the operand size, but at most 4 bytes.
    Operand,
    /// Of the operand size, up to 8 bytes.
    Full,
    /// An address, of the address size.
    Address,
    /// Operand-sized (or a byte) for TEST in group 3, else none.
    Group3,
}

/// What follows an opcode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub modrm: bool,
    pub immediate: Immediate,
    /// The operand is a byte.
    pub byte: bool,
}

fn with(modrm: bool, immediate: Immediate) -> Form {
    Form { modrm, immediate, byte: false }
}

/// The form of a covered opcode.
pub(super) fn form(map: Map, opcode: u8, mode: Mode, prefixes: &Prefixes) -> Option<Form> {
    match map {
        Map::First => first(opcode, mode, prefixes),
        Map::Second => second(opcode, mode, prefixes),
    }
}

fn first(opcode: u8, mode: Mode, prefixes: &Prefixes) -> Option<Form> {
    use Immediate::{Address, Byte, Full, Group3, None as No, Operand, Word, WordAndByte};
    let long = mode == Mode::Bits64;
    // Intel ignores the operand-size prefix on near branches in 64-bit mode and AMD does not.
    let ambiguous = long && prefixes.operand;
    let mut form = match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => with(true, No),
            4 => with(false, Byte),
            5 => with(false, Operand),
            // Segment pushes and pops, decimal adjustments; not 0F, not the prefixes.
            _ if long || opcode & 0x27 == 0x26 || opcode == 0x0f => return None,
            _ => with(false, No),
        },
        0x40..=0x4f | 0x60 | 0x61 if long => return None,
        0x40..=0x61 => with(false, No),
        0x63 if long => with(true, No),
        0x68 => with(false, Operand),
        0x69 => with(true, Operand),
        0x6a => with(false, Byte),
        0x6b => with(true, Byte),
        0x6c..=0x6f => with(false, No),
        0x70..=0x7f | 0xe0..=0xe3 | 0xeb if !ambiguous => with(false, Byte),
        0x80 | 0x83 => with(true, Byte),
        0x81 => with(true, Operand),
        0x84..=0x8f => with(true, No),
        0x90..=0x99 | 0x9b..=0x9f => with(false, No),
        0xa0..=0xa3 => with(false, Address),
        0xa4..=0xa7 | 0xaa..=0xaf => with(false, No),
        0xa8 => with(false, Byte),
        0xa9 => with(false, Operand),
        0xb0..=0xb7 => with(false, Byte),
        0xb8..=0xbf => with(false, Full),
        0xc0 | 0xc1 => with(true, Byte),
        0xc2 | 0xc3 if ambiguous => return None,
        0xc2 | 0xca => with(false, Word),
        0xc3 | 0xc9 | 0xcb | 0xcc | 0xcf => with(false, No),
        0xc6 => with(true, Byte),
        0xc7 => with(true, Operand),
        0xc8 => with(false, WordAndByte),
        0xcd => with(false, Byte),
        0xd0..=0xd3 => with(true, No),
        0xe4..=0xe7 => with(false, Byte),
        0xe8 | 0xe9 if !ambiguous => with(false, Operand),
        0xec..=0xef => with(false, No),
        0xf1 | 0xf4 | 0xf5 | 0xf8..=0xfd => with(false, No),
        0xf6 | 0xf7 => with(true, Group3),
        0xfe | 0xff => with(true, No),
        _ => return None,
    };
    form.byte = match opcode {
        0x00..=0x3f => opcode & 5 == 0 || opcode & 7 == 4 || opcode & 7 == 2,
        0x80 | 0x84 | 0x86 | 0x88 | 0x8a => true,
        0xa0..=0xaf | 0xc0 | 0xc6 | 0xd0 | 0xd2 | 0xf6 | 0xfe => opcode & 1 == 0,
        _ => false,
    };
    Some(form)
}

fn second(opcode: u8, mode: Mode, prefixes: &Prefixes) -> Option<Form> {
    use Immediate::{Byte, None as No, Operand};
    let ambiguous = mode == Mode::Bits64 && prefixes.operand;
    Some(match opcode {
        // Groups 6 and 7, prefetches, no-operation, control and debug registers.
        0x00 | 0x01 | 0x0d | 0x18 | 0x1e | 0x1f | 0x20..=0x23 => with(true, No),
        // SYSCALL, CLTS, INVD, WBINVD, UD2.
        0x05 | 0x06 | 0x08 | 0x09 | 0x0b => with(false, No),
        // WRMSR, RDTSC, RDMSR, RDPMC; CPUID; PUSH and POP of FS and GS.
        0x30..=0x33 | 0xa0..=0xa2 | 0xa8 | 0xa9 => with(false, No),
        0x40..=0x4f => with(true, No),
        0x80..=0x8f if !ambiguous => with(false, Operand),
        0x90..=0x9f => Form { byte: true, ..with(true, No) },
        0xa3 | 0xa5 | 0xab | 0xad..=0xaf | 0xb1 | 0xb3 | 0xb6 | 0xb7 | 0xbb..=0xbf => {
            with(true, No)
        }
        0xa4 | 0xac | 0xba => with(true, Byte),
        0xb0 | 0xc0 => Form { byte: true, ..with(true, No) },
        0xc1 | 0xc3 | 0xc7 => with(true, No),
        0xc8..=0xcf => with(false, No),
        _ => return None,
    })
}

/// Which of the operations that share an opcode are covered.
pub(super) fn valid(map: Map, opcode: u8, modrm: u8, prefixes: &Prefixes) -> bool {
    let memory = modrm >> 6 != 3;
    let reg = modrm >> 3 & 7;
    match (map, opcode) {
        (Map::First, 0x8c) => reg < 6,
        (Map::First, 0x8d) => memory,
        (Map::First, 0x8e) => reg < 6 && reg != 1,
        (Map::First, 0x8f | 0xc6 | 0xc7) => reg == 0,
        (Map::First, 0xfe) => reg < 2,
        (Map::First, 0xff) => matches!(reg, 0 | 1 | 2 | 4 | 6) || matches!(reg, 3 | 5) && memory,
        (Map::Second, 0x00) => reg < 6,
        (Map::Second, 0x01) if memory => reg != 5,
        // SMSW, LMSW; VMCALL; MONITOR, MWAIT, CLAC, STAC; XGETBV, XSETBV; VMMCALL; RDTSCP.
        (Map::Second, 0x01) => match modrm {
            0xe0..=0xe7 | 0xf0..=0xf7 => true,
            0xc1 | 0xc8..=0xcb | 0xd0 | 0xd1 | 0xd9 | 0xf9 => !prefixes.mandatory(),
            _ => false,
        },
        (Map::Second, 0x0d) => memory && reg == 1,
        (Map::Second, 0x18) => memory && reg < 4,
        (Map::Second, 0x1e) => modrm == 0xfa && prefixes.repeat == Some(0xf3),
        (Map::Second, 0x1f) => reg == 0,
        (Map::Second, 0x20 | 0x22) => {
            matches!(prefixes.extended(2, reg), 0 | 2 | 3 | 4 | 8)
        }
        (Map::Second, 0x21 | 0x23) => prefixes.extended(2, reg) < 8,
        (Map::Second, 0xae) if prefixes.mandatory() => false,
        (Map::Second, 0xae) => memory || matches!(modrm, 0xe8 | 0xf0 | 0xf8),
        (Map::Second, 0xba) => reg >= 4,
        (Map::Second, 0xc3) => memory && !prefixes.mandatory(),
        (Map::Second, 0xc7) if prefixes.mandatory() => false,
        (Map::Second, 0xc7) => memory && reg == 1 || !memory && reg >= 6,
        _ => true,
    }
}

impl Immediate {
    /// How many bytes it has.
    pub fn bytes(self, opcode: u8, modrm: u8, operand_size: u8, address_size: u8) -> u8 {
        match self {
            Self::None => 0,
            Self::Byte => 1,
            Self::Word => 2,
            Self::WordAndByte => 3,
            Self::Operand => operand_size.min(4),
            Self::Full => operand_size,
            Self::Address => address_size,
            Self::Group3 if modrm >> 3 & 7 > 1 => 0,
            Self::Group3 if opcode & 1 == 0 => 1,
            Self::Group3 => operand_size.min(4),
        }
    }
}

/// Whether LOCK is allowed, given a memory operand (SDM vol. 2, "LOCK").
pub(super) fn lockable(map: Map, opcode: u8, modrm: u8) -> bool {
    let reg = modrm >> 3 & 7;
    match (map, opcode) {
        (Map::First, 0x00..=0x37) => opcode & 7 < 2,
        (Map::First, 0x80 | 0x81 | 0x83) => reg != 7,
        (Map::First, 0x86 | 0x87) => true,
        (Map::First, 0xf6 | 0xf7) => reg == 2 || reg == 3,
        (Map::First, 0xfe | 0xff) => reg < 2,
        (Map::Second, 0xab | 0xb0 | 0xb1 | 0xb3 | 0xbb | 0xc0 | 0xc1 | 0xc7) => true,
        (Map::Second, 0xba) => reg >= 5,
        _ => false,
    }
}
