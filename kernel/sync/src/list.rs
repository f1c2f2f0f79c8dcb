//! Queues of objects: run queues, waiters, deadlines.
//!
//! A doubly linked list through the objects' own headers; it owns one counted reference per element, so nothing
//! in it can die. Every object can be in three lists at a time, one per link number `N`. A list has an identity,
//! stored in the link, so removing from the wrong list is refused and not undefined.

use core::marker::PhantomData;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::Counted;
use crate::slab::{Header, RawLink};

/// A first-in first-out queue of objects of type `T`, linked by link `N` (0 to 2).
pub struct List<T: 'static, const N: usize> {
    head: *mut Header,
    tail: *mut Header,
    identity: u64,
    kind: PhantomData<Counted<T>>,
}

// SAFETY: the list owns its elements by counted references, and is changed by `&mut` only.
unsafe impl<T: Send + Sync, const N: usize> Send for List<T, N> {}
// SAFETY: shared access only reads `head`.
unsafe impl<T: Send + Sync, const N: usize> Sync for List<T, N> {}

static IDENTITIES: AtomicU64 = AtomicU64::new(1);

impl<T: 'static, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: 'static, const N: usize> List<T, N> {
    /// An empty list.
    pub const fn new() -> Self {
        const { assert!(N < 3, "an object has three links") };
        List { head: null_mut(), tail: null_mut(), identity: 0, kind: PhantomData }
    }

    /// Whether nothing is in it.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.head.is_null()
    }

    /// The first element, if any.
    #[inline]
    pub fn first(&self) -> Option<&T> {
        let node = NonNull::new(self.head)?;
        // SAFETY: elements live (the list counts them) and are `Node<T>`.
        let counted = core::mem::ManuallyDrop::new(unsafe { Counted::<T>::from_raw(node) });
        let value: *const T = &raw const **counted;
        // SAFETY: as above; the element stays while `self` is borrowed.
        Some(unsafe { &*value })
    }

    /// Puts an element at the tail; gives it back if it is in a list of this link already.
    pub fn push_back(&mut self, element: Counted<T>) -> Result<(), Counted<T>> {
        let element = self.claim(element)?;
        let node = element.into_raw().as_ptr();
        // SAFETY: the claim made the element's link ours; neighbours are in our list.
        unsafe {
            link::<N>(node).previous.store(self.tail, Relaxed);
            link::<N>(node).next.store(null_mut(), Relaxed);
            if self.tail.is_null() {
                self.head = node;
            } else {
                link::<N>(self.tail).next.store(node, Relaxed);
            }
        }
        self.tail = node;
        Ok(())
    }

    /// Puts an element at the head; gives it back if it is in a list of this link already.
    pub fn push_front(&mut self, element: Counted<T>) -> Result<(), Counted<T>> {
        let element = self.claim(element)?;
        let node = element.into_raw().as_ptr();
        // SAFETY: as `push_back`.
        unsafe {
            link::<N>(node).next.store(self.head, Relaxed);
            link::<N>(node).previous.store(null_mut(), Relaxed);
            if self.head.is_null() {
                self.tail = node;
            } else {
                link::<N>(self.head).previous.store(node, Relaxed);
            }
        }
        self.head = node;
        Ok(())
    }

    /// Puts an element before the first one for which `after` holds, else at the tail.
    #[inline]
    pub fn insert_before(
        &mut self,
        element: Counted<T>,
        mut after: impl FnMut(&T) -> bool,
    ) -> Result<(), Counted<T>> {
        let mut at = self.head;
        while let Some(node) = NonNull::new(at) {
            // SAFETY: as `first`.
            let here = core::mem::ManuallyDrop::new(unsafe { Counted::<T>::from_raw(node) });
            if after(&here) {
                break;
            }
            // SAFETY: `at` is in our list.
            at = unsafe { link::<N>(at).next.load(Relaxed) };
        }
        if at.is_null() {
            return self.push_back(element);
        }
        if at == self.head {
            return self.push_front(element);
        }
        let node = self.claim(element)?.into_raw().as_ptr();
        // SAFETY: `at` is in our list and not the head, so it has a predecessor there; the claim made the link ours.
        unsafe {
            let before = link::<N>(at).previous.load(Relaxed);
            link::<N>(node).previous.store(before, Relaxed);
            link::<N>(node).next.store(at, Relaxed);
            link::<N>(before).next.store(node, Relaxed);
            link::<N>(at).previous.store(node, Relaxed);
        }
        Ok(())
    }

    /// Takes the first element.
    pub fn pop_front(&mut self) -> Option<Counted<T>> {
        let node = NonNull::new(self.head)?;
        // SAFETY: it is in our list.
        Some(unsafe { self.unlink(node) })
    }

    /// Takes a given element; `None` if it is not in this list.
    pub fn remove(&mut self, element: &Counted<T>) -> Option<Counted<T>> {
        let raw = &element.header().links[N];
        if self.identity == 0 || raw.list.load(Acquire) != self.identity {
            return None;
        }
        // SAFETY: the link says it is in our list, and only the list's holder changes that.
        Some(unsafe { self.unlink(NonNull::from(element.header())) })
    }

    /// The first element, counted once more.
    pub fn first_counted(&self) -> Option<Counted<T>> {
        let node = NonNull::new(self.head)?;
        // SAFETY: as `first`.
        let here = core::mem::ManuallyDrop::new(unsafe { Counted::<T>::from_raw(node) });
        Some(Counted::clone(&here))
    }

    /// Shows every element, first to last.
    #[inline(always)]
    pub fn each(&self, mut see: impl FnMut(&T)) {
        let mut at = self.head;
        while let Some(node) = NonNull::new(at) {
            // SAFETY: as `first`.
            let here = core::mem::ManuallyDrop::new(unsafe { Counted::<T>::from_raw(node) });
            see(&here);
            // SAFETY: `at` is in our list.
            at = unsafe { link::<N>(at).next.load(Relaxed) };
        }
    }

    /// Takes the first element for which `wanted` holds.
    pub fn take_first(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Option<Counted<T>> {
        let mut at = self.head;
        while let Some(node) = NonNull::new(at) {
            // SAFETY: as `first`.
            let here = core::mem::ManuallyDrop::new(unsafe { Counted::<T>::from_raw(node) });
            if wanted(&here) {
                // SAFETY: it is in our list.
                return Some(unsafe { self.unlink(node) });
            }
            // SAFETY: `at` is in our list.
            at = unsafe { link::<N>(at).next.load(Relaxed) };
        }
        None
    }

    fn claim(&mut self, element: Counted<T>) -> Result<Counted<T>, Counted<T>> {
        if self.identity == 0 {
            self.identity = IDENTITIES.fetch_add(1, Relaxed);
        }
        let raw = &element.header().links[N];
        match raw.list.compare_exchange(0, self.identity, Acquire, Relaxed) {
            Ok(_) => Ok(element),
            Err(_) => Err(element),
        }
    }

    /// # Safety
    /// The node is in this list.
    unsafe fn unlink(&mut self, node: NonNull<Header>) -> Counted<T> {
        // SAFETY: the node and its neighbours are in our list, which `&mut self` lets us change.
        unsafe {
            let raw = link::<N>(node.as_ptr());
            let (previous, next) = (raw.previous.load(Relaxed), raw.next.load(Relaxed));
            if previous.is_null() {
                self.head = next;
            } else {
                link::<N>(previous).next.store(next, Relaxed);
            }
            if next.is_null() {
                self.tail = previous;
            } else {
                link::<N>(next).previous.store(previous, Relaxed);
            }
            raw.list.store(0, Release);
            Counted::from_raw(node)
        }
    }
}

impl<T: 'static, const N: usize> Drop for List<T, N> {
    fn drop(&mut self) {
        while self.pop_front().is_some() {}
    }
}

/// # Safety
/// `node` is a live node.
unsafe fn link<'a, const N: usize>(node: *mut Header) -> &'a RawLink {
    // SAFETY: the caller's promise; N < 3 was asserted when the list was made.
    unsafe { &(&(*node).links)[N] }
}
