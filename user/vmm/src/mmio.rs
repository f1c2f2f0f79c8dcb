//! Accesses to guest-physical memory that is not RAM: the instruction is carried out here.
//!
//! The violation gives the guest-physical address (Intel SDM vol. 3, table 28-7); what to do there
//! is decoded from the bytes at RIP. What nobody claims reads all ones and drops writes.
use crate::exits::{Next, claimed};
use crate::instruction::{self, LONGEST};
use crate::layout;
use crate::machine::{Cpu, Now, Vm};
use crate::registers;
use abi::Mtd;
use abi::utcb::StatePage;
use alloc::format;
use devices::decode::{
    self, Flags, Instruction, Memory, Mode, Operation, Progress, Registers, Segment, Target,
};

const FETCH: u64 = 1 << 2;
const ADDRESS_VALID: u64 = 1 << 7;
const TRANSLATED: u64 = 1 << 8;
/// What an emulated instruction may change.
const CHANGED: Mtd = Mtd(Mtd::GPR.0 | Mtd::RSP.0 | Mtd::RFLAGS.0 | Mtd::RIP_LEN.0 | Mtd::STA.0);

/// Handles an EPT violation.
pub fn handle(cpu: &mut Cpu, page: &mut StatePage, vm: &mut Vm, now: Now) -> Next {
    let [qualification, address] = page.qual;
    let rip = page.rip;
    if qualification & FETCH != 0 {
        return Next::Stop(format!("the guest executes at {address:#x}, which is no memory"));
    }
    if qualification & ADDRESS_VALID != 0 && qualification & TRANSLATED == 0 {
        return Next::Stop(format!("the guest's page tables lie at {address:#x}, no memory"));
    }
    let mut bytes = [0; LONGEST];
    let count = instruction::fetch(page, &vm.memory, &mut bytes);
    let bytes = bytes.get(..count).unwrap_or_default();
    let decoded = match decode::decode(bytes, mode(page)) {
        Ok(decoded) => decoded,
        Err(error) => {
            return Next::Stop(format!("access to {address:#x} by {bytes:02x?}: {error:?}"));
        }
    };
    let mut registers = collect(page);
    let mut flags = Flags(page.rflags);
    let mut device = Device { vm, cpu: cpu.id, address, now };
    let progress = match decoded.operation {
        Operation::MoveString(source) => {
            move_string(&decoded, source, page, &mut registers, &mut device)
        }
        _ => decoded.emulate(&mut registers, &mut flags, &mut device),
    };
    spread(page, &registers);
    page.rflags = flags.0;
    match progress {
        Progress::Done => instruction::advance_by(page, u64::from(decoded.length)),
        Progress::Repeat => {}
        Progress::Unsupported => {
            return Next::Stop(format!("access to {address:#x} by {bytes:02x?}: not emulated"));
        }
    }
    match claimed(vm) {
        Ok(()) => Next::Resume(CHANGED),
        Err(why) => {
            page.rip = rip;
            Next::Stop(why)
        }
    }
}

/// One place of device memory, as processor `cpu` sees it.
struct Device<'a, 'b> {
    vm: &'a mut Vm<'b>,
    cpu: usize,
    address: u64,
    now: Now,
}

impl Target for Device<'_, '_> {
    fn load(&mut self, size: u8) -> u64 {
        // What is there and cannot be written: an instruction that would do both reads it first.
        if is_ram(self.vm, self.address, size) {
            return self.ram(self.address, size);
        }
        if let Some(answer) = self.vm.virtio.read(self.address, size) {
            return answer;
        }
        let answer = self.vm.board.mmio_read(self.address, size, self.cpu, self.now.ns);
        answer.unwrap_or(u64::MAX)
    }
    fn store(&mut self, size: u8, value: u64) {
        if self.vm.write_virtio(self.address, size, value) {
            return;
        }
        let _ = self.vm.board.mmio_write(self.address, size, value, self.cpu, self.now.ns);
    }
}

impl Device<'_, '_> {
    fn ram(&self, address: u64, size: u8) -> u64 {
        self.vm.memory.read_number(address, usize::from(size)).unwrap_or(u64::MAX)
    }

    /// RAM or device, whatever lies at a guest-physical address.
    fn load_at(&mut self, address: u64, size: u8) -> u64 {
        self.address = address;
        self.load(size)
    }

    fn store_at(&mut self, address: u64, size: u8, value: u64) {
        if is_ram(self.vm, address, size)
            && !layout::ROMS.contains(&address)
            && self.vm.memory.write_number(address, usize::from(size), value).is_ok()
        {
            return;
        }
        self.address = address;
        self.store(size, value);
    }
}

/// RAM, or a region that this program can see.
fn is_ram(vm: &Vm, address: u64, size: u8) -> bool {
    vm.memory.holds(address, u64::from(size)) && !layout::LEGACY_HOLE.contains(&address)
}

/// One round of MOVS between memory and a device, or between two devices.
fn move_string(
    decoded: &Instruction,
    source: Memory,
    page: &StatePage,
    registers: &mut Registers,
    device: &mut Device,
) -> Progress {
    let Some(destination) = decoded.memory else { return Progress::Unsupported };
    let count = decode::Register { number: 1, high: false };
    let width = destination.address_size;
    let left = registers.get(count, width);
    if decoded.repeat && left == 0 {
        return Progress::Done;
    }
    let paging = registers::paging(page);
    let next = page.rip;
    let linear = |memory: &Memory, registers: &Registers| {
        segment_base(page, memory.segment).wrapping_add(memory.offset(registers, next))
    };
    let from = paging.translate(&device.vm.memory, linear(&source, registers));
    let to = paging.translate(&device.vm.memory, linear(&destination, registers));
    let (Some(from), Some(to)) = (from, to) else { return Progress::Unsupported };
    let value = device.load_at(from, decoded.size);
    device.store_at(to, decoded.size, value);
    let step = u64::from(decoded.size);
    for number in [6, 7] {
        let index = decode::Register { number, high: false };
        let at = registers.get(index, width);
        let forward = page.rflags & (1 << 10) == 0;
        let next = if forward { at.wrapping_add(step) } else { at.wrapping_sub(step) };
        registers.set(index, width, next);
    }
    if !decoded.repeat {
        return Progress::Done;
    }
    registers.set(count, width, left - 1);
    if left == 1 { Progress::Done } else { Progress::Repeat }
}

fn segment_base(page: &StatePage, segment: Segment) -> u64 {
    let long = registers::long_code(page);
    match segment {
        Segment::Fs => page.fs.base,
        Segment::Gs => page.gs.base,
        _ if long => 0,
        Segment::Es => page.es.base,
        Segment::Cs => page.cs.base,
        Segment::Ss => page.ss.base,
        Segment::Ds => page.ds.base,
    }
}

fn mode(page: &StatePage) -> Mode {
    match registers::address_size(page) {
        8 => Mode::Bits64,
        4 => Mode::Bits32,
        _ => Mode::Bits16,
    }
}

fn collect(page: &StatePage) -> Registers {
    let mut all = Registers::default();
    for (number, slot) in (0u8..).zip(all.0.iter_mut()) {
        *slot = registers::get(page, number);
    }
    all
}

fn spread(page: &mut StatePage, all: &Registers) {
    for (number, value) in (0u8..).zip(all.0) {
        registers::set(page, number, value);
    }
}
