//! The interrupt descriptor table, and what happens on an exception inside the kernel.

use core::cell::UnsafeCell;
use core::sync::atomic::AtomicBool;

use x86_64::VirtAddr;
use x86_64::structures::DescriptorTablePointer;

use super::dump;
use crate::Registers;
use crate::x86::descriptor::Gate;

/// In `Registers::vector` of a kernel exception: the CPU pushed no error code although this vector has
/// one, so it was an interrupt that landed on an exception vector.
pub const NO_ERROR_PUSHED: u64 = 0x1000;

unsafe extern "C" {
    static trap_stubs: [u8; 256 * 16];
    static double_fault_entry: u8;
    static nmi_entry: u8;
    static machine_check_entry: u8;
    static fixup_start: [u64; 2];
    static fixup_end: [u64; 2];
}

/// Read by the NMI handler: stop for good.
#[unsafe(no_mangle)]
static nmi_means_stop: AtomicBool = AtomicBool::new(false);

/// From now on an NMI stops the CPU that gets it.
pub fn nmi_stops() {
    nmi_means_stop.store(true, core::sync::atomic::Ordering::Release);
}

/// Interrupt stack numbers (IST).
pub const NMI_STACK: u8 = 1;
/// See [`NMI_STACK`].
pub const FAULT_STACK: u8 = 2;
/// See [`NMI_STACK`].
pub const CHECK_STACK: u8 = 3;

#[repr(C, align(4096))]
struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: written only by the first CPU before the others start; later only the CPUs read it.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([Gate::EMPTY; 256]));

/// Whether exceptions with stacks of their own already have them (a task state is loaded).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stacks {
    /// Everything runs on the current stack.
    Shared,
    /// NMI, double fault and machine check have their own.
    Own,
}

/// The gate that vector `number` should have.
fn gate(number: usize, stacks: Stacks) -> Gate {
    let stubs = (&raw const trap_stubs) as u64;
    let own = |stack| if stacks == Stacks::Own { stack } else { 0 };
    match number {
        2 => Gate::new((&raw const nmi_entry) as u64, own(NMI_STACK), 0),
        8 => Gate::new((&raw const double_fault_entry) as u64, own(FAULT_STACK), 0),
        18 => Gate::new((&raw const machine_check_entry) as u64, own(CHECK_STACK), 0),
        // Breakpoint and overflow are instructions that user programs may use.
        3 | 4 => Gate::new(stubs + number as u64 * 16, 0, 3),
        _ => Gate::new(stubs + number as u64 * 16, 0, 0),
    }
}

/// Writes the table; the first CPU calls it while it is alone.
pub fn build(stacks: Stacks) {
    // SAFETY: only one CPU runs (caller), and it takes no interrupt meanwhile.
    let table = unsafe { &mut *TABLE.0.get() };
    for (number, slot) in table.iter_mut().enumerate() {
        *slot = gate(number, stacks);
    }
}

fn pointer() -> DescriptorTablePointer {
    DescriptorTablePointer { limit: 4095, base: VirtAddr::new_truncate(TABLE.0.get() as u64) }
}

/// Loads the table into the calling CPU.
pub fn load() {
    // SAFETY: the table is a static with a handler for each vector.
    unsafe { x86_64::instructions::tables::lidt(&pointer()) };
}

/// Whether the CPU's register and the table in memory are what was meant.
pub fn verify() -> bool {
    let loaded = x86_64::instructions::tables::sidt();
    let meant = pointer();
    let (base, limit) = (loaded.base, loaded.limit);
    // SAFETY: nobody writes the table any more.
    let table = unsafe { &*TABLE.0.get() };
    base == { meant.base }
        && limit == { meant.limit }
        && table.iter().enumerate().all(|(number, slot)| *slot == gate(number, Stacks::Own))
}

/// An exception in the kernel: goes on at a fix-up, if the instruction has one, else it is the end.
#[unsafe(no_mangle)]
extern "C" fn kernel_exception(registers: &mut Registers) {
    let rip = registers.rip;
    match fixups().iter().find(|[instruction, _]| *instruction == rip) {
        Some([_, target]) if registers.vector & NO_ERROR_PUSHED == 0 => registers.rip = *target,
        _ => dump::exception(registers),
    }
}

fn fixups() -> &'static [[u64; 2]] {
    let (start, end) = (&raw const fixup_start, &raw const fixup_end);
    // SAFETY: linker.ld puts the two symbols around an array of pairs in the constant segment.
    unsafe { core::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}
