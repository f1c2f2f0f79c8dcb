//! The message page of a thread: words, typed items, windows.
//!
//! The kernel copies from and to the page during system calls, so every access
//! is volatile and by value.

use abi::utcb::{MESSAGE_WORDS, items, offset, typed, typed_offset, untyped};
use abi::{Crd, Mtd, PAGE_SIZE, TypedItem};
use core::marker::PhantomData;
use core::ptr::NonNull;

/// A thread's message page. Only its own thread has it.
#[derive(Debug)]
pub struct Utcb {
    page: NonNull<u64>,
    not_send: PhantomData<*mut u64>,
}

impl Utcb {
    /// The page of the running thread. On a host there is none.
    ///
    /// Each call gives a new handle to the same page; handles of one thread
    /// never run at the same time.
    #[must_use]
    pub fn current() -> Option<Self> {
        #[cfg(target_os = "none")]
        {
            let page = NonNull::new(crate::own_page::get() as *mut u64)?;
            Some(Self { page, not_send: PhantomData })
        }
        #[cfg(not(target_os = "none"))]
        {
            None
        }
    }

    /// The page at an address.
    ///
    /// # Safety
    /// 4096 bytes there are mapped, writable and aligned to 8 as long as the
    /// handle lives, and no other thread uses them.
    #[must_use]
    pub unsafe fn at(page: NonNull<u64>) -> Self {
        Self { page, not_send: PhantomData }
    }

    /// The 64 bits at a byte offset (rounded down to 8, modulo the page).
    #[must_use]
    pub fn get(&self, offset: usize) -> u64 {
        // SAFETY: `slot` stays in the page, which `at` and `current` promise.
        unsafe { self.slot(offset).read_volatile() }
    }

    /// Sets the 64 bits at a byte offset (rounded down to 8, modulo the page).
    pub fn set(&mut self, offset: usize, value: u64) {
        // SAFETY: `slot` stays in the page, which `at` and `current` promise.
        unsafe { self.slot(offset).write_volatile(value) }
    }

    /// The word that holds a byte offset.
    fn slot(&self, offset: usize) -> *mut u64 {
        self.page.as_ptr().wrapping_add(offset % PAGE_SIZE as usize / 8)
    }

    /// Message word `index`; 0 from 508 on.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        if index < MESSAGE_WORDS { self.get(offset::MESSAGE + 8 * index) } else { 0 }
    }

    /// Sets message word `index`; from 508 on nothing happens.
    pub fn set_word(&mut self, index: usize, value: u64) {
        if index < MESSAGE_WORDS {
            self.set(offset::MESSAGE + 8 * index, value);
        }
    }

    /// Makes `words` the whole message, without typed items. Those beyond 508
    /// are left out.
    pub fn set_message(&mut self, words: &[u64]) {
        for (index, word) in words.iter().enumerate().take(MESSAGE_WORDS) {
            self.set_word(index, *word);
        }
        self.set_items(words.len().min(MESSAGE_WORDS), 0);
    }

    /// Sets how many words and typed items the message has.
    pub fn set_items(&mut self, words: usize, typed: usize) {
        let words = u16::try_from(words).unwrap_or(u16::MAX);
        let typed = u16::try_from(typed).unwrap_or(u16::MAX);
        self.set(offset::ITEMS, items(words, typed));
    }

    /// How many words the message has, at most 508.
    #[must_use]
    pub fn words(&self) -> usize {
        untyped(self.get(offset::ITEMS))
    }

    /// How many typed items the message has, at most 254.
    #[must_use]
    pub fn typed_count(&self) -> usize {
        typed(self.get(offset::ITEMS))
    }

    /// Typed item `index`; a null one from 254 on.
    #[must_use]
    pub fn typed(&self, index: usize) -> TypedItem {
        typed_offset(index).map_or_else(TypedItem::default, |at| {
            TypedItem::from_words([self.get(at), self.get(at + 8)])
        })
    }

    /// Sets typed item `index`; from 254 on nothing happens.
    pub fn set_typed(&mut self, index: usize, item: TypedItem) {
        if let Some(at) = typed_offset(index) {
            let [crd, meta] = item.words();
            self.set(at, crd);
            self.set(at + 8, meta);
        }
    }

    /// Adds a typed item to the message.
    pub fn push_typed(&mut self, item: TypedItem) {
        let (words, count) = (self.words(), self.typed_count());
        self.set_typed(count, item);
        self.set_items(words, count + 1);
    }

    /// Sets what may be translated and where delegated things go.
    pub fn set_windows(&mut self, translate: Crd, delegate: Crd) {
        self.set(offset::TRANSLATE_WINDOW, translate.0);
        self.set(offset::DELEGATE_WINDOW, delegate.0);
    }

    /// The register groups of an exception message.
    #[must_use]
    pub fn mtd(&self) -> Mtd {
        Mtd((self.get(offset::MTD) & 0xffff_ffff) as u32)
    }

    /// Sets the register groups that the reply writes back.
    pub fn set_mtd(&mut self, mtd: Mtd) {
        self.set(offset::MTD, u64::from(mtd.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::crd::ItemMeta;
    use abi::utcb::StatePage;

    fn with_page(test: impl FnOnce(&mut Utcb)) -> StatePage {
        let mut page = StatePage::ZERO;
        // SAFETY: the page lives until the end of this function, and only the
        // handle uses it meanwhile.
        let mut utcb = unsafe { Utcb::at(NonNull::from(&mut page).cast()) };
        test(&mut utcb);
        page
    }

    #[test]
    fn fields_lie_where_the_structure_says() {
        let page = with_page(|utcb| {
            utcb.set_message(&[1, 2, 3]);
            utcb.set_windows(Crd::ALL_OBJECTS, Crd::ALL_MEMORY);
            utcb.push_typed(TypedItem::delegate(Crd::objects(5, 0, 1), 7));
            utcb.set(offset::RIP, 0x1234);
            assert_eq!((utcb.words(), utcb.typed_count()), (3, 1));
            assert_eq!(utcb.typed(0).meta, ItemMeta::DELEGATE.at(7));
            assert_eq!(utcb.typed(254), TypedItem::default());
        });
        assert_eq!((page.items, page.mtd, page.inst_len, page.rip), (0x1_0003, 1, 2, 0x1234));
        assert_eq!(
            (page.translate_window, page.delegate_window),
            (Crd::ALL_OBJECTS, Crd::ALL_MEMORY)
        );
        assert_eq!(page.rest[382], Crd::objects(5, 0, 1).0);
    }

    #[test]
    fn nothing_leaves_the_page() {
        let page = with_page(|utcb| {
            utcb.set_word(508, 9);
            utcb.set_typed(254, TypedItem::delegate(Crd::ALL_PORTS, 1));
            utcb.set_message(&[4; 600]);
            assert_eq!(utcb.words(), 508);
            assert_eq!(utcb.get(4096 + offset::TLS), 0);
        });
        assert_eq!(page.tls, 0);
    }
}
