//! Pages that this program shares with a monitor or the kernel, as atomic words.
#![allow(unsafe_code, reason = "named pages: windows and kernel pages made by rt")]
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use rt::memory::Window;

/// The words of a window that is kept for ever; nothing if it does not start on a word.
pub fn words(window: &'static Window) -> Option<&'static [AtomicU64]> {
    if !window.address().is_multiple_of(8) {
        return None;
    }
    // SAFETY: a `Window` is mapped for its whole life, which is for ever here, and is the only
    // name of its addresses; every access is an atomic word, so the other side may change it.
    Some(unsafe {
        core::slice::from_raw_parts(window.address() as *const AtomicU64, window.len() / 8)
    })
}

/// The first word of a kernel page made by `rt::vcpu::kernel_page`.
pub fn kernel_word(page: NonNull<u8>) -> &'static AtomicU64 {
    // SAFETY: `kernel_page` maps the page for good, aligned to 4096, and nobody else in this
    // program has its address; the kernel changes it with atomic operations.
    unsafe { page.cast::<AtomicU64>().as_ref() }
}
