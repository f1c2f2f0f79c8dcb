//! Delegation of memory: copies mappings from one tree to another in bounded steps (abi.md 6.2).
//!
//! There is no mapping tree for memory: the destination gets what the source has at this moment.
//! The source is always a host table, or the identity map of physical memory (abi.md 6.5).

use super::{ENTRIES, Entry, INDEX_BITS, ROOT_LEVEL, Rights, Table};
use super::{Flush, Format, HostFormat, TableMemory, Target, Tree, Writer};
use super::{index, size, table_of, walk, write_leaf};
use crate::Oom;
use crate::addr::{Frame, PAGE_BITS, USER_TOP, units};

/// Page numbers from here on are never touched by delegation.
const USER_PAGES: u64 = USER_TOP >> PAGE_BITS;

/// Order of a leaf of level 1.
const LARGE: u8 = INDEX_BITS as u8;

/// How a bounded step of a long operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whether the whole range is done; otherwise call again with the same cursor.
    pub done: bool,
    /// What must be flushed before this step counts as done.
    pub flush: Flush,
}

/// Copies the 2^`order` pages at `source_page` of a host table to `page` of `tree`. Both must be
/// aligned to the order.
///
/// Only leaves with [`HostFormat::DELEGATABLE`] are copied, with those of their rights that are
/// in `rights`; everything else is a hole, and the destination is unmapped there, as it is
/// everywhere with rights of nothing. `attributes` tells the attributes of the destination's leaf
/// of 2^order frames at a frame (`None`: the block needs smaller leaves): the memory type for
/// EPT, [`HostFormat::DELEGATABLE`] for host tables.
///
/// `cursor` counts the pages done: 0 at the start, kept by the caller between steps. A step
/// visits about `budget` entries of tables. The source may change at any time.
///
/// # Errors
/// `Oom` when there was no memory for a table; `cursor` says how far it came, and the caller must
/// flush as if [`Flush::Needed`] had been returned.
#[allow(clippy::too_many_arguments, reason = "two places, what, how, and the cursor")]
#[inline(always)]
pub fn copy<D: Format>(
    mem: &impl TableMemory,
    source: Frame,
    source_page: u64,
    tree: Tree,
    page: u64,
    order: u8,
    rights: Rights,
    attributes: &mut dyn FnMut(Frame, u8) -> Option<u64>,
    cursor: &mut u64,
    budget: u64,
) -> Result<Step, Oom> {
    let copied = if page >= USER_PAGES {
        None
    } else if order == 0 {
        copy_page::<D>(mem, source, source_page, tree, page, rights, attributes)
    } else if order == LARGE && tree.largest_leaf > 0 {
        copy_large_page::<D>(mem, source, source_page, tree, page, rights, attributes)
    } else {
        None
    };
    if let Some(flush) = copied {
        *cursor = units(order);
        return Ok(Step { done: true, flush });
    }
    copy_window::<D>(
        mem,
        source,
        source_page,
        tree,
        page,
        order,
        rights,
        attributes,
        cursor,
        budget,
    )
}

/// The most frequent case in a straight line: one page, and both trees have their tables. `None`
/// when it is not that simple; nothing has happened then.
#[inline]
fn copy_page<D: Format>(
    mem: &impl TableMemory,
    source: Frame,
    source_page: u64,
    tree: Tree,
    page: u64,
    rights: Rights,
    attributes: &mut dyn FnMut(Frame, u8) -> Option<u64>,
) -> Option<Flush> {
    let from = table_of::<HostFormat, 0>(mem, source, source_page)?;
    let host = mem.table(from).read(index(source_page, 0));
    let bits = attributes(HostFormat::frame(host), 0).unwrap_or(0);
    let new = D::delegated(host, rights, bits);
    let to = mem.table(table_of::<D, 0>(mem, tree.root, page)?);
    Some(write_leaf::<D>(to, index(page, 0), new))
}

/// The same for one leaf of level 1 that becomes one.
#[inline(never)]
fn copy_large_page<D: Format>(
    mem: &impl TableMemory,
    source: Frame,
    source_page: u64,
    tree: Tree,
    page: u64,
    rights: Rights,
    attributes: &mut dyn FnMut(Frame, u8) -> Option<u64>,
) -> Option<Flush> {
    let from = table_of::<HostFormat, 1>(mem, source, source_page)?;
    let host = HostFormat::parse(mem.table(from).read(index(source_page, 1)), 1);
    let (frame, rights) = delegatable(host, rights)?;
    let new = D::leaf(1, frame, rights, attributes(frame, LARGE)?);
    let to = mem.table(table_of::<D, 1>(mem, tree.root, page)?);
    if D::below(to.read(index(page, 1))).is_some() {
        return None;
    }
    Some(write_leaf::<D>(to, index(page, 1), new))
}

/// The general case of [`copy`].
#[inline(never)]
#[allow(clippy::too_many_arguments, reason = "those of copy")]
fn copy_window<D: Format>(
    mem: &impl TableMemory,
    source: Frame,
    source_page: u64,
    tree: Tree,
    page: u64,
    order: u8,
    rights: Rights,
    attributes: &mut dyn FnMut(Frame, u8) -> Option<u64>,
    cursor: &mut u64,
    budget: u64,
) -> Result<Step, Oom> {
    let end = end_of(page, order);
    let mut writer = Writer::<D, _>::new(mem, tree, budget);
    while *cursor < end {
        let (from, to, left) = (source_page.wrapping_add(*cursor), page + *cursor, end - *cursor);
        let spot = walk::<HostFormat>(mem, source, from);
        *cursor += if spot.level == 0 && !rights.is_none() {
            writer.copy_run(spot.table, from, to, left, rights, attributes)?
        } else {
            let inside = from & (size(spot.level) - 1);
            let left = left.min(size(spot.level) - inside);
            match delegatable(spot.entry, rights) {
                Some((frame, rights)) => {
                    let frame = frame.plus(inside);
                    writer.put(to, left, Target { frame, rights, attributes })?
                }
                None => writer.clear(to, if rights.is_none() { end - *cursor } else { left })?,
            }
        };
        if writer.budget == 0 {
            break;
        }
    }
    Ok(Step { done: *cursor >= end, flush: writer.flush })
}

/// Copies from physical memory itself: page number `frame` + i to `page` + i.
///
/// `allowed` says with which rights the frame may be given away (nothing: a hole, as the kernel's
/// memory and the interrupt controllers are) and for how many frames from there on the answer is
/// the same (0 counts as 1). The rest is as for [`copy`].
///
/// # Errors
/// As for [`copy`].
#[allow(clippy::too_many_arguments, reason = "two places, what, how, and the cursor")]
pub fn map_identity<D: Format>(
    mem: &impl TableMemory,
    frame: Frame,
    tree: Tree,
    page: u64,
    order: u8,
    rights: Rights,
    allowed: &mut dyn FnMut(Frame) -> (Rights, u64),
    attributes: &mut dyn FnMut(Frame, u8) -> Option<u64>,
    cursor: &mut u64,
    budget: u64,
) -> Result<Step, Oom> {
    let end = end_of(page, order);
    let mut writer = Writer::<D, _>::new(mem, tree, budget);
    while *cursor < end {
        let frame = frame.plus(*cursor);
        let (most, length) = allowed(frame);
        let left = (end - *cursor).min(length.max(1));
        let target = Target { frame, rights: rights.and(most), attributes };
        *cursor += writer.put(page + *cursor, left, target)?;
        if writer.budget == 0 {
            break;
        }
    }
    Ok(Step { done: *cursor >= end, flush: writer.flush })
}

/// Unmaps the 2^`order` pages at `page`, and frees the tables that become empty by that. Page 0
/// with order 35 clears a whole user space.
///
/// # Errors
/// As for [`copy`]; memory is only needed to split a leaf that the range does not cover wholly.
pub fn clear<D: Format>(
    mem: &impl TableMemory,
    tree: Tree,
    page: u64,
    order: u8,
    cursor: &mut u64,
    budget: u64,
) -> Result<Step, Oom> {
    if order == 0
        && let Some(table) = table_of::<D, 0>(mem, tree.root, page)
    {
        // The most frequent case in a straight line.
        let flush = write_leaf::<D>(mem.table(table), index(page, 0), 0);
        *cursor = 1;
        return Ok(Step { done: true, flush });
    }
    let end = units(order);
    let mut writer = Writer::<D, _>::new(mem, tree, budget);
    while *cursor < end {
        let at = page + *cursor;
        *cursor += writer.clear(at, end - *cursor)?;
        for level in 1..ROOT_LEVEL {
            let table = size(level + 1);
            let start = at & !(table - 1);
            let crossed = (page + *cursor) & !(table - 1) != start || *cursor >= end;
            if crossed && start >= page && units(order) >= table {
                writer.prune(at, level);
            }
        }
        if writer.budget == 0 {
            break;
        }
    }
    Ok(Step { done: *cursor >= end, flush: writer.flush })
}

/// How many pages of a block delegation may touch.
const fn end_of(page: u64, order: u8) -> u64 {
    let room = USER_PAGES.saturating_sub(page);
    if units(order) < room { units(order) } else { room }
}

/// Where a leaf leads and with what rights, if it may be delegated at all.
#[inline(always)]
fn delegatable(entry: Entry, mask: Rights) -> Option<(Frame, Rights)> {
    match entry {
        Entry::Leaf { frame, rights, attributes }
            if attributes & HostFormat::DELEGATABLE != 0 && !rights.and(mask).is_none() =>
        {
            Some((frame, rights.and(mask)))
        }
        _ => None,
    }
}

/// Copies `count` entries of level 0 from a place in a host table; whether present ones changed.
#[inline(never)]
fn copy_entries<D: Format, T: Table>(
    (source, from): (T, usize),
    (table, to): (T, usize),
    count: usize,
    mask: Rights,
    attributes: &mut dyn FnMut(Frame, u8) -> Option<u64>,
) -> bool {
    // Attributes are asked for once per aligned block of 512 frames where it has one answer.
    let (mut block, mut bits) = (u64::MAX, 0);
    let mut is_stale = false;
    for entry in 0..count {
        let host = source.read(from + entry);
        let frame = HostFormat::frame(host);
        let around = frame.0 & !(ENTRIES as u64 - 1);
        if around != block {
            let known = attributes(Frame(around), INDEX_BITS as u8);
            block = if known.is_some() { around } else { u64::MAX };
            bits = known.or_else(|| attributes(frame, 0)).unwrap_or(0);
        }
        let new = D::delegated(host, mask, bits);
        let old = table.read(to + entry);
        if old != new {
            table.write(to + entry, new);
            is_stale |= D::is_present(old);
        }
    }
    is_stale
}

impl<D: Format, M: TableMemory> Writer<'_, D, M> {
    /// Copies entries of one source table of level 0, as far as they lie in one table of the
    /// destination too; returns the pages done.
    #[inline]
    fn copy_run(
        &mut self,
        source: Frame,
        from: u64,
        to: u64,
        count: u64,
        mask: Rights,
        attributes: &mut dyn FnMut(Frame, u8) -> Option<u64>,
    ) -> Result<u64, Oom> {
        let (start, target) = (index(from, 0), index(to, 0));
        let room = (ENTRIES - start.max(target)) as u64;
        let entries = count.min(room).min(self.budget).max(1);
        let source = self.mem.table(source);
        let is_hole = |entry| D::delegated(source.read(start + entry), mask, 0) == 0;
        if (0..entries as usize).all(is_hole) {
            self.budget = self.budget.saturating_sub(entries);
            return self.clear_exactly(to, entries);
        }
        let table = self.mem.table(self.descend(to, 0)?);
        let [source, table] = [(source, start), (table, target)];
        let is_stale = copy_entries::<D, _>(source, table, entries as usize, mask, attributes);
        if is_stale {
            self.flush = Flush::Needed;
        }
        Ok(self.charge(entries, 0))
    }

    /// Unmaps exactly `count` pages.
    #[cold]
    fn clear_exactly(&mut self, page: u64, count: u64) -> Result<u64, Oom> {
        let mut done = 0;
        while done < count {
            done += self.clear(page + done, count - done)?;
        }
        Ok(count)
    }
}
