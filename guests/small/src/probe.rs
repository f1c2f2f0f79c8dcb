//! Touches everything that a machine could have, and compares it with what the documents promise.
//!
//! CPUID: what is hidden, and what is ours. Memory: both sides of each border of the memory map and of the devices, one place in every 2 MiB up to 8 GiB, 10,000 at
//! random above; every port but those that reset or switch off; every MSR from 0 to 0x1fff and from
//! 0xc0000000 to 0xc0001fff. What is promised stands in `docs/cpuid.md`, `docs/devices.md` and
//! `docs/msr.md`.

use crate::exceptions::raised_by;
use crate::machine::{self, map_window};
use crate::random::Random;
use crate::tests::Failure;
use core::cell::Cell;

/// #GP with error code 0.
const PROTECTION: Option<(u8, u32)> = Some((13, 0));
/// The pages of the two APICs.
const APICS: [u64; 2] = [0xfec0_0000, 0xfee0_0000];
/// VGA's graphics memory, which is not there; its text memory, which is; ROMs, which are not there.
const GRAPHICS: core::ops::Range<u64> = 0xa_0000..0xb_8000;
const TEXT: core::ops::Range<u64> = 0xb_8000..0xc_0000;
const ROMS: core::ops::Range<u64> = 0xc_0000..0xe_0000;
const PAGE: u64 = 0x1000;
const LARGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// Addresses above 8 GiB that are tried.
const RANDOM: u32 = 10_000;

/// Leaf, register, bits, and what they are.
const LEAVES: &[(u32, usize, u32, u32)] = &[
    // VMX, SMX, MONITOR, debug stores and PCID hidden; x2APIC, TSC deadline and "hypervisor" there.
    (1, ECX, 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 15 | 1 << 17, 0),
    (1, ECX, 1 << 21 | 1 << 24 | 1 << 31, 1 << 21 | 1 << 24 | 1 << 31),
    // Machine checks, thermal and debug-store bits hidden.
    (1, EDX, 1 << 7 | 1 << 14 | 1 << 21 | 1 << 22 | 1 << 29, 0),
    (6, EAX, u32::MAX, 1 << 2),
    // INVPCID, MPX, AVX-512, protection keys, UMIP, speculation controls hidden; TSC_ADJUST there.
    (7, EBX, 1 << 1 | 1 << 10 | 1 << 14 | 1 << 16, 1 << 1),
    (7, ECX, u32::MAX, 0),
    (7, EDX, !(1 << 4), 0),
    (0xd, EAX, !7, 0),
    (0x4000_0000, EAX, u32::MAX, 0x4000_0010),
    (0x4000_0000, EBX, u32::MAX, u32::from_le_bytes(*b"Hema")),
    (0x4000_0000, ECX, u32::MAX, u32::from_le_bytes(*b"tite")),
    (0x4000_0000, EDX, u32::MAX, u32::from_le_bytes(*b"VMM\0")),
    (0x8000_0000, EAX, u32::MAX, 0x8000_0008),
    (0x8000_0001, ECX, 1 << 2 | 1 << 22 | 1 << 23, 0),
    (0x8000_0007, EDX, u32::MAX, 1 << 8),
];
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;
/// Leaves that give nothing.
const EMPTY: [u32; 13] = [
    5,
    9,
    0xa,
    0x12,
    0x14,
    0x17,
    0x1f,
    0x4000_0001,
    0x4000_0011,
    0x8000_0009,
    0x8000_000a,
    0x8000_001e,
    0xc000_0000,
];

/// What is promised of CPUID whatever the real processor is.
pub fn cpuid() -> Result<(), Failure> {
    if machine::cpuid(0)[EAX] > 0x16 {
        return Err(Failure::Leaf(0, EAX, 0x16, machine::cpuid(0)[EAX]));
    }
    for &(leaf, register, bits, wanted) in LEAVES {
        let found = machine::cpuid(leaf).get(register).copied().unwrap_or(0) & bits;
        if found != wanted {
            return Err(Failure::Leaf(leaf, register, wanted, found));
        }
    }
    for leaf in EMPTY {
        for (register, found) in machine::cpuid(leaf).into_iter().enumerate() {
            if found != 0 {
                return Err(Failure::Leaf(leaf, register, 0, found));
            }
        }
    }
    Ok(())
}

/// What lies at a guest-physical address, by the documents and the memory map.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// RAM, or a table that lies in RAM.
    Memory,
    /// An interrupt controller's registers.
    Device,
    /// Nobody's: all ones.
    Nothing,
}

fn what(address: u64) -> What {
    if APICS.contains(&(address & !(PAGE - 1))) {
        return What::Device;
    }
    let told = |(start, size, _): (u64, u64, u32)| (start..start + size).contains(&address);
    let hidden = [GRAPHICS, ROMS].iter().any(|range| range.contains(&address));
    if !hidden && (TEXT.contains(&address) || machine::memory_map().any(told)) {
        return What::Memory;
    }
    What::Nothing
}

/// Reads and writes back eight bytes, which must behave as their address promises.
fn touch(address: u64) -> Result<(), Failure> {
    let address = address & !7;
    let here = map_window(address);
    match what(address) {
        What::Device => {}
        What::Memory => {
            let before = machine::read(here, 8);
            machine::write64(here, before);
            let after = machine::read(here, 8);
            if before != after {
                return Err(Failure::Off("memory written back", before, after));
            }
        }
        What::Nothing => {
            let empty = |here| {
                [1, 2, 4, 8].into_iter().try_for_each(|size| {
                    let ones = u64::MAX >> (64 - size * 8);
                    match machine::read(here, size) {
                        value if value == ones => Ok(()),
                        value => Err(Failure::Claimed(address, size, value)),
                    }
                })
            };
            empty(here)?;
            machine::write64(here, 0);
            empty(here)?;
        }
    }
    Ok(())
}

/// All that is promised of guest-physical memory.
pub fn memory() -> Result<(), Failure> {
    let apics = APICS.into_iter().map(|page| (page, PAGE, 0));
    let video = [GRAPHICS, TEXT, ROMS].map(|range| (range.start, range.end - range.start, 0));
    for (start, size, _) in machine::memory_map().chain(apics).chain(video) {
        for edge in [start, start + size] {
            touch(edge)?;
            touch(edge.wrapping_sub(8) & (8 * GIB - 1))?;
        }
    }
    let mut random = Random(1);
    for place in 0..8 * GIB / LARGE {
        touch(place * LARGE + random.next() % LARGE)?;
    }
    let width = machine::cpuid(0x8000_0008)[0] & 0xff;
    let above = (1_u64 << width.clamp(34, 52)) - 8 * GIB;
    (0..RANDOM).try_for_each(|_| touch(8 * GIB + random.next() % above))
}

/// Ports that may end the machine: reset, power, and the two that can pulse the reset line.
fn is_fatal(port: u16) -> bool {
    matches!(port, 0x64 | 0x92 | 0x604 | 0x605 | 0xcf9)
}

/// Whether a device has the port; the serial line among them is left alone by all others.
fn is_claimed(port: u16) -> bool {
    matches!(port,
        0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 | 0x40..=0x43 | 0x60 | 0x61 | 0x64 | 0x70 | 0x71
        | 0x80 | 0x92 | 0xeb | 0xed | 0xf0 | 0xf1 | 0x3c0..=0x3c2 | 0x3c4..=0x3ca | 0x3cc | 0x3ce | 0x3cf | 0x3d4 | 0x3d5 | 0x3da
        | 0x3f8..=0x3ff | 0x600..=0x60b | 0xcf8..=0xcff)
}

/// All that is promised of ports.
pub fn ports() -> Result<(), Failure> {
    const OURS: core::ops::RangeInclusive<u16> = 0x3f8..=0x3ff;
    for port in 0..=u16::MAX {
        if is_claimed(port) {
            let value = machine::in8(port);
            if !is_fatal(port) && !OURS.contains(&port) {
                machine::out8(port, value);
            }
            continue;
        }
        for round in 0..2 {
            let wide =
                |bytes: u16| port.is_multiple_of(bytes) && !(port..port + bytes).any(is_claimed);
            let got = [
                (1, u64::from(machine::in8(port)), true),
                (2, u64::from(if wide(2) { machine::in16(port) } else { u16::MAX }), wide(2)),
                (4, u64::from(if wide(4) { machine::in32(port) } else { u32::MAX }), wide(4)),
            ];
            for (size, value, tried) in got {
                if tried && value != u64::MAX >> (64 - size * 8) {
                    return Err(Failure::Claimed(port.into(), size, value));
                }
            }
            if round == 0 {
                machine::out8(port, 0);
            }
        }
    }
    Ok(())
}

/// What the table promises of a register.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Register {
    /// Can be read, and what was read can be written back.
    Both,
    /// Can be read only.
    Read,
    /// Can be written only.
    Write,
    /// The real processor decides.
    Either,
    /// Is not there.
    Absent,
}

fn register(index: u32) -> Register {
    match index {
        0x10
        | 0x1b
        | 0x3b
        | 0x8b
        | 0x140
        | 0x174..=0x176
        | 0x17a
        | 0x1a0
        | 0x1d9
        | 0x200..=0x20f
        | 0x250
        | 0x258
        | 0x259
        | 0x268..=0x26f
        | 0x277
        | 0x2ff
        | 0x6e0
        | 0xc000_0080..=0xc000_0084
        | 0xc000_0100..=0xc000_0103 => Register::Both,
        0x17 | 0x34 | 0x3a | 0xce | 0xfe | 0x179 | 0x606 | 0x611 | 0x619 | 0x639 | 0x641 => {
            Register::Read
        }
        0x79 => Register::Write,
        // ARCH_CAPABILITIES, SPEC_CTRL, PRED_CMD, FLUSH_CMD exist where they exist.
        0x48 | 0x49 | 0x10a | 0x10b => Register::Either,
        // The local APIC is not in x2APIC mode, so 0x800 to 0x8ff are not there either.
        _ => Register::Absent,
    }
}

/// All that is promised of model-specific registers.
pub fn registers() -> Result<(), Failure> {
    for index in (0..0x2000).chain(0xc000_0000..0xc000_2000_u32) {
        let kind = register(index);
        if kind == Register::Either {
            continue;
        }
        let value = Cell::new(0);
        let raised = raised_by(|| value.set(machine::read_msr(index)));
        let readable = matches!(kind, Register::Both | Register::Read);
        if raised != (if readable { None } else { PROTECTION }) {
            return Err(Failure::Register("RDMSR", index, raised));
        }
        let raised = raised_by(|| machine::put_msr(index, value.get()));
        let writable = matches!(kind, Register::Both | Register::Write);
        if raised != (if writable { None } else { PROTECTION }) {
            return Err(Failure::Register("WRMSR", index, raised));
        }
    }
    Ok(())
}
