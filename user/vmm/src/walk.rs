//! The guest's own page tables, walked: linear address to guest-physical address.
//!
//! Source: Intel SDM vol. 3, 4.3 to 4.5. Rights are not checked: the guest's processor has just
//! used the address, and only instruction bytes and string operands are fetched through here.
use crate::memory::GuestMemory;

/// The registers that select the paging mode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paging {
    /// CR0; bit 31 turns paging on.
    pub cr0: u64,
    /// CR3; root of the tables.
    pub cr3: u64,
    /// CR4; bit 4 PSE, bit 5 PAE, bit 12 five levels.
    pub cr4: u64,
    /// EFER; bit 10 long mode active.
    pub efer: u64,
}

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

impl Paging {
    /// Guest-physical address of `linear`, or nothing if it is not mapped.
    pub fn translate(&self, memory: &GuestMemory, linear: u64) -> Option<u64> {
        if self.cr0 & (1 << 31) == 0 {
            return Some(linear & 0xffff_ffff);
        }
        if self.efer & (1 << 10) != 0 {
            let levels = if self.cr4 & (1 << 12) != 0 { 5 } else { 4 };
            return walk(memory, self.cr3 & FRAME, levels, linear);
        }
        let linear = linear & 0xffff_ffff;
        if self.cr4 & (1 << 5) != 0 {
            let entry = memory.read_number((self.cr3 & !0x1f) + (linear >> 30) * 8, 8).ok()?;
            if entry & PRESENT == 0 {
                return None;
            }
            return walk(memory, entry & FRAME, 2, linear);
        }
        self.two_level(memory, linear)
    }

    /// Copies instruction or operand bytes at `linear`; how many could be read.
    pub fn fetch(&self, memory: &GuestMemory, linear: u64, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len() {
            let at = linear.wrapping_add(done as u64);
            let Some(physical) = self.translate(memory, at) else { break };
            let on_page = (4096 - (at & 0xfff)) as usize;
            let end = out.len().min(done + on_page);
            let Some(part) = out.get_mut(done..end) else { break };
            if memory.read(physical, part).is_err() {
                break;
            }
            done = end;
        }
        done
    }

    fn two_level(&self, memory: &GuestMemory, linear: u64) -> Option<u64> {
        let directory = (self.cr3 & 0xffff_f000) + (linear >> 22) * 4;
        let entry = memory.read_number(directory, 4).ok()?;
        if entry & PRESENT == 0 {
            return None;
        }
        if entry & LARGE != 0 && self.cr4 & (1 << 4) != 0 {
            let high = (entry >> 13) & 0xff;
            return Some((high << 32) | (entry & 0xffc0_0000) | (linear & 0x3f_ffff));
        }
        let table = (entry & 0xffff_f000) + ((linear >> 12) & 0x3ff) * 4;
        let entry = memory.read_number(table, 4).ok()?;
        (entry & PRESENT != 0).then_some((entry & 0xffff_f000) | (linear & 0xfff))
    }
}

fn walk(memory: &GuestMemory, root: u64, levels: u32, linear: u64) -> Option<u64> {
    let mut table = root;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let entry = memory.read_number(table + ((linear >> shift) & 0x1ff) * 8, 8).ok()?;
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || (level <= 2 && entry & LARGE != 0) {
            let offset = (1u64 << shift) - 1;
            return Some((entry & FRAME & !offset) | (linear & offset));
        }
        table = entry & FRAME;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    fn blank() -> Vec<AtomicU64> {
        (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn four_levels_with_each_page_size() {
        let ram = blank();
        let memory = GuestMemory::new(&ram);
        for (at, entry) in [
            (0x1000, 0x2003),
            (0x2000, 0x3003),
            (0x2008, 0x4000_0083),
            (0x3000, 0x4003),
            (0x3008, 0x20_0083),
            (0x4018, 0x5003),
        ] {
            memory.write_number(at, 8, entry).unwrap();
        }
        let paging = Paging { cr0: 1 << 31, cr3: 0x1000, cr4: 1 << 5, efer: 1 << 10 };
        assert_eq!(paging.translate(&memory, 0x3123), Some(0x5123));
        assert_eq!(paging.translate(&memory, 0x20_1234), Some(0x20_1234));
        assert_eq!(paging.translate(&memory, 0x4000_0000 + 0x123_4567), Some(0x4123_4567));
        assert_eq!(paging.translate(&memory, 0x4000), None);
        let mut out = [0; 8];
        assert_eq!(paging.fetch(&memory, 0x3ffc, &mut out), 4);
    }

    #[test]
    fn two_levels_and_pae() {
        let ram = blank();
        let memory = GuestMemory::new(&ram);
        memory.write_number(0x1000, 4, 0x2003).unwrap();
        memory.write_number(0x1004, 4, 0x40_0083).unwrap();
        memory.write_number(0x2004, 4, 0x7003).unwrap();
        let paging = Paging { cr0: 1 << 31, cr3: 0x1000, cr4: 1 << 4, efer: 0 };
        assert_eq!(paging.translate(&memory, 0x1abc), Some(0x7abc));
        assert_eq!(paging.translate(&memory, 0x41_2345), Some(0x41_2345));
        memory.write_number(0x3020, 8, 0x4001).unwrap();
        memory.write_number(0x4000, 8, 0x60_0083).unwrap();
        let pae = Paging { cr0: 1 << 31, cr3: 0x3020, cr4: 1 << 5, efer: 0 };
        assert_eq!(pae.translate(&memory, 0x12_3456), Some(0x72_3456));
        let off = Paging::default();
        assert_eq!(off.translate(&memory, 0x1234), Some(0x1234));
    }

    #[test]
    fn tables_outside_memory_are_no_mapping() {
        let ram = blank();
        let memory = GuestMemory::new(&ram);
        let paging = Paging { cr0: 1 << 31, cr3: 0xf_ffff_f000, cr4: 1 << 5, efer: 1 << 10 };
        assert_eq!(paging.translate(&memory, 0), None);
    }
}
