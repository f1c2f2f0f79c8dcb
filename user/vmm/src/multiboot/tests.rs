use super::*;
use core::sync::atomic::AtomicU64;

const RAM: u64 = 4 << 20;

/// The header with these flags.
fn header(flags: u32) -> Vec<u8> {
    let sum = 0_u32.wrapping_sub(MAGIC.wrapping_add(flags));
    [MAGIC, flags, sum].iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn set(file: &mut [u8], at: usize, value: u64, size: usize) {
    file[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// An ELF of one segment at 1 MiB, linked 3 GiB higher, entered 0x10 into it; 0x20 bytes of it are in the file.
fn elf_file(class: &Class) -> Vec<u8> {
    let mut file = vec![0; 0x200];
    let wide = class.width == 8;
    file[..6].copy_from_slice(if wide { b"\x7fELF\x02\x01" } else { b"\x7fELF\x01\x01" });
    set(&mut file, class.entry, 0xc010_0010, class.width);
    set(&mut file, class.headers, 0x40, class.width);
    set(&mut file, class.header_size, if wide { 56 } else { 32 }, 2);
    set(&mut file, class.count, 1, 2);
    set(&mut file, 0x40, 1, 4);
    let values = [0x100, 0xc010_0000, 0x10_0000, 0x20, 0x2000];
    for (value, at) in values.into_iter().zip(class.fields) {
        set(&mut file, 0x40 + at, value, class.width);
    }
    file[0x100..0x10c].copy_from_slice(&header(3));
    file[0x110] = 0x90;
    file
}

fn words(bytes: &[u8]) -> Vec<AtomicU64> {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        AtomicU64::new(u64::from_le_bytes(word))
    };
    bytes.chunks(8).map(word).collect()
}

fn parse(file: &[u8]) -> Result<Kernel, Refusal> {
    Kernel::parse(file, file.len() as u64, RAM)
}

#[test]
fn both_classes_of_elf_are_entered_at_their_load_address() {
    for class in [&ELF32, &ELF64] {
        let kernel = parse(&elf_file(class)).unwrap();
        assert_eq!((kernel.entry, kernel.end), (0x10_0010, 0x10_2000));
        assert_eq!(
            kernel.parts,
            [Part { offset: 0x100, size: 0x20, to: 0x10_0000, memory: 0x2000 }]
        );
    }
}

#[test]
fn a_header_may_have_the_addresses() {
    let mut file = vec![0; 0x400];
    file[0x40..0x4c].copy_from_slice(&header(3 | ADDRESSES));
    for (index, value) in [0x10_0040, 0x10_0000, 0x10_0400, 0x10_1000, 0x10_0100].iter().enumerate()
    {
        set(&mut file, 0x4c + index * 4, *value, 4);
    }
    let kernel = parse(&file).unwrap();
    assert_eq!((kernel.entry, kernel.end), (0x10_0100, 0x10_1000));
    assert_eq!(kernel.parts, [Part { offset: 0, size: 0x400, to: 0x10_0000, memory: 0x1000 }]);
}

#[test]
fn kernel_modules_and_information_are_where_they_should_be() {
    let file = elf_file(&ELF32);
    let (file_words, module) = (words(&file), words(b"one module"));
    let ram: Vec<AtomicU64> = (0..RAM / 8).map(|_| AtomicU64::new(u64::MAX)).collect();
    let memory = GuestMemory::new(&ram);
    let modules = [Module { name: "note", image: Image::new(&module, 10) }];
    let kernel = Image::new(&file_words, file.len() as u64);
    assert_eq!(load(&memory, kernel, &modules, b"a b"), Ok(0x10_0010));
    let at = |at: u64| memory.read_number(at, 4).unwrap();
    let text = |at: u64, size: usize| {
        let mut bytes = vec![0; size];
        memory.read(at, &mut bytes).unwrap();
        bytes
    };
    assert_eq!((text(0x10_0010, 1)[0], text(0x10_0020, 1)[0], text(0x10_1fff, 1)[0]), (0x90, 0, 0));
    let info = layout::MULTIBOOT;
    assert_eq!((at(info), at(info + 4), at(info + 8)), (0x24d, 639, 3 << 10));
    assert_eq!(text(at(info + 16), 4), b"a b\0");
    assert_eq!(at(info + 20), 1);
    let list = at(info + 24);
    assert_eq!((at(list), at(list + 4)), (0x10_2000, 0x10_200a));
    assert_eq!(text(at(list), 10), b"one module");
    assert_eq!(text(at(list + 8), 5), b"note\0");
    let (size, map) = (at(info + 44), at(info + 48));
    assert_eq!((size % 24, at(map), at(map + 4), at(map + 20)), (0, 20, 0, 1));
    assert_eq!(text(at(info + 64), 9), b"Hematite\0");
}

#[test]
fn refusals_name_what_is_wrong() {
    let good = elf_file(&ELF32);
    let mut file = good.clone();
    file[0x104] ^= 4;
    assert_eq!(parse(&file), Err(Refusal::NoHeader));
    let mut file = good.clone();
    file[0x100..0x10c].copy_from_slice(&header(8));
    assert_eq!(parse(&file), Err(Refusal::Wants(8)));
    let mut file = good.clone();
    file[0] = 0;
    assert_eq!(parse(&file), Err(Refusal::NoFormat));
    let mut file = good.clone();
    set(&mut file, 0x40 + 16, 0x200, 4);
    assert_eq!(parse(&file), Err(Refusal::Cut));
    for (to, memory) in [(0xf_f000, 0x20), (0x10_0000, 0x40_0000), (0xffff_f000, 0x2000)] {
        let mut file = good.clone();
        set(&mut file, 0x40 + 12, to, 4);
        set(&mut file, 0x40 + 20, memory, 4);
        assert_eq!(parse(&file), Err(Refusal::Outside(to, to + memory)));
    }
    let file_words = words(&good);
    let kernel = Image::new(&file_words, good.len() as u64);
    let ram: Vec<AtomicU64> = (0..RAM / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = GuestMemory::new(&ram);
    let large: Vec<AtomicU64> = (0..RAM / 8).map(|_| AtomicU64::new(0)).collect();
    let module = Module { name: "large", image: Image::new(&large, RAM) };
    let refused = load(&memory, kernel, &[module], b"").unwrap_err();
    assert_eq!(refused, Refusal::Modules(RAM, RAM - 0x10_2000));
    assert_eq!(load(&memory, kernel, &[], &[b'x'; 4096]), Err(Refusal::Text));
    assert!(ram.iter().all(|word| word.load(core::sync::atomic::Ordering::Relaxed) == 0));
    assert_eq!(
        refused.to_string(),
        "modules have 4194304 bytes, guest memory has room for 3137536"
    );
}

#[test]
fn random_images_never_panic() {
    let mut seed = 3_u64;
    for round in 0..20_000 {
        let mut file = elf_file(if round % 2 == 0 { &ELF32 } else { &ELF64 });
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            file[(seed >> 33) as usize % 0xa0 + 16] = (seed >> 20) as u8;
        }
        let _ = parse(&file);
    }
}
