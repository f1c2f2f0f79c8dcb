//! Address spaces of the calling CPU: switching and invalidation.

use core::arch::asm;

use logic::addr::Frame;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::Cr4;

use super::{cpu, tables};
use crate::x86::feature::Features;

/// In CR3: keep this tag's translations (Intel SDM vol. 3, 4.10.4.1).
const KEEP: u64 = 1 << 63;

/// Switches to the address space whose top-level table is `root`.
///
/// `tag` names its translations, and `flush` drops those that the CPU still has under it; only where there is PCID
/// (`pcid_available`). Without a tag all but the kernel's are dropped (with PCID: all of tag 0).
#[inline(always)]
pub fn load_space(root: Frame, tag: Option<u16>, flush: bool) {
    let value = match tag {
        None => root.address(),
        Some(tag) if flush => root.address() | u64::from(tag & 0xfff),
        Some(tag) => root.address() | u64::from(tag & 0xfff) | KEEP,
    };
    // SAFETY: every top-level table carries the kernel's slots (`kernel_root_entries`), so code and
    // stack stay mapped; user parts are made by `logic::page_table` alone.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Leaves every domain's space: the kernel's own tables, without a user part.
#[inline]
pub fn load_kernel_space() {
    load_space(Frame::containing(tables::kernel_root()), None, true);
}

/// Drops the translation of the page at address `page` in the current space.
#[inline]
pub fn flush_page(page: u64) {
    tlb::flush(VirtAddr::new_truncate(page));
}

/// Drops all translations under `tag`, or all of the current space if there are no tags.
#[inline]
pub fn flush_space(tag: Option<u16>) {
    match tag {
        Some(tag) if cpu::features().contains(Features::INVPCID) => {
            let descriptor: [u64; 2] = [u64::from(tag & 0xfff), 0];
            // SAFETY: type 1, single context: drops translations, changes nothing else.
            unsafe {
                asm!("invpcid {}, [{}]", in(reg) 1u64, in(reg) &raw const descriptor,
                    options(nostack, preserves_flags, readonly));
            }
        }
        Some(_) => flush_everything(),
        None => tlb::flush_all(),
    }
}

/// Drops everything, kernel translations and all tags included, by toggling CR4.PGE (4.10.4.1).
pub fn flush_everything() {
    const GLOBAL_PAGES: u64 = 1 << 7;
    let cr4 = Cr4::read_raw();
    // SAFETY: the same value is written back; translations are only dropped.
    unsafe {
        Cr4::write_raw(cr4 & !GLOBAL_PAGES);
        Cr4::write_raw(cr4);
    }
}
