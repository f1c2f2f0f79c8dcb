//! What the root task and the program that evaluates AML (`user/aml`) agree on.
//!
//! That program is a domain with memory and nothing else, once for each question: copies of tables and of the firmware's
//! memory in, an answer out.
use alloc::string::String;
use alloc::vec::Vec;

/// Where the order lies (read only): a head of words, then the bytes of all pieces.
pub const ORDER: u64 = 0x2_0000_0000;
/// Where the answer goes: one page.
pub const ANSWER: u64 = 0x3_0000_0000;
/// Where more heap lies, and its size in bytes.
pub const HEAP: u64 = 0x6_0000_0000;
/// See [`HEAP`].
pub const HEAP_BYTES: u64 = 16 << 20;
/// The one capability that the program has: the portal of its thread's start, at this event base.
pub const EVENTS: u32 = 0;

const MAGIC: u64 = u64::from_le_bytes(*b"HemaAML1");
/// Words of the head before the pieces, and of each piece: address (0 for a table), place, bytes.
const HEAD: usize = 3;
const PIECE: usize = 3;
/// Most pieces.
const PIECES: usize = 256;
/// Bytes of an answer's reason.
const REASON: usize = 1024;
/// First words of an answer.
const ANSWERED: u64 = 1;
const CRASHED: u64 = 2;
/// How the words say that there is no answer.
const NO_TYPES: u64 = u64::MAX;

/// What is to be evaluated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order<'a> {
    /// The DSDT, then all SSDTs, with their headers.
    pub tables: Vec<&'a [u8]>,
    /// Memory that AML may read: physical address, bytes.
    pub memory: Vec<(u64, &'a [u8])>,
}

impl<'a> Order<'a> {
    /// As bytes for [`ORDER`]; pieces beyond the 256th are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let tables = self.tables.iter().map(|table| (0, *table));
        let pieces: Vec<_> = tables.chain(self.memory.iter().copied()).take(PIECES).collect();
        let mut place = 8 * (HEAD + PIECE * pieces.len()) as u64;
        let all: u64 = place + pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let mut words = alloc::vec![MAGIC, all, pieces.len() as u64];
        for (address, bytes) in &pieces {
            words.extend([*address, place, bytes.len() as u64]);
            place += bytes.len() as u64;
        }
        let head = words.iter().flat_map(|word| word.to_le_bytes());
        head.chain(pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied())).collect()
    }

    /// How many bytes the order has, from its first 16.
    #[must_use]
    pub fn size(head: &[u8]) -> Option<usize> {
        let all = word(head, 1).filter(|_| word(head, 0) == Some(MAGIC))?;
        usize::try_from(all).ok()
    }

    /// From bytes; `None` if they are no order.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let size = Self::size(bytes).filter(|size| *size <= bytes.len());
        let count = word(bytes, 2).and_then(|count| usize::try_from(count).ok());
        let (_, count) = size.zip(count.filter(|count| *count <= PIECES))?;
        let mut order = Self::default();
        for piece in 0..count {
            let at = |index| word(bytes, HEAD + PIECE * piece + index);
            let (address, place, length) = (at(0)?, at(1)?, at(2)?);
            let place = usize::try_from(place).ok()?;
            let piece = bytes.get(place..place.checked_add(usize::try_from(length).ok()?)?)?;
            match address {
                0 => order.tables.push(piece),
                _ => order.memory.push((address, piece)),
            }
        }
        Some(order)
    }
}

/// Sleep types for PM1a and PM1b.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of `\\_S3`, or why there are none.
    pub suspend: Result<[u8; 2], String>,
    /// Of `\\_S5`.
    pub off: Option<[u8; 2]>,
}

impl Answer {
    /// As words for [`ANSWER`]; the first is to be written last.
    #[must_use]
    pub fn encode(&self) -> Vec<u64> {
        let pair = |types: &[u8; 2]| u64::from(u16::from_le_bytes(*types));
        let suspend = self.suspend.as_ref().map_or(NO_TYPES, pair);
        let reason = self.suspend.as_ref().err().map_or(&[][..], |reason| reason.as_bytes());
        let reason = reason.get(..reason.len().min(REASON)).unwrap_or_default();
        let off = self.off.as_ref().map_or(NO_TYPES, pair);
        let mut words = alloc::vec![ANSWERED, suspend, off, reason.len() as u64];
        words.extend(
            reason
                .chunks(8)
                .map(|bytes| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))),
        );
        words
    }

    /// The words of a program that crashed.
    #[must_use]
    pub fn crashed() -> [u64; 1] {
        [CRASHED]
    }

    /// From the words; `None` while there is no answer.
    #[must_use]
    pub fn decode(words: &[u64]) -> Option<Self> {
        let pair = |index: usize| {
            let word = words.get(index).and_then(|word| u16::try_from(*word).ok());
            // Types have three bits: nothing else is taken from there.
            word.map(u16::to_le_bytes).filter(|types| types.iter().all(|kind| *kind <= 7))
        };
        match *words.first()? {
            ANSWERED => {
                let length = words.get(3).map_or(0, |length| (*length).min(REASON as u64));
                let reason = words.iter().skip(4).flat_map(|word| word.to_le_bytes());
                let reason: Vec<u8> = reason.take(length as usize).collect();
                let shown = reason.iter().map(|byte| match byte {
                    0x20..=0x7e => char::from(*byte),
                    _ => '?',
                });
                let suspend = pair(1).ok_or_else(|| shown.collect());
                Some(Self { suspend, off: pair(2) })
            }
            CRASHED => Some(Self {
                suspend: Err(
                    "the interpreter cannot evaluate this machine's AML: it stopped".into()
                ),
                off: None,
            }),
            _ => None,
        }
    }
}

fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let bytes = bytes.get(8 * index..8 * index + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_through() {
        let order = Order {
            tables: vec![b"DSDT and more", b"SSDT"],
            memory: vec![(0x7fe_0000, b"firmware"), (0x1_0000_0000, b"")],
        };
        let bytes = order.encode();
        assert_eq!(Order::size(&bytes[..16]), Some(bytes.len()));
        assert_eq!(Order::decode(&bytes), Some(order));
        for end in 0..bytes.len() {
            assert_eq!(Order::decode(&bytes[..end]), None);
        }
    }

    #[test]
    fn damaged_orders_are_no_orders_or_lie_inside() {
        let bytes = Order { tables: vec![b"0123456789"], memory: vec![(1, b"x")] }.encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let _ = Order::decode(&bytes);
            }
        }
    }

    #[test]
    fn answers_come_through() {
        for answer in [
            Answer { suspend: Ok([1, 0]), off: Some([5, 7]) },
            Answer { suspend: Err("no reason at all".into()), off: None },
        ] {
            let mut page = answer.encode();
            page.resize(512, 0);
            assert_eq!(Answer::decode(&page), Some(answer));
        }
        assert_eq!(Answer::decode(&[0; 512]), None);
        assert!(Answer::decode(&Answer::crashed()).is_some_and(|answer| answer.suspend.is_err()));
    }

    #[test]
    fn a_page_of_anything_gives_no_type_that_does_not_exist() {
        let page = [ANSWERED, 0x0801, 0x1_0000, u64::MAX, u64::MAX];
        let answer = Answer::decode(&page).unwrap();
        assert_eq!((answer.suspend, answer.off), (Err("????????".into()), None));
    }
}
