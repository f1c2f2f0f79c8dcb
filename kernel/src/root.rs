//! The first program: its domain, thread and time, its segments where the loader put them (abi.md 2).

use abi::cap::{
    EC_ALL, PD_CREATE, ROOT_EC, ROOT_HIP, ROOT_PD, ROOT_SC, ROOT_STACK, ROOT_UTCB, SC_CT,
};
use core::ops::Range;
use logic::addr::{Frame, PAGE_BITS, PAGE_SIZE};
use logic::elf::{ElfError, FileBytes, RootElf};
use logic::page_table::Rights;
use objects::{Cpu, OwnedFrames, Pd};
use sync::{AnyCounted, Counted, Site};

/// Why the first program does not run.
pub enum RootError {
    /// The file is not one we can start.
    Elf(ElfError),
    /// Its module does not start at a page.
    Unaligned(u64),
    /// The kernel has no memory for its tables.
    Oom,
}

impl core::fmt::Display for RootError {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RootError::Elf(why) => write!(out, "the root task's file: {why}"),
            RootError::Unaligned(at) => {
                write!(out, "the root task's module lies at {at:#x}, not at the start of a page")
            }
            RootError::Oom => out.write_str("no kernel memory left for the root task (see kmem=)"),
        }
    }
}

impl From<logic::Oom> for RootError {
    fn from(_: logic::Oom) -> RootError {
        RootError::Oom
    }
}

/// A boot module in physical memory.
struct Module(Range<u64>);

impl FileBytes for Module {
    fn length(&self) -> u64 {
        self.0.end.saturating_sub(self.0.start)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        let Some(start) = self.0.start.checked_add(offset) else { return false };
        let Some(end) = start.checked_add(out.len() as u64) else { return false };
        if end > self.0.end {
            return false;
        }
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let inside = at % PAGE_SIZE;
            let length = rest.len().min((PAGE_SIZE - inside) as usize);
            let (now, later) = rest.split_at_mut(length);
            objects::machine::with_physical(Frame::containing(at), &mut |page| {
                for (i, byte) in now.iter_mut().enumerate() {
                    *byte = page.read_u8(inside as usize + i);
                }
            });
            at += length as u64;
            rest = later;
        }
        true
    }
}

/// Makes the first domain out of a boot module and starts it on this CPU.
///
/// A function of its own: what is large in it leaves the stack before the loop begins.
#[inline(never)]
pub fn launch(cpu: &mut Cpu, module: Range<u64>) -> Result<(), RootError> {
    if !module.start.is_multiple_of(PAGE_SIZE) {
        return Err(RootError::Unaligned(module.start));
    }
    let file = Module(module);
    let elf = RootElf::check(&file).map_err(RootError::Elf)?;
    let parts = cpu.make_root(ROOT_UTCB >> PAGE_BITS, elf.entry, ROOT_STACK)?;
    load(cpu, &parts.pd, &file, &elf)?;
    let hip = cpu.kernel.hip;
    cpu.map_kernel_page(&parts.pd, ROOT_HIP >> PAGE_BITS, hip, Rights::READ)?;
    name(&parts.pd, ROOT_PD, parts.pd.clone().erase(), PD_CREATE)?;
    name(&parts.pd, ROOT_EC, parts.ec.clone().erase(), EC_ALL)?;
    name(&parts.pd, ROOT_SC, parts.sc.clone().erase(), SC_CT)?;
    cpu.start(parts.sc);
    Ok(())
}

fn load(cpu: &Cpu, pd: &Counted<Pd>, file: &Module, elf: &RootElf) -> Result<(), RootError> {
    let base = Frame::containing(file.0.start);
    for segment in elf.segments(file) {
        let (page, file_page, count) = segment.in_place();
        pd.memory.map_run(page, base.plus(file_page), count, segment.rights)?;
        for page in segment.fresh() {
            let frames = OwnedFrames::new(cpu.kernel.pool, &pd.account, 0, Site::Boot)?;
            let (inside, offset, length) = segment.bytes_of(page);
            for i in 0..length {
                let mut byte = [0];
                if file.read(offset + i, &mut byte) {
                    frames.page().write_u8((inside + i) as usize, byte[0]);
                }
            }
            pd.memory.map_run(page, frames.frame(), 1, segment.rights)?;
            // The first domain lives as long as the machine; so does its zeroed memory.
            core::mem::forget(frames);
        }
    }
    Ok(())
}

fn name(pd: &Pd, selector: u64, object: AnyCounted, permissions: u8) -> Result<(), RootError> {
    let slot = pd.slot(selector)?;
    slot.create(object, permissions, &pd.objects, selector).map_err(|_| RootError::Oom)
}
