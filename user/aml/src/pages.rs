//! The memory that the root task has mapped for this program.
#![allow(unsafe_code, reason = "named pages: addresses fixed by root::evaluation")]
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use root::evaluation::{ANSWER, HEAP, HEAP_BYTES, ORDER, Order};
use rt::memory::Window;

/// A copy of the order; empty if there is none.
pub fn order() -> Vec<u8> {
    let copy = |bytes: usize| {
        let mut copy = alloc::vec![0; bytes];
        window(ORDER, bytes, abi::cap::MEM_R).and_then(|order| order.copy_out(0, &mut copy));
        copy
    };
    Order::size(&copy(16)).map_or_else(Vec::new, copy)
}

/// Writes the answer, the first word last.
pub fn answer(words: &[u64]) {
    let words_of_page = {
        // SAFETY: the root task maps this page, readable and writable, before it starts this program; no Rust object lies
        // there, and atomic words make it defined that the root task looks on.
        unsafe { core::slice::from_raw_parts(ANSWER as *const AtomicU64, 512) }
    };
    for (place, word) in words_of_page.iter().zip(words).rev() {
        place.store(*word, Ordering::Release);
    }
}

/// Gives the memory that is meant for the heap to the heap; call it once.
pub fn extend_heap() {
    if let Some(heap) = window(HEAP, HEAP_BYTES as usize, abi::cap::MEM_RW) {
        heap.into_heap();
    }
}

fn window(address: u64, bytes: usize, rights: u8) -> Option<Window> {
    let base = NonNull::new(address as *mut u8)?;
    // SAFETY: one of the places of `root::evaluation`, mapped with these rights as long as the program runs and at least as
    // large as the order says; no Rust object lies there.
    Some(unsafe { Window::at(base, bytes, rights) })
}
