//! Reads the root task's ELF file: where its segments lie and what they may do (abi.md 2.2).
//!
//! It maps and copies nothing. Format: System V ABI, chapters 4 and 5; ELF-64 Object File Format
//! 1.5. Sections are not looked at.

use core::fmt;
use core::ops::Range;

use crate::addr::{PAGE_SIZE, USER_TOP};
use crate::page_table::Rights;

/// No segment may reach beyond: the HIP and the root task's UTCB lie in the last two pages.
const SEGMENTS_END: u64 = USER_TOP - 2 * PAGE_SIZE;

const FILE_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
const LOAD: u32 = 1;

/// A file that is read piece by piece: a boot module in memory that may not be mapped.
pub trait FileBytes {
    /// Length of the file in bytes.
    fn length(&self) -> u64;
    /// Copies the bytes from `offset` on into `out`; false when they are not all there.
    fn read(&self, offset: u64, out: &mut [u8]) -> bool;
}

impl FileBytes for [u8] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        match bytes.and_then(|bytes| bytes.get(..out.len())) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

/// Why a file cannot be the root task. The number is that of the program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// The file is shorter than its header.
    TooShort,
    /// The first bytes are not those of an ELF file.
    NotElf,
    /// Not 64 bit, or not little endian.
    NotElf64,
    /// Not of type ET_EXEC: not linked to fixed addresses.
    NotExecutable(u16),
    /// Made for another processor.
    WrongMachine(u16),
    /// The program headers are not all in the file.
    HeadersOutside,
    /// No segment to load.
    NoSegments,
    /// A segment's bytes are not all in the file.
    SegmentOutside(u16),
    /// A segment has more bytes in the file than in memory.
    SegmentTooSmall(u16),
    /// A segment's address and file offset differ within the page, so it cannot be mapped in place.
    SegmentMisaligned(u16),
    /// A segment's addresses are not all below the root task's UTCB.
    SegmentAddress(u16),
    /// The entry point is in no segment that can be executed.
    EntryOutside(u64),
}

impl fmt::Display for ElfError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, segment) = match *self {
            Self::TooShort => ("shorter than an ELF header", None),
            Self::NotElf => ("no ELF magic number", None),
            Self::NotElf64 => ("not 64-bit little-endian ELF", None),
            Self::NotExecutable(kind) => {
                return write!(
                    out,
                    "ELF type {kind}, must be 2 (ET_EXEC, not position independent)"
                );
            }
            Self::WrongMachine(machine) => {
                return write!(out, "ELF machine {machine}, must be 62 (x86-64)");
            }
            Self::HeadersOutside => ("program headers reach beyond the end of the file", None),
            Self::NoSegments => ("no PT_LOAD segment", None),
            Self::SegmentOutside(at) => ("its bytes reach beyond the end of the file", Some(at)),
            Self::SegmentTooSmall(at) => ("p_filesz is larger than p_memsz", Some(at)),
            Self::SegmentMisaligned(at) => ("p_vaddr and p_offset differ modulo 4096", Some(at)),
            Self::SegmentAddress(at) => ("its addresses reach into the UTCB or beyond", Some(at)),
            Self::EntryOutside(entry) => {
                return write!(out, "entry point {entry:#x} is in no executable segment");
            }
        };
        match segment {
            Some(segment) => write!(out, "program header {segment}: {text}"),
            None => out.write_str(text),
        }
    }
}

/// A PT_LOAD segment that passed all checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First virtual address.
    pub address: u64,
    /// Where its bytes start in the file; equal to the address modulo 4096.
    pub offset: u64,
    /// Bytes that come from the file.
    pub file_bytes: u64,
    /// Bytes in memory; the rest is zero.
    pub memory_bytes: u64,
    /// What the program may do there; readable in any case.
    pub rights: Rights,
}

impl Segment {
    /// The virtual pages that show the file itself: (first page, first page of the file, pages).
    ///
    /// Without zero bytes at the end these are all pages; bytes of the file around the segment
    /// are visible too. With them, the last page of the file is left to [`Segment::fresh`].
    #[must_use]
    pub const fn in_place(&self) -> (u64, u64, u64) {
        let first = self.address / PAGE_SIZE;
        let file_end = self.address + self.file_bytes;
        let end = if self.memory_bytes > self.file_bytes {
            file_end / PAGE_SIZE
        } else {
            file_end.div_ceil(PAGE_SIZE)
        };
        (first, self.offset / PAGE_SIZE, end.saturating_sub(first))
    }

    /// The virtual pages that need memory of their own, because they hold zero bytes at the end:
    /// the part behind the file's last whole page. Empty without such bytes.
    #[must_use]
    pub const fn fresh(&self) -> Range<u64> {
        let (first, _, in_place) = self.in_place();
        let end = (self.address + self.memory_bytes).div_ceil(PAGE_SIZE);
        first + in_place..if self.memory_bytes > self.file_bytes { end } else { first + in_place }
    }

    /// The bytes of the file that the fresh page `page` starts with: (offset in the page, offset
    /// in the file, count). The others of the page are zero.
    #[must_use]
    pub const fn bytes_of(&self, page: u64) -> (u64, u64, u64) {
        let page = page.saturating_mul(PAGE_SIZE);
        let start = if page > self.address { page } else { self.address };
        let page_end = page.saturating_add(PAGE_SIZE);
        let file_end = self.address + self.file_bytes;
        let end = if page_end < file_end { page_end } else { file_end };
        if start >= end {
            return (0, 0, 0);
        }
        (start - page, self.offset + (start - self.address), end - start)
    }

    const fn contains(&self, address: u64) -> bool {
        address >= self.address && address - self.address < self.memory_bytes
    }
}

/// A root task whose headers and segments all passed the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootElf {
    /// Where it starts.
    pub entry: u64,
    headers: u64,
    header_bytes: u64,
    count: u16,
}

impl RootElf {
    /// Checks a whole file, so that nothing is half loaded.
    ///
    /// # Errors
    /// The first rule of abi.md 2.2 that it breaks.
    pub fn check(file: &(impl FileBytes + ?Sized)) -> Result<Self, ElfError> {
        let mut header = [0; FILE_HEADER_BYTES];
        if !file.read(0, &mut header) {
            return Err(ElfError::TooShort);
        }
        let [m0, m1, m2, m3, class, order, ..] = header;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(ElfError::NotElf);
        }
        if (class, order) != (CLASS_64, LITTLE_ENDIAN) {
            return Err(ElfError::NotElf64);
        }
        match half(&header, 16) {
            TYPE_EXECUTABLE => {}
            other => return Err(ElfError::NotExecutable(other)),
        }
        match half(&header, 18) {
            MACHINE_X86_64 => {}
            other => return Err(ElfError::WrongMachine(other)),
        }
        let elf = Self {
            entry: word(&header, 24),
            headers: word(&header, 32),
            header_bytes: u64::from(half(&header, 54)),
            count: half(&header, 56),
        };
        elf.check_segments(file)?;
        Ok(elf)
    }

    /// The segments to load, in the order of the file. They passed the checks; should the file
    /// have changed since, only those that still pass are given.
    pub fn segments<F: FileBytes + ?Sized>(&self, file: &F) -> impl Iterator<Item = Segment> {
        (0..self.count).filter_map(|number| self.segment(file, number).ok().flatten())
    }

    fn check_segments(&self, file: &(impl FileBytes + ?Sized)) -> Result<(), ElfError> {
        if self.header_bytes < PROGRAM_HEADER_BYTES as u64 {
            return Err(ElfError::HeadersOutside);
        }
        let (mut is_empty, mut starts_inside) = (true, false);
        for number in 0..self.count {
            let Some(segment) = self.segment(file, number)? else { continue };
            is_empty = false;
            starts_inside |=
                segment.contains(self.entry) && segment.rights.contains(Rights::EXECUTE);
        }
        match (is_empty, starts_inside) {
            (true, _) => Err(ElfError::NoSegments),
            (false, false) => Err(ElfError::EntryOutside(self.entry)),
            (false, true) => Ok(()),
        }
    }

    /// Program header `number`, if it is for a segment with at least one byte.
    fn segment(
        &self,
        file: &(impl FileBytes + ?Sized),
        number: u16,
    ) -> Result<Option<Segment>, ElfError> {
        let mut header = [0; PROGRAM_HEADER_BYTES];
        let offset = self.headers.checked_add(u64::from(number) * self.header_bytes);
        if !offset.is_some_and(|offset| file.read(offset, &mut header)) {
            return Err(ElfError::HeadersOutside);
        }
        let flags = word(&header, 0) >> 32;
        let segment = Segment {
            address: word(&header, 16),
            offset: word(&header, 8),
            file_bytes: word(&header, 32),
            memory_bytes: word(&header, 40),
            rights: rights(flags),
        };
        if word(&header, 0) as u32 != LOAD || segment.memory_bytes == 0 {
            return Ok(None);
        }
        let ends_before = |start: u64, bytes: u64, end: u64| {
            start.checked_add(bytes).is_some_and(|last| last <= end)
        };
        if segment.file_bytes > segment.memory_bytes {
            return Err(ElfError::SegmentTooSmall(number));
        }
        if !ends_before(segment.offset, segment.file_bytes, file.length()) {
            return Err(ElfError::SegmentOutside(number));
        }
        if segment.address % PAGE_SIZE != segment.offset % PAGE_SIZE {
            return Err(ElfError::SegmentMisaligned(number));
        }
        if !ends_before(segment.address, segment.memory_bytes, SEGMENTS_END) {
            return Err(ElfError::SegmentAddress(number));
        }
        Ok(Some(segment))
    }
}

/// p_flags: bit 0 execute, bit 1 write, bit 2 read.
const fn rights(flags: u64) -> Rights {
    let execute = if flags & 1 != 0 { Rights::EXECUTE } else { Rights::NONE };
    let write = if flags & 2 != 0 { Rights::WRITE } else { Rights::NONE };
    Rights::READ.or(write).or(execute)
}

/// The 16-bit number at `offset` of a header; 0 outside of it.
fn half(header: &[u8], offset: usize) -> u16 {
    header.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// The 64-bit number at `offset` of a header; 0 outside of it.
fn word(header: &[u8], offset: usize) -> u64 {
    header.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file of three pages with one header per segment.
    fn file(segments: &[Segment], entry: u64) -> Vec<u8> {
        let mut file = vec![0; 3 * PAGE_SIZE as usize];
        let mut put = |offset: usize, bytes: &[u8]| {
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &[2, 0, 62, 0]);
        put(24, &entry.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(54, &[56, 0, segments.len() as u8, 0]);
        for (number, segment) in segments.iter().enumerate() {
            let at = 64 + 56 * number;
            let bits = segment.rights.bits();
            put(at, &[1, 0, 0, 0, bits >> 2 | bits & 2 | (bits & 1) << 2]);
            for (place, value) in [
                (8, segment.offset),
                (16, segment.address),
                (32, segment.file_bytes),
                (40, segment.memory_bytes),
            ] {
                put(at + place, &value.to_le_bytes());
            }
        }
        file
    }

    const TEXT: Segment = Segment {
        address: 0x40_0000,
        offset: 0,
        file_bytes: 0x1234,
        memory_bytes: 0x1234,
        rights: Rights::READ.or(Rights::EXECUTE),
    };
    const DATA: Segment = Segment {
        address: 0x40_2345,
        offset: 0x2345,
        file_bytes: 0x100,
        memory_bytes: 0x3000,
        rights: Rights::READ.or(Rights::WRITE),
    };

    fn error(change: impl FnOnce(&mut Vec<u8>)) -> ElfError {
        let mut file = file(&[TEXT, DATA], 0x40_0010);
        change(&mut file);
        RootElf::check(&file[..]).unwrap_err()
    }

    #[test]
    fn a_good_file_gives_its_segments() {
        let file = file(&[TEXT, DATA], 0x40_0010);
        let elf = RootElf::check(&file[..]).unwrap();
        assert_eq!(elf.entry, 0x40_0010);
        assert!(elf.segments(&file[..]).eq([TEXT, DATA]));
        assert_eq!(TEXT.in_place(), (0x400, 0, 2));
        assert!(TEXT.fresh().is_empty());
        assert_eq!(DATA.in_place(), (0x402, 2, 0));
        assert_eq!(DATA.fresh(), 0x402..0x406);
        assert_eq!(DATA.bytes_of(0x402), (0x345, 0x2345, 0x100));
        assert_eq!(DATA.bytes_of(0x403), (0, 0, 0));
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        assert_eq!(error(|file| file.truncate(63)), ElfError::TooShort);
        assert_eq!(error(|file| file[1] = b'e'), ElfError::NotElf);
        assert_eq!(error(|file| file[4] = 1), ElfError::NotElf64);
        assert_eq!(error(|file| file[16] = 3), ElfError::NotExecutable(3));
        assert_eq!(error(|file| file[18] = 3), ElfError::WrongMachine(3));
        assert_eq!(error(|file| file[56] = 0), ElfError::NoSegments);
        assert_eq!(error(|file| file.truncate(100)), ElfError::HeadersOutside);
        assert_eq!(error(|file| file[39] = 0xff), ElfError::HeadersOutside);
        assert_eq!(error(|file| file[54] = 55), ElfError::HeadersOutside);
        assert_eq!(error(|file| file.truncate(0x1233)), ElfError::SegmentOutside(0));
        assert_eq!(error(|file| file[64 + 41] = 0), ElfError::SegmentTooSmall(0));
        assert_eq!(error(|file| file[64 + 16] = 1), ElfError::SegmentMisaligned(0));
        assert_eq!(error(|file| file[64 + 22] = 0xff), ElfError::SegmentAddress(0));
        assert_eq!(error(|file| file[120 + 47] = 0xff), ElfError::SegmentAddress(1));
        assert_eq!(error(|file| file[25] = 0x40), ElfError::EntryOutside(0x40_4010));
        assert_eq!(
            ElfError::SegmentMisaligned(1).to_string(),
            "program header 1: p_vaddr and p_offset differ modulo 4096"
        );
    }

    proptest! {
        /// Any damage to the headers is refused or leaves segments within the rules.
        #[test]
        fn damaged_files_keep_to_the_rules(
            changes in prop::collection::vec((0..180_usize, any::<u8>()), 1..4),
            length in 0..3 * PAGE_SIZE as usize,
        ) {
            let mut file = file(&[TEXT, DATA], 0x40_0010);
            changes.into_iter().for_each(|(at, byte)| file[at] = byte);
            file.truncate(length.max(180));
            if let Ok(elf) = RootElf::check(&file[..]) {
                for segment in elf.segments(&file[..]) {
                    prop_assert!(segment.address + segment.memory_bytes <= SEGMENTS_END);
                    prop_assert!(segment.offset + segment.file_bytes <= file.len() as u64);
                    let (first, _, pages) = segment.in_place();
                    prop_assert_eq!(first + pages, segment.fresh().start);
                }
            }
        }

        #[test]
        fn random_bytes_never_stop_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = RootElf::check(&bytes[..]);
        }
    }
}
