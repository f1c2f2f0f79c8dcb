//! A thread that fills its registers, leaves them to a system call, and looks what came back.
#![allow(unsafe_code, reason = "instructions that fill and read registers")]

use alloc::boxed::Box;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::mem::offset_of;

/// Words of a save area: one page.
pub const WORDS: usize = 512;
/// x87, SSE, AVX, and the three parts of AVX-512.
const COMPONENTS: u64 = 0b1110_0111;

/// Registers in the standard format of XSAVE (Intel SDM vol. 1, 13.4).
#[repr(C, align(64))]
#[derive(Clone)]
pub struct Area(pub [u64; WORDS]);

impl Area {
    /// Values that follow from `seed` and are all different, for every component in use.
    pub fn pattern(seed: u64) -> Area {
        let mut area = Area([0; WORDS]);
        for (index, word) in (0u64..).zip(area.0.iter_mut()) {
            *word = value(seed, index);
        }
        // Control word, all x87 registers valid; MXCSR; what the area holds, and nothing else.
        area.0[0] = 0xff_0000_037f;
        (area.0[1], area.0[2], area.0[3]) = (0, 0, 0x1f80);
        for register in 0..8 {
            // Sign and exponent of a finite number, with the bit that the format demands.
            area.0[4 + 2 * register] |= 1 << 63;
            area.0[5 + 2 * register] &= 0x3fff;
        }
        area.0[64..72].fill(0);
        area.0[64] = components();
        area
    }

    /// The first byte offset at which the registers here and in `other` differ. `narrow` looks only at
    /// what XSAVE stores outside 64-bit mode: the lower half of the vector registers.
    pub fn differs(&self, other: &dyn Fn(usize) -> u64, narrow: bool) -> Option<usize> {
        let mut ranges = [(32, 128), (160, 256), (0, 0), (0, 0), (0, 0), (0, 0)];
        for (range, component) in ranges.iter_mut().skip(2).zip([2, 5, 6, 7]) {
            if components() >> component & 1 != 0 {
                let place = __cpuid_count(0xd, component);
                *range = (place.ebx as usize, place.eax as usize);
            }
        }
        if narrow {
            // SSE, AVX, upper halves of ZMM0 to ZMM15; opmasks are whole, ZMM16 to ZMM31 are not there.
            for index in [1, 2, 4] {
                ranges[index].1 /= 2;
            }
            ranges[5] = (0, 0);
        }
        let bytes = ranges.into_iter().flat_map(|(first, count)| first..first + count);
        let mut words = bytes.step_by(8);
        words.find(|at| self.0.get(at / 8).is_some_and(|word| *word != other(at / 8)))
    }
}

/// Word `index` of what `seed` stands for.
pub const fn value(seed: u64, index: u64) -> u64 {
    (seed << 8 | 0x11).wrapping_mul(0x0101_0101_0101) ^ index.wrapping_mul(0x9e37_79b9)
}

/// The components that both the machine and this test know; 0 without XSAVE.
pub fn components() -> u64 {
    if __cpuid(1).ecx >> 27 & 1 == 0 { 0 } else { xcr0() & COMPONENTS }
}

/// XCR0; the machine must have XSAVE on.
pub fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register; the callers asked for OSXSAVE.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// What RDTSCP says about the processor; 0 without it.
pub fn tsc_aux() -> u32 {
    if __cpuid(0x8000_0001).edx >> 27 & 1 == 0 {
        return 0;
    }
    let value: u32;
    // SAFETY: reads registers.
    unsafe {
        asm!("rdtscp", out("ecx") value, out("eax") _, out("edx") _, options(nomem, nostack))
    };
    value
}

/// Whether programs may name their bases.
fn has_bases() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 != 0
}

/// FS and GS base; zeros where programs cannot read them.
fn bases() -> (u64, u64) {
    if !has_bases() {
        return (0, 0);
    }
    let (fs, gs);
    // SAFETY: reads registers; the kernel enables the instructions where they exist.
    unsafe {
        asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs, options(nomem, nostack))
    };
    (fs, gs)
}

/// What one crossing loads, does, and finds.
#[repr(C, align(64))]
pub struct Crossing {
    before: Area,
    after: Area,
    /// RBX, RBP, R9, R10, R12 to R15.
    general: [u64; 8],
    seen: [u64; 8],
    call: [u64; 5],
    mask: u64,
}

/// What a crossing must bring back besides its area and general registers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Rest {
    bases: (u64, u64),
    xcr0: u64,
    tsc_aux: u32,
}

fn rest() -> Rest {
    Rest { bases: bases(), xcr0: xcr0(), tsc_aux: tsc_aux() }
}

impl Crossing {
    /// One with the registers of `seed`.
    pub fn new(seed: u64) -> Box<Crossing> {
        let before = Area::pattern(seed);
        let mut general = [0; 8];
        for (index, register) in (1000u64..).zip(&mut general) {
            *register = value(seed, index);
        }
        let after = Area([0; WORDS]);
        let mask = components();
        Box::new(Crossing { before, after, general, seen: [0; 8], call: [0; 5], mask })
    }

    /// Loads the registers, makes the call, and says which register is another one now: a byte offset
    /// into the save area, 0x1000 and up for a general register, 0x2000 for bases, XCR0 and TSC_AUX.
    pub fn make(&mut self, call: [u64; 5]) -> Option<usize> {
        self.call = call;
        if has_bases() {
            // SAFETY: nothing uses GS in programs of `rt`.
            unsafe { asm!("wrgsbase {}", in(reg) self.general[0] >> 20, options(nomem, nostack)) };
        }
        let before = rest();
        // SAFETY: the area is valid and aligned, its components are enabled; the program is compiled without
        // use of these registers; RBX and RBP come back from the stack, all others are named as lost. What the
        // call does is the caller's business, as with every call.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "push rdi",
                "mov eax, [rdi + {mask}]",
                "mov edx, [rdi + {mask} + 4]",
                "xrstor64 [rdi]",
                "mov rbx, [rdi + {general}]",
                "mov rbp, [rdi + {general} + 8]",
                "mov r9, [rdi + {general} + 16]",
                "mov r10, [rdi + {general} + 24]",
                "mov r12, [rdi + {general} + 32]",
                "mov r13, [rdi + {general} + 40]",
                "mov r14, [rdi + {general} + 48]",
                "mov r15, [rdi + {general} + 56]",
                "mov rsi, [rdi + {call} + 8]",
                "mov rdx, [rdi + {call} + 16]",
                "mov rax, [rdi + {call} + 24]",
                "mov r8, [rdi + {call} + 32]",
                "mov rdi, [rdi + {call}]",
                "syscall",
                "pop rdi",
                "mov [rdi + {seen}], rbx",
                "mov [rdi + {seen} + 8], rbp",
                "mov [rdi + {seen} + 16], r9",
                "mov [rdi + {seen} + 24], r10",
                "mov [rdi + {seen} + 32], r12",
                "mov [rdi + {seen} + 40], r13",
                "mov [rdi + {seen} + 48], r14",
                "mov [rdi + {seen} + 56], r15",
                "mov eax, [rdi + {mask}]",
                "mov edx, [rdi + {mask} + 4]",
                "xsave64 [rdi + {after}]",
                "pop rbp",
                "pop rbx",
                mask = const offset_of!(Crossing, mask),
                general = const offset_of!(Crossing, general),
                call = const offset_of!(Crossing, call),
                seen = const offset_of!(Crossing, seen),
                after = const offset_of!(Crossing, after),
                inout("rdi") core::ptr::from_mut(self) => _,
                out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _,
                out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            );
        }
        let after = &self.after;
        if let Some(offset) =
            self.before.differs(&|word| after.0.get(word).copied().unwrap_or(0), false)
        {
            return Some(offset);
        }
        if let Some(number) = (0..8).find(|i| self.general.get(*i) != self.seen.get(*i)) {
            return Some(0x1000 + number);
        }
        (rest() != before).then_some(0x2000)
    }
}
