//! What each CPU keeps for itself, found through GS.
//!
//! Inside the kernel GS always points to the CPU's [`CpuLocal`]; `swapgs` at each border to user mode
//! keeps it so. Every field is an atomic that only its CPU writes (relaxed: plain moves), except where
//! noted.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::MAX_CPUS;
use crate::x86::descriptor::GDT_ENTRIES;

/// One CPU's own words. Assembly knows the first five by their offsets.
#[repr(C, align(64))]
pub struct CpuLocal {
    /// Its own address.
    this: AtomicU64,
    /// The stack to come back to in `run`.
    kernel_rsp: AtomicU64,
    /// Address of the thread whose FS and GS base the CPU holds and into which the system-call entry stores, 0 for
    /// none.
    pub thread: AtomicU64,
    /// The vector that interrupted `idle` or `take_interrupt`, 0 for none.
    pub interrupt: AtomicU64,
    /// Address of the CPU's `Seat`.
    pub seat: AtomicU64,
    /// CPU number.
    pub number: AtomicU32,
    /// Local APIC identifier.
    pub apic_id: AtomicU32,
    /// The task register's limit was cut by a VM exit (Intel SDM vol. 3, 27.5.2).
    pub task_stale: AtomicU32,
    /// Windows in use.
    pub windows: AtomicU32,
    /// 1 when the CPU has been brought up; others read it.
    pub online: AtomicU32,
    /// Keeps the next field aligned.
    reserved: AtomicU32,
    /// The armed deadline in TSC ticks, 0 for none.
    pub deadline: AtomicU64,
    /// Address of the page-table entries of this CPU's windows.
    pub window_entries: AtomicU64,
    /// Address of RSP0 in its task state.
    pub stack_slot: AtomicU64,
    /// VMX: the frame of the current VMCS, 0 for none.
    pub vmcs: AtomicU64,
    /// The host's XCR0, once the CPU may run guests.
    pub xcr0: AtomicU64,
    /// What LGDT takes: the limit in the upper two bytes of the first word, the base in the second.
    pub gdt_pointer: [AtomicU64; 2],
    /// Its descriptor table.
    pub gdt: [AtomicU64; GDT_ENTRIES],
}

/// Offset of `thread`, for assembly.
pub const THREAD: usize = offset_of!(CpuLocal, thread);
/// Offset of `kernel_rsp`, for assembly.
pub const KERNEL_RSP: usize = offset_of!(CpuLocal, kernel_rsp);
/// Offset of `interrupt`, for assembly.
pub const INTERRUPT: usize = offset_of!(CpuLocal, interrupt);

/// Offset of `seat`, for assembly.
pub const SEAT: usize = offset_of!(CpuLocal, seat);

static LOCALS: [CpuLocal; MAX_CPUS] = [const { CpuLocal::new() }; MAX_CPUS];

impl CpuLocal {
    const fn new() -> Self {
        Self {
            this: AtomicU64::new(0),
            kernel_rsp: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            interrupt: AtomicU64::new(0),
            seat: AtomicU64::new(0),
            number: AtomicU32::new(0),
            apic_id: AtomicU32::new(0),
            task_stale: AtomicU32::new(0),
            windows: AtomicU32::new(0),
            online: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            deadline: AtomicU64::new(0),
            window_entries: AtomicU64::new(0),
            stack_slot: AtomicU64::new(0),
            vmcs: AtomicU64::new(0),
            xcr0: AtomicU64::new(1),
            gdt_pointer: [const { AtomicU64::new(0) }; 2],
            gdt: [const { AtomicU64::new(0) }; GDT_ENTRIES],
        }
    }
}

/// The words of CPU number `cpu` (modulo the maximum, which no caller exceeds).
#[inline(always)]
pub fn of(cpu: usize) -> &'static CpuLocal {
    &LOCALS[cpu % MAX_CPUS]
}

/// The calling CPU's words.
#[inline(always)]
pub fn local() -> &'static CpuLocal {
    let address: *const CpuLocal;
    // SAFETY: GS points to this CPU's `CpuLocal` from `adopt` on, before any other Rust code runs on
    // the CPU, and its first word is its address; the static lives for ever.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) address,
            options(pure, readonly, nostack, preserves_flags));
        &*address
    }
}

/// Makes the calling CPU number `cpu`: the first thing it does in Rust.
pub fn adopt(cpu: usize) {
    let local = of(cpu);
    local.this.store(core::ptr::from_ref(local) as u64, Relaxed);
    local.number.store(cpu as u32, Relaxed);
    let address = x86_64::VirtAddr::new_truncate(core::ptr::from_ref(local) as u64);
    x86_64::registers::model_specific::GsBase::write(address);
}

/// The address of the thread whose bases the CPU holds (one instruction on the hot path).
#[inline(always)]
pub fn loaded_thread() -> u64 {
    let address: u64;
    // SAFETY: as `local`; reads a word of it.
    unsafe {
        core::arch::asm!("mov {}, gs:[{}]", out(reg) address, const offset_of!(CpuLocal, thread),
            options(readonly, nostack, preserves_flags));
    }
    address
}

/// Sets what [`loaded_thread`] answers.
#[inline(always)]
pub fn set_loaded_thread(address: u64) {
    // SAFETY: as `local`; writes a word of it that only this CPU uses.
    unsafe {
        core::arch::asm!("mov gs:[{}], {}", const offset_of!(CpuLocal, thread), in(reg) address,
            options(nostack, preserves_flags));
    }
}

/// Address of RSP0 in the calling CPU's task state.
#[inline(always)]
pub fn stack_slot() -> u64 {
    let address: u64;
    // SAFETY: as `local`; reads a word of it.
    unsafe {
        core::arch::asm!("mov {}, gs:[{}]", out(reg) address, const offset_of!(CpuLocal, stack_slot),
            options(readonly, nostack, preserves_flags));
    }
    address
}

/// Number of the calling CPU, as in the HIP.
#[inline(always)]
pub fn cpu_number() -> usize {
    let number: u32;
    // SAFETY: as `local`; reads a word of it that never changes.
    unsafe {
        core::arch::asm!("mov {:e}, gs:[{}]", out(reg) number, const offset_of!(CpuLocal, number),
            options(pure, readonly, nostack, preserves_flags));
    }
    number as usize
}

/// The frame of the calling CPU's current VMCS (one instruction on the path of each run).
#[inline(always)]
pub fn vmcs() -> u64 {
    let frame: u64;
    // SAFETY: as `local`; reads a word of it that only this CPU uses.
    unsafe {
        core::arch::asm!("mov {}, gs:[{}]", out(reg) frame, const offset_of!(CpuLocal, vmcs),
            options(readonly, nostack, preserves_flags));
    }
    frame
}

/// The calling CPU's own XCR0 (one instruction, too).
#[inline(always)]
pub fn xcr0() -> u64 {
    let value: u64;
    // SAFETY: as `local`; reads a word of it that changes in bring-up only.
    unsafe {
        core::arch::asm!("mov {}, gs:[{}]", out(reg) value, const offset_of!(CpuLocal, xcr0),
            options(readonly, nostack, preserves_flags));
    }
    value
}

/// An exit from a guest leaves limits of 0xffff in GDTR and 0x67 in TR (Intel SDM vol. 3, 28.5.2): loads the table's
/// true limit again, and notes that the task register was cut (`descriptors` loads it when a program misses its ports).
#[inline(always)]
pub fn after_exit() {
    // SAFETY: GS as in `local`; `note_gdt` stored the table that is loaded, so that nothing but the limit changes; the
    // other word only this CPU uses.
    unsafe {
        core::arch::asm!("lgdt gs:[{gdt}]", "mov dword ptr gs:[{stale}], 1",
            gdt = const offset_of!(CpuLocal, gdt_pointer) + 6,
            stale = const offset_of!(CpuLocal, task_stale),
            options(nostack, preserves_flags));
    }
}

/// Notes where the calling CPU's descriptor table is, for [`after_exit`].
pub fn note_gdt() {
    let local = local();
    let [limit, base] = &local.gdt_pointer;
    limit.store((GDT_ENTRIES as u64 * 8 - 1) << 48, Relaxed);
    base.store(local.gdt.as_ptr() as u64, Relaxed);
}
