//! The memory that the root task has mapped for this program, as words.
#![allow(unsafe_code, reason = "named pages: addresses fixed by vmm::control")]
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use rt::memory::Window;
use vmm::control;

/// The words of `bytes` bytes at `address`, which is one of the places in [`vmm::control`].
pub fn words(address: u64, bytes: u64) -> &'static [AtomicU64] {
    let count = (bytes / 8) as usize;
    // SAFETY: the root task maps every place of `vmm::control` before it starts this program, at
    // least as large as the control page and the order for devices say, and never takes it back; the addresses are page
    // aligned, lie outside the program image and the heap, and are used through this function
    // alone. Atomic words make concurrent changes by guest and root task defined.
    unsafe { core::slice::from_raw_parts(address as *const AtomicU64, count) }
}

/// Gives the memory that the root task meant for the heap to the heap; call it once.
pub fn extend_heap(vcpus: u32) {
    let Some(base) = NonNull::new(control::HEAP as *mut u8) else { return };
    let bytes = control::heap_size(vcpus) as usize;
    // SAFETY: the root task maps this range readable and writable before it starts this program
    // and never takes it back; no Rust object lies there, and nobody else names it.
    let window = unsafe { Window::at(base, bytes, abi::cap::MEM_RW) };
    window.into_heap();
}
