//! Selectors to capabilities, and who got what from whom.
//!
//! ```text
//!   selector:  | 25:24 | 23:15 | 14:6 | 5:0 |
//!                root    table   table   slot in a leaf page of 64
//!
//!   slot:      | word: object, permissions | next | previous | depth, selector | space |
//! ```
//!
//! A slot's word is one atomic: a reader under a [`Token`] needs no lock. Who delegated to whom is a depth-first
//! list through the slots themselves (a child follows its parent, one deeper), one list per object, guarded by the
//! lock in that object's header, and only ever one such lock at a time ([`Tree`]). A delegation thus costs no memory of its own.
//! Leaf pages stay until their space is dropped.

mod end;
mod tree;

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize};

use logic::Oom;

use crate::door::{self, Site};
use crate::slab::Header;
use crate::{AnyCounted, AnyRef, Pool, Ref, Slab, Token};

pub use tree::{Creator, Mark, Removed, Tree};

/// How many selectors a space has (abi.md 1).
pub const SELECTORS: u64 = 1 << 26;

const PERMISSIONS: u64 = 0x1f;
/// Table entries that one search looks at, at most.
const LOOKS: usize = 128;

/// One selector's place. 64 bytes; those of a leaf page are aligned to as many.
#[repr(C)]
pub struct CapSlot {
    word: AtomicU64,
    next: AtomicPtr<CapSlot>,
    previous: AtomicPtr<CapSlot>,
    /// Depth in bits 63:32, selector in bits 31:0.
    place: AtomicU64,
    space: AtomicU64,
    /// What a [`Mark`] below this slot is known by, until the slot is filled again; 0 for none.
    stamp: AtomicU64,
    _rest: [u64; 2],
}

/// What a slot holds, borrowed.
#[derive(Clone, Copy)]
pub struct Capability<'t> {
    /// The object.
    pub object: AnyRef<'t>,
    /// The permission bits (never 0).
    pub permissions: u8,
}

#[repr(C, align(4096))]
struct Table<T>([AtomicPtr<T>; 512]);
#[repr(C, align(4096))]
struct Leaf([CapSlot; 64]);

/// The object space of one protection domain.
pub struct CapSpace {
    pool: &'static Pool,
    identity: u64,
    pages: AtomicUsize,
    root: [AtomicPtr<Table<Table<Leaf>>>; 4],
    /// The table of the first 32,768 selectors once more: they are found in two steps instead of four.
    near: AtomicPtr<Table<Leaf>>,
}

/// Selectors below this are found through `near`.
const NEAR: u64 = 1 << 15;

static IDENTITIES: AtomicU64 = AtomicU64::new(1);

impl CapSpace {
    /// An empty space. Its identity is unique for ever.
    pub fn new(pool: &'static Pool) -> CapSpace {
        CapSpace {
            pool,
            identity: IDENTITIES.fetch_add(1, Relaxed),
            pages: AtomicUsize::new(0),
            root: [const { AtomicPtr::new(null_mut()) }; 4],
            near: AtomicPtr::new(null_mut()),
        }
    }

    /// The number that slots of this space carry.
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// How many frames the space's tables take.
    pub fn pages(&self) -> usize {
        self.pages.load(Relaxed)
    }

    /// The capability at a selector.
    #[inline(always)]
    pub fn lookup<'t>(&self, selector: u64, token: &'t Token) -> Option<Capability<'t>> {
        if selector < NEAR {
            let leaf = follow(&follow(&self.near)?.0[(selector >> 6) as usize & 511])?;
            return leaf.0[selector as usize & 63].load(token);
        }
        self.far_slot(selector)?.load(token)
    }

    /// The object of a slab that a selector names with all of `permissions`: [`CapSpace::lookup`] for the paths where
    /// instructions count.
    #[inline(always)]
    pub fn find<'t, T: 'static>(
        &self,
        selector: u64,
        token: &'t Token,
        permissions: u8,
        slab: &'static Slab<T>,
    ) -> Option<Ref<'t, T>> {
        if selector < NEAR {
            return self.find_near(selector, token, permissions, slab);
        }
        self.far_slot(selector)?.find(token, permissions, slab)
    }

    /// As [`CapSpace::find`], but only among the first 32,768 selectors: a function that calls nothing else needs no
    /// registers of its own.
    #[inline(always)]
    pub fn find_near<'t, T: 'static>(
        &self,
        selector: u64,
        token: &'t Token,
        permissions: u8,
        slab: &'static Slab<T>,
    ) -> Option<Ref<'t, T>> {
        if selector >= NEAR {
            return None;
        }
        let leaf = follow(&follow(&self.near)?.0[(selector >> 6) as usize & 511])?;
        leaf.0[selector as usize & 63].find(token, permissions, slab)
    }

    /// The slot of a selector, if its leaf page exists.
    #[inline(always)]
    pub fn slot(&self, selector: u64) -> Option<&CapSlot> {
        if selector < NEAR {
            let leaf = follow(&follow(&self.near)?.0[(selector >> 6) as usize & 511])?;
            return Some(&leaf.0[selector as usize & 63]);
        }
        self.far_slot(selector)
    }

    #[cold]
    #[inline(never)]
    fn far_slot(&self, selector: u64) -> Option<&CapSlot> {
        let table = follow(self.root.get((selector >> 24) as usize)?)?;
        let table = follow(&table.0[(selector >> 15) as usize & 511])?;
        let leaf = follow(&table.0[(selector >> 6) as usize & 511])?;
        Some(&leaf.0[selector as usize & 63])
    }

    /// The first selector at or above `from` whose leaf page exists, with the number of selectors up to that page's end;
    /// `None` if there is none. A search that takes long ends early, with the number 0: the caller goes on from there.
    pub fn next_page(&self, from: u64) -> Option<(u64, u64)> {
        let mut selector = from;
        for _ in 0..LOOKS {
            if selector >= SELECTORS {
                return None;
            }
            let Some(table) = follow(self.root.get((selector >> 24) as usize)?) else {
                selector = ((selector >> 24) + 1) << 24;
                continue;
            };
            let Some(table) = follow(&table.0[(selector >> 15) as usize & 511]) else {
                selector = ((selector >> 15) + 1) << 15;
                continue;
            };
            if follow(&table.0[(selector >> 6) as usize & 511]).is_some() {
                return Some((selector, 64 - (selector & 63)));
            }
            selector = ((selector >> 6) + 1) << 6;
        }
        (selector < SELECTORS).then_some((selector, 0))
    }

    /// Takes the tables that a selector lacks, without hanging them up yet: all of them or none. `pay` is asked before
    /// each; what it granted before a refusal is the caller's to take back.
    #[inline]
    pub fn prepare(
        &self,
        selector: u64,
        pay: impl FnMut() -> Result<(), Oom>,
    ) -> Result<NewTables<'_>, Oom> {
        let mut tables = NewTables { space: self, selector, pages: [None; LEVELS] };
        if self.slot(selector).is_none() {
            tables.take(pay)?;
        }
        Ok(tables)
    }

    /// The slot of a selector, its tables made where missing.
    pub fn ensure(
        &self,
        selector: u64,
        pay: impl FnMut() -> Result<(), Oom>,
    ) -> Result<&CapSlot, Oom> {
        self.prepare(selector, pay)?.hang().ok_or(Oom)
    }
}

/// Levels of tables under the root, the leaf included.
const LEVELS: usize = 3;

/// Tables for a selector that do not hang in its space yet; those that never will go back when dropped.
#[must_use]
pub struct NewTables<'a> {
    space: &'a CapSpace,
    selector: u64,
    pages: [Option<NonNull<u8>>; LEVELS],
}

impl<'a> NewTables<'a> {
    #[cold]
    fn take(&mut self, mut pay: impl FnMut() -> Result<(), Oom>) -> Result<(), Oom> {
        let (space, selector) = (self.space, self.selector);
        let door = space.root.get((selector >> 24) as usize).ok_or(Oom)?;
        let middle = follow(door).map(|table| follow(&table.0[(selector >> 15) as usize & 511]));
        let missing = match middle {
            None => LEVELS,
            Some(None) => LEVELS - 1,
            Some(Some(_)) => 1,
        };
        for page in self.pages.iter_mut().take(missing) {
            pay()?;
            door::pass(Site::CapTable)?;
            *page = Some(space.pool.alloc_raw(0, Site::CapTable)?);
        }
        Ok(())
    }

    /// How many pages wait.
    pub fn count(&self) -> usize {
        self.pages.iter().flatten().count()
    }

    /// Hangs the tables up; the slot. `None` only for a selector that does not exist.
    #[inline]
    pub fn hang(&mut self) -> Option<&'a CapSlot> {
        if let Some(slot) = self.space.slot(self.selector) {
            return Some(slot);
        }
        let (space, selector) = (self.space, self.selector);
        let table = self.door(space.root.get((selector >> 24) as usize)?)?;
        let table = self.door(&table.0[(selector >> 15) as usize & 511])?;
        if selector < NEAR {
            space.near.store(core::ptr::from_ref(table).cast_mut(), Release);
        }
        let leaf = self.door(&table.0[(selector >> 6) as usize & 511])?;
        Some(&leaf.0[selector as usize & 63])
    }

    /// What hangs at a door: what was there, or one of our pages.
    fn door<T>(&mut self, door: &'a AtomicPtr<T>) -> Option<&'a T> {
        if let Some(there) = follow(door) {
            return Some(there);
        }
        let mine = self.pages.iter_mut().find(|page| page.is_some())?;
        let fresh = (*mine)?.cast::<T>();
        // Should another CPU be faster, its table serves, and ours goes back.
        if door.compare_exchange(null_mut(), fresh.as_ptr(), AcqRel, Acquire).is_ok() {
            *mine = None;
            self.space.pages.fetch_add(1, Relaxed);
        }
        follow(door)
    }
}

impl Drop for NewTables<'_> {
    fn drop(&mut self) {
        for page in self.pages.into_iter().flatten() {
            self.space.pool.free_raw(page, 0);
        }
    }
}

#[inline(always)]
fn follow<T>(door: &AtomicPtr<T>) -> Option<&T> {
    // SAFETY: tables are published once, zeroed (a valid table or leaf: null pointers, empty slots), and live as long
    // as their space, which `door` is part of.
    unsafe { door.load(Acquire).as_ref() }
}

impl Drop for CapSpace {
    fn drop(&mut self) {
        for door in &self.root {
            let Some(top) = NonNull::new(door.load(Relaxed)) else { continue };
            // SAFETY: `&mut self`: nobody walks the tables any more; every page came from `alloc_raw(0)`.
            unsafe {
                for door in &top.as_ref().0 {
                    let Some(middle) = NonNull::new(door.load(Relaxed)) else { continue };
                    for door in &middle.as_ref().0 {
                        let Some(leaf) = NonNull::new(door.load(Relaxed)) else { continue };
                        for slot in &leaf.as_ref().0 {
                            slot.forget();
                        }
                        self.pool.free_raw(leaf.cast(), 0);
                    }
                    self.pool.free_raw(middle.cast(), 0);
                }
                self.pool.free_raw(top.cast(), 0);
            }
        }
    }
}

impl CapSlot {
    /// What the slot holds now.
    #[inline(always)]
    pub fn load<'t>(&self, token: &'t Token) -> Option<Capability<'t>> {
        let word = self.word.load(Acquire);
        let node = NonNull::new((word & !PERMISSIONS) as *mut Header)?;
        // SAFETY: a slot counts its object; were it removed now, RCU would keep the object until the token is gone.
        let object = unsafe { AnyRef::new(node, token) };
        Some(Capability { object, permissions: (word & PERMISSIONS) as u8 })
    }

    #[inline(always)]
    fn find<'t, T: 'static>(
        &self,
        token: &'t Token,
        permissions: u8,
        slab: &'static Slab<T>,
    ) -> Option<Ref<'t, T>> {
        let word = self.word.load(Acquire);
        let wanted = u64::from(permissions) & PERMISSIONS;
        if word & wanted != wanted || word == 0 {
            return None;
        }
        // SAFETY: as `load`; a word that is not 0 has an object (a free slot is all 0).
        let object = unsafe {
            AnyRef::new(NonNull::new_unchecked((word & !PERMISSIONS) as *mut Header), token)
        };
        object.of(slab)
    }

    /// Whether the slot is free.
    #[inline(always)]
    pub fn is_free(&self) -> bool {
        self.word.load(Relaxed) == 0
    }

    /// The selector this slot was last filled under.
    pub fn selector(&self) -> u64 {
        self.place.load(Relaxed) & 0xffff_ffff
    }

    /// The identity of the space this slot was last filled under.
    pub fn space(&self) -> u64 {
        self.space.load(Relaxed)
    }

    /// Distance from the creator's capability, which has 0.
    pub fn depth(&self) -> u64 {
        self.place.load(Relaxed) >> 32
    }

    /// The slot that this one's capability came from: the nearest before it that is less deep (host only). No
    /// other CPU may change the tree meanwhile.
    #[cfg(not(target_os = "none"))]
    pub fn parent(&self, _token: &Token) -> Option<&CapSlot> {
        let mut slot = self;
        loop {
            // SAFETY: linked slots live, and nobody changes the tree.
            slot = unsafe { slot.previous.load(Relaxed).as_ref() }?;
            if slot.depth() < self.depth() {
                return Some(slot);
            }
        }
    }

    fn node(&self) -> Option<NonNull<Header>> {
        NonNull::new((self.word.load(Acquire) & !PERMISSIONS) as *mut Header)
    }

    fn fill(&self, object: AnyCounted, permissions: u8) -> Result<(), AnyCounted> {
        let node = object.into_raw();
        let word = node.as_ptr() as u64 | (u64::from(permissions) & PERMISSIONS);
        match self.word.compare_exchange(0, word, AcqRel, Relaxed) {
            Ok(_) => Ok(()),
            // SAFETY: the word was not stored, so the count is still ours.
            Err(_) => Err(unsafe { AnyCounted::from_raw(node) }),
        }
    }

    fn set_place(&self, depth: u64, selector: u64, space: u64) {
        self.place.store(depth << 32 | selector & 0xffff_ffff, Relaxed);
        self.space.store(space, Relaxed);
        self.stamp.store(0, Relaxed);
    }

    /// Makes this slot the creator's capability of a new object; refuses an occupied slot.
    pub fn create(
        &self,
        object: AnyCounted,
        permissions: u8,
        space: &CapSpace,
        selector: u64,
    ) -> Result<(), AnyCounted> {
        if permissions == 0 {
            return Err(object);
        }
        let node = object.borrow().node();
        // SAFETY: `object` counts it.
        let _tree = unsafe { node.as_ref() }.tree.lock();
        self.fill(object, permissions)?;
        self.next.store(null_mut(), Relaxed);
        self.previous.store(null_mut(), Relaxed);
        self.set_place(0, selector, space.identity);
        Ok(())
    }

    /// Empties a slot of a space that dies; the last resort that keeps lists sound.
    fn forget(&self) {
        if let Some(node) = self.node() {
            // SAFETY: the slot counts the object.
            let tree = unsafe { node.as_ref() }.tree.lock();
            let object = self.unlink();
            drop(tree);
            drop(object);
        }
    }

    /// Puts the slot into the list of its object, behind another one. The tree's lock is held.
    #[inline(always)]
    fn link(&self, behind: &CapSlot) {
        let next = behind.next.load(Relaxed);
        self.next.store(next, Relaxed);
        self.previous.store(core::ptr::from_ref(behind).cast_mut(), Relaxed);
        behind.next.store(core::ptr::from_ref(self).cast_mut(), Relaxed);
        // SAFETY: linked slots live; the tree's lock is held.
        if let Some(n) = unsafe { next.as_ref() } {
            n.previous.store(core::ptr::from_ref(self).cast_mut(), Relaxed);
        }
    }

    /// Takes the slot out of its object's list and frees it. The tree's lock is held.
    fn unlink(&self) -> Option<AnyCounted> {
        let node = self.node()?;
        let (next, previous) = (self.next.load(Relaxed), self.previous.load(Relaxed));
        // SAFETY: linked slots live in pages of live spaces (a space unlinks all before its pages go); the lock is held.
        unsafe {
            if let Some(p) = previous.as_ref() {
                p.next.store(next, Relaxed);
            }
            if let Some(n) = next.as_ref() {
                n.previous.store(previous, Relaxed);
            }
        }
        self.word.store(0, Release);
        // SAFETY: the word owned this count and is gone.
        Some(unsafe { AnyCounted::from_raw(node) })
    }
}
