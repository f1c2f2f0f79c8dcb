//! Which memory and ports belong to PCI functions (PCI Local Bus 3.0, 6.1 and 6.2.5).
//!
//! Any function can do DMA once somebody allows it. Sizes are not asked for, because that would take the function away from
//! its address for a moment: a range is as large as its alignment allows, up to the next one.
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use manifest::{Owned, Space};

/// Reads a long word of configuration space by its address: bus, device, function and register as in the address port.
pub type Read<'a> = &'a mut dyn FnMut(u32) -> u32;

/// Bits of a base address register: ports; 64 bits wide.
const IS_PORTS: u32 = 1;
const KIND: u32 = 0b110;
const WIDE: u32 = 0b100;
/// Header types: one more function follows; a bridge, which has two base address registers instead of six.
const SEVERAL: u32 = 1 << 23;
const TYPE: u32 = 0x7f << 16;
const BRIDGE: u32 = 1 << 16;
/// Most ports of a register.
const MOST_PORTS: u64 = 256;
/// Memory above this is nobody's PCI memory below 4 GiB: interrupt controllers and firmware.
const LOW_END: u64 = 0xfec0_0000;

/// What all functions of all buses have.
pub fn owned(read: Read<'_>) -> Vec<Owned> {
    let mut all = Vec::new();
    for device in 0..256 * 32 {
        for function in 0..8 {
            let at = device << 11 | function << 8;
            // No function: all ones.
            if read(at) & 0xffff == 0xffff {
                if function == 0 {
                    break;
                }
                continue;
            }
            let header = read(at | 0xc);
            function_ranges(at, header, read, &mut all);
            if function == 0 && header & SEVERAL == 0 {
                break;
            }
        }
    }
    let starts: Vec<_> = all.iter().map(|one| (one.space, one.range.start)).collect();
    for one in &mut all {
        let later =
            starts.iter().filter(|(space, at)| *space == one.space && *at > one.range.start);
        let next = later.map(|(_, at)| *at).min().unwrap_or(u64::MAX);
        one.range.end = one.range.end.min(next);
    }
    all
}

fn function_ranges(at: u32, header: u32, read: Read<'_>, all: &mut Vec<Owned>) {
    let registers = if header & TYPE == BRIDGE { 2 } else { 6 };
    let whose = whose(at);
    let mut index = 0;
    while index < registers {
        let low = read(at | (0x10 + index * 4));
        index += 1;
        let (space, start, most) = if low & IS_PORTS != 0 {
            (Space::Ports, u64::from(low & 0xfffc), MOST_PORTS)
        } else {
            let mut start = u64::from(low & !0xf);
            if low & KIND == WIDE && index < registers {
                start |= u64::from(read(at | (0x10 + index * 4))) << 32;
                index += 1;
            }
            (Space::Memory, start, u64::MAX)
        };
        if start == 0 {
            continue;
        }
        let size = (1 << start.trailing_zeros()).min(most);
        let border = if space == Space::Memory && start < LOW_END { LOW_END } else { u64::MAX };
        let range = start..start.saturating_add(size).min(border);
        all.push(Owned { space, range, whose: whose.clone(), dma: true });
    }
}

/// `the PCI function 00:03.0's`.
fn whose(at: u32) -> String {
    format!("the PCI function {:02x}:{:02x}.{}'s", at >> 16 & 0xff, at >> 11 & 0x1f, at >> 8 & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_functions_end_where_the_next_begins() {
        // A card with memory, ports and wide memory; a bridge; the second function of a device.
        let words = [
            (0x00_1800, 0x1234_8086),
            (0x00_180c, 0),
            (0x00_1810, 0xfebc_0000),
            (0x00_1814, 0xc001),
            (0x00_1818, 0xc000_000c),
            (0x00_181c, 0x1),
            (0x01_0000, 0x1111_8086),
            (0x01_000c, BRIDGE | SEVERAL),
            (0x01_0010, 0xe000_0000),
            (0x01_0018, 0x0002_0100),
            (0x01_0300, 0x2222_8086),
            (0x01_030c, 0),
            (0x01_0310, 0xd001),
        ];
        let mut read = |at: u32| {
            let known = words.iter().find(|(address, _)| *address == at);
            let there = words.iter().any(|(address, _)| *address == at & !0xff);
            known.map_or(if there { 0 } else { u32::MAX }, |(_, value)| *value)
        };
        let all = owned(&mut read);
        let found: Vec<_> =
            all.iter().map(|one| (one.space, one.range.clone(), one.whose.as_str())).collect();
        let card = "the PCI function 00:03.0's";
        assert_eq!(
            found,
            [
                (Space::Memory, 0xfebc_0000..0xfec0_0000, card),
                (Space::Ports, 0xc000..0xc100, card),
                (Space::Memory, 0x1_c000_0000..0x2_0000_0000, card),
                (Space::Memory, 0xe000_0000..0xfebc_0000, "the PCI function 01:00.0's"),
                (Space::Ports, 0xd000..0xd100, "the PCI function 01:00.3's"),
            ]
        );
        assert!(all.iter().all(|one| one.dma));
    }

    #[test]
    fn a_machine_without_pci_has_none() {
        assert_eq!(owned(&mut |_| u32::MAX), []);
    }
}
