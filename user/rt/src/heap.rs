//! The heap: an arena in the image, and windows that the program adds.

use crate::sync::Yield;
use core::cell::UnsafeCell;
use talc::TalcLock;
use talc::source::Claim;

/// Bytes of the arena in the image.
const ARENA_SIZE: usize = 512 * 1024;

/// The arena.
#[repr(C, align(4096))]
struct Arena(UnsafeCell<[u8; ARENA_SIZE]>);

// SAFETY: only the allocator uses the bytes, and it holds its lock then.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; ARENA_SIZE]));

#[global_allocator]
static HEAP: TalcLock<spin::mutex::SpinMutex<(), Yield>, Claim> =
    // SAFETY: the arena is valid for reads and writes for ever, and nothing else
    // names it.
    TalcLock::new(unsafe { Claim::array(ARENA.0.get()) });

/// Adds the memory of a window; it belongs to the heap for ever.
///
/// `false` if the window is too small to be of use.
pub(crate) fn add(base: *mut u8, bytes: usize) -> bool {
    // SAFETY: `memory::Window::into_heap` gives up a window, so this range is
    // mapped, writable, zero-initialised or not, and named by nobody else.
    unsafe { HEAP.lock().claim(base, bytes) }.is_some()
}
