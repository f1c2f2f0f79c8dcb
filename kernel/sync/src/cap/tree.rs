//! Who got a capability from whom: an object's slots in depth-first order, under the lock in the object's header.

use core::sync::atomic::AtomicPtr;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, Release};

use super::{CapSlot, CapSpace, PERMISSIONS};
use crate::{AnyCounted, Guard, Token, locked};

/// Capabilities that one step of a revocation looks at.
const WALK: usize = 32;
/// The depth of a mark: below everything, so that nothing takes it for a parent.
const DEEPEST: u64 = 0xffff_ffff;

/// An object's delegation tree, locked, seen from one slot of it.
pub struct Tree<'a> {
    slot: &'a CapSlot,
    _lock: Guard<'a, ()>,
}

/// What a step of a revocation did to one slot.
pub enum Removed {
    /// The slot is free again; the object's count and whether it was the creator's capability.
    Slot(AnyCounted, Creator),
    /// Nothing yet: the walk goes on at its mark.
    More,
    /// Nothing (more) to remove.
    Nothing,
}

/// Whether a removed capability was the creator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creator {
    /// Depth 0: the object dies now.
    Yes,
    /// A delegated one.
    No,
}

impl<'a> Tree<'a> {
    /// Locks the tree of the object in `slot`; `None` if the slot is free.
    pub fn lock(slot: &'a CapSlot, token: &'a Token) -> Option<Tree<'a>> {
        loop {
            let cap = slot.load(token)?;
            let node = cap.object.node();
            // SAFETY: the token keeps the node.
            let lock = unsafe { &*node.as_ptr() }.tree.lock();
            if slot.node() == Some(node) {
                return Some(Tree { slot, _lock: lock });
            }
        }
    }

    /// The permissions of the slot.
    pub fn permissions(&self) -> u8 {
        (self.slot.word.load(Relaxed) & PERMISSIONS) as u8
    }

    /// Gives a copy with `permissions` (a subset; the rest is dropped) to a free slot; `false` if it is occupied or
    /// nothing would be given.
    pub fn delegate(&self, to: &CapSlot, permissions: u8, space: &CapSpace, selector: u64) -> bool {
        let permissions = self.permissions() & permissions;
        let Some(node) = self.slot.node() else { return false };
        if permissions == 0 || !to.is_free() {
            return false;
        }
        // SAFETY: our slot counts the node; this makes one more count, for the new slot.
        let object = unsafe {
            let ours = core::mem::ManuallyDrop::new(AnyCounted::from_raw(node));
            ours.borrow().hold()
        };
        let Some(object) = object else { return false };
        if to.fill(object, permissions).is_err() {
            return false;
        }
        to.set_place(self.slot.depth() + 1, selector, space.identity);
        to.link(self.slot);
        true
    }

    /// A step of taking `permissions` away from all descendants, and with `itself` then from the slot: until something
    /// vanishes by that, or many have been looked at. Those that keep other permissions are passed by, and `mark`
    /// stays behind the last one.
    #[inline(always)]
    pub fn revoke(&self, permissions: u8, itself: bool, mark: &Mark) -> Removed {
        if mark.is_set() {
            return self.walk(&mark.slot, permissions, itself, mark);
        }
        // Mostly there is no descendant, or the first one vanishes.
        match self.descendant_behind(self.slot) {
            None if itself => reduce(self.slot, permissions),
            None => Removed::Nothing,
            Some(first) => match reduce(first, permissions) {
                Removed::Nothing => self.walk(first, permissions, itself, mark),
                removed => removed,
            },
        }
    }

    #[inline(always)]
    fn descendant_behind<'s>(&self, last: &'s CapSlot) -> Option<&'s CapSlot> {
        locked::look();
        // SAFETY: linked slots live; the tree's lock is held.
        let next = unsafe { last.next.load(Relaxed).as_ref() };
        next.filter(|slot| slot.depth() > self.slot.depth())
    }

    /// The same for the descendants behind one of them, or behind the mark if it is set.
    #[cold]
    #[inline(never)]
    fn walk(&self, mut last: &CapSlot, permissions: u8, itself: bool, mark: &Mark) -> Removed {
        let marked = mark.is_set();
        if marked && !mark.is_below(self.slot) {
            return Removed::More;
        }
        if itself {
            self.reduce_self(permissions);
        }
        for _ in 0..WALK {
            // (A mark is not in a page of slots, but it is linked as they are.)
            let Some(slot) = self.descendant_behind(last) else {
                if marked {
                    // Not the last count: our slot has one.
                    drop(mark.slot.unlink());
                }
                return if itself { reduce(self.slot, permissions) } else { Removed::Nothing };
            };
            match reduce(slot, permissions) {
                Removed::Nothing => last = slot,
                removed => return removed,
            }
        }
        mark.put(self.slot, last);
        Removed::More
    }

    /// Takes `permissions` away from the slot itself if it keeps others: before its descendants lose them, so that nobody
    /// gets them from it meanwhile.
    fn reduce_self(&self, permissions: u8) {
        let word = self.slot.word.load(Relaxed);
        let left = word & !(u64::from(permissions) & PERMISSIONS);
        if left & PERMISSIONS != 0 {
            self.slot.word.store(left, Release);
        }
    }

    /// The selector of the nearest slot above this one that lies in the given space; without one, this slot's own
    /// if it lies there (abi.md 6.3).
    pub fn find_in(&self, space: &CapSpace) -> Option<u64> {
        let own = self.slot.space() == space.identity;
        let mut slot = self.slot;
        loop {
            let depth = slot.depth();
            if depth == 0 {
                return own.then(|| self.slot.selector());
            }
            // The parent is the nearest predecessor that is less deep.
            loop {
                // SAFETY: linked slots live; the tree's lock is held.
                slot = unsafe { slot.previous.load(Relaxed).as_ref() }?;
                if slot.depth() < depth {
                    break;
                }
            }
            if slot.space() == space.identity {
                return Some(slot.selector());
            }
        }
    }
}

/// What it leaves of a slot: all, less, or nothing.
fn reduce(slot: &CapSlot, permissions: u8) -> Removed {
    let word = slot.word.load(Relaxed);
    let left = word & !(u64::from(permissions) & PERMISSIONS);
    if left == word {
        return Removed::Nothing;
    }
    if left & PERMISSIONS != 0 {
        slot.word.store(left, Release);
        return Removed::Nothing;
    }
    let creator = if slot.depth() == 0 { Creator::Yes } else { Creator::No };
    match slot.unlink() {
        Some(object) => Removed::Slot(object, creator),
        None => Removed::Nothing,
    }
}

/// A place in a delegation tree that stays when the lock is let go: where a long revocation goes on.
///
/// It stands in the list like a slot, without a permission, and counts the object.
pub struct Mark {
    /// Its stamp is that of the slot below which it stands.
    slot: CapSlot,
}

/// No two revocations that have marks use the same one, unless they are below the same slot.
static STAMPS: AtomicU64 = AtomicU64::new(1);

impl Default for Mark {
    fn default() -> Self {
        Self::new()
    }
}

impl Mark {
    /// It stands nowhere.
    pub const fn new() -> Mark {
        Mark {
            slot: CapSlot {
                word: AtomicU64::new(0),
                next: AtomicPtr::new(core::ptr::null_mut()),
                previous: AtomicPtr::new(core::ptr::null_mut()),
                place: AtomicU64::new(0),
                space: AtomicU64::new(0),
                stamp: AtomicU64::new(0),
                _rest: [0; 2],
            },
        }
    }

    /// Whether it stands anywhere.
    #[inline(always)]
    pub fn is_set(&self) -> bool {
        !self.slot.is_free()
    }

    /// Takes it away from wherever it stands. No tree may be locked.
    #[inline(always)]
    pub fn clear(&self) {
        if self.is_set() {
            self.lift();
        }
    }

    /// Takes it away unless it stands below this slot. No tree may be locked.
    #[inline(always)]
    pub fn prepare(&self, root: &CapSlot) {
        if self.is_set() && !self.is_below(root) {
            self.lift();
        }
    }

    #[cold]
    #[inline(never)]
    fn lift(&self) {
        self.slot.forget();
    }

    /// Whether it was put below this slot, which has held the same capability since.
    fn is_below(&self, root: &CapSlot) -> bool {
        self.slot.stamp.load(Relaxed) == root.stamp.load(Relaxed)
    }

    /// Puts it behind a slot at or below `root`. The tree's lock is held; if it is set, then in this tree.
    #[cold]
    fn put(&self, root: &CapSlot, behind: &CapSlot) {
        let Some(node) = root.node() else { return };
        if self.is_set() {
            drop(self.slot.unlink());
        }
        if root.stamp.load(Relaxed) == 0 {
            root.stamp.store(STAMPS.fetch_add(1, Relaxed), Relaxed);
        }
        // SAFETY: `root` counts the node; this makes one more count, for the mark.
        let object = unsafe {
            let ours = core::mem::ManuallyDrop::new(AnyCounted::from_raw(node));
            ours.borrow().hold()
        };
        if object.is_some_and(|object| self.slot.fill(object, 0).is_ok()) {
            self.slot.set_place(DEEPEST, 0, 0);
            self.slot.stamp.store(root.stamp.load(Relaxed), Relaxed);
            self.slot.link(behind);
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.clear();
    }
}
