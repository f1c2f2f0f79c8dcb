//! What IDENTIFY DEVICE answers (ATA/ATAPI-6, 8.15, table 27).

use super::{HEADS, SECTORS};

/// Bytes of the serial number.
pub const NAME: usize = 20;
/// Bits of words 82 and 85: write cache, look-ahead.
pub const CACHE: u16 = 1 << 5;
pub const AHEAD: u16 = 1 << 6;
/// Power management and NOP, which are always on.
const ALWAYS: u16 = 1 << 3 | 1 << 14;
/// What is on after power-on.
pub const ENABLED: u16 = ALWAYS | CACHE | AHEAD;
/// Words 83 and 86: both FLUSH CACHE commands, 48-bit addresses.
const LONG: u16 = 1 << 10 | 1 << 12 | 1 << 13;
/// This bit of some words says that they mean something.
const VALID: u16 = 1 << 14;
/// Most sectors that 28 bits reach, and that the geometry does.
const SHORT_MOST: u64 = 0x0fff_ffff;
const CYLINDERS_MOST: u64 = 16_383;

/// A name padded with spaces.
pub fn name(name: &str) -> [u8; NAME] {
    let mut bytes = [b' '; NAME];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

/// The 256 words about a disk of so many sectors.
pub fn words(name: &[u8; NAME], sectors: u64, enabled: u16) -> [u16; 256] {
    let mut words = [0; 256];
    let cylinders = (sectors / (HEADS * SECTORS)).min(CYLINDERS_MOST);
    let by_geometry = cylinders * HEADS * SECTORS;
    let [a, b, c, _] = halves(sectors);
    let [short, short_high, ..] = halves(sectors.min(SHORT_MOST));
    let [old, old_high, ..] = halves(by_geometry);
    let fields: &[(usize, &[u16])] = &[
        // A disk that is not removed; cylinders, heads, sectors of a track.
        (0, &[1 << 6, cylinders as u16, 0, HEADS as u16, 0, 0, SECTORS as u16]),
        // No READ MULTIPLE; LBA, and IORDY as PIO modes 3 and 4 need it.
        (47, &[0x8000, 0, 1 << 9 | 1 << 11, VALID]),
        // Words 54 to 58 and 64 to 70 mean something; the geometry in use.
        (53, &[3, cylinders as u16, HEADS as u16, SECTORS as u16, old, old_high]),
        (60, &[short, short_high]),
        // PIO modes 3 and 4, a word each 120 ns.
        (64, &[3, 0, 0, 120, 120]),
        // ATA-3 to ATA-6; which commands there are, and are on.
        (80, &[0x78, 0, ENABLED, VALID | LONG, VALID, enabled, LONG, VALID]),
        // Device 0 by a jumper, and passed.
        (93, &[VALID | 0x0b]),
        (100, &[a, b, c, 0]),
    ];
    for (at, values) in fields {
        words.iter_mut().skip(*at).zip(*values).for_each(|(to, from)| *to = *from);
    }
    for (at, bytes) in
        [(10, &name[..]), (23, b"1.0     "), (27, b"Hematite ATA disk                       ")]
    {
        text(&mut words, at, bytes);
    }
    // The sum of all bytes is 0 (word 255).
    let sum = words.iter().flat_map(|word| word.to_le_bytes()).fold(0xa5_u8, u8::wrapping_add);
    if let Some(last) = words.last_mut() {
        *last = u16::from_le_bytes([0xa5, sum.wrapping_neg()]);
    }
    words
}

fn halves(number: u64) -> [u16; 4] {
    [0, 16, 32, 48].map(|shift| (number >> shift) as u16)
}

/// Text has its first character in the high byte of a word.
fn text(words: &mut [u16; 256], at: usize, bytes: &[u8]) {
    let (pairs, _) = bytes.as_chunks::<2>();
    words.iter_mut().skip(at).zip(pairs).for_each(|(to, pair)| *to = u16::from_be_bytes(*pair));
}
