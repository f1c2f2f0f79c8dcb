//! All memory the kernel owns at run time, in frames.
//!
//! One contiguous physical range, mapped once, managed by the buddy of `logic`. Every frame in it is one of:
//! free (the buddy's), a [`SharedPage`] some owner knows by number, or part of a [`Slab`](crate::Slab) or of a
//! capability space, whose frame numbers never leave this crate. A frame number therefore names a `SharedPage`.

use core::ptr::NonNull;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use logic::Oom;
use logic::addr::Frame;
use logic::frames::Buddy;
use logic::page_table::{Table, TableMemory};

use crate::door::{self, Site};
use crate::{SharedPage, SpinLock};

const PAGE: usize = 4096;

/// The kernel's memory: a range of frames at a fixed virtual base.
pub struct Pool {
    base: NonNull<u8>,
    first: u64,
    count: u64,
    /// Index of a page that belongs to nobody; see [`Pool::page`].
    nowhere: usize,
    buddy: SpinLock<Buddy<'static>>,
    /// What each frame in use is for, by number, plus one.
    #[cfg(not(target_os = "none"))]
    uses: Box<[core::sync::atomic::AtomicU8]>,
}

// SAFETY: the pool hands out disjoint frames under its lock; `base` is never written after creation.
unsafe impl Send for Pool {}
// SAFETY: as `Send`.
unsafe impl Sync for Pool {}

impl Pool {
    /// Takes over `count` frames from `first` on, mapped readable and writable at `base`.
    ///
    /// The buddy's metadata is taken from the range's own start; the rest is free afterwards. Fails if the range
    /// cannot even hold its metadata.
    ///
    /// # Safety
    /// The range is RAM that nothing else uses, mapped at `base` (page aligned) for ever, and given to one pool only.
    pub unsafe fn new(base: NonNull<u8>, first: Frame, count: usize) -> Result<Pool, Oom> {
        let bytes = Buddy::metadata_bytes(count);
        let nowhere = bytes.div_ceil(PAGE);
        let own = nowhere + 1;
        if own >= count {
            return Err(Oom);
        }
        // SAFETY: the caller gives us the range; its first `own` pages become the metadata and are never released.
        let metadata = unsafe {
            base.write_bytes(0, own * PAGE);
            core::slice::from_raw_parts_mut(base.as_ptr(), bytes)
        };
        let mut buddy = Buddy::new(first, count, metadata);
        let (from, to) = (first.plus(own as u64), first.plus(count as u64));
        buddy.release(from..to).map_err(|_| Oom)?;
        Ok(Pool {
            base,
            first: first.0,
            count: count as u64,
            nowhere,
            buddy: SpinLock::new(buddy),
            #[cfg(not(target_os = "none"))]
            uses: (0..count).map(|_| 0.into()).collect(),
        })
    }

    /// A pool over memory of the host that is never given back, for tests; `first` is what its frames count from.
    #[cfg(not(target_os = "none"))]
    pub fn leaked(first: Frame, count: usize) -> Result<&'static Pool, Oom> {
        let bytes = count.checked_mul(PAGE).filter(|bytes| *bytes != 0).ok_or(Oom)?;
        let layout = std::alloc::Layout::from_size_align(bytes, PAGE).map_err(|_| Oom)?;
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or(Oom)?;
        // SAFETY: fresh memory of that size and alignment, which nobody else has and nobody frees.
        let pool = unsafe { Pool::new(base, first, count) }?;
        Ok(Box::leak(Box::new(pool)))
    }

    /// The page of a frame. Numbers come from tables that the kernel wrote, so one outside the pool cannot happen and
    /// debug builds stop there; should it happen, it names a page that belongs to nobody, never the buddy's own.
    #[inline(always)]
    pub fn page(&self, frame: Frame) -> &SharedPage {
        let index = frame.0.wrapping_sub(self.first);
        debug_assert!(index < self.count, "frame {:#x} is not the kernel's", frame.0);
        let index = if index < self.count { index as usize } else { self.nowhere };
        // SAFETY: inside the mapped range, page aligned; `SharedPage` is atomics only.
        unsafe { self.base.add(index * PAGE).cast().as_ref() }
    }

    /// Whether a frame belongs to the pool.
    #[inline]
    pub fn contains(&self, frame: Frame) -> bool {
        frame.0.wrapping_sub(self.first) < self.count
    }

    /// First frame and number of frames.
    pub fn range(&self) -> (Frame, u64) {
        (Frame(self.first), self.count)
    }

    /// The kernel's virtual address of a pool frame.
    #[inline]
    pub fn virtual_address(&self, frame: Frame) -> u64 {
        core::ptr::from_ref(self.page(frame)) as u64
    }

    /// 2^`order` frames with whatever they held. All memory of the kernel comes through here.
    pub fn alloc(&self, order: u8, site: Site) -> Result<Frame, Oom> {
        door::pass(site)?;
        self.take(order, site)
    }

    /// As `alloc`, for who has passed the door already.
    fn take(&self, order: u8, site: Site) -> Result<Frame, Oom> {
        let frame = self.buddy.lock().alloc(order)?;
        self.note(frame, order, site as u8 + 1);
        Ok(frame)
    }

    /// 2^`order` frames of zeros.
    pub fn alloc_zeroed(&self, order: u8, site: Site) -> Result<Frame, Oom> {
        let frame = self.alloc(order, site)?;
        self.scrub(frame, order);
        Ok(frame)
    }

    fn scrub(&self, frame: Frame, order: u8) {
        for i in 0..1 << order {
            self.page(Frame(frame.0 + i)).clear();
        }
    }

    #[cfg(target_os = "none")]
    #[inline(always)]
    fn note(&self, _frame: Frame, _order: u8, _what: u8) {}

    #[cfg(not(target_os = "none"))]
    fn note(&self, frame: Frame, order: u8, what: u8) {
        let first = frame.0.wrapping_sub(self.first) as usize;
        for used in self.uses.iter().skip(first).take(1 << order) {
            used.store(what, core::sync::atomic::Ordering::Relaxed);
        }
    }

    /// How many frames are in use for something; tests compare it with what they find.
    #[cfg(not(target_os = "none"))]
    pub fn frames_of(&self, site: Site) -> usize {
        self.frames_by_site()[site as usize]
    }

    /// How many frames are in use, by the number of their [`Site`] (host only).
    #[cfg(not(target_os = "none"))]
    pub fn frames_by_site(&self) -> [usize; Site::ALL.len()] {
        let mut count = [0; Site::ALL.len() + 1];
        for used in &self.uses {
            let what = usize::from(used.load(core::sync::atomic::Ordering::Relaxed));
            count[what] += 1;
        }
        core::array::from_fn(|site| count[site + 1])
    }

    /// Gives frames back. Nonsense (not allocated, wrong order) is refused by the buddy and changes nothing.
    pub fn free(&self, frame: Frame, order: u8) {
        self.note(frame, order, 0);
        let refused = self.buddy.lock().free(frame, order).is_err();
        debug_assert!(!refused, "freed a frame that was not allocated so");
    }

    /// How many frames are free.
    pub fn free_frames(&self) -> usize {
        self.buddy.lock().free_frames()
    }

    /// How many frames the pool keeps for itself (host only).
    #[cfg(not(target_os = "none"))]
    pub fn own_frames(&self) -> usize {
        self.nowhere + 1
    }

    /// Raw memory for this crate's typed pages.
    /// Whoever calls has passed the door.
    pub(crate) fn alloc_raw(&self, order: u8, site: Site) -> Result<NonNull<u8>, Oom> {
        let frame = self.take(order, site)?;
        self.scrub(frame, order);
        Ok(NonNull::from(self.page(frame)).cast())
    }

    /// The same with whatever the frames held.
    pub(crate) fn alloc_unscrubbed(&self, order: u8, site: Site) -> Result<NonNull<u8>, Oom> {
        let frame = self.take(order, site)?;
        Ok(NonNull::from(self.page(frame)).cast())
    }

    /// The start of the block of 2^`order` frames around an address in it.
    pub(crate) fn block_of(&self, at: NonNull<u8>, order: u8) -> NonNull<u8> {
        let offset = (at.as_ptr() as usize).wrapping_sub(self.base.as_ptr() as usize);
        let frame = self.first + (offset / PAGE) as u64;
        // Blocks are aligned by frame number, which need not be how they are aligned in the mapping.
        NonNull::from(self.page(Frame(frame >> order << order))).cast()
    }

    /// Gives back what they gave.
    pub(crate) fn free_raw(&self, at: NonNull<u8>, order: u8) {
        let offset = (at.as_ptr() as usize).wrapping_sub(self.base.as_ptr() as usize);
        self.free(Frame(self.first + (offset / PAGE) as u64), order);
    }
}

impl Table for &SharedPage {
    #[inline(always)]
    fn read(self, index: usize) -> u64 {
        self.word(index)
    }

    #[inline(always)]
    fn write(self, index: usize, value: u64) {
        self.atomic(index).store(value, Release);
    }

    #[inline]
    fn exchange(self, index: usize, old: u64, new: u64) -> Result<(), u64> {
        self.atomic(index).compare_exchange(old, new, AcqRel, Acquire).map(|_| ())
    }
}

impl TableMemory for Pool {
    type Table<'a> = &'a SharedPage;

    #[inline(always)]
    fn table(&self, frame: Frame) -> &SharedPage {
        self.page(frame)
    }

    fn allocate(&self) -> Result<Frame, Oom> {
        self.alloc_zeroed(0, Site::PageTable)
    }

    fn release(&self, frame: Frame) {
        self.free(frame, 0);
    }
}
