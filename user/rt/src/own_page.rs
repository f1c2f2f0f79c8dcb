//! Which message page is the running thread's.
//!
//! By our convention the FS base holds its address. Processors before FSGSBASE (Intel SDM vol. 2,
//! WRFSBASE) cannot set that from user mode; there the stack tells: every thread notes its page
//! with its stack pointer when it starts, and as stacks do not overlap, the nearest note above the
//! stack pointer is the thread's own.

use crate::instructions::{fs_base, set_fs_base, stack_pointer};
use crate::sync::Mutex;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

/// Room for the frames between a thread's first function and its note.
const SLACK: u64 = 512;
/// What [`FSGSBASE`] holds.
const UNKNOWN: u8 = 0;
const THERE: u8 = 1;
const MISSING: u8 = 2;

static FSGSBASE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Stack pointer and page of each thread; used without FSGSBASE alone.
static NOTES: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// Says that the running thread's page is at this address; in its first function.
pub(crate) fn set(page: u64) {
    if has_fsgsbase() {
        set_fs_base(page);
        return;
    }
    let top = stack_pointer() + SLACK;
    let mut notes = NOTES.lock();
    match notes.iter_mut().find(|(_, noted)| *noted == page) {
        Some(note) => note.0 = note.0.max(top),
        None => notes.push((top, page)),
    }
}

/// The running thread's page; 0 if it never said.
pub(crate) fn get() -> u64 {
    if has_fsgsbase() {
        return fs_base();
    }
    let now = stack_pointer();
    let notes = NOTES.lock();
    notes.iter().filter(|(top, _)| *top > now).min().map_or(0, |(_, page)| *page)
}

fn has_fsgsbase() -> bool {
    match FSGSBASE.load(Ordering::Relaxed) {
        UNKNOWN => {
            let there = crate::instructions::has_fsgsbase();
            FSGSBASE.store(if there { THERE } else { MISSING }, Ordering::Relaxed);
            there
        }
        known => known == THERE,
    }
}
