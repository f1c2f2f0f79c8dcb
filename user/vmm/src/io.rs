//! Port instructions: IN, OUT and their string forms.
//!
//! The exit qualification tells size, direction, string and repeat (Intel SDM vol. 3, table 28-5);
//! where string operands lie is read from the instruction, because neither vendor's basic report
//! has it.
use crate::exits::{Next, claimed, skip_and};
use crate::inject::{self, PAGE_FAULT};
use crate::instruction::{self, LONGEST, Override};
use crate::machine::{Now, Vm};
use crate::registers;
use abi::Mtd;
use abi::utcb::{Segment, StatePage};

/// Units that one exit moves at most; the instruction is resumed then, so interrupts get a turn.
const MOST: u64 = 1024;
const DIRECTION: u64 = 1 << 10;

/// Handles an I/O exit.
pub fn handle(page: &mut StatePage, vm: &mut Vm, now: Now) -> Next {
    let qualification = page.qual[0];
    let port = (qualification >> 16) as u16;
    let size = match qualification & 7 {
        0 => 1,
        1 => 2,
        _ => 4,
    };
    let input = qualification & 8 != 0;
    let rip = page.rip;
    if qualification & 0x10 != 0 {
        return string(page, vm, now, String { port, size, input });
    }
    let next = if input {
        let value = u64::from(vm.port_read(port, size, now.ns));
        page.rax = registers::merge(page.rax, size, value);
        skip_and(page, vm, encoded(page, vm), Mtd::ACDB)
    } else {
        vm.port_write(port, size, page.rax as u32, now.ns);
        skip_and(page, vm, encoded(page, vm), Mtd::NONE)
    };
    match claimed(vm) {
        Ok(()) => next,
        Err(why) => {
            page.rip = rip;
            Next::Stop(why)
        }
    }
}

/// Bytes of a port instruction without prefixes: 2 with an immediate port, else 1. Only looked
/// at when the processor gives no length.
fn encoded(page: &StatePage, vm: &Vm) -> u64 {
    if page.inst_len != 0 {
        return 1;
    }
    let mut bytes = [0; LONGEST];
    let count = instruction::fetch(page, &vm.memory, &mut bytes);
    let bytes = bytes.get(..count).unwrap_or_default();
    let prefixes = instruction::prefixes(bytes, registers::long_code(page));
    match bytes.get(prefixes.count) {
        Some(0xe4..=0xe7) => 2,
        _ => 1,
    }
}

/// A string instruction.
#[derive(Clone, Copy, Debug)]
struct String {
    port: u16,
    size: u8,
    input: bool,
}

/// How far a string instruction got.
enum Stopped {
    /// All done.
    Done,
    /// Enough for one exit.
    Pause,
    /// The operand at this linear address is not mapped.
    Fault(u64),
}

fn string(page: &mut StatePage, vm: &mut Vm, now: Now, what: String) -> Next {
    let mut bytes = [0; LONGEST];
    let count = instruction::fetch(page, &vm.memory, &mut bytes);
    let long = registers::long_code(page);
    let prefixes = instruction::prefixes(bytes.get(..count).unwrap_or_default(), long);
    let address_size = match (registers::address_size(page), prefixes.address) {
        (8, true) | (2, true) => 4,
        (4, true) => 2,
        (plain, _) => plain,
    };
    let base = segment_base(page, what.input, prefixes.segment, long);
    let stopped = run(page, vm, now, what, &Shape { address_size, base, repeat: prefixes.repeat });
    if let Err(why) = claimed(vm) {
        return Next::Stop(why);
    }
    let moved = Mtd::ACDB | Mtd::BSD;
    match stopped {
        Stopped::Done => skip_and(page, vm, 1, moved),
        Stopped::Pause => Next::Resume(moved),
        Stopped::Fault(address) => {
            let user = u32::from(page.ss.ar >> 5 & 3 == 3) << 2;
            inject::exception(page, PAGE_FAULT, Some(user | (u32::from(what.input) << 1)));
            page.cr2 = address;
            Next::Resume(moved | Mtd::CR | Mtd::INJ)
        }
    }
}

/// Where the operands are and how often.
struct Shape {
    address_size: u8,
    base: u64,
    repeat: bool,
}

fn run(page: &mut StatePage, vm: &mut Vm, now: Now, what: String, shape: &Shape) -> Stopped {
    let mask = mask(shape.address_size);
    let size = u64::from(what.size);
    let step = if page.rflags & DIRECTION != 0 { size.wrapping_neg() } else { size };
    let paging = registers::paging(page);
    for _ in 0..MOST {
        if shape.repeat && page.rcx & mask == 0 {
            return Stopped::Done;
        }
        let index = if what.input { page.rdi } else { page.rsi };
        let mut linear = shape.base.wrapping_add(index & mask);
        if shape.address_size != 8 {
            linear &= 0xffff_ffff;
        }
        let last = linear.wrapping_add(size - 1);
        let (Some(first), Some(end)) =
            (paging.translate(&vm.memory, linear), paging.translate(&vm.memory, last))
        else {
            return Stopped::Fault(linear);
        };
        // An operand across two pages is rare; its bytes are moved one by one.
        let at = |byte: u64| {
            if linear & 0xfff > 4096 - size && byte >= 4096 - (linear & 0xfff) {
                end - (size - 1 - byte)
            } else {
                first + byte
            }
        };
        move_unit(vm, now, what, at);
        let advanced = (index & mask).wrapping_add(step) & mask;
        let merged = registers::merge(index, shape.address_size, advanced);
        if what.input {
            page.rdi = merged;
        } else {
            page.rsi = merged;
        }
        if !shape.repeat {
            return Stopped::Done;
        }
        let left = (page.rcx & mask).wrapping_sub(1) & mask;
        page.rcx = registers::merge(page.rcx, shape.address_size, left);
    }
    if page.rcx & mask == 0 { Stopped::Done } else { Stopped::Pause }
}

/// Moves one unit between port and memory. Memory outside RAM reads ones and drops writes.
fn move_unit(vm: &mut Vm, now: Now, what: String, at: impl Fn(u64) -> u64) {
    if what.input {
        let value = vm.port_read(what.port, what.size, now.ns);
        for (index, byte) in (0..u64::from(what.size)).zip(value.to_le_bytes()) {
            let _ = vm.memory.write_number(at(index), 1, u64::from(byte));
        }
    } else {
        let mut value = [0u8; 4];
        for (index, byte) in (0..u64::from(what.size)).zip(value.iter_mut()) {
            *byte = vm.memory.read_number(at(index), 1).unwrap_or(0xff) as u8;
        }
        vm.port_write(what.port, what.size, u32::from_le_bytes(value), now.ns);
    }
}

fn mask(address_size: u8) -> u64 {
    match address_size {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// INS always uses ES; OUTS DS or an override. In 64-bit code only FS and GS have a base.
fn segment_base(page: &StatePage, input: bool, over: Option<Override>, long: bool) -> u64 {
    let segment: &Segment = match (input, over) {
        (true, _) => &page.es,
        (false, Some(Override::Cs)) => &page.cs,
        (false, Some(Override::Ss)) => &page.ss,
        (false, Some(Override::Es)) => &page.es,
        (false, Some(Override::Fs)) => return page.fs.base,
        (false, Some(Override::Gs)) => return page.gs.base,
        (false, Some(Override::Ds) | None) => &page.ds,
    };
    if long { 0 } else { segment.base }
}
