//! The memory space of a domain: its host page table and its guest page table.
//!
//! Writers hold the space's lock; readers (delegation from this space, the processor) do not. A table page taken out
//! of a tree is therefore kept, with its first entry turned into a link that no walker takes for present, until
//! the shoot-down is over and every CPU has passed a quiescent state (`Cpu::release_tables`).

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use logic::Oom;
use logic::addr::{Frame, PAGE_SIZE, is_user_block};
use logic::page_table::{
    EptFormat, Flush, HostFormat, NestedFormat, Rights, Step, TableMemory, Tree, clear, copy,
    lacking, lookup, map_identity, release_all,
};
use sync::{Counted, Pool, SharedPage, Site, SpinLock};

use crate::{Account, Kernel};

/// Which of a domain's tables an operation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// What its programs see.
    Host,
    /// What its guests see.
    Guest,
}

/// A window of pages on its way from one space to another; both places are aligned to the order.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// First page of the source.
    pub source: u64,
    /// First page of the destination.
    pub page: u64,
    /// log2 of the number of pages.
    pub order: u8,
    /// The most that may be done there.
    pub rights: Rights,
}

/// How far a step came, and what must be flushed before anybody may rely on it.
#[must_use]
pub struct Progress {
    /// The whole window is done.
    pub done: bool,
    /// Whether translations may be stale.
    pub flush: Flush,
    /// Table pages taken out (a list, see [`Memory`]); 0 for none.
    pub released: u64,
    /// No memory was left for the rest.
    pub oom: bool,
}

/// The page tables of a domain.
pub struct Memory {
    pool: &'static Pool,
    account: Counted<Account>,
    root: Frame,
    guest: AtomicU64,
    lock: SpinLock<()>,
    pages: AtomicU64,
    /// How far the host and the guest table have been taken apart at the end.
    dismantled: [u64; 2],
    /// Counts changes of guest mappings; a vCPU that saw an older value flushes before it enters.
    generation: AtomicU64,
    /// What the host table's translations are known by; see [`Memory::stamp`].
    stamp: AtomicU64,
}

/// The next stamp; a number is never used again.
static STAMPS: AtomicU64 = AtomicU64::new(1);

/// Tables one walk may lack, the root included.
const LEVELS: usize = 4;

struct Tables<'a> {
    memory: &'a Memory,
    released: Cell<u64>,
    /// Taken beforehand, so that the walk cannot fail halfway.
    stock: Cell<[Option<Frame>; LEVELS]>,
}

impl TableMemory for Tables<'_> {
    type Table<'t>
        = &'t SharedPage
    where
        Self: 't;

    #[inline(always)]
    fn table(&self, frame: Frame) -> &SharedPage {
        self.memory.pool.page(frame)
    }
    fn allocate(&self) -> Result<Frame, Oom> {
        match self.take_stocked() {
            Some(frame) => Ok(frame),
            None => self.memory.table(),
        }
    }
    fn release(&self, table: Frame) {
        self.memory.pages.fetch_sub(1, Relaxed);
        self.memory.account.give(PAGE_SIZE);
        self.memory.pool.page(table).set_word(0, self.released.get());
        self.released.set(table.address());
    }
}

impl<'a> Tables<'a> {
    fn new(memory: &'a Memory) -> Tables<'a> {
        Tables { memory, released: Cell::new(0), stock: Cell::new([None; LEVELS]) }
    }

    /// Takes `count` tables beforehand, or none.
    fn stock_up(&self, count: usize) -> Result<(), Oom> {
        let mut stock = [None; LEVELS];
        let taken = stock.iter_mut().take(count).try_for_each(|place| {
            *place = Some(self.memory.table()?);
            Ok(())
        });
        if taken.is_err() {
            stock.into_iter().flatten().for_each(|frame| self.memory.untable(frame));
            stock = [None; LEVELS];
        }
        self.stock.set(stock);
        taken
    }

    fn take_stocked(&self) -> Option<Frame> {
        let mut stock = self.stock.get();
        let frame = stock.iter_mut().find_map(Option::take);
        self.stock.set(stock);
        frame
    }
}

impl Memory {
    /// A space in which only the kernel is mapped.
    pub fn new(pool: &'static Pool, account: &Counted<Account>) -> Result<Memory, Oom> {
        account.take(PAGE_SIZE)?;
        let root =
            pool.alloc_zeroed(0, Site::PageTable).inspect_err(|_| account.give(PAGE_SIZE))?;
        for (index, entry) in arch::kernel_root_entries() {
            pool.page(root).set_word(index, entry);
        }
        Ok(Memory {
            pool,
            account: account.clone(),
            root,
            guest: AtomicU64::new(0),
            lock: SpinLock::new(()),
            pages: AtomicU64::new(1),
            dismantled: [0; 2],
            generation: AtomicU64::new(1),
            stamp: AtomicU64::new(STAMPS.fetch_add(1, Relaxed)),
        })
    }

    /// The host table's root.
    #[inline(always)]
    pub fn root(&self) -> Frame {
        self.root
    }

    /// The guest table's root, made when first asked for.
    pub fn guest_root(&self) -> Result<Frame, Oom> {
        if let Some(root) = self.guest_root_if_made() {
            return Ok(root);
        }
        let _lock = self.lock.lock();
        if let Some(root) = self.guest_root_if_made() {
            return Ok(root);
        }
        let root = self.table()?;
        self.guest.store(root.0, SeqCst);
        Ok(root)
    }

    /// Whether guests of the domain have a table yet.
    #[inline(always)]
    pub fn has_guest_root(&self) -> bool {
        self.guest.load(SeqCst) != 0
    }

    fn guest_root_if_made(&self) -> Option<Frame> {
        let root = self.guest.load(SeqCst);
        (root != 0).then_some(Frame(root))
    }

    /// Changes of guest mappings so far.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// A number that changes whenever translations of the host table may be stale. Read it after the space is marked as
    /// loaded ([`Remote::space`](crate::Remote::space)).
    #[inline(always)]
    pub fn stamp(&self) -> u64 {
        self.stamp.load(SeqCst)
    }

    /// What any CPU still knows of the host table is void. Before the marks of CPUs are read.
    fn take_new_stamp(&self) {
        self.stamp.store(STAMPS.fetch_add(1, Relaxed), SeqCst);
    }

    fn table(&self) -> Result<Frame, Oom> {
        self.account.take(PAGE_SIZE)?;
        let frame = self
            .pool
            .alloc_zeroed(0, Site::PageTable)
            .inspect_err(|_| self.account.give(PAGE_SIZE))?;
        self.pages.fetch_add(1, Relaxed);
        Ok(frame)
    }

    /// Gives back a table that nobody has seen.
    fn untable(&self, frame: Frame) {
        self.pages.fetch_sub(1, Relaxed);
        self.pool.free(frame, 0);
        self.account.give(PAGE_SIZE);
    }

    /// One step of a delegation into `target`; `from` is the source space, or `None` for physical memory itself.
    #[inline]
    pub fn delegate(
        &self,
        kernel: &Kernel,
        from: Option<&Memory>,
        target: Target,
        what: Transfer,
        cursor: &mut u64,
        budget: u64,
    ) -> Progress {
        match target {
            Target::Host => {
                let mut host = |_: Frame, _: u8| Some(HostFormat::DELEGATABLE);
                self.transfer::<HostFormat>(
                    self.root, kernel, from, target, what, &mut host, cursor, budget,
                )
            }
            Target::Guest => {
                let Ok(root) = self.guest_root() else { return Progress::out_of_memory() };
                if arch::guest_vendor() == arch::GuestVendor::Svm {
                    let mut nested = |_: Frame, _: u8| Some(0);
                    self.transfer::<NestedFormat>(
                        root,
                        kernel,
                        from,
                        target,
                        what,
                        &mut nested,
                        cursor,
                        budget,
                    )
                } else {
                    let mut typed =
                        |frame, order| arch::memory_type(frame, order).map(EptFormat::memory_type);
                    self.transfer::<EptFormat>(
                        root, kernel, from, target, what, &mut typed, cursor, budget,
                    )
                }
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "one door for three formats")]
    fn transfer<F: logic::page_table::Format>(
        &self,
        root: Frame,
        kernel: &Kernel,
        from: Option<&Memory>,
        target: Target,
        what: Transfer,
        attributes: &mut dyn FnMut(Frame, u8) -> Option<u64>,
        cursor: &mut u64,
        budget: u64,
    ) -> Progress {
        let tree = Tree::new(root, if arch::one_gib_pages() { 2 } else { 1 });
        let tables = Tables::new(self);
        let _lock = self.lock.lock();
        let Transfer { source, page, order, rights } = what;
        let step = match from {
            Some(from) => copy::<F>(
                &tables, from.root, source, tree, page, order, rights, attributes, cursor, budget,
            ),
            None => map_identity::<F>(
                &tables,
                Frame(source),
                tree,
                page,
                order,
                rights,
                &mut |frame| allowed(kernel, frame),
                attributes,
                cursor,
                budget,
            ),
        };
        self.finish(target, step, tables.released.get())
    }

    /// One step of unmapping a window in `target`.
    pub fn unmap(
        &self,
        target: Target,
        page: u64,
        order: u8,
        cursor: &mut u64,
        budget: u64,
    ) -> Progress {
        let root = match target {
            Target::Host => self.root,
            Target::Guest => match self.guest_root_if_made() {
                Some(root) => root,
                None => return Progress::nothing(),
            },
        };
        let tree = Tree::new(root, if arch::one_gib_pages() { 2 } else { 1 });
        let tables = Tables::new(self);
        let _lock = self.lock.lock();
        let step = if target == Target::Guest && arch::guest_vendor() != arch::GuestVendor::Svm {
            clear::<EptFormat>(&tables, tree, page, order, cursor, budget)
        } else {
            clear::<HostFormat>(&tables, tree, page, order, cursor, budget)
        };
        self.finish(target, step, tables.released.get())
    }

    /// Maps a page of the kernel's for programs: readable, writable or not, never delegatable. Wholly or not at all.
    pub fn map_kernel_page(&self, page: u64, frame: Frame, rights: Rights) -> Progress {
        let tree = Tree::new(self.root, 1);
        let tables = Tables::new(self);
        let _lock = self.lock.lock();
        let lacks = lacking::<HostFormat>(self.pool, self.root, page);
        if lacks != 0 && tables.stock_up(lacks).is_err() {
            return Progress::out_of_memory();
        }
        let done = logic::page_table::map::<HostFormat>(&tables, tree, page, frame, 0, rights, 0);
        let step = done.map(|flush| Step { done: true, flush });
        self.finish(Target::Host, step, tables.released.get())
    }

    /// Maps a run of physical frames for programs, as the first program's segments are: delegatable.
    pub fn map_run(&self, page: u64, frame: Frame, count: u64, rights: Rights) -> Result<(), Oom> {
        let tree = Tree::new(self.root, if arch::one_gib_pages() { 2 } else { 1 });
        let tables = Tables::new(self);
        let _lock = self.lock.lock();
        let mut done = 0;
        while done < count {
            let order = (count - done).ilog2() as u8;
            // Nobody runs in the space yet: nothing to flush.
            let _ = logic::page_table::map::<HostFormat>(
                &tables,
                tree,
                page + done,
                frame.plus(done),
                order,
                rights,
                HostFormat::DELEGATABLE,
            )?;
            done += 1 << order;
        }
        Ok(())
    }

    /// Maps one page into the guest table (the APIC-access page): wholly or not at all.
    pub fn map_guest_page(&self, page: u64, frame: Frame, rights: Rights) -> Progress {
        let tables = Tables::new(self);
        let _lock = self.lock.lock();
        let nested = arch::guest_vendor() == arch::GuestVendor::Svm;
        let known = self.guest_root_if_made();
        let wanted = match known {
            None => LEVELS,
            Some(root) if nested => lacking::<NestedFormat>(self.pool, root, page),
            Some(root) => lacking::<EptFormat>(self.pool, root, page),
        };
        if tables.stock_up(wanted).is_err() {
            return Progress::out_of_memory();
        }
        let Some(root) = known.or_else(|| tables.take_stocked()) else {
            return Progress::out_of_memory();
        };
        self.guest.store(root.0, SeqCst);
        let tree = Tree::new(root, 1);
        let done = if nested {
            logic::page_table::map::<NestedFormat>(&tables, tree, page, frame, 0, rights, 0)
        } else {
            let attributes = EptFormat::memory_type(6) | EptFormat::IGNORE_PAT;
            logic::page_table::map::<EptFormat>(&tables, tree, page, frame, 0, rights, attributes)
        };
        let step = done.map(|flush| Step { done: true, flush });
        self.finish(Target::Guest, step, tables.released.get())
    }

    #[inline(always)]
    fn finish(&self, target: Target, step: Result<Step, Oom>, released: u64) -> Progress {
        let (done, flush, oom) = match step {
            Ok(step) => (step.done, step.flush, false),
            Err(Oom) => (false, Flush::Needed, true),
        };
        if flush.is_needed() {
            match target {
                Target::Host => self.take_new_stamp(),
                Target::Guest => _ = self.generation.fetch_add(1, SeqCst),
            }
        }
        Progress { done, flush, released, oom }
    }

    /// The frame and rights a program sees at a page; nothing in the kernel's half.
    pub fn lookup(&self, page: u64) -> Option<logic::page_table::Mapping> {
        if !is_user_block(page, 0) {
            return None;
        }
        lookup::<HostFormat>(self.pool, self.root, page)
    }

    /// Replaces the kernel's entry for the port bitmap.
    pub fn set_root_entry(&self, index: usize, entry: u64) {
        let _lock = self.lock.lock();
        self.pool.page(self.root).set_word(index, entry);
        self.take_new_stamp();
    }
}

impl Progress {
    const fn nothing() -> Progress {
        Progress { done: true, flush: Flush::None, released: 0, oom: false }
    }
    const fn out_of_memory() -> Progress {
        Progress { done: false, flush: Flush::None, released: 0, oom: true }
    }
}

/// What may be given away of physical memory at a frame, and for how many frames that holds (abi.md 2.4).
fn allowed(kernel: &Kernel, frame: Frame) -> (Rights, u64) {
    let hip = kernel.hip;
    if frame == hip {
        return (Rights::READ, 1);
    }
    if kernel.own.contains(&frame.0) {
        let end = if frame < hip && kernel.own.contains(&hip.0) { hip.0 } else { kernel.own.end };
        return (Rights::NONE, end - frame.0);
    }
    if kernel.controllers.contains(&frame.0) && frame.0 != 0 {
        return (Rights::NONE, 1);
    }
    let marks = kernel.controllers.iter().copied().filter(|c| *c != 0);
    let next = marks.chain([kernel.own.start, hip.0]).filter(|mark| *mark > frame.0).min();
    (Rights::ALL, next.map_or(1 << 40, |mark| mark - frame.0))
}

impl Memory {
    /// Frees some of the tables, when nobody can use them any more.
    pub fn dismantle(&mut self) {
        let (pool, host) = (self.pool, self.root);
        let guest = self.guest_root_if_made();
        let [at_host, at_guest] = &mut self.dismantled;
        if *at_host < END {
            return end_portion::<HostFormat>(pool, host, at_host);
        }
        match guest {
            None => {}
            Some(root) if arch::guest_vendor() == arch::GuestVendor::Svm => {
                end_portion::<NestedFormat>(pool, root, at_guest);
            }
            Some(root) => end_portion::<EptFormat>(pool, root, at_guest),
        }
    }

    /// Whether only the roots are left.
    pub fn is_dismantled(&self) -> bool {
        let [at_host, at_guest] = self.dismantled;
        at_host >= END && (at_guest >= END || !self.has_guest_root())
    }
}

/// A portion of the end of a tree: looks at some entries, and frees one table or two.
fn end_portion<F: logic::page_table::Format>(pool: &Pool, root: Frame, at: &mut u64) {
    let tree = Tree::new(root, 2);
    // Nobody has the tree loaded: there is nothing to flush. Whole leaves go, so no table is needed.
    let _ = clear::<F>(pool, tree, 0, USER_ORDER, at, LOOKS);
}

/// Table entries looked at in one portion of the end of a tree.
const LOOKS: u64 = 128;
/// log2 of the pages in the user half of a tree.
const USER_ORDER: u8 = 35;
/// Where a tree ends.
const END: u64 = 1 << USER_ORDER;

impl Drop for Memory {
    fn drop(&mut self) {
        let guest = self.guest_root_if_made();
        if self.is_dismantled() {
            // Nothing is left below the roots.
            guest.into_iter().chain([self.root]).for_each(|root| self.pool.free(root, 0));
            return self.account.give(self.pages.load(Relaxed) * PAGE_SIZE);
        }
        release_all::<HostFormat>(self.pool, self.root);
        if let Some(guest) = guest {
            if arch::guest_vendor() == arch::GuestVendor::Svm {
                release_all::<NestedFormat>(self.pool, guest);
            } else {
                release_all::<EptFormat>(self.pool, guest);
            }
        }
        self.account.give(self.pages.load(Relaxed) * PAGE_SIZE);
    }
}
