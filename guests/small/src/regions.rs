//! What a guest finds in regions besides its RAM, as `guests/shared.dts` gives them: memory that it shares, and ROM;
//! and what it finds of the machine itself, as `tests/manifests/passed.dts` gives it.

use crate::machine::{in8, in16, out8, read, read32, write32};
use crate::println;
use crate::tests::Failure;

/// The counter that two guests share, as `even`, `odd` and `look` see it.
const EVEN: u64 = 0xd000_0000;
const ODD: u64 = 0xe000_0000;
const LOOK: u64 = 0xf000_0000;
/// Where the counter ends.
const TURNS: u32 = 100;
/// A page of ROM and what it begins with.
const ROM: u64 = 0xfff0_0000;
const NOTE: &[u8] = b"I came as a module.";

/// Counts on whenever the counter is even.
pub fn even() -> Result<(), Failure> {
    count("even", EVEN, 0)
}

/// Counts on whenever the counter is odd.
pub fn odd() -> Result<(), Failure> {
    count("odd", ODD, 1)
}

fn count(name: &str, at: u64, mine: u32) -> Result<(), Failure> {
    let mut turns = 0;
    loop {
        match read32(at) {
            TURNS => break,
            now if now > TURNS => return Err(Failure::Off("counter", TURNS.into(), now.into())),
            now if now % 2 == mine => {
                write32(at, now + 1);
                turns += 1;
            }
            _ => core::hint::spin_loop(),
        }
    }
    println!("small: {name} took {turns} turns");
    Ok(())
}

/// Waits for the end of the count, and cannot change it.
pub fn look() -> Result<(), Failure> {
    while read32(LOOK) != TURNS {
        core::hint::spin_loop();
    }
    write32(LOOK, 7);
    same("counter that cannot be written", TURNS.into(), read32(LOOK).into())
}

/// The module's bytes, then zeros, whatever is written.
pub fn rom() -> Result<(), Failure> {
    for _ in 0..2 {
        for (at, byte) in (ROM..ROM + 4096).zip(NOTE.iter().copied().chain(core::iter::repeat(0))) {
            same("byte of the ROM", byte.into(), read(at, 1))?;
        }
        write32(ROM, 7);
        write32(ROM + 0x800, 7);
    }
    Ok(())
}

/// The machine's firmware, seen through a window: the jump at the reset vector and the date behind it, that stay.
pub fn firmware() -> Result<(), Failure> {
    const VECTOR: u64 = 0xd000_0ff0;
    const JUMP: u64 = 0xea;
    for _ in 0..2 {
        for (at, wanted) in [(0, JUMP), (7, b'/'.into()), (10, b'/'.into())] {
            same("byte of the firmware", wanted, read(VECTOR + at, 1))?;
        }
        write32(VECTOR, 7);
    }
    Ok(())
}

/// Page registers of the machine's second DMA controller, none of whose channels is in use; the port behind them is not the
/// guest's.
pub fn latches() -> Result<(), Failure> {
    const LATCHES: [u16; 3] = [0x89, 0x8a, 0x8b];
    let before = LATCHES.map(in8);
    for value in [0x5a, 0xa5] {
        LATCHES.iter().zip(value..).for_each(|(port, value)| out8(*port, value));
        for (port, value) in LATCHES.iter().zip(value..) {
            same("latch", value.into(), in8(*port).into())?;
        }
    }
    LATCHES.iter().zip(before).for_each(|(port, value)| out8(*port, value));
    same("half an access", 0xffff, in16(0x8b).into())
}

fn same(what: &'static str, wanted: u64, found: u64) -> Result<(), Failure> {
    if wanted == found { Ok(()) } else { Err(Failure::Off(what, wanted, found)) }
}
