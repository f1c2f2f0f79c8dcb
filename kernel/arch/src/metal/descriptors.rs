//! Each CPU's segment descriptors and task state.

use core::sync::atomic::Ordering::Relaxed;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::{lgdt, load_tss, sgdt};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;

use super::layout::{
    CHECK_STACK, FAULT_STACK, NMI_STACK, PAGE, PORT_BITMAP_ADDRESS, TASK_STRIDE, TASKS,
};
use super::percpu::{self, CpuLocal};
use crate::x86::descriptor::{
    GDT, GDT_ENTRIES, KERNEL_CS, KERNEL_SS, TASK, TASK_BUSY, TASK_IO_BITMAP, TASK_IST1, TASK_RSP0,
    task,
};

/// Index of the task-state descriptor.
const TASK_INDEX: usize = (TASK >> 3) as usize;

/// Address of the task state of CPU number `cpu`.
fn task_address(cpu: usize) -> u64 {
    TASKS + cpu as u64 * TASK_STRIDE
}

/// Distance from the task state of CPU number `cpu` to the I/O bitmap.
fn bitmap_distance(cpu: usize) -> u64 {
    PORT_BITMAP_ADDRESS - task_address(cpu)
}

/// The task-state descriptor of CPU number `cpu`: its limit takes in the bitmap's two pages and the
/// byte of ones that must follow (Intel SDM vol. 1, 19.5.2).
fn task_descriptor(cpu: usize) -> [u64; 2] {
    task(task_address(cpu), (bitmap_distance(cpu) + 2 * PAGE) as u32)
}

fn pointer(local: &CpuLocal) -> DescriptorTablePointer {
    DescriptorTablePointer {
        limit: (GDT_ENTRIES * 8 - 1) as u16,
        base: VirtAddr::new_truncate(&raw const local.gdt as u64),
    }
}

/// Loads the segments of the calling CPU, without a task state.
pub fn load_segments() {
    let local = percpu::local();
    for (slot, entry) in local.gdt.iter().zip(GDT) {
        slot.store(entry, Relaxed);
    }
    // SAFETY: the table lives in a static and has the descriptors that are loaded; null data segments
    // are right in 64-bit mode.
    unsafe {
        lgdt(&pointer(local));
        CS::set_reg(SegmentSelector(KERNEL_CS));
        SS::set_reg(SegmentSelector(KERNEL_SS));
        DS::set_reg(SegmentSelector(0));
        ES::set_reg(SegmentSelector(0));
        // FS and GS selectors stay as they are: loading them would clear the GS base.
    }
}

/// Fills and loads the task state of the calling CPU; its pages are mapped.
pub fn load_task() {
    let cpu = percpu::cpu_number();
    let stacks = [NMI_STACK.end(cpu), FAULT_STACK.end(cpu), CHECK_STACK.end(cpu)];
    for (index, top) in stacks.into_iter().enumerate() {
        write_task(cpu, TASK_IST1 + index * 8, top);
    }
    percpu::local().stack_slot.store(task_address(cpu) + TASK_RSP0 as u64, Relaxed);
    let at = (task_address(cpu) + TASK_IO_BITMAP as u64) as *mut u16;
    // SAFETY: within this CPU's task state, aligned.
    unsafe { at.write_volatile(bitmap_distance(cpu) as u16) };
    reload_task(cpu);
}

fn reload_task(cpu: usize) {
    let local = percpu::local();
    let [low, high] = task_descriptor(cpu);
    local.gdt[TASK_INDEX].store(low, Relaxed);
    local.gdt[TASK_INDEX + 1].store(high, Relaxed);
    // SAFETY: the descriptor just written names this CPU's mapped task state.
    unsafe { load_tss(SegmentSelector(TASK)) };
}

/// Writes a word of a task state (they are only 4-byte aligned).
fn write_task(cpu: usize, offset: usize, value: u64) {
    let at = (task_address(cpu) + offset as u64) as *mut u64;
    // SAFETY: within the task state of a CPU, mapped read/write; only its CPU writes it.
    unsafe { at.write_unaligned(value) };
}

/// Where the calling CPU starts to push when it leaves user mode.
#[inline(always)]
pub fn set_stack(top: u64) {
    let at = percpu::stack_slot() as *mut u64;
    // SAFETY: `load_task` stored the address of RSP0 in this CPU's mapped task state.
    unsafe { at.write_unaligned(top) };
}

/// Loads the task register again if an exit from a guest cut its limit (Intel SDM vol. 3, 28.5.2: the I/O bitmap is
/// out of reach until the first user access that misses it; `percpu::after_exit` notes it); whether it was.
pub fn repair_task() -> bool {
    let local = percpu::local();
    if local.task_stale.load(Relaxed) == 0 {
        return false;
    }
    local.task_stale.store(0, Relaxed);
    reload_task(percpu::cpu_number());
    true
}

/// Whether the registers and the tables in memory are what was meant.
pub fn verify() -> bool {
    let local = percpu::local();
    let cpu = percpu::cpu_number();
    let (loaded, meant) = (sgdt(), pointer(local));
    let [low, high] = task_descriptor(cpu);
    let mut expected = GDT;
    expected[TASK_INDEX] = low | TASK_BUSY;
    expected[TASK_INDEX + 1] = high;
    let same = local.gdt.iter().zip(expected).all(|(slot, entry)| slot.load(Relaxed) == entry);
    let registers = { loaded.base } == { meant.base } && { loaded.limit } == { meant.limit };
    same && registers
        && x86_64::registers::segmentation::CS::get_reg().0 == KERNEL_CS
        && task_register() == TASK
}

/// The task register's selector.
pub fn task_register() -> u16 {
    let selector: u16;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("str {:x}", out(reg) selector, options(nomem, nostack, preserves_flags));
    }
    selector
}
