//! What a decoded instruction computes: register access, effective addresses, arithmetic with its
//! flags. The monitor supplies memory and device values.

use super::{Arithmetic, Extend, Instruction, Memory, Operation, Register, Source, Unary};

/// The sixteen general registers by number: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers(pub [u64; 16]);

/// RFLAGS as the arithmetic instructions see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u64);

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;
const STATUS: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

/// The low `size` bytes of all ones; all of them from 8 up.
fn ones(size: u8) -> u64 {
    match size {
        0..8 => (1 << (8 * u32::from(size))) - 1,
        _ => u64::MAX,
    }
}

impl Registers {
    /// A register by number; higher bits of the number are ignored.
    #[must_use]
    pub fn number(&self, number: u8) -> u64 {
        self.0[usize::from(number & 15)]
    }

    /// The `size` bytes of a register operand, zero-extended.
    #[must_use]
    pub fn get(&self, register: Register, size: u8) -> u64 {
        let shift = if register.high { 8 } else { 0 };
        self.number(register.number) >> shift & ones(size)
    }

    /// Writes `size` bytes of a register operand: 4 bytes clear the upper half, 1 and 2 leave the
    /// rest alone.
    pub fn set(&mut self, register: Register, size: u8, value: u64) {
        let slot = &mut self.0[usize::from(register.number & 15)];
        let shift = if register.high { 8 } else { 0 };
        let mask = if size == 4 { u64::MAX } else { ones(size) << shift };
        *slot = *slot & !mask | ((value & ones(size)) << shift) & mask;
    }
}

impl Memory {
    /// The offset in the segment; `next` is the address of the following instruction.
    #[must_use]
    pub fn offset(&self, registers: &Registers, next: u64) -> u64 {
        let part = |number: Option<u8>| number.map_or(0, |number| registers.number(number));
        let start = if self.rip_relative { next } else { part(self.base) };
        start
            .wrapping_add(part(self.index).wrapping_mul(self.scale.into()))
            .wrapping_add_signed(self.displacement)
            & ones(self.address_size)
    }
}

impl Extend {
    /// Extends `value` of `size` bytes to 64 bits.
    #[must_use]
    pub fn apply(self, value: u64, size: u8) -> u64 {
        let value = value & ones(size);
        let negative = size != 0 && value >> (8 * u32::from(size.min(8)) - 1) != 0;
        if self == Self::Sign && negative { value | !ones(size) } else { value }
    }
}

impl Arithmetic {
    /// Whether the result is stored; CMP and TEST only set flags.
    #[must_use]
    pub fn stores(self) -> bool {
        !matches!(self, Self::Compare | Self::Test)
    }

    /// `left op right` on `size` bytes, and the flags afterwards (SDM vol. 1, appendix A).
    #[must_use]
    pub fn apply(self, left: u64, right: u64, size: u8, flags: Flags) -> (u64, Flags) {
        let mask = ones(size);
        let (left, right) = (left & mask, right & mask);
        let top = mask ^ (mask >> 1);
        let carry = flags.0 & CARRY;
        let (result, carries, overflow) = match self {
            Self::Add | Self::AddCarry => {
                let carry = if self == Self::AddCarry { carry } else { 0 };
                let result = left.wrapping_add(right).wrapping_add(carry) & mask;
                // The carry out of each bit position.
                let carries = left & right | (left | right) & !result;
                (result, carries, (left ^ result) & (right ^ result))
            }
            Self::Subtract | Self::SubtractBorrow | Self::Compare => {
                let carry = if self == Self::SubtractBorrow { carry } else { 0 };
                let result = left.wrapping_sub(right).wrapping_sub(carry) & mask;
                let borrows = !left & right | (!left | right) & result;
                (result, borrows, (left ^ right) & (left ^ result))
            }
            Self::Or => (left | right, 0, 0),
            Self::Xor => (left ^ right, 0, 0),
            Self::And | Self::Test => (left & right, 0, 0),
        };
        let mut status = 0;
        let mut set = |condition: bool, flag: u64| status |= if condition { flag } else { 0 };
        set(carries & top != 0, CARRY);
        set(carries & 8 != 0, ADJUST);
        set(overflow & top != 0, OVERFLOW);
        set(result == 0, ZERO);
        set(result & top != 0, SIGN);
        set((result as u8).count_ones().is_multiple_of(2), PARITY);
        (result, Flags(flags.0 & !STATUS | status))
    }
}

impl Unary {
    /// `op value` on `size` bytes, and the flags afterwards.
    #[must_use]
    pub fn apply(self, value: u64, size: u8, flags: Flags) -> (u64, Flags) {
        let keep_carry =
            |(result, after): (u64, Flags)| (result, Flags(after.0 & !CARRY | flags.0 & CARRY));
        match self {
            Self::Increment => keep_carry(Arithmetic::Add.apply(value, 1, size, flags)),
            Self::Decrement => keep_carry(Arithmetic::Subtract.apply(value, 1, size, flags)),
            Self::Not => (!value & ones(size), flags),
            Self::Negate => Arithmetic::Subtract.apply(0, value, size, flags),
        }
    }
}

/// The device register behind an instruction's memory operand.
pub trait Target {
    /// Reads `size` bytes, zero-extended.
    fn load(&mut self, size: u8) -> u64;
    /// Writes the low `size` bytes.
    fn store(&mut self, size: u8, value: u64);
}

/// How far [`Instruction::emulate`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// The instruction is complete: RIP moves by its length.
    Done,
    /// One round of a repeated string instruction is complete: RIP stays.
    Repeat,
    /// Not emulated: only its length is known, or it is MOVS, which has another operand in guest
    /// memory. Nothing has changed.
    Unsupported,
}

const DIRECTION: u64 = 1 << 10;
const ACCUMULATOR: Register = Register { number: 0, high: false };

impl Instruction {
    /// Carries out the instruction on one device register.
    pub fn emulate(
        &self,
        registers: &mut Registers,
        flags: &mut Flags,
        target: &mut impl Target,
    ) -> Progress {
        let size = self.size;
        let value = |registers: &Registers, source: Source| match source {
            Source::Register(register) => registers.get(register, size),
            Source::Immediate(constant) => constant as u64 & ones(size),
        };
        match self.operation {
            Operation::Load { to, extend, width } => {
                let loaded = target.load(size);
                registers.set(to, width, extend.apply(loaded, size));
            }
            Operation::Store(source) => target.store(size, value(registers, source)),
            Operation::Update(arithmetic, source) => {
                let loaded = target.load(size);
                let (result, after) =
                    arithmetic.apply(loaded, value(registers, source), size, *flags);
                if arithmetic.stores() {
                    target.store(size, result);
                }
                *flags = after;
            }
            Operation::Accumulate(arithmetic, register) => {
                let loaded = target.load(size);
                let (result, after) =
                    arithmetic.apply(registers.get(register, size), loaded, size, *flags);
                if arithmetic.stores() {
                    registers.set(register, size, result);
                }
                *flags = after;
            }
            Operation::UpdateUnary(unary) => {
                let (result, after) = unary.apply(target.load(size), size, *flags);
                target.store(size, result);
                *flags = after;
            }
            Operation::Exchange(register) => {
                let loaded = target.load(size);
                target.store(size, registers.get(register, size));
                registers.set(register, size, loaded);
            }
            Operation::StoreString | Operation::LoadString => {
                return self.emulate_string(registers, *flags, target);
            }
            Operation::MoveString(_) | Operation::Other => return Progress::Unsupported,
        }
        Progress::Done
    }

    /// One round of STOS or LODS.
    fn emulate_string(
        &self,
        registers: &mut Registers,
        flags: Flags,
        target: &mut impl Target,
    ) -> Progress {
        let Some(Memory { base: Some(number), address_size, .. }) = self.memory else {
            return Progress::Unsupported;
        };
        let count = Register { number: 1, high: false };
        let index = Register { number, high: false };
        let left = registers.get(count, address_size);
        if self.repeat && left == 0 {
            return Progress::Done;
        }
        if self.operation == Operation::StoreString {
            target.store(self.size, registers.get(ACCUMULATOR, self.size));
        } else {
            let loaded = target.load(self.size);
            registers.set(ACCUMULATOR, self.size, loaded);
        }
        let at = registers.get(index, address_size);
        let step = u64::from(self.size);
        let next = match flags.0 & DIRECTION {
            0 => at.wrapping_add(step),
            _ => at.wrapping_sub(step),
        };
        registers.set(index, address_size, next);
        if !self.repeat {
            return Progress::Done;
        }
        registers.set(count, address_size, left - 1);
        if left == 1 { Progress::Done } else { Progress::Repeat }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Mode, decode};

    /// A register that remembers what was written.
    struct Cell(u64);

    impl Target for Cell {
        fn load(&mut self, size: u8) -> u64 {
            self.0 & ones(size)
        }

        fn store(&mut self, size: u8, value: u64) {
            self.0 = value & ones(size);
        }
    }

    /// Runs one instruction with RAX = 0x1122_3344_5566_7788, RCX = 2, RDI = 0x1000.
    fn run(bytes: &[u8], cell: u64) -> (Progress, Registers, u64, Flags) {
        let instruction = decode(bytes, Mode::Bits64).unwrap();
        let mut registers = Registers::default();
        registers.0[0] = 0x1122_3344_5566_7788;
        registers.0[1] = 2;
        registers.0[7] = 0x1000;
        let (mut flags, mut target) = (Flags(2), Cell(cell));
        let progress = instruction.emulate(&mut registers, &mut flags, &mut target);
        (progress, registers, target.0, flags)
    }

    #[test]
    fn what_linux_does_to_its_apic() {
        // mov eax, [rdi]; mov [rdi], eax; mov dword [rdi], 0x12345678
        assert_eq!(run(&[0x8b, 0x07], 0xfee0_0001).1.0[0], 0xfee0_0001);
        assert_eq!(run(&[0x89, 0x07], 0).2, 0x5566_7788);
        assert_eq!(run(&[0xc7, 0x07, 0x78, 0x56, 0x34, 0x12], 0).2, 0x1234_5678);
        // xchg [rdi], eax; movzx eax, byte [rdi]; movsx rax, byte [rdi]; mov ah, [rdi]
        let (_, registers, cell, _) = run(&[0x87, 0x07], 0x99);
        assert_eq!((registers.0[0], cell), (0x99, 0x5566_7788));
        assert_eq!(run(&[0x0f, 0xb6, 0x07], 0x1f0).1.0[0], 0xf0);
        assert_eq!(run(&[0x48, 0x0f, 0xbe, 0x07], 0xf0).1.0[0], 0xffff_ffff_ffff_fff0);
        assert_eq!(run(&[0x8a, 0x27], 0xee).1.0[0], 0x1122_3344_5566_ee88);
        // or dword [rdi], -2; test byte [rdi], 1; cmp eax, [rdi]; inc dword [rdi]
        assert_eq!(run(&[0x83, 0x0f, 0xfe], 1).2, 0xffff_ffff);
        let (_, _, cell, flags) = run(&[0xf6, 0x07, 0x01], 2);
        assert_eq!((cell, flags.0 & ZERO), (2, ZERO));
        assert_eq!(run(&[0x3b, 0x07], 0x5566_7788).3.0 & ZERO, ZERO);
        assert_eq!(run(&[0xff, 0x07], 41).2, 42);
    }

    #[test]
    fn string_stores_repeat_round_by_round() {
        let (progress, registers, cell, _) = run(&[0xf3, 0xab], 0);
        assert_eq!((progress, registers.0[1], registers.0[7]), (Progress::Repeat, 1, 0x1004));
        assert_eq!(cell, 0x5566_7788);
        let (progress, registers, ..) = run(&[0xaa], 0);
        assert_eq!((progress, registers.0[1], registers.0[7]), (Progress::Done, 2, 0x1001));
        assert_eq!(run(&[0xf3, 0xa5], 0).0, Progress::Unsupported);
        assert_eq!(run(&[0x0f, 0xa2], 0).0, Progress::Unsupported);
    }

    fn flags_of(op: Arithmetic, left: u64, right: u64, size: u8) -> (u64, u64) {
        let (result, flags) = op.apply(left, right, size, Flags(0x202));
        assert_eq!(flags.0 & !STATUS, 0x202);
        (result, flags.0 & STATUS)
    }

    #[test]
    fn arithmetic_sets_the_flags_of_the_manual() {
        use Arithmetic::{Add, And, Compare, Subtract};
        assert_eq!(flags_of(Add, 0xff, 1, 1), (0, CARRY | ADJUST | ZERO | PARITY));
        assert_eq!(flags_of(Add, 0x7f, 1, 1), (0x80, ADJUST | SIGN | OVERFLOW));
        assert_eq!(flags_of(Add, u64::MAX, 1, 8), (0, CARRY | ADJUST | ZERO | PARITY));
        assert_eq!(flags_of(Subtract, 0, 1, 4), (0xffff_ffff, CARRY | ADJUST | SIGN | PARITY));
        assert_eq!(flags_of(Compare, 0x8000, 1, 2), (0x7fff, ADJUST | OVERFLOW | PARITY));
        assert_eq!(flags_of(And, 0x8000_0001, 0x8000_0000, 4), (0x8000_0000, SIGN | PARITY));
        let carry = Flags(CARRY);
        assert_eq!(Arithmetic::AddCarry.apply(1, 1, 4, carry).0, 3);
        assert_eq!(
            Arithmetic::SubtractBorrow.apply(1, 1, 4, carry),
            (0xffff_ffff, { Flags(CARRY | ADJUST | SIGN | PARITY) })
        );
        assert_eq!(Unary::Increment.apply(0xff, 1, carry).1.0 & (CARRY | ZERO), CARRY | ZERO);
        assert_eq!(Unary::Not.apply(0x0f, 1, carry), (0xf0, carry));
        assert_eq!(Unary::Negate.apply(1, 2, Flags(0)).0, 0xffff);
    }

    #[test]
    fn registers_merge_by_size() {
        let mut registers = Registers::default();
        let rbx = Register { number: 3, high: false };
        let bh = Register { number: 3, high: true };
        registers.set(rbx, 8, u64::MAX);
        registers.set(bh, 1, 0x12);
        assert_eq!(registers.get(rbx, 8), 0xffff_ffff_ffff_12ff);
        assert_eq!(registers.get(bh, 1), 0x12);
        registers.set(rbx, 2, 0xabcd);
        assert_eq!(registers.get(rbx, 8), 0xffff_ffff_ffff_abcd);
        registers.set(rbx, 4, 1);
        assert_eq!(registers.get(rbx, 8), 1);
        assert_eq!(Extend::Sign.apply(0x1_80, 1), 0xffff_ffff_ffff_ff80);
        assert_eq!(Extend::Zero.apply(0x1_80, 1), 0x80);
        assert_eq!(Extend::Sign.apply(u64::MAX, 8), u64::MAX);
    }
}
