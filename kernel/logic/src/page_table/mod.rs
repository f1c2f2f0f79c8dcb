//! Maps, unmaps and looks up pages in tables of four levels, over a memory trait.
//!
//! It does not flush TLBs and does not lock: a [`Flush`] says that somebody must, and the writers
//! of one tree must exclude each other. Readers need no lock.
//!
//! ```text
//!  page number, 36 bits:   | 9 bits | 9 bits | 9 bits | 9 bits |
//!  level                       3        2        1        0
//!                          [ root ]->[table]->[table]->[table]-> 4 KiB
//!                                       |        '-> 2 MiB leaf
//!                                       '-> 1 GiB leaf (where the processor has them)
//! ```
//!
//! **Every intermediate state is right.** Each single write takes a page from its old mapping to
//! its new one; a split is prepared aside and put in place by one compare-exchange. So other
//! processors may walk the tree at any time.
//!
//! **A removed table is not free.** Processors may still hold its address in their paging-structure
//! caches, and lock-free readers may be inside. [`TableMemory::release`] therefore takes it back
//! *after* the shoot-down that the returned [`Flush`] asks for and after a grace period.

mod delegate;
mod format;
#[cfg(test)]
mod tests;

pub use delegate::{Step, clear, copy, map_identity};
pub use format::{ENTRIES, Entry, EptFormat, Format, HostFormat, INDEX_BITS, NestedFormat, Rights};

use crate::Oom;
use crate::addr::{Frame, units};

/// The level of the root.
pub const ROOT_LEVEL: u8 = 3;

/// One table, found once and then accessed entry by entry. Indices are below [`ENTRIES`]; an
/// implementor masks them.
pub trait Table: Copy {
    /// An entry, read at once as one word.
    fn read(self, index: usize) -> u64;

    /// Writes an entry as one word; earlier writes must be visible before it.
    fn write(self, index: usize, value: u64);

    /// Replaces an entry by `new` if it is still `old`.
    ///
    /// # Errors
    /// The present value when it is another one.
    fn exchange(self, index: usize, old: u64, new: u64) -> Result<(), u64>;
}

/// The memory that tables live in.
pub trait TableMemory {
    /// A table of this memory.
    type Table<'a>: Table
    where
        Self: 'a;

    /// The table in a frame that [`TableMemory::allocate`] gave.
    fn table(&self, frame: Frame) -> Self::Table<'_>;

    /// A new table, all zero.
    ///
    /// # Errors
    /// `Oom` when there is no memory, or none that the owner may use.
    fn allocate(&self) -> Result<Frame, Oom>;

    /// Takes a table that is no longer part of a tree. It must not be used for anything else
    /// before the shoot-down of the running operation ended and a grace period passed.
    fn release(&self, table: Frame);
}

/// Whether processors may remember translations that are no longer true.
#[must_use = "stale translations stay in use until the TLBs are flushed"]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// Nothing that was present has changed.
    #[default]
    None,
    /// Something present was changed or removed: flush the TLBs of all processors that use it.
    Needed,
}

impl Flush {
    /// Needed if one of them is.
    pub const fn and(self, other: Self) -> Self {
        if self.is_needed() { self } else { other }
    }

    /// Whether a flush is needed.
    #[must_use]
    pub const fn is_needed(self) -> bool {
        matches!(self, Self::Needed)
    }
}

/// A tree of tables and the largest leaves it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The table of level 3.
    pub root: Frame,
    /// The highest level with leaves: 1 for 2 MiB, 2 where the processor has 1 GiB pages.
    pub largest_leaf: u8,
}

impl Tree {
    /// A tree at `root`; `largest_leaf` counts as 2 at most.
    #[must_use]
    pub const fn new(root: Frame, largest_leaf: u8) -> Self {
        Self { root, largest_leaf: if largest_leaf > 2 { 2 } else { largest_leaf } }
    }
}

/// What a page is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The frame of exactly the page that was looked up.
    pub frame: Frame,
    /// log2 of the pages of the leaf: 0, 9 or 18.
    pub order: u8,
    /// What may be done there.
    pub rights: Rights,
    /// The format's own bits.
    pub attributes: u64,
}

/// What the page is mapped to, if it is. Bits of `page` above 35 are ignored.
#[inline]
pub fn lookup<F: Format>(mem: &impl TableMemory, root: Frame, page: u64) -> Option<Mapping> {
    let spot = walk::<F>(mem, root, page);
    match spot.entry {
        Entry::Leaf { frame, rights, attributes } => Some(Mapping {
            frame: frame.plus(page & (size(spot.level) - 1)),
            order: spot.level * INDEX_BITS as u8,
            rights,
            attributes,
        }),
        _ => None,
    }
}

/// How many tables mapping this one page would have to make, 0 to 3.
pub fn lacking<F: Format>(mem: &impl TableMemory, root: Frame, page: u64) -> usize {
    usize::from(walk::<F>(mem, root, page).level)
}

/// Maps the 2^`order` pages from `page` on to the frames from `frame` on, with the largest leaves
/// that the alignment of both allows; whatever was mapped there before is replaced. Rights of
/// nothing unmap. Neither number needs to be aligned.
///
/// # Errors
/// `Oom` when a table could not be allocated. Pages at the start may be mapped already, so treat
/// it like [`Flush::Needed`].
pub fn map<F: Format>(
    mem: &impl TableMemory,
    tree: Tree,
    page: u64,
    frame: Frame,
    order: u8,
    rights: Rights,
    attributes: u64,
) -> Result<Flush, Oom> {
    if order == 0
        && let Some(table) = table_of::<F, 0>(mem, tree.root, page)
    {
        return Ok(write_leaf::<F>(
            mem.table(table),
            index(page, 0),
            F::leaf(0, frame, rights, attributes),
        ));
    }
    let mut writer = Writer::<F, _>::new(mem, tree, u64::MAX);
    let (mut done, count) = (0, units(order));
    while done < count {
        let (page, frame) = (page.wrapping_add(done), frame.plus(done));
        let leaf = Target { frame, rights, attributes: &mut |_, _| Some(attributes) };
        done += writer.put(page, count - done, leaf)?;
    }
    Ok(writer.flush)
}

/// Unmaps the 2^`order` pages from `page` on.
///
/// # Errors
/// `Oom` when a larger leaf had to be split and there was no memory; this cannot happen where the
/// range covers all leaves that it touches. Treat it like [`Flush::Needed`].
pub fn unmap<F: Format>(
    mem: &impl TableMemory,
    tree: Tree,
    page: u64,
    order: u8,
) -> Result<Flush, Oom> {
    let mut writer = Writer::<F, _>::new(mem, tree, u64::MAX);
    let (mut done, count) = (0, units(order));
    while done < count {
        done += writer.clear(page.wrapping_add(done), count - done)?;
    }
    Ok(writer.flush)
}

/// Releases the tables under the user half of a root (entries 0 to 255) and the root itself. The
/// other half belongs to the kernel and is shared. For a space that nobody uses any more.
///
/// It takes as long as the space has tables; [`clear`] of the whole range beforehand does the same
/// work in bounded steps.
pub fn release_all<F: Format>(mem: &impl TableMemory, root: Frame) {
    for index in 0..ENTRIES / 2 {
        if let Entry::Table(table) = F::parse(mem.table(root).read(index), ROOT_LEVEL) {
            mem.table(root).write(index, 0);
            release_tables::<F>(mem, table, ROOT_LEVEL - 1);
        }
    }
    mem.release(root);
}

/// Pages under one entry of `level`.
#[inline(always)]
const fn size(level: u8) -> u64 {
    1 << (INDEX_BITS * level as u32)
}

#[inline(always)]
const fn index(page: u64, level: u8) -> usize {
    (page >> (INDEX_BITS * level as u32)) as usize & (ENTRIES - 1)
}

/// The table of level `LEVEL` that a page lies in, if there is one.
#[inline(always)]
fn table_of<F: Format, const LEVEL: u8>(
    mem: &impl TableMemory,
    root: Frame,
    page: u64,
) -> Option<Frame> {
    let mut table = root;
    for level in (LEVEL + 1..=ROOT_LEVEL).rev() {
        table = F::below(mem.table(table).read(index(page, level)))?;
    }
    Some(table)
}

/// Writes an entry that names no table now, where that changes something.
#[inline(always)]
fn write_leaf<F: Format>(table: impl Table, index: usize, new: u64) -> Flush {
    let old = table.read(index);
    if old == new {
        return Flush::None;
    }
    table.write(index, new);
    if F::is_present(old) { Flush::Needed } else { Flush::None }
}

/// Where a walk ended: at an empty entry or a leaf.
struct Spot {
    table: Frame,
    level: u8,
    entry: Entry,
}

#[inline(always)]
fn walk<F: Format>(mem: &impl TableMemory, root: Frame, page: u64) -> Spot {
    let (mut table, mut level) = (root, ROOT_LEVEL);
    loop {
        match F::parse(mem.table(table).read(index(page, level)), level) {
            Entry::Table(next) if level > 0 => (table, level) = (next, level - 1),
            entry => return Spot { table, level, entry },
        }
    }
}

/// Releases a table of `level` and all tables below it.
fn release_tables<F: Format>(mem: &impl TableMemory, table: Frame, level: u8) {
    if level > 0 {
        for index in 0..ENTRIES {
            if let Entry::Table(next) = F::parse(mem.table(table).read(index), level) {
                release_tables::<F>(mem, next, level - 1);
            }
        }
    }
    mem.release(table);
}

/// What a run of pages is to be mapped to.
struct Target<'a> {
    frame: Frame,
    rights: Rights,
    /// The attributes of the leaf of 2^order frames at a frame; `None` when that block has no
    /// single answer and needs smaller leaves (at order 0: no attributes).
    attributes: &'a mut dyn FnMut(Frame, u8) -> Option<u64>,
}

/// One operation on a tree: counts entries against a budget and remembers whether to flush.
struct Writer<'a, F, M> {
    mem: &'a M,
    tree: Tree,
    /// Entries that may still be visited; a call with none left still visits one.
    budget: u64,
    flush: Flush,
    format: core::marker::PhantomData<F>,
}

impl<'a, F: Format, M: TableMemory> Writer<'a, F, M> {
    #[inline]
    fn new(mem: &'a M, tree: Tree, budget: u64) -> Self {
        Self { mem, tree, budget, flush: Flush::None, format: core::marker::PhantomData }
    }

    /// Writes an entry where it changes something; frees the tables it replaces.
    #[inline(always)]
    fn replace(&mut self, table: M::Table<'_>, index: usize, level: u8, new: u64) {
        let old = table.read(index);
        if old == new {
            return;
        }
        table.write(index, new);
        if F::is_present(old) {
            self.flush = Flush::Needed;
            if let Entry::Table(next) = F::parse(old, level) {
                release_tables::<F>(self.mem, next, level - 1);
                self.budget = self.budget.saturating_sub(ENTRIES as u64);
            }
        }
    }

    /// Maps some of the `count` pages from `page` on, all in one table; returns how many, at
    /// least one.
    #[inline]
    fn put(&mut self, page: u64, count: u64, target: Target<'_>) -> Result<u64, Oom> {
        if target.rights.is_none() {
            return self.clear(page, count);
        }
        let Target { frame, rights, attributes } = target;
        let mut level = self.tree.largest_leaf;
        let first = loop {
            let fits = (page | frame.0) & (size(level) - 1) == 0 && count >= size(level);
            if level == 0 {
                break attributes(frame, 0).unwrap_or(0);
            }
            match if fits { attributes(frame, level * INDEX_BITS as u8) } else { None } {
                Some(bits) => break bits,
                None => level -= 1,
            }
        };
        let table = self.mem.table(self.descend(page, level)?);
        let start = index(page, level);
        let entries = (count / size(level)).min((ENTRIES - start) as u64).min(self.budget).max(1);
        let mut bits = first;
        for entry in 0..entries {
            let frame = frame.plus(entry * size(level));
            if entry > 0 {
                match attributes(frame, level * INDEX_BITS as u8) {
                    Some(next) => bits = next,
                    None if level == 0 => bits = 0,
                    None => return Ok(self.charge(entry, level)),
                }
            }
            let word = F::leaf(level, frame, rights, bits);
            self.replace(table, start + entry as usize, level, word);
        }
        Ok(self.charge(entries, level))
    }

    /// Takes `entries` from the budget and returns the pages they stand for.
    #[inline(always)]
    fn charge(&mut self, entries: u64, level: u8) -> u64 {
        self.budget = self.budget.saturating_sub(entries);
        entries * size(level)
    }

    /// Unmaps some of the `count` pages from `page` on; returns how many, at least one.
    #[inline]
    fn clear(&mut self, page: u64, count: u64) -> Result<u64, Oom> {
        let (mut table, mut level) = (self.tree.root, ROOT_LEVEL);
        loop {
            if level == 0 {
                return Ok(self.clear_run(table, page, count));
            }
            let inside = page & (size(level) - 1);
            let whole = inside == 0 && count >= size(level);
            let slot = index(page, level);
            match F::parse(self.mem.table(table).read(slot), level) {
                Entry::Empty => {
                    // Emptiness comes in runs: all that follows in this table.
                    let table = self.mem.table(table);
                    let most = (count + inside).div_ceil(size(level)).min(self.budget.max(1));
                    let end = (slot + most as usize).min(ENTRIES);
                    let empty = (slot + 1..end).take_while(|next| table.read(*next) == 0).count();
                    let pages = self.charge(1 + empty as u64, level);
                    return Ok(count.min(pages - inside));
                }
                Entry::Table(_) if whole && level == 1 => {
                    self.replace(self.mem.table(table), slot, level, 0);
                    return Ok(self.charge(1, level));
                }
                Entry::Table(next) => (table, level) = (next, level - 1),
                Entry::Leaf { .. } if whole => {
                    self.replace(self.mem.table(table), slot, level, 0);
                    return Ok(self.charge(1, level));
                }
                Entry::Leaf { .. } => {
                    level -= 1;
                    table = self.descend(page, level)?;
                }
            }
        }
    }

    /// Clears entries of one table of level 0.
    #[inline]
    fn clear_run(&mut self, table: Frame, page: u64, count: u64) -> u64 {
        let (table, start) = (self.mem.table(table), index(page, 0));
        let entries = count.min((ENTRIES - start) as u64).min(self.budget).max(1);
        for entry in 0..entries as usize {
            self.replace(table, start + entry, 0, 0);
        }
        self.charge(entries, 0)
    }

    /// The table of `level` that `page` lies in, made if there is none; leaves on the way are
    /// split into the same mappings of the next smaller size.
    #[inline]
    fn descend(&mut self, page: u64, level: u8) -> Result<Frame, Oom> {
        let (mut table, mut at) = (self.tree.root, ROOT_LEVEL);
        while at > level {
            let slot = index(page, at);
            let word = self.mem.table(table).read(slot);
            match F::parse(word, at) {
                Entry::Table(next) => (table, at) = (next, at - 1),
                entry => self.grow(table, slot, at, word, entry)?,
            }
        }
        Ok(table)
    }

    /// Puts a new table in the place of an empty entry or a leaf, with the same meaning. If the
    /// entry has changed meanwhile nothing happens: the caller looks again.
    #[cold]
    fn grow(
        &mut self,
        table: Frame,
        slot: usize,
        level: u8,
        word: u64,
        entry: Entry,
    ) -> Result<(), Oom> {
        let new = self.mem.allocate()?;
        if let Entry::Leaf { frame, rights, attributes } = entry {
            // The address is a field from bit 12 on, in every format: the next leaf is a sum away.
            let mut leaf = F::leaf(level - 1, frame, rights, attributes);
            let entries = self.mem.table(new);
            for index in 0..ENTRIES {
                entries.write(index, leaf);
                leaf = leaf.wrapping_add(Frame(size(level - 1)).address());
            }
            self.budget = self.budget.saturating_sub(ENTRIES as u64);
        }
        if self.mem.table(table).exchange(slot, word, F::table(new)).is_err() {
            self.mem.release(new);
        }
        Ok(())
    }

    /// Removes the table of `level` that `page` lies in if it has become empty.
    fn prune(&mut self, page: u64, level: u8) {
        let (mut table, mut at) = (self.tree.root, ROOT_LEVEL);
        while at > level {
            let slot = index(page, at);
            let Entry::Table(next) = F::parse(self.mem.table(table).read(slot), at) else { return };
            at -= 1;
            if at == level {
                self.budget = self.budget.saturating_sub(ENTRIES as u64);
                if (0..ENTRIES).all(|index| self.mem.table(next).read(index) == 0) {
                    self.mem.table(table).write(slot, 0);
                    self.flush = Flush::Needed;
                    self.mem.release(next);
                }
            }
            table = next;
        }
    }
}
