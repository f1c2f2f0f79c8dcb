//! Physical memory in this program's address space.
//!
//! [`Window`] is the way to touch memory that somebody else may know too:
//! firmware tables, device registers, guest memory, boot modules.

use crate::calls;
use crate::room::Room;
use crate::start::own_pd;
use crate::sync::Mutex;
use abi::cap::{MEM_RW, PORT_ACCESS};
use abi::crd::ItemMeta;
use abi::hip::{HipView, Memory, MemoryKind};
use abi::{Crd, PAGE_BITS, PAGE_SIZE, Status, TypedItem};
use core::ptr::NonNull;

/// First address of the room for windows, UTCBs and kernel pages (64 GiB).
const ROOM_START: u64 = 0x10_0000_0000;
/// End of that room.
const ROOM_END: u64 = 0x7000_0000_0000;

/// The addresses of the room.
static ROOM: Mutex<Room> = Mutex::new(Room::new(ROOM_START, ROOM_END));

/// Free virtual addresses: `pages` pages whose first page number is equal to
/// `like` modulo 2^`order`.
///
/// # Errors
/// `OOM` when there are no more.
pub fn reserve(pages: u64, like: u64, order: u8) -> Result<u64, Status> {
    ROOM.lock().take(pages, like, order).ok_or(Status::Oom)
}

/// An unused page of address space, for a UTCB or a kernel page.
///
/// # Errors
/// `OOM` when there are no more.
pub fn reserve_page() -> Result<u64, Status> {
    reserve(1, 0, 0)
}

/// Maps 2^`order` pages of physical memory from `frame` (a page number) at the
/// address `virt` of this program. Only the root program may.
///
/// # Errors
/// What `pd_ctrl` refuses; both ends must be aligned to the order.
pub fn map_physical(frame: u64, order: u8, virt: u64, rights: u8) -> Result<(), Status> {
    let page = virt >> PAGE_BITS;
    let item = TypedItem {
        crd: Crd::memory(frame, order, rights),
        meta: (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL).at(page),
    };
    let window = Crd::memory(page, order, abi::cap::ALL);
    calls::delegate(own_pd(), own_pd(), item, window).map(|_| ())
}

/// Unmaps 2^`order` pages of this program.
///
/// # Errors
/// What `revoke` refuses.
pub fn unmap(virt: u64, order: u8) -> Result<(), Status> {
    calls::revoke(Crd::memory(virt >> PAGE_BITS, order, abi::cap::ALL))
}

/// Takes 2^`order` I/O ports from the kernel. Only the root program may.
///
/// # Errors
/// What `pd_ctrl` refuses.
pub fn delegate_ports(base: u16, order: u8) -> Result<(), Status> {
    let crd = Crd::ports(u64::from(base), order, PORT_ACCESS);
    let item = TypedItem { crd, meta: ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL };
    calls::delegate(own_pd(), own_pd(), item, Crd::ports(u64::from(base), order, abi::cap::ALL))
        .map(|_| ())
}

/// The largest blocks, aligned at both ends, that make up a range of pages:
/// (pages from the start, order).
pub fn blocks(from: u64, to: u64, pages: u64) -> impl Iterator<Item = (u64, u8)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = pages.checked_sub(done).filter(|left| *left != 0)?;
        let alignment = ((from + done) | (to + done)).trailing_zeros();
        let order = alignment.min(left.ilog2()).min(u32::from(Crd::MAX_ORDER));
        let block = (done, order as u8);
        done += 1 << order;
        Some(block)
    })
}

/// Physical memory that is nobody's: the highest range of `bytes` bytes below
/// 4 GiB, aligned to `align` (a power of two), in RAM and clear of the kernel,
/// the modules and every reserved range. Nothing remembers that it was given.
#[must_use]
pub fn free_ram(hip: &HipView<'_>, bytes: u64, align: u64) -> Option<u64> {
    let candidates = hip.memory().filter(|range| range.kind == MemoryKind::Ram);
    candidates.filter_map(|ram| highest(hip, ram, bytes, align)).max()
}

/// The highest place in one RAM range, found by stepping below whatever is in
/// the way.
fn highest(hip: &HipView<'_>, ram: Memory, bytes: u64, align: u64) -> Option<u64> {
    let mut end = ram.addr.checked_add(ram.size)?.min(1 << 32);
    loop {
        let start = end.checked_sub(bytes)? & !(align - 1);
        if start < ram.addr.max(1 << 20) {
            return None;
        }
        let obstacle = hip.memory().find(|other| {
            other.kind != MemoryKind::Ram
                && other.addr < start + bytes
                && other.addr.saturating_add(other.size) > start
        });
        match obstacle {
            Some(other) => end = other.addr,
            None => return Some(start),
        }
    }
}

/// Numbers that can be read and written whole.
pub trait Plain: Copy + Default {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}

/// A range of mapped memory. All accesses are checked and volatile.
#[derive(Debug)]
pub struct Window {
    base: NonNull<u8>,
    bytes: usize,
    rights: u8,
}

// SAFETY: a window is the only name of its addresses in this program, and all
// accesses through it are volatile words.
unsafe impl Send for Window {}
// SAFETY: as above; a torn value is a value.
unsafe impl Sync for Window {}

impl Window {
    /// Maps physical bytes, from any address, with `MEM_` rights. Only the root
    /// program may.
    ///
    /// # Errors
    /// `BAD_PAR` for an empty range or one without read permission; `OOM`
    /// without room; what `pd_ctrl` refuses.
    pub fn physical(address: u64, bytes: u64, rights: u8) -> Result<Self, Status> {
        let skip = address % PAGE_SIZE;
        let first = address >> PAGE_BITS;
        let span = skip.checked_add(bytes).ok_or(Status::BadPar)?;
        let pages = span.div_ceil(PAGE_SIZE);
        let size = usize::try_from(bytes).map_err(|_| Status::BadPar)?;
        if bytes == 0 || rights & abi::cap::MEM_R == 0 {
            return Err(Status::BadPar);
        }
        let virt = reserve(pages, first, 9)?;
        for (done, order) in blocks(first, virt >> PAGE_BITS, pages) {
            map_physical(first + done, order, virt + (done << PAGE_BITS), rights)?;
        }
        let base = NonNull::new((virt + skip) as *mut u8).ok_or(Status::BadPar)?;
        Ok(Self { base, bytes: size, rights })
    }

    /// Takes a window made by [`Window::physical`] apart, so that this program cannot reach the memory
    /// any more; its addresses may be used again.
    ///
    /// # Errors
    /// What `revoke` refuses: some of it is still mapped, and its addresses stay unused.
    pub fn close(self) -> Result<(), Status> {
        let first = self.address() >> PAGE_BITS;
        let pages = (self.address() % PAGE_SIZE + self.bytes as u64).div_ceil(PAGE_SIZE);
        for (done, order) in blocks(first, first, pages) {
            unmap((first + done) << PAGE_BITS, order)?;
        }
        ROOM.lock().give(first << PAGE_BITS, pages);
        Ok(())
    }

    /// Memory that somebody else has mapped for this program.
    ///
    /// # Safety
    /// The range is mapped with these rights as long as the program runs, and
    /// no Rust object lies in it.
    #[must_use]
    pub unsafe fn at(base: NonNull<u8>, bytes: usize, rights: u8) -> Self {
        Self { base, bytes, rights }
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes; never, for a window made by
    /// [`Window::physical`].
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The address of its first byte in this program.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// The number at a byte offset; `None` outside or unaligned.
    #[must_use]
    pub fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let at = self.slot::<T>(offset)?;
        // SAFETY: `slot` checked range and alignment; the range is mapped and
        // readable; every bit pattern is a `Plain`.
        Some(unsafe { at.read_volatile() })
    }

    /// Writes a number at a byte offset; `None` outside, unaligned or if the
    /// window is read-only.
    pub fn write<T: Plain>(&self, offset: usize, value: T) -> Option<()> {
        let at = self.slot::<T>(offset).filter(|_| self.rights & MEM_RW == MEM_RW)?;
        // SAFETY: `slot` checked range and alignment; the range is mapped and
        // writable; no Rust object lies there.
        unsafe { at.write_volatile(value) };
        Some(())
    }

    /// Copies bytes out; `None` outside.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let from = self.range(offset, into.len())?;
        // SAFETY: `range` checked the source; the target is a Rust object, so
        // the two do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        Some(())
    }

    /// Copies bytes in; `None` outside or if the window is read-only.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Option<()> {
        let to = self.range(offset, from.len()).filter(|_| self.rights & MEM_RW == MEM_RW)?;
        // SAFETY: `range` checked the target, which is writable; the source is
        // a Rust object, so the two do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        Some(())
    }

    /// Fills the whole window with a byte; `None` if it is read-only.
    pub fn fill(&self, value: u8) -> Option<()> {
        let to = self.range(0, self.bytes).filter(|_| self.rights & MEM_RW == MEM_RW)?;
        // SAFETY: the window is mapped and writable.
        unsafe { core::ptr::write_bytes(to, value, self.bytes) };
        Some(())
    }

    /// The bytes as a slice, for memory that does not change: boot modules,
    /// firmware tables. `None` for a writable window.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        let readable = self.rights & abi::cap::MEM_W == 0;
        // SAFETY: the window is mapped; nothing in this program can write
        // through it. That nobody else changes the memory is the caller's
        // choice of memory; a change shows as other values of bytes.
        readable.then(|| unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.bytes) })
    }

    /// Gives the memory to the heap for ever; `false` if it is read-only or
    /// too small (then it is lost).
    #[cfg(target_os = "none")]
    pub fn into_heap(self) -> bool {
        self.rights & MEM_RW == MEM_RW && crate::heap::add(self.base.as_ptr(), self.bytes)
    }

    /// Where a number lies.
    fn slot<T: Plain>(&self, offset: usize) -> Option<*mut T> {
        let at = self.range(offset, size_of::<T>())?.cast::<T>();
        at.is_aligned().then_some(at)
    }

    /// Where a range lies.
    fn range(&self, offset: usize, bytes: usize) -> Option<*mut u8> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes).then(|| self.base.as_ptr().wrapping_add(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn windows_stay_inside() {
        let mut memory = [0u64; 4];
        // SAFETY: the array outlives the window, and only it is used meanwhile.
        let window = unsafe { Window::at(NonNull::from(&mut memory).cast(), 32, MEM_RW) };
        assert_eq!(window.write(8, 0x1122_3344_5566_7788u64), Some(()));
        assert_eq!(window.read::<u32>(12), Some(0x1122_3344));
        assert_eq!(window.read::<u32>(13), None);
        assert_eq!(window.read::<u64>(32), None);
        assert_eq!(window.read::<u8>(usize::MAX), None);
        assert_eq!(window.copy_in(30, &[1, 2, 3]), None);
        assert_eq!(window.copy_in(29, &[1, 2, 3]), Some(()));
        let mut out = [0; 3];
        assert_eq!(window.copy_out(29, &mut out), Some(()));
        assert_eq!(out, [1, 2, 3]);
        assert_eq!(window.bytes(), None);
    }

    #[test]
    fn read_only_windows_are_not_written() {
        let mut memory = [7u64; 2];
        // SAFETY: the array outlives the window, and only it is used meanwhile.
        let window = unsafe { Window::at(NonNull::from(&mut memory).cast(), 16, 1) };
        assert_eq!(window.write(0, 1u8), None);
        assert_eq!(window.fill(0), None);
        assert_eq!(window.bytes().map(|bytes| bytes[0]), Some(7));
    }

    proptest! {
        #[test]
        fn blocks_cover_exactly(from in 0u64..1 << 30, to in 0u64..1 << 30, pages in 0u64..5000) {
            let mut next = 0;
            for (done, order) in blocks(from, to, pages) {
                prop_assert_eq!(done, next);
                let size = 1u64 << order;
                prop_assert_eq!((from + done) % size, 0);
                prop_assert_eq!((to + done) % size, 0);
                next += size;
            }
            prop_assert_eq!(next, pages);
        }
    }
}
