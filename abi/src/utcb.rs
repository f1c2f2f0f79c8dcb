//! The page that carries messages, with the state page of a virtual processor.
//!
//! Both have one layout. Words of a message grow upwards from 0x020, typed
//! items downwards from 0xff0. For a virtual processor the bytes from 0x2a0 to
//! 0x3ff are ours (`vcpu_run_ext`, `docs/spec/utcb.md`); API version 10 leaves
//! them to the message.

pub mod extended_offset;
pub mod offset;
mod page;

pub use page::{Extended, StatePage};

/// Message words in a UTCB, 0x020 to 0xfff.
pub const MESSAGE_WORDS: usize = 508;
/// Words of architectural state, 0x020 to 0x29f: what the items word of an
/// exception message says.
pub const ARCH_WORDS: usize = 80;
/// Most typed items the kernel looks at.
pub const MAX_TYPED: usize = 254;

/// Where typed item `index` lies; `None` from [`MAX_TYPED`] on.
#[must_use]
pub const fn typed_offset(index: usize) -> Option<usize> {
    if index < MAX_TYPED { Some(offset::TYPED - 16 * index) } else { None }
}

/// The items word for so many message words and typed items (16 bits each).
#[must_use]
pub const fn items(untyped: u16, typed: u16) -> u64 {
    untyped as u64 | (typed as u64) << 16
}

/// Message words an items word asks for, at most [`MESSAGE_WORDS`].
#[must_use]
pub const fn untyped(items: u64) -> usize {
    let count = (items & 0xffff) as usize;
    if count < MESSAGE_WORDS { count } else { MESSAGE_WORDS }
}

/// Typed items an items word asks for, at most [`MAX_TYPED`].
#[must_use]
pub const fn typed(items: u64) -> usize {
    let count = (items >> 16 & 0xffff) as usize;
    if count < MAX_TYPED { count } else { MAX_TYPED }
}

/// A segment register as it lies in the page: sixteen bytes.
///
/// `ar` holds the VMX access rights with bits 15:12 closed up: bits 7:0 type, S,
/// DPL and P; bit 8 AVL, 9 L, 10 D/B, 11 G, 12 unusable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Compressed access rights.
    pub ar: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Linear base address.
    pub base: u64,
}

impl Segment {
    /// As the two words of the page.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        [self.selector as u64 | (self.ar as u64) << 16 | (self.limit as u64) << 32, self.base]
    }

    /// From the two words of the page.
    #[must_use]
    pub const fn decode(words: [u64; 2]) -> Self {
        Self {
            selector: (words[0] & 0xffff) as u16,
            ar: (words[0] >> 16 & 0xffff) as u16,
            limit: (words[0] >> 32) as u32,
            base: words[1],
        }
    }

    /// Access rights in the VMCS format (Intel SDM vol. 3, 25.4.1).
    #[must_use]
    pub const fn vmx_rights(self) -> u32 {
        (self.ar as u32 & 0xff) | (self.ar as u32 & 0x1f00) << 4
    }

    /// Compressed access rights from the VMCS format.
    #[must_use]
    pub const fn rights_from_vmx(rights: u32) -> u16 {
        (rights & 0xff | rights >> 4 & 0x1f00) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn items_word() {
        assert_eq!(items(80, 2), 0x2_0050);
        assert_eq!((untyped(0xffff), typed(0xffff_0000)), (MESSAGE_WORDS, MAX_TYPED));
        assert_eq!((untyped(items(3, 4)), typed(items(3, 4))), (3, 4));
        assert_eq!(typed_offset(0), Some(0xff0));
        assert_eq!(typed_offset(1), Some(0xfe0));
        assert_eq!(typed_offset(254), None);
    }

    #[test]
    fn rights_close_up() {
        let code64 = Segment { ar: 0xa9b, ..Segment::ZERO };
        assert_eq!(code64.vmx_rights(), 0xa09b);
        assert_eq!(Segment::rights_from_vmx(0x1_0000), 0x1000);
        assert_eq!(Segment { ar: 0x1000, ..Segment::ZERO }.vmx_rights(), 0x1_0000);
    }

    proptest! {
        #[test]
        fn segments_come_back(a: u64, b: u64) {
            let segment = Segment::decode([a, b]);
            prop_assert_eq!(segment.encode(), [a, b]);
            let used = Segment { ar: segment.ar & 0x1fff, ..segment };
            prop_assert_eq!(Segment::rights_from_vmx(used.vmx_rights()), used.ar);
        }
    }
}
