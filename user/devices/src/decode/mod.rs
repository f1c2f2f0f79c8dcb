//! A small x86 instruction decoder: the length of what a guest exits on, and the meaning of what
//! it does to device memory (Intel SDM vol. 2, chapter 2 and appendix A).
//!
//! Covered by meaning ([`Operation`]): MOV in all forms with memory, MOVZX, MOVSX, MOVSXD, the
//! arithmetic group with memory, TEST, XCHG, INC, DEC, NOT, NEG, STOS, LODS, MOVS. Covered by
//! length only: the other integer instructions, control flow, and every instruction a hypervisor
//! intercepts. Not covered ([`Error::Unknown`]): x87, SSE, VEX, EVEX, far pointers, and undefined
//! encodings. `tests/decode.rs` compares all of it with a published decoder.

mod execute;
mod forms;

pub use execute::{Flags, Progress, Registers, Target};
use forms::{Immediate, Map};

/// The longest instruction, bytes.
pub const LONGEST: usize = 15;

/// The default operand and address size of the code segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 16 bits: real mode, virtual-8086 mode, or CS.D clear.
    Bits16,
    /// 32 bits: CS.D set.
    Bits32,
    /// 64-bit mode: CS.L set.
    Bits64,
}

/// Why there is no instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The bytes end before the instruction does: fetch more.
    Truncated,
    /// Not covered, undefined, or longer than [`LONGEST`].
    Unknown,
}

/// A segment register, as encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// A general register operand, of the instruction's operand size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register {
    /// The number, 0 (RAX) to 15 (R15).
    pub number: u8,
    /// AH, CH, DH or BH: bits 8 to 15 of register 0 to 3.
    pub high: bool,
}

/// A memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The segment, overrides applied.
    pub segment: Segment,
    /// Base register number.
    pub base: Option<u8>,
    /// Index register number.
    pub index: Option<u8>,
    /// What the index is multiplied by: 1, 2, 4 or 8.
    pub scale: u8,
    /// Displacement, sign-extended.
    pub displacement: i64,
    /// The displacement counts from the next instruction.
    pub rip_relative: bool,
    /// Address size in bytes: 2, 4 or 8; the sum wraps there.
    pub address_size: u8,
}

/// What is combined with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A register.
    Register(Register),
    /// A constant, sign-extended.
    Immediate(i64),
}

/// How a loaded value fills a wider register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extend {
    /// With zeros.
    Zero,
    /// With its sign.
    Sign,
}

/// The two-operand arithmetic group, in encoding order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// ADD.
    Add,
    /// OR.
    Or,
    /// ADC.
    AddCarry,
    /// SBB.
    SubtractBorrow,
    /// AND.
    And,
    /// SUB.
    Subtract,
    /// XOR.
    Xor,
    /// CMP: subtract for the flags only.
    Compare,
    /// TEST: and for the flags only.
    Test,
}

/// The one-operand group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    /// INC.
    Increment,
    /// DEC.
    Decrement,
    /// NOT.
    Not,
    /// NEG.
    Negate,
}

/// What an instruction does with its memory operand, which has [`Instruction::size`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Register = memory, extended to `width` bytes.
    Load {
        /// Destination.
        to: Register,
        /// How the rest of `width` is filled.
        extend: Extend,
        /// Bytes of the destination: as many as memory has, or more.
        width: u8,
    },
    /// Memory = value.
    Store(Source),
    /// Memory = memory `op` value (the flags only for CMP and TEST).
    Update(Arithmetic, Source),
    /// Register = register `op` memory (the flags only for CMP).
    Accumulate(Arithmetic, Register),
    /// Memory = `op` memory.
    UpdateUnary(Unary),
    /// Register and memory change places.
    Exchange(Register),
    /// STOS: memory = accumulator, then the index moves.
    StoreString,
    /// LODS: accumulator = memory, then the index moves.
    LoadString,
    /// MOVS: memory = this other memory, then both indices move.
    MoveString(Memory),
    /// Only the length (and the operand of memory, if any) is known.
    Other,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes, 1 to [`LONGEST`].
    pub length: u8,
    /// What it does.
    pub operation: Operation,
    /// Bytes of the memory operand: 1, 2, 4 or 8. Meaningless for [`Operation::Other`].
    pub size: u8,
    /// Where it does it; the destination for [`Operation::MoveString`].
    pub memory: Option<Memory>,
    /// A REP, REPE or REPNE prefix: string operations repeat rCX times.
    pub repeat: bool,
    /// A LOCK prefix.
    pub lock: bool,
}

/// The bytes still to decode.
#[derive(Clone, Copy)]
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, Error> {
        if self.at >= LONGEST {
            return Err(Error::Unknown);
        }
        let byte = self.bytes.get(self.at).copied().ok_or(Error::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Result<u8, Error> {
        let mut copy = *self;
        copy.byte()
    }

    /// A little-endian number of 0 to 8 bytes, sign-extended.
    fn number(&mut self, size: u8) -> Result<i64, Error> {
        let mut value = 0_u64;
        for index in 0..size {
            value |= u64::from(self.byte()?) << (8 * u32::from(index & 7));
        }
        let unused = 64 - 8 * u32::from(size.min(8));
        Ok((value.checked_shl(unused).unwrap_or(0) as i64).checked_shr(unused).unwrap_or(0))
    }
}

/// Everything the prefixes said.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    operand: bool,
    address: bool,
    lock: bool,
    /// The last of F2 and F3.
    repeat: Option<u8>,
    segment: Option<Segment>,
    rex: Option<u8>,
}

impl Prefixes {
    /// A REX bit: 3 W, 2 R, 1 X, 0 B.
    fn rex_bit(&self, bit: u8) -> bool {
        self.rex.is_some_and(|rex| rex >> bit & 1 != 0)
    }

    /// A register number with its REX bit.
    fn extended(&self, bit: u8, low: u8) -> u8 {
        low & 7 | if self.rex_bit(bit) { 8 } else { 0 }
    }

    /// Any of the prefixes that select another instruction in the 0F map.
    fn mandatory(&self) -> bool {
        self.operand || self.repeat.is_some()
    }

    fn read(input: &mut Input, mode: Mode) -> Result<Self, Error> {
        let mut prefixes = Self::default();
        loop {
            let byte = input.peek()?;
            let long = mode == Mode::Bits64;
            let override_with = |prefixes: &mut Self, segment, ignored: bool| {
                if !ignored {
                    prefixes.segment = Some(segment);
                }
            };
            match byte {
                0x26 => override_with(&mut prefixes, Segment::Es, long),
                0x2e => override_with(&mut prefixes, Segment::Cs, long),
                0x36 => override_with(&mut prefixes, Segment::Ss, long),
                0x3e => override_with(&mut prefixes, Segment::Ds, long),
                0x64 => override_with(&mut prefixes, Segment::Fs, false),
                0x65 => override_with(&mut prefixes, Segment::Gs, false),
                0x66 => prefixes.operand = true,
                0x67 => prefixes.address = true,
                0xf0 => prefixes.lock = true,
                0xf2 | 0xf3 => prefixes.repeat = Some(byte),
                0x40..=0x4f if long => {
                    input.byte()?;
                    // REX counts only right before the opcode.
                    prefixes.rex = Some(byte);
                    continue;
                }
                _ => return Ok(prefixes),
            }
            prefixes.rex = None;
            input.byte()?;
        }
    }
}

/// Decodes the instruction at the start of `bytes` (15 of them suffice).
///
/// # Errors
/// See [`Error`]. When this returns an instruction, its length is right.
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Instruction, Error> {
    let mut input = Input { bytes, at: 0 };
    let prefixes = Prefixes::read(&mut input, mode)?;
    let first = input.byte()?;
    let (map, opcode) =
        if first == 0x0f { (Map::Second, input.byte()?) } else { (Map::First, first) };
    let form = forms::form(map, opcode, mode, &prefixes).ok_or(Error::Unknown)?;

    let operand_size = match (mode, prefixes.operand) {
        _ if prefixes.rex_bit(3) => 8,
        (Mode::Bits16, false) | (Mode::Bits32 | Mode::Bits64, true) => 2,
        _ => 4,
    };
    let address_size = match (mode, prefixes.address) {
        (Mode::Bits64, false) => 8,
        (Mode::Bits64, true) | (Mode::Bits32, false) | (Mode::Bits16, true) => 4,
        _ => 2,
    };
    let size = if form.byte { 1 } else { operand_size };
    let context = Context { mode, prefixes, address_size };

    let mut modrm = 0;
    let mut memory = None;
    if form.modrm {
        modrm = input.byte()?;
        if !forms::valid(map, opcode, modrm, &prefixes) {
            return Err(Error::Unknown);
        }
        // Moves to and from control and debug registers have no memory form.
        if modrm >> 6 != 3 && !(map == Map::Second && matches!(opcode, 0x20..=0x23)) {
            memory = Some(context.memory_operand(&mut input, modrm)?);
        }
    }
    if prefixes.lock && (memory.is_none() || !forms::lockable(map, opcode, modrm)) {
        return Err(Error::Unknown);
    }
    let immediate =
        input.number(form.immediate.bytes(opcode, modrm, operand_size, address_size))?;
    if form.immediate == Immediate::Address {
        memory = Some(Memory { displacement: immediate, ..context.plain(Segment::Ds) });
    }

    let (operation, size, memory) =
        context.meaning(map, opcode, modrm, immediate, Sizes { size, operand_size }, memory);
    Ok(Instruction {
        length: u8::try_from(input.at).map_err(|_| Error::Unknown)?,
        operation,
        size,
        memory,
        repeat: prefixes.repeat.is_some(),
        lock: prefixes.lock,
    })
}

/// What decoding a part needs to know of the whole.
struct Context {
    mode: Mode,
    prefixes: Prefixes,
    address_size: u8,
}

/// Operand size of this form, and what it would be for the non-byte form.
#[derive(Clone, Copy)]
struct Sizes {
    size: u8,
    operand_size: u8,
}

impl Context {
    /// A memory operand with nothing in it but its segment.
    fn plain(&self, default: Segment) -> Memory {
        Memory {
            segment: self.prefixes.segment.unwrap_or(default),
            base: None,
            index: None,
            scale: 1,
            displacement: 0,
            rip_relative: false,
            address_size: self.address_size,
        }
    }

    /// The operand of a string instruction: RSI (6) with overrides, or ES:RDI (7) without.
    fn string(&self, register: u8) -> Memory {
        let plain = self.plain(Segment::Ds);
        let segment = if register == 7 { Segment::Es } else { plain.segment };
        Memory { segment, base: Some(register), ..plain }
    }

    fn memory_operand(&self, input: &mut Input, modrm: u8) -> Result<Memory, Error> {
        let (mode, rm) = (modrm >> 6, modrm & 7);
        if self.address_size == 2 {
            return self.memory_operand_16(input, mode, rm);
        }
        let mut memory = self.plain(Segment::Ds);
        let mut base = rm;
        if rm == 4 {
            let sib = input.byte()?;
            memory.scale = 1 << (sib >> 6);
            let index = self.prefixes.extended(1, sib >> 3);
            memory.index = (index != 4).then_some(index);
            base = sib & 7;
        }
        let size = match mode {
            0 if base == 5 => {
                memory.rip_relative = rm == 5 && self.mode == Mode::Bits64;
                4
            }
            0 => 0,
            1 => 1,
            _ => 4,
        };
        if !(mode == 0 && base == 5) {
            memory.base = Some(self.prefixes.extended(0, base));
            // RSP and RBP (not R12 and R13) address the stack.
            if matches!(memory.base, Some(4 | 5)) && self.prefixes.segment.is_none() {
                memory.segment = Segment::Ss;
            }
        }
        memory.displacement = input.number(size)?;
        Ok(memory)
    }

    /// SDM vol. 2, table 2-1.
    fn memory_operand_16(&self, input: &mut Input, mode: u8, rm: u8) -> Result<Memory, Error> {
        let (base, index) = match rm {
            0 => (Some(3), Some(6)),
            1 => (Some(3), Some(7)),
            2 => (Some(5), Some(6)),
            3 => (Some(5), Some(7)),
            4 => (Some(6), None),
            5 => (Some(7), None),
            6 if mode == 0 => (None, None),
            6 => (Some(5), None),
            _ => (Some(3), None),
        };
        let size = match mode {
            0 if base.is_none() => 2,
            0 => 0,
            1 => 1,
            _ => 2,
        };
        let default = if base == Some(5) { Segment::Ss } else { Segment::Ds };
        let displacement = input.number(size)?;
        Ok(Memory { base, index, displacement, ..self.plain(default) })
    }

    /// A register operand of `size` bytes; `bit` is the REX bit that extends it.
    fn register(&self, bit: u8, low: u8, size: u8) -> Register {
        if size == 1 && self.prefixes.rex.is_none() && low & 4 != 0 {
            Register { number: low & 3, high: true }
        } else {
            Register { number: self.prefixes.extended(bit, low), high: false }
        }
    }

    /// Operation, bytes of memory, and the memory operand (string operations have none in their
    /// encoding).
    fn meaning(
        &self,
        map: Map,
        opcode: u8,
        modrm: u8,
        immediate: i64,
        Sizes { size, operand_size }: Sizes,
        memory: Option<Memory>,
    ) -> (Operation, u8, Option<Memory>) {
        let register = self.register(2, modrm >> 3 & 7, size);
        let accumulator = Register { number: 0, high: false };
        let load = |to, extend, width| Operation::Load { to, extend, width };
        match (map, opcode) {
            (Map::First, 0xa4 | 0xa5) => {
                return (Operation::MoveString(self.string(6)), size, Some(self.string(7)));
            }
            (Map::First, 0xaa | 0xab) => {
                return (Operation::StoreString, size, Some(self.string(7)));
            }
            (Map::First, 0xac | 0xad) => {
                return (Operation::LoadString, size, Some(self.string(6)));
            }
            _ if memory.is_none() => return (Operation::Other, size, None),
            _ => {}
        }
        let wide = Register { number: self.prefixes.extended(2, modrm >> 3), high: false };
        let group = Arithmetic::from_bits(modrm >> 3);
        let operation = match (map, opcode) {
            (Map::First, 0x00..=0x3f) => {
                let arithmetic = Arithmetic::from_bits(opcode >> 3);
                if opcode & 2 == 0 {
                    Operation::Update(arithmetic, Source::Register(register))
                } else {
                    Operation::Accumulate(arithmetic, register)
                }
            }
            (Map::First, 0x80 | 0x81 | 0x83) => {
                Operation::Update(group, Source::Immediate(immediate))
            }
            (Map::First, 0x84 | 0x85) => {
                Operation::Update(Arithmetic::Test, Source::Register(register))
            }
            (Map::First, 0x86 | 0x87) => Operation::Exchange(register),
            (Map::First, 0x88 | 0x89) => Operation::Store(Source::Register(register)),
            (Map::First, 0x8a | 0x8b) => load(register, Extend::Zero, size),
            (Map::First, 0xa0 | 0xa1) => load(accumulator, Extend::Zero, size),
            (Map::First, 0xa2 | 0xa3) => Operation::Store(Source::Register(accumulator)),
            (Map::First, 0xc6 | 0xc7) => Operation::Store(Source::Immediate(immediate)),
            (Map::First, 0xf6 | 0xf7) => match modrm >> 3 & 7 {
                0 | 1 => Operation::Update(Arithmetic::Test, Source::Immediate(immediate)),
                2 => Operation::UpdateUnary(Unary::Not),
                3 => Operation::UpdateUnary(Unary::Negate),
                _ => Operation::Other,
            },
            (Map::First, 0xfe | 0xff) => match modrm >> 3 & 7 {
                0 => Operation::UpdateUnary(Unary::Increment),
                1 => Operation::UpdateUnary(Unary::Decrement),
                _ => Operation::Other,
            },
            // These name two sizes: the memory's first.
            (Map::First, 0x63) => {
                let from = operand_size.min(4);
                return (load(wide, Extend::Sign, operand_size), from, memory);
            }
            (Map::Second, 0xb6 | 0xb7 | 0xbe | 0xbf) => {
                let extend = if opcode & 8 == 0 { Extend::Zero } else { Extend::Sign };
                let from = if opcode & 1 == 0 { 1 } else { 2 };
                return (load(wide, extend, operand_size), from, memory);
            }
            // Store without a cache line: to a device it is a store.
            (Map::Second, 0xc3) => {
                return (Operation::Store(Source::Register(wide)), operand_size.max(4), memory);
            }
            _ => Operation::Other,
        };
        (operation, size, memory)
    }
}

impl Arithmetic {
    /// The group's encoding order.
    fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Add,
            1 => Self::Or,
            2 => Self::AddCarry,
            3 => Self::SubtractBorrow,
            4 => Self::And,
            5 => Self::Subtract,
            6 => Self::Xor,
            _ => Self::Compare,
        }
    }
}
