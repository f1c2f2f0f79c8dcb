//! The bits of page-table entries: host tables, Intel's EPT, AMD's nested tables.
//!
//! Pure encoding and decoding. Sources: Intel SDM vol. 3, 4.5 (4-level paging) and 29.3.2 (EPT);
//! AMD APM vol. 2, 5.3 (long mode) and 15.25.5 (nested paging: host format, user bit required).

use crate::addr::Frame;

/// log2 of the entries of a table.
pub const INDEX_BITS: u32 = 9;
/// Entries of a table.
pub const ENTRIES: usize = 1 << INDEX_BITS;

/// Bits 51:12 of an entry: the physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7 of an entry above the lowest level: it maps memory instead of naming a table.
const LARGE: u64 = 1 << 7;

/// What may be done with a mapped page. The bits are those of memory CRDs (abi.md 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Nothing: such a page is not mapped at all.
    pub const NONE: Self = Self(0);
    /// Read; every mapped page is readable, whether asked for or not.
    pub const READ: Self = Self(1);
    /// Write.
    pub const WRITE: Self = Self(2);
    /// Execute.
    pub const EXECUTE: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// The rights in bits 2:0; other bits are ignored.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 7)
    }

    /// Bit 0 read, bit 1 write, bit 2 execute.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Rights that are in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Rights that are in one of them.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether nothing is allowed.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` is allowed.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A decoded page-table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing is mapped here.
    Empty,
    /// The table of the level below.
    Table(Frame),
    /// A page of the entry's level: 4 KiB at level 0, 2 MiB at level 1, 1 GiB at level 2.
    Leaf {
        /// Its first frame.
        frame: Frame,
        /// What may be done there; always with [`Rights::READ`].
        rights: Rights,
        /// The format's own bits, as given to [`Format::leaf`].
        attributes: u64,
    },
}

/// How one kind of hardware writes page tables of four levels (3 is the root, 0 maps 4 KiB).
pub trait Format {
    /// The entry that maps the aligned block at `frame`, of the size of `level`. Attributes
    /// outside of the format's own bits are dropped; rights of nothing give an empty entry.
    fn leaf(level: u8, frame: Frame, rights: Rights, attributes: u64) -> u64;

    /// The entry that names a table of the level below.
    fn table(frame: Frame) -> u64;

    /// What an entry at `level` says.
    fn parse(entry: u64, level: u8) -> Entry;

    /// The table that an entry above the lowest level names, if it names one: that part of `parse`.
    fn below(entry: u64) -> Option<Frame>;

    /// Whether the processor may have remembered something about this entry.
    fn is_present(entry: u64) -> bool;

    /// What becomes of an entry of level 0 of a host table when it is delegated: the same frame
    /// with those of its rights that are in `mask`. Empty when it may not be delegated or no
    /// right is left. The same as `parse` and `leaf` would say, in fewer instructions.
    fn delegated(host: u64, mask: Rights, attributes: u64) -> u64;
}

/// The address of an entry, without the bits that have other meanings in leaves of this level.
#[inline(always)]
const fn frame_of(entry: u64, level: u8) -> Frame {
    Frame((entry & ADDRESS) >> 12 & !((1 << (INDEX_BITS * level as u32)) - 1))
}

/// Tables of user address spaces, in the format of 4-level paging. All leaves are user pages and
/// have accessed and dirty set, so that the processor never writes to them.
#[derive(Clone, Copy, Debug)]
pub struct HostFormat;

impl HostFormat {
    /// Attribute of leaves (software bit 9): delegation may copy the mapping. Clear for pages
    /// that belong to the kernel: UTCBs, kernel pages, the HIP.
    pub const DELEGATABLE: u64 = 1 << 9;
    /// Attribute of leaves: write-through (PWT), bit 0 of the PAT index.
    pub const WRITE_THROUGH: u64 = 1 << 3;
    /// Attribute of leaves: cache disabled (PCD), bit 1 of the PAT index.
    pub const CACHE_DISABLED: u64 = 1 << 4;

    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 1 << 1;
    const USER: u64 = 1 << 2;
    const ACCESSED_DIRTY: u64 = 3 << 5;
    const NO_EXECUTE: u64 = 1 << 63;
    const ATTRIBUTES: u64 = Self::DELEGATABLE | Self::WRITE_THROUGH | Self::CACHE_DISABLED;
}

impl HostFormat {
    /// The frame in an entry of level 0.
    #[inline(always)]
    pub(super) const fn frame(entry: u64) -> Frame {
        frame_of(entry, 0)
    }

    /// Whether a leaf may be delegated and keeps any of its rights under `mask`.
    #[inline(always)]
    const fn keeps_some(host: u64, mask: Rights) -> bool {
        const NEEDED: u64 = HostFormat::PRESENT | HostFormat::DELEGATABLE;
        host & NEEDED == NEEDED
            && (mask.contains(Rights::READ)
                || mask.contains(Rights::WRITE) && host & Self::WRITABLE != 0
                || mask.contains(Rights::EXECUTE) && host & Self::NO_EXECUTE == 0)
    }
}

impl Format for HostFormat {
    #[inline(always)]
    fn leaf(level: u8, frame: Frame, rights: Rights, attributes: u64) -> u64 {
        if rights.is_none() {
            return 0;
        }
        let bits = u64::from(rights.bits());
        frame.address() & ADDRESS
            | Self::PRESENT
            | bits & Self::WRITABLE
            | Self::USER
            | Self::ACCESSED_DIRTY
            | if rights.contains(Rights::EXECUTE) { 0 } else { Self::NO_EXECUTE }
            | if level > 0 { LARGE } else { 0 }
            | attributes & Self::ATTRIBUTES
    }

    #[inline(always)]
    fn table(frame: Frame) -> u64 {
        frame.address() & ADDRESS | Self::PRESENT | Self::WRITABLE | Self::USER | 1 << 5
    }

    #[inline(always)]
    fn parse(entry: u64, level: u8) -> Entry {
        if entry & Self::PRESENT == 0 {
            return Entry::Empty;
        }
        if level > 0 && entry & LARGE == 0 {
            return Entry::Table(frame_of(entry, 0));
        }
        let execute = (!entry >> 63) << 2; // the opposite of NO_EXECUTE, as Rights::EXECUTE
        Entry::Leaf {
            frame: frame_of(entry, level),
            rights: Rights((entry & Self::WRITABLE | 1 | execute) as u8),
            attributes: entry & Self::ATTRIBUTES,
        }
    }

    #[inline(always)]
    fn below(entry: u64) -> Option<Frame> {
        (entry & (Self::PRESENT | LARGE) == Self::PRESENT).then_some(frame_of(entry, 0))
    }

    #[inline(always)]
    fn is_present(entry: u64) -> bool {
        entry & Self::PRESENT != 0
    }

    #[inline(always)]
    fn delegated(host: u64, mask: Rights, attributes: u64) -> u64 {
        if !Self::keeps_some(host, mask) {
            return 0;
        }
        let mask = u64::from(mask.bits());
        let forbid_execute = (!mask >> 2 & 1) << 63;
        host & (ADDRESS | Self::NO_EXECUTE | mask & Self::WRITABLE)
            | forbid_execute
            | (Self::PRESENT | Self::USER | Self::ACCESSED_DIRTY)
            | attributes & Self::ATTRIBUTES
    }
}

/// Nested page tables of AMD: the host's format, where every access of the guest counts as one of
/// a user (APM vol. 2, 15.25.5), so the two formats are the same bits.
pub type NestedFormat = HostFormat;

/// Extended page tables of Intel, without accessed and dirty flags.
#[derive(Clone, Copy, Debug)]
pub struct EptFormat;

impl EptFormat {
    /// Attribute of leaves: the guest's own PAT does not count (bit 6).
    pub const IGNORE_PAT: u64 = 1 << 6;

    const RIGHTS: u64 = 7;
    const MEMORY_TYPE: u64 = 7 << 3;

    /// The attribute for a memory type as MTRRs encode it (0 uncacheable, 6 write-back, ...).
    #[must_use]
    pub const fn memory_type(memory_type: u8) -> u64 {
        (memory_type as u64) << 3 & Self::MEMORY_TYPE
    }
}

impl Format for EptFormat {
    #[inline(always)]
    fn leaf(level: u8, frame: Frame, rights: Rights, attributes: u64) -> u64 {
        if rights.is_none() {
            return 0;
        }
        frame.address() & ADDRESS
            | u64::from(rights.or(Rights::READ).bits())
            | attributes & (Self::MEMORY_TYPE | Self::IGNORE_PAT)
            | if level > 0 { LARGE } else { 0 }
    }

    #[inline(always)]
    fn table(frame: Frame) -> u64 {
        frame.address() & ADDRESS | Self::RIGHTS
    }

    #[inline(always)]
    fn parse(entry: u64, level: u8) -> Entry {
        if entry & Self::RIGHTS == 0 {
            return Entry::Empty;
        }
        if level > 0 && entry & LARGE == 0 {
            return Entry::Table(frame_of(entry, 0));
        }
        Entry::Leaf {
            frame: frame_of(entry, level),
            rights: Rights((entry & Self::RIGHTS) as u8),
            attributes: entry & (Self::MEMORY_TYPE | Self::IGNORE_PAT),
        }
    }

    #[inline(always)]
    fn below(entry: u64) -> Option<Frame> {
        (entry & Self::RIGHTS != 0 && entry & LARGE == 0).then_some(frame_of(entry, 0))
    }

    #[inline(always)]
    fn is_present(entry: u64) -> bool {
        entry & Self::RIGHTS != 0
    }

    #[inline(always)]
    fn delegated(host: u64, mask: Rights, attributes: u64) -> u64 {
        if !HostFormat::keeps_some(host, mask) {
            return 0;
        }
        let rights = host & HostFormat::WRITABLE | (!host >> 63) << 2;
        host & ADDRESS
            | rights & u64::from(mask.bits())
            | u64::from(Rights::READ.bits())
            | attributes & (Self::MEMORY_TYPE | Self::IGNORE_PAT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip<F: Format>(level: u8, frame: u64, bits: u8, attributes: u64) -> Entry {
        let frame = Frame(frame & 0xff_ffff_ffff & !((1 << (9 * level)) - 1));
        let entry = F::leaf(level, frame, Rights::from_bits(bits), attributes);
        assert_eq!(F::is_present(entry), F::parse(entry, level) != Entry::Empty);
        if bits & 7 != 0 {
            let Entry::Leaf { frame: got, rights, .. } = F::parse(entry, level) else {
                panic!("not a leaf: {entry:#x}");
            };
            assert_eq!((got, rights.bits()), (frame, bits & 7 | 1));
        }
        F::parse(entry, level)
    }

    /// `below` says of an entry above the lowest level what `parse` says.
    fn names_the_same_table<F: Format>(entry: u64) {
        let table = match F::parse(entry, 1) {
            Entry::Table(table) => Some(table),
            _ => None,
        };
        assert_eq!(F::below(entry), table);
    }

    #[test]
    fn host_entries_have_the_bits_of_the_manual() {
        let entry = HostFormat::leaf(0, Frame(0x1234), Rights::READ, HostFormat::DELEGATABLE);
        assert_eq!(entry, 1 << 63 | 0x0123_4000 | 0x265);
        let entry = HostFormat::leaf(1, Frame(0x1200), Rights::ALL, 0);
        assert_eq!(entry, 0x0120_0000 | 0xe7);
        assert_eq!(HostFormat::table(Frame(0x5)), 0x5027);
        assert_eq!(HostFormat::parse(0x5027, 1), Entry::Table(Frame(5)));
        assert!(matches!(HostFormat::parse(0x5027, 0), Entry::Leaf { .. }));
    }

    #[test]
    fn ept_entries_have_the_bits_of_the_manual() {
        let entry = EptFormat::leaf(1, Frame(0x1200), Rights::WRITE, EptFormat::memory_type(6));
        assert_eq!(entry, 0x0120_0000 | 0xb3);
        assert_eq!(EptFormat::table(Frame(0x5)), 0x5007);
    }

    proptest! {
        #[test]
        fn leaves_survive_a_round_trip(level in 0..3_u8, frame: u64, bits: u8, attributes: u64) {
            round_trip::<HostFormat>(level, frame, bits, attributes);
            round_trip::<EptFormat>(level, frame, bits, attributes);
        }

        /// The short cut says what the two long ways say together.
        #[test]
        fn delegation_is_parsing_and_writing(host: u64, bits: u8, attributes: u64, low in 0..0x400_u64) {
            let mask = Rights::from_bits(bits);
            for host in [host, host | 0x201, host & !0x3ff | low] {
                let expected = match HostFormat::parse(host, 0) {
                    Entry::Leaf { frame, rights, attributes: own }
                        if own & HostFormat::DELEGATABLE != 0 => Some((frame, rights.and(mask))),
                    _ => None,
                };
                let entry = |leaf: fn(u8, Frame, Rights, u64) -> u64| {
                    expected.map_or(0, |(frame, rights)| leaf(0, frame, rights, attributes))
                };
                prop_assert_eq!(HostFormat::delegated(host, mask, attributes), entry(HostFormat::leaf));
                prop_assert_eq!(EptFormat::delegated(host, mask, attributes), entry(EptFormat::leaf));
            }
        }

        #[test]
        fn any_word_can_be_parsed(entry: u64, level in 0..4_u8) {
            let _ = HostFormat::parse(entry, level);
            let _ = EptFormat::parse(entry, level);
            names_the_same_table::<HostFormat>(entry);
            names_the_same_table::<EptFormat>(entry);
        }
    }
}
