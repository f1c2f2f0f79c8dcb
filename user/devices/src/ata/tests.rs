//! A driver in miniature against the disk and against a plain model of one; then random words.

use super::*;
use crate::virtio::overlay::{BLOCK, Overlay, store_size};
use crate::virtio::tests::Ram;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// A disk over an image of these bytes, of which `changed` may differ.
fn disk(bytes: &[u8], changed: u64) -> Ata<Overlay<Ram>> {
    let image = Ram::new(bytes.len());
    image.put(0, bytes);
    let store = Ram::new(store_size(bytes.len() as u64, changed).unwrap() as usize);
    Ata::new(Overlay::new(image, bytes.len() as u64, store), "disk")
}

fn pattern(sectors: u64) -> Vec<u8> {
    (0..sectors * SECTOR).map(|at| (at * 7 + at / 509) as u8).collect()
}

/// What a driver sees of a command's end.
#[derive(Debug, PartialEq, Eq)]
struct End {
    status: u8,
    error: u8,
    /// Sectors that were moved.
    moved: u64,
    /// The address registers after an error.
    sector: Option<u64>,
}

/// Writes the registers as a command wants them.
fn ask(ata: &mut Ata<Overlay<Ram>>, how: Addressing, sector: u64, count: u64, command: u8) {
    let (number, head) = match how {
        Addressing::Geometry => {
            let (track, inside) = (sector / SECTORS, sector % SECTORS + 1);
            ((track / HEADS) << 8 | inside, (track % HEADS) as u8)
        }
        Addressing::Short => (sector, BY_NUMBER | (sector >> 24) as u8 & 0xf),
        Addressing::Long => (sector, BY_NUMBER),
    };
    ata.write(DATA + 6, 1, u32::from(head));
    if how == Addressing::Long {
        ata.write(DATA + 2, 1, (count >> 8) as u32);
        (0..3).for_each(|at| {
            assert!(ata.write(DATA + 3 + at, 1, (sector >> (24 + 8 * at)) as u32 & 0xff))
        });
    }
    ata.write(DATA + 2, 1, count as u32 & 0xff);
    (0..3).for_each(|at| assert!(ata.write(DATA + 3 + at, 1, (number >> (8 * at)) as u32 & 0xff)));
    ata.write(DATA + 7, 1, u32::from(command));
}

/// The sector that the address registers show.
fn shown(ata: &mut Ata<Overlay<Ram>>, how: Addressing) -> u64 {
    let mut bytes = |control: u32| {
        ata.write(CONTROL, 1, control);
        [5, 4, 3]
            .into_iter()
            .fold(0, |sum, at| sum << 8 | u64::from(ata.read(DATA + at, 1).unwrap()))
    };
    let (high, low) = (bytes(0x80), bytes(0));
    let head = u64::from(ata.read(DATA + 6, 1).unwrap() & 0xf);
    match how {
        Addressing::Long => high << 24 | low,
        Addressing::Short => head << 24 | low,
        Addressing::Geometry => ((low >> 8) * HEADS + head) * SECTORS + (low & 0xff) - 1,
    }
}

/// Moves what the disk asks for, word by word; an interrupt comes where the standard has one.
fn transfer(ata: &mut Ata<Overlay<Ram>>, how: Addressing, way: Way, bytes: &mut Vec<u8>) -> End {
    let mut moved = 0;
    let mut first = way == Way::ToDisk;
    loop {
        let told = ata.irq();
        let status = ata.read(DATA + 7, 1).unwrap() as u8;
        assert!(!ata.irq(), "the status register takes the interrupt away");
        assert_eq!(told, !core::mem::take(&mut first) || status & FAILED != 0);
        if status & REQUEST == 0 {
            let error = ata.read(DATA + 1, 1).unwrap() as u8;
            let sector = (status & FAILED != 0).then(|| shown(ata, how));
            return End { status, error, moved, sector };
        }
        let at = moved as usize * SECTOR as usize;
        for word in 0..SECTOR as usize / 2 {
            assert_ne!(ata.read(CONTROL, 1).unwrap() as u8 & REQUEST, 0);
            if way == Way::ToGuest {
                bytes.extend((ata.read(DATA, 2).unwrap() as u16).to_le_bytes());
            } else {
                let pair = [bytes[at + word * 2], bytes[at + word * 2 + 1]];
                ata.write(DATA, 2, u32::from(u16::from_le_bytes(pair)));
            }
        }
        moved += 1;
        // The last sector to the guest is the end of its command, of which nobody is told.
        if way == Way::ToGuest && ata.read(CONTROL, 1).unwrap() as u8 & (REQUEST | FAILED) == 0 {
            assert!(!ata.irq());
            return End { status: READY | SETTLED, error: 0, moved, sector: None };
        }
    }
}

#[test]
fn a_driver_finds_the_disk() {
    let mut ata = disk(&pattern(100_000), 0);
    // Soft reset, as drivers begin: busy as long as its bit is set, then the signature.
    ata.write(CONTROL, 1, 6);
    assert_eq!(ata.read(DATA + 7, 1), Some(0x80));
    ata.write(DATA + 2, 1, 0x55);
    ata.write(CONTROL, 1, 2);
    assert_eq!(ata.read(CONTROL, 1), Some(0x50));
    let signature = [1, 2, 3, 4, 5].map(|at| ata.read(DATA + at, 1).unwrap());
    assert_eq!(signature, [1, 1, 1, 0, 0]);
    // Nobody is device 1: its status is 0, and it takes no command.
    ata.write(DATA + 6, 1, 0xb0);
    ata.write(DATA + 7, 1, 0xec);
    assert_eq!([DATA + 7, CONTROL].map(|port| ata.read(port, 1)), [Some(0); 2]);
    // IDENTIFY, without and then with interrupts.
    for control in [2, 0] {
        ata.write(CONTROL, 1, control);
        ata.write(DATA + 6, 1, 0xa0);
        ata.write(DATA + 7, 1, 0xec);
        assert_eq!(ata.irq(), control == 0);
        assert_eq!(ata.read(DATA + 7, 1), Some(0x58));
        let words: Vec<u16> = (0..128)
            .flat_map(|_| {
                let two = ata.read(DATA, 4).unwrap();
                [two as u16, (two >> 16) as u16]
            })
            .collect();
        assert_eq!(ata.read(DATA + 7, 1), Some(0x50));
        assert_eq!([0, 1, 3, 6, 49].map(|at| words[at]), [0x40, 99, 16, 63, 0xa00]);
        assert_eq!(u32::from(words[60]) | u32::from(words[61]) << 16, 100_000);
        assert_eq!(u32::from(words[100]) | u32::from(words[101]) << 16, 100_000);
        assert_eq!((words[83] & 0xc000, words[83] & 0x400), (0x4000, 0x400));
        let text = |from: usize, to: usize| -> alloc::string::String {
            words[from..to].iter().flat_map(|word| word.to_be_bytes()).map(char::from).collect()
        };
        assert_eq!(text(10, 20), "disk                ");
        assert!(text(27, 47).starts_with("Hematite ATA disk "));
        let sum = words.iter().flat_map(|word| word.to_le_bytes()).fold(0, u8::wrapping_add);
        assert_eq!(sum, 0);
    }
    // Nothing more to read; what is written is dropped.
    assert_eq!(ata.read(DATA, 2), Some(0));
    ata.write(DATA, 2, 0xffff);
    assert_eq!(ata.read(CONTROL, 1), Some(0x50));
}

#[test]
fn small_commands_answer() {
    let mut ata = disk(&pattern(2000), 0);
    let mut answer = |features: u8, count: u8, device: u8, command: u8| {
        for (register, value) in [(1, features), (2, count), (6, device), (7, command)] {
            ata.write(DATA + register, 1, value.into());
        }
        assert!(ata.irq());
        let [error, status] = [1, 7].map(|register| ata.read(DATA + register, 1).unwrap());
        (status, error)
    };
    let (fine, aborted) = ((0x50, 0), (0x51, ABORTED.into()));
    for command in [0xe0, 0xe1, 0xe2, 0xe3, 0xe5, 0xe6, 0xe7, 0xea] {
        assert_eq!(answer(0, 0, 0, command), fine, "{command:#x}");
    }
    // NOP, DEVICE RESET, READ MULTIPLE, DMA, PACKET, SMART, security.
    for command in [0x00, 0x08, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0x25, 0x35, 0xa0, 0xa1, 0xb0, 0xf1] {
        assert_eq!(answer(0, 1, 0x40, command), aborted, "{command:#x}");
    }
    for (features, count) in [(2, 0), (0x82, 0), (0xaa, 0), (0x55, 0), (3, 0), (3, 1), (3, 12)] {
        assert_eq!(answer(features, count, 0, 0xef), fine, "{features:#x}");
    }
    for (features, count) in [(3, 13), (3, 0x20), (3, 0x45), (0x66, 0), (0, 0), (0xff, 0)] {
        assert_eq!(answer(features, count, 0, 0xef), aborted, "{features:#x}");
    }
    assert_eq!(answer(0, 63, 15, 0x91), fine);
    assert_eq!(answer(0, 17, 7, 0x91), aborted);
    // The diagnostic is for both devices.
    assert_eq!(answer(0, 0, 0x10, 0x90), (0x50, 1));
    assert_eq!(ata.enabled & (identify::CACHE | identify::AHEAD), 0);
    ata.reset();
    assert_eq!(ata.enabled, identify::ENABLED);
}

#[test]
fn a_command_during_a_transfer_and_registers_written_then_change_nothing() {
    let bytes = pattern(4);
    let mut ata = disk(&bytes, 0);
    ask(&mut ata, Addressing::Short, 2, 2, 0x20);
    ata.write(DATA + 3, 1, 0);
    ata.write(DATA + 7, 1, 0xec);
    let mut read = Vec::new();
    let end = transfer(&mut ata, Addressing::Short, Way::ToGuest, &mut read);
    assert_eq!(end, End { status: 0x50, error: 0, moved: 2, sector: None });
    assert_eq!(read, bytes[1024..]);
    // Soft reset ends a transfer: half a sector is not written.
    ask(&mut ata, Addressing::Short, 0, 1, 0x30);
    (0..100).for_each(|_| assert!(ata.write(DATA, 2, 0)));
    ata.write(CONTROL, 1, 4);
    ata.write(CONTROL, 1, 0);
    assert_eq!((ata.read(DATA + 7, 1), ata.disk().changed()), (Some(0x50), 0));
}

#[test]
fn ports_beyond_its_own_are_left_alone() {
    let mut ata = disk(&pattern(1), 0);
    for port in [DATA - 1, LAST + 1, CONTROL - 1, CONTROL + 1, 0x170, 0] {
        assert_eq!((ata.read(port, 1), ata.write(port, 1, 0)), (None, false), "{port:#x}");
    }
    assert_eq!(ata.read(CONTROL, 2), Some(0xff50));
    assert_eq!(ata.read(LAST, 4), Some(0xffff_ff50));
}

#[test]
fn a_write_without_room_is_aborted_and_counted() {
    let mut ata = disk(&pattern(32), BLOCK);
    for (sector, status, failures) in [(0, 0x50, 0), (7, 0x50, 0), (8, 0x51, 1), (1, 0x50, 1)] {
        ask(&mut ata, Addressing::Short, sector, 1, 0x30);
        let end = transfer(&mut ata, Addressing::Short, Way::ToDisk, &mut vec![1; 512]);
        assert_eq!((end.status, end.moved, ata.failures()), (status, 1, failures));
        assert_eq!(end.sector, (status == 0x51).then_some(8));
    }
}

fn how() -> impl Strategy<Value = Addressing> {
    prop_oneof![Just(Addressing::Geometry), Just(Addressing::Short), Just(Addressing::Long)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Reads, writes and verifications at random, against an array of bytes.
    #[test]
    fn the_disk_is_an_array(
        sectors in 1..1100_u64,
        steps in proptest::collection::vec((0..3_u8, how(), 0..1200_u64, 1..6_u64, any::<u8>()), 1..30),
    ) {
        let mut model = pattern(sectors);
        let mut ata = disk(&model, u64::MAX);
        for (kind, how, sector, count, value) in steps {
            let there = sectors.saturating_sub(sector).min(count);
            let whole = there == count;
            let range = (sector.min(sectors) * SECTOR) as usize..((sector + there).min(sectors.max(sector)) * SECTOR) as usize;
            let long = how == Addressing::Long;
            let end = match kind {
                0 => {
                    ask(&mut ata, how, sector, count, if long { 0x24 } else { 0x20 });
                    let mut bytes = Vec::new();
                    let end = transfer(&mut ata, how, Way::ToGuest, &mut bytes);
                    prop_assert_eq!(&bytes, &model[range.start.min(model.len())..range.end.min(model.len())]);
                    end
                }
                1 => {
                    ask(&mut ata, how, sector, count, if long { 0x34 } else { 0x30 });
                    let mut bytes: Vec<u8> = (0..count * SECTOR).map(|at| value.wrapping_add(at as u8)).collect();
                    let end = transfer(&mut ata, how, Way::ToDisk, &mut bytes);
                    let size = there as usize * SECTOR as usize;
                    if size > 0 {
                        model[range].copy_from_slice(&bytes[..size]);
                    }
                    end
                }
                _ => {
                    ask(&mut ata, how, sector, count, if long { 0x42 } else { 0x40 });
                    prop_assert!(ata.irq());
                    let status = ata.read(DATA + 7, 1).unwrap() as u8;
                    let error = ata.read(DATA + 1, 1).unwrap() as u8;
                    let sector = (!whole).then(|| shown(&mut ata, how));
                    End { status, error, moved: there, sector }
                }
            };
            let wanted = if whole {
                End { status: 0x50, error: 0, moved: count, sector: None }
            } else {
                End { status: 0x51, error: NOT_FOUND, moved: there, sector: Some(sector + there) }
            };
            prop_assert_eq!(end, wanted);
        }
    }

    /// Random words at all ports: no panic, and bits that cannot be together never are.
    #[test]
    fn random_words_are_survived(
        words in proptest::collection::vec((0..12_u16, 0..3_u8, any::<u32>(), any::<bool>()), 0..400),
    ) {
        let mut ata = disk(&pattern(300), 8 * BLOCK);
        for (register, size, word, write) in words {
            let port = match register {
                8 => CONTROL,
                9 => DATA + 7,
                10 => DATA,
                11 => word as u16,
                other => DATA + other,
            };
            // Commands that move data, more often than chance would.
            let word = match (register, word & 3) {
                (9, 1) => [0x20, 0x24, 0x30, 0x34, 0xec][word as usize % 5],
                (8, 0..3) => 0,
                _ => word,
            };
            for _ in 0..if register == 10 { 100 } else { 1 } {
                if write {
                    ata.write(port, 1 << size, word);
                } else {
                    ata.read(port, 1 << size);
                }
            }
            let status = ata.status;
            prop_assert_eq!(status & BUSY != 0, ata.control & RESET != 0);
            prop_assert_eq!(status & REQUEST != 0, ata.transfer.is_some());
            prop_assert_eq!(status & FAILED != 0, status & BUSY == 0 && ata.error & !PASSED != 0);
            prop_assert!(!(ata.irq() && (ata.control & SILENT != 0 || status & BUSY != 0)));
        }
    }
}
