//! Blocks as loaders make them, cut short, and random ones.

use super::{BootError, BootInfo, Bytes, Entry, MAX_ENTRIES, MODULE, RAM};

/// Physical memory with one block of bytes in it.
struct Block {
    base: u64,
    bytes: Vec<u8>,
}

impl Bytes for Block {
    fn read(&mut self, address: u64, out: &mut [u8]) -> bool {
        let Some(start) = address.checked_sub(self.base).map(|at| at as usize) else {
            return false;
        };
        let Some(end) = start.checked_add(out.len()) else { return false };
        match self.bytes.get(start..end) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

fn tag(bytes: &mut Vec<u8>, kind: u32, body: &[u8]) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend((8 + body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn record(base: u64, size: u64, kind: u32) -> Vec<u8> {
    [&base.to_le_bytes()[..], &size.to_le_bytes(), &kind.to_le_bytes(), &[0; 4]].concat()
}

/// Command line, a module, the memory map, another module, ACPI, EFI.
fn multiboot2_block() -> Block {
    let mut bytes = vec![0; 8];
    tag(&mut bytes, 1, b"serial novga\0");
    tag(
        &mut bytes,
        3,
        &[&0x40_0000u32.to_le_bytes()[..], &0x40_1234u32.to_le_bytes(), b"root\0"].concat(),
    );
    let map = [
        &24u32.to_le_bytes()[..],
        &[0; 4],
        &record(0, 0x9f000, RAM),
        &record(0x10_0000, 0x700_0000, RAM),
        &record(0xfec0_0000, 0x1000, 2),
    ]
    .concat();
    tag(&mut bytes, 6, &map);
    tag(&mut bytes, 3, &[&0x50_0000u32.to_le_bytes()[..], &0x50_0000u32.to_le_bytes()].concat());
    tag(&mut bytes, 14, &[7; 20]);
    tag(&mut bytes, 15, &[9; 36]);
    tag(&mut bytes, 12, &[0; 8]);
    let address = 0x1_e000_0000_u64.to_le_bytes();
    let size = [4096_u32, 1024, 768].map(u32::to_le_bytes);
    tag(&mut bytes, 8, &[&address[..], size.as_flattened(), &[32, 1, 0, 0]].concat());
    tag(&mut bytes, 0, &[]);
    let total = bytes.len() as u32;
    bytes[..4].copy_from_slice(&total.to_le_bytes());
    Block { base: 0x8_0000, bytes }
}

fn read(block: &mut Block, magic: u32) -> (BootInfo, Result<(), BootError>) {
    let mut info = BootInfo::EMPTY;
    let base = block.base;
    let result = info.read(block, magic, base);
    (info, result)
}

#[test]
fn multiboot2_keeps_the_order_of_the_tags() {
    let mut block = multiboot2_block();
    let (info, result) = read(&mut block, super::multiboot2::MAGIC);
    assert_eq!(result, Ok(()));
    assert_eq!(info.command_line(), b"serial novga");
    let kinds: Vec<u32> = info.entries().iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [MODULE, RAM, RAM, 2, MODULE]);
    assert_eq!(info.entries()[0].size, 0x1234);
    let line = info.entries()[0].command_line;
    let mut text = [0; 5];
    assert!(block.read(line, &mut text));
    assert_eq!(&text, b"root\0");
    assert_eq!(info.entries()[4].command_line, 0);
    assert_eq!(info.rsdp, Some([9; 36]));
    assert!(info.uefi);
    let screen = crate::Display {
        address: 0x1_e000_0000,
        pitch: 4096,
        width: 1024,
        height: 768,
        bits: 32,
        kind: 1,
    };
    assert_eq!(info.display, Some(screen));
    assert_eq!(info.modules().count(), 2);
}

/// Flags, command line, one module, a map of two records: laid out in one block.
fn multiboot1_block() -> Block {
    let base = 0x9000u32;
    let mut bytes = vec![0; 256];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0, 1 << 2 | 1 << 3 | 1 << 6 | 1 << 12);
    put(88, 0xb_8000);
    put(100, 80);
    put(104, 25);
    put(108, 2 << 8 | 16);
    put(16, base + 128);
    put(20, 1);
    put(24, base + 144);
    put(44, 48);
    put(48, base + 160);
    put(144, 0x30_0000);
    put(148, 0x30_2000);
    put(152, base + 128);
    put(160, 20);
    put(184, 20);
    bytes[128..135].copy_from_slice(b"serial\0");
    bytes[164..184].copy_from_slice(&record(0, 0x9fc00, RAM)[..20]);
    bytes[188..208].copy_from_slice(&record(0x10_0000, 0x1ff_0000, RAM)[..20]);
    Block { base: base.into(), bytes }
}

#[test]
fn multiboot1_reads_modules_and_map() {
    let (info, result) = read(&mut multiboot1_block(), super::multiboot1::MAGIC);
    assert_eq!(result, Ok(()));
    assert_eq!(info.command_line(), b"serial");
    let module =
        Entry { address: 0x30_0000, size: 0x2000, kind: MODULE, command_line: 0x9000 + 128 };
    let low = Entry { address: 0, size: 0x9fc00, kind: RAM, command_line: 0 };
    let high = Entry { address: 0x10_0000, size: 0x1ff_0000, kind: RAM, command_line: 0 };
    assert_eq!(info.entries(), [module, low, high]);
    let display = info.display.unwrap();
    assert_eq!((display.address, display.width, display.bits, display.kind), (0xb_8000, 80, 16, 2));
}

#[test]
fn a_block_cut_short_is_refused_or_partial_but_never_read_past_its_end() {
    for (block, magic) in [
        (multiboot1_block(), super::multiboot1::MAGIC),
        (multiboot2_block(), super::multiboot2::MAGIC),
    ] {
        for length in 0..block.bytes.len() {
            let mut cut = Block { base: block.base, bytes: block.bytes[..length].to_vec() };
            let _ = read(&mut cut, magic);
        }
    }
}

#[test]
fn unknown_magic_is_named() {
    let (_, result) = read(&mut multiboot2_block(), 0x1234);
    assert_eq!(result, Err(BootError::Magic(0x1234)));
}

#[test]
fn too_many_entries_are_counted_not_dropped_silently() {
    let mut info = BootInfo::EMPTY;
    for _ in 0..MAX_ENTRIES + 3 {
        info.push(Entry { address: 0, size: 1, kind: RAM, command_line: 0 });
    }
    assert_eq!(info.lost, 3);
    assert_eq!(info.entries().len(), MAX_ENTRIES);
}

/// A small generator: random bytes need no quality, only variety (xorshift64*).
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[test]
fn random_bytes_end_and_do_no_harm() {
    let mut state = 0x1234_5678_9abc_def1;
    for round in 0..200_000u32 {
        let mut block = if round % 2 == 0 { multiboot2_block() } else { multiboot1_block() };
        if round % 3 == 0 {
            block.bytes.iter_mut().for_each(|byte| *byte = random(&mut state) as u8);
        } else {
            for _ in 0..random(&mut state) % 8 + 1 {
                let at = random(&mut state) as usize % block.bytes.len();
                block.bytes[at] = random(&mut state) as u8;
            }
        }
        let magic =
            if round % 2 == 0 { super::multiboot2::MAGIC } else { super::multiboot1::MAGIC };
        let (info, _) = read(&mut block, magic);
        assert!(info.entries().len() <= MAX_ENTRIES);
    }
}
