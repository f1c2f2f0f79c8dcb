//! Capability range descriptors, with the typed items that move them.
//!
//! ```text
//! CRD     63 ............ 12 | 11 ... 7 | 6 .......... 2 | 1 0
//!         base               | order    | permissions    | kind
//! meta    63 ............ 12 | 11          10      9        8        | 7..2 | 1 0
//!         hotspot            | from kernel guest   device   no host  |      | kind
//! ```

use crate::PAGE_BITS;
use core::ops::{BitOr, BitOrAssign};

/// What a range is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CrdKind {
    /// Nothing.
    Null = 0,
    /// Memory; units are pages.
    Memory = 1,
    /// I/O ports; units are ports.
    Port = 2,
    /// Object capabilities; units are selectors.
    Object = 3,
}

/// A capability range descriptor: 2^order units from `base`, with permissions.
///
/// Every word is a valid `Crd`; the base is not rounded to the order here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Crd(pub u64);

impl Crd {
    /// The empty descriptor.
    pub const NULL: Self = Self(0);
    /// All the memory one window can name: order 31 from page 0 (8 TiB).
    pub const ALL_MEMORY: Self = Self::memory(0, 31, 0x1f);
    /// All I/O ports.
    pub const ALL_PORTS: Self = Self::ports(0, 16, 0x1f);
    /// Every selector of an object space.
    pub const ALL_OBJECTS: Self = Self::objects(0, 26, 0x1f);
    /// Largest order the five bits hold.
    pub const MAX_ORDER: u8 = 31;

    /// The empty descriptor.
    #[must_use]
    pub const fn null() -> Self {
        Self::NULL
    }

    /// A descriptor from its parts. Only the low 5 bits of `order` and `perms`
    /// and the low 52 bits of `base` count.
    #[must_use]
    pub const fn new(kind: CrdKind, base: u64, order: u8, perms: u8) -> Self {
        Self(
            kind as u64
                | ((perms & 0x1f) as u64) << 2
                | ((order & 0x1f) as u64) << 7
                | base << PAGE_BITS,
        )
    }

    /// 2^`order` pages from page number `base`; `perms` from [`crate::cap::MEM_R`]...
    #[must_use]
    pub const fn memory(base: u64, order: u8, perms: u8) -> Self {
        Self::new(CrdKind::Memory, base, order, perms)
    }

    /// 2^`order` I/O ports from `base`.
    #[must_use]
    pub const fn ports(base: u64, order: u8, perms: u8) -> Self {
        Self::new(CrdKind::Port, base, order, perms)
    }

    /// 2^`order` selectors from `base`.
    #[must_use]
    pub const fn objects(base: u64, order: u8, perms: u8) -> Self {
        Self::new(CrdKind::Object, base, order, perms)
    }

    /// What the range is made of (bits 1:0).
    #[must_use]
    pub const fn kind(self) -> CrdKind {
        match self.0 & 3 {
            1 => CrdKind::Memory,
            2 => CrdKind::Port,
            3 => CrdKind::Object,
            _ => CrdKind::Null,
        }
    }

    /// The permissions (bits 6:2), 0 to 31.
    #[must_use]
    pub const fn perms(self) -> u8 {
        (self.0 >> 2 & 0x1f) as u8
    }

    /// The order (bits 11:7), 0 to 31.
    #[must_use]
    pub const fn order(self) -> u8 {
        (self.0 >> 7 & 0x1f) as u8
    }

    /// The first unit (bits 63:12), as written.
    #[must_use]
    pub const fn base(self) -> u64 {
        self.0 >> PAGE_BITS
    }

    /// How many units the range has: 2^order.
    #[must_use]
    pub const fn count(self) -> u64 {
        1 << self.order()
    }

    /// Whether the kind is null.
    #[must_use]
    pub const fn is_null(self) -> bool {
        matches!(self.kind(), CrdKind::Null)
    }

    /// The same range with other permissions.
    #[must_use]
    pub const fn with_perms(self, perms: u8) -> Self {
        Self::new(self.kind(), self.base(), self.order(), perms)
    }
}

/// What the kernel shall do with a typed item (metadata bits 1:0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ItemKind {
    /// Name something the receiver already has.
    Translate = 0,
    /// Give the receiver a copy.
    Delegate = 1,
    /// Translate; if that finds nothing, delegate.
    TranslateElseDelegate = 2,
    /// No meaning: the result is a null descriptor.
    Invalid = 3,
}

/// The second word of a typed item: kind, flags and hotspot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ItemMeta(pub u64);

impl ItemMeta {
    /// Translate, no flags.
    pub const TRANSLATE: Self = Self(ItemKind::Translate as u64);
    /// Delegate, no flags.
    pub const DELEGATE: Self = Self(ItemKind::Delegate as u64);
    /// Translate, else delegate, no flags.
    pub const TRANSLATE_ELSE_DELEGATE: Self = Self(ItemKind::TranslateElseDelegate as u64);
    /// Do not put the mapping into the host space.
    pub const NO_HOST: Self = Self(1 << 8);
    /// Put the mapping into the device page table too.
    pub const DEVICE: Self = Self(1 << 9);
    /// Put the mapping into the guest page table or guest port bitmap too.
    pub const GUEST: Self = Self(1 << 10);
    /// The source is the kernel; honoured for the root domain only.
    pub const FROM_KERNEL: Self = Self(1 << 11);
    /// What comes back as item flags: everything but the hotspot.
    pub const FLAGS_MASK: u64 = 0xfff;

    /// The same with this hotspot (bits 63:12; its top twelve bits are lost).
    #[must_use]
    pub const fn at(self, hotspot: u64) -> Self {
        Self(self.0 & Self::FLAGS_MASK | hotspot << PAGE_BITS)
    }

    /// What to do (bits 1:0).
    #[must_use]
    pub const fn kind(self) -> ItemKind {
        match self.0 & 3 {
            0 => ItemKind::Translate,
            1 => ItemKind::Delegate,
            2 => ItemKind::TranslateElseDelegate,
            _ => ItemKind::Invalid,
        }
    }

    /// Whether every bit of `flag` is set.
    #[must_use]
    pub const fn contains(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// Where in the larger window the smaller one lies (bits 63:12).
    #[must_use]
    pub const fn hotspot(self) -> u64 {
        self.0 >> PAGE_BITS
    }

    /// The word without the hotspot, as the kernel reports it.
    #[must_use]
    pub const fn flags(self) -> u64 {
        self.0 & Self::FLAGS_MASK
    }
}

impl BitOr for ItemMeta {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for ItemMeta {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// A typed item: a descriptor and what to do with it. Sixteen bytes in a UTCB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct TypedItem {
    /// What is sent; after a transfer, what arrived.
    pub crd: Crd,
    /// Kind, flags and hotspot; after a transfer, the flags alone.
    pub meta: ItemMeta,
}

impl TypedItem {
    /// An item to translate.
    #[must_use]
    pub const fn translate(crd: Crd) -> Self {
        Self { crd, meta: ItemMeta::TRANSLATE }
    }

    /// An item to delegate with this hotspot.
    #[must_use]
    pub const fn delegate(crd: Crd, hotspot: u64) -> Self {
        Self { crd, meta: ItemMeta::DELEGATE.at(hotspot) }
    }

    /// From the two words of a UTCB slot.
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self { crd: Crd(words[0]), meta: ItemMeta(words[1]) }
    }

    /// As the two words of a UTCB slot.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        [self.crd.0, self.meta.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_of_words() {
        assert_eq!(Crd::memory(0x1234, 9, 7).0, 1 | 7 << 2 | 9 << 7 | 0x1234 << 12);
        assert_eq!(Crd::ports(0x3f8, 3, 1).0, 2 | 1 << 2 | 3 << 7 | 0x3f8 << 12);
        assert_eq!(Crd::objects(40, 0, 0x1f).0, 3 | 0x1f << 2 | 40 << 12);
        let meta = (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL).at(0xabc);
        assert_eq!(meta.0, 0x801 | 0xabc << 12);
        assert_eq!((meta.kind(), meta.hotspot(), meta.flags()), (ItemKind::Delegate, 0xabc, 0x801));
        assert!(meta.contains(ItemMeta::FROM_KERNEL) && !meta.contains(ItemMeta::GUEST));
    }

    proptest! {
        #[test]
        fn any_word_is_its_parts(word: u64) {
            let crd = Crd(word);
            prop_assert_eq!(Crd::new(crd.kind(), crd.base(), crd.order(), crd.perms()), crd);
            let meta = ItemMeta(word);
            prop_assert_eq!(ItemMeta(meta.flags()).at(meta.hotspot()), meta);
        }
    }
}
