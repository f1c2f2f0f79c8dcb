//! The processor's instructions and the entry code: all that Rust cannot say itself.
#![allow(unsafe_code, reason = "a bare machine: instructions, entry and interrupt stubs")]

use crate::exceptions::{self, Frame};
use core::arch::x86_64::__cpuid_count;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// Interrupt vectors that have a stub.
pub const VECTORS: usize = 64;
/// Bytes between two stubs.
const STUB: u64 = 16;

/// ACPI PM1a control register, SLP_TYP 5 with SLP_EN (the monitor's DSDT has the same).
const SLEEP: (u16, u16) = (0x604, (5 << 10) | (1 << 13));
/// Offset of `cmd_line_ptr` in the zero page (Linux `Documentation/arch/x86/boot.rst`).
const COMMAND_LINE_POINTER: u64 = 0x228;
/// Offsets in the zero page of the number of entries of the memory map, and of the first of them, 20 bytes each.
const MAP_ENTRIES: u64 = 0x1e8;
const MAP: u64 = 0x2d0;
/// Longest command line that is read.
const COMMAND_LINE: usize = 2047;

/// Where a probed instruction goes on after its exception; 0 when none is expected.
pub static RESUME: AtomicU64 = AtomicU64::new(0);

/// The zero page.
static ZERO_PAGE: AtomicU64 = AtomicU64::new(0);

/// A page directory of which the first entry is used.
#[repr(align(4096))]
struct Directory([AtomicU64; 512]);

/// Maps [`WINDOW`].
static DIRECTORY: Directory = Directory([const { AtomicU64::new(0) }; 512]);
/// Where any 2 MiB of guest-physical memory can be seen: behind the 4 GiB that are mapped one to one.
const WINDOW: u64 = 4 << 30;
const WINDOW_SIZE: u64 = 2 << 20;

// The entry has RSI = zero page, paging on with 4 GiB mapped one to one, interrupts off. Each stub
// makes the stack the same: error code (or 0), then the vector.
global_asm!(
    ".pushsection .entry, \"ax\"",
    ".globl small_start",
    "small_start:",
    "cld",
    "lea rsp, [rip + small_stack_top]",
    "mov rdi, rsi",
    "xor ebp, ebp",
    "call {enter}",
    "ud2",
    ".popsection",
    ".pushsection .text.stubs, \"ax\"",
    ".balign 16",
    ".globl small_stubs",
    "small_stubs:",
    ".set vector, 0",
    ".rept 64",
    ".balign 16",
    ".if (vector != 8) && (vector != 10) && (vector != 11) && (vector != 12) && \
         (vector != 13) && (vector != 14) && (vector != 17) && (vector != 21)",
    ".byte 0x6a, 0", // PUSH 0
    ".endif",
    ".byte 0x6a, vector", // PUSH vector
    "jmp small_trap",
    ".set vector, vector + 1",
    ".endr",
    "small_trap:",
    "push rax; push rcx; push rdx; push rbx; push rbp; push rsi; push rdi; push r8",
    "push r9; push r10; push r11; push r12; push r13; push r14; push r15",
    "mov rdi, rsp",
    "cld",
    "call {trap}",
    "pop r15; pop r14; pop r13; pop r12; pop r11; pop r10; pop r9; pop r8",
    "pop rdi; pop rsi; pop rbp; pop rbx; pop rdx; pop rcx; pop rax",
    "add rsp, 16",
    "iretq",
    ".popsection",
    ".pushsection .bss.stack, \"aw\", @nobits",
    ".balign 16",
    ".skip 32768",
    "small_stack_top:",
    ".popsection",
    enter = sym enter,
    trap = sym trap,
);

unsafe extern "C" {
    /// The first interrupt stub; only its address is used.
    safe static small_stubs: u8;
}

extern "C" fn enter(zero_page: u64) -> ! {
    ZERO_PAGE.store(zero_page, Ordering::Relaxed);
    let at = u64::from(read32(zero_page + COMMAND_LINE_POINTER));
    let length = (0..COMMAND_LINE as u64)
        .position(|offset| read32(at + offset) & 0xff == 0)
        .unwrap_or(COMMAND_LINE);
    // SAFETY: the loader put a command line at this address, which is mapped RAM that nobody
    // writes again; the bytes up to the NUL were just read.
    let bytes = unsafe { core::slice::from_raw_parts(at as *const u8, length) };
    crate::begin(core::str::from_utf8(bytes).unwrap_or("(not UTF-8)"));
    power_off()
}

extern "C" fn trap(frame: *mut Frame) {
    // SAFETY: the stub passes its own stack, laid out as `Frame` says; nobody else has it.
    exceptions::taken(unsafe { &mut *frame });
}

/// Switches the machine off.
pub fn power_off() -> ! {
    out16(SLEEP.0, SLEEP.1);
    loop {
        // SAFETY: without interrupts this stops for ever, as it should: the machine is off.
        unsafe { asm!("cli", "hlt") };
    }
}

/// Address of the stub of a vector below [`VECTORS`].
pub fn stub(vector: usize) -> u64 {
    (&raw const small_stubs) as u64 + vector as u64 * STUB
}

/// The operand of LIDT.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Uses the gates in this table from now on.
pub fn load_gates(table: &'static [AtomicU64]) {
    let limit = (table.len() * 8) as u16;
    let pointer = TablePointer { limit: limit.saturating_sub(1), base: table.as_ptr() as u64 };
    // SAFETY: the pointer is valid for the instruction; the table lives for ever. An empty one
    // is what the test of triple faults wants.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer) };
}

/// An instruction that no program may execute.
pub fn undefined() {
    // SAFETY: raises #UD, which the caller wants.
    unsafe { asm!("ud2") };
}

/// Executes one instruction that may raise an exception; it is skipped then. RAX, RCX and RDX
/// hold the given values; RAX and RDX come back.
macro_rules! probed {
    ($code:literal, $rax:expr, $rcx:expr, $rdx:expr) => {{
        let (rax, rdx): (u64, u64);
        // SAFETY: every exception is caught by `exceptions::taken`, which continues behind the
        // instruction; each instruction below touches RAX, RCX, RDX and flags alone when it
        // works, and VMXON reads the word that RAX points at.
        unsafe {
            asm!(
                "lea {resume}, [rip + 2f]",
                "mov [rip + {slot}], {resume}",
                $code,
                "2:",
                resume = out(reg) _,
                slot = sym RESUME,
                inout("rax") $rax => rax,
                inout("rcx") $rcx => _,
                inout("rdx") $rdx => rdx,
            );
        }
        RESUME.store(0, Ordering::Relaxed);
        (rax, rdx)
    }};
}

/// VMXON with its operand in memory.
pub fn vmxon() {
    let region = 0_u64;
    let _ = probed!("vmxon [rax]", (&raw const region) as u64, 0_u64, 0_u64);
}

/// VMCALL, Intel's.
pub fn vmcall() {
    let _ = probed!("vmcall", 0_u64, 0_u64, 0_u64);
}

/// VMMCALL, AMD's.
pub fn vmmcall() {
    let _ = probed!("vmmcall", 0_u64, 0_u64, 0_u64);
}

/// VMRUN of the control block at 1 MiB.
pub fn vmrun() {
    let _ = probed!(".byte 0x0f, 0x01, 0xd8", 0x10_0000_u64, 0_u64, 0_u64);
}

/// RDMSR; nothing useful if it is not there.
pub fn read_msr(index: u32) -> u64 {
    let (low, high) = probed!("rdmsr", 0_u64, u64::from(index), 0_u64);
    (high << 32) | (low & 0xffff_ffff)
}

/// WRMSR, of a value that was read or of 0.
pub fn put_msr(index: u32, value: u64) {
    let _ = probed!("wrmsr", value & 0xffff_ffff, u64::from(index), value >> 32);
}

/// WRMSR of a register that is there.
pub fn write_msr(index: u32, value: u64) {
    // SAFETY: callers write the local APIC's registers alone, which change no memory.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
    };
}

/// Time stamp counter, after all that comes before.
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: LFENCE and RDTSC change nothing else.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, nomem)) };
    u64::from(high) << 32 | u64::from(low)
}

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32) -> [u32; 4] {
    let answer = __cpuid_count(leaf, 0);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// Takes interrupts for one instruction's time.
pub fn breathe() {
    // SAFETY: the stubs are in place; between STI and CLI one interrupt or more is taken.
    unsafe { asm!("sti", "nop", "cli") };
}

/// Sleeps until an interrupt has been taken.
pub fn sleep() {
    // SAFETY: the stubs are in place; STI holds interrupts back until HLT waits for them.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Sleeps for good: nothing wakes it.
pub fn doze() -> ! {
    loop {
        // SAFETY: HLT with interrupts off only waits.
        unsafe { asm!("cli", "hlt") };
    }
}

/// Reads 32 bits of physical memory or a device.
pub fn read32(address: u64) -> u32 {
    // SAFETY: the first 4 GiB are mapped one to one; tables and devices that are read are no Rust
    // objects, and reading what nobody claims is what the tests want.
    unsafe { (address as *const u32).read_volatile() }
}

/// Reads 1, 2, 4 or 8 bytes like [`read32`].
pub fn read(address: u64, size: u32) -> u64 {
    // SAFETY: as for `read32`.
    unsafe {
        match size {
            1 => u64::from((address as *const u8).read_volatile()),
            2 => u64::from((address as *const u16).read_volatile()),
            4 => u64::from((address as *const u32).read_volatile()),
            _ => (address as *const u64).read_volatile(),
        }
    }
}

/// Writes 32 bits of a device, or of nothing: never of RAM. What it makes a device write is the caller's to choose.
pub fn write32(address: u64, value: u32) {
    // SAFETY: callers pass addresses above all RAM, which is at most 3 GiB.
    unsafe { (address as *mut u32).write_volatile(value) };
}

/// Writes 64 bits of what a probe has just read, or to nothing.
pub fn write64(address: u64, value: u64) {
    // SAFETY: `probe.rs` writes back what it has read, with interrupts off and nobody else there, or to addresses without
    // memory; both change nothing.
    unsafe { (address as *mut u64).write_volatile(value) };
}

/// The memory map: first byte, bytes, kind (ACPI 6.5, table 15.1).
pub fn memory_map() -> impl Iterator<Item = (u64, u64, u32)> {
    let page = ZERO_PAGE.load(Ordering::Relaxed);
    (0..read(page + MAP_ENTRIES, 1)).map(move |index| {
        let at = page + MAP + index * 20;
        (read(at, 8), read(at + 8, 8), read32(at + 16))
    })
}

/// Where a guest-physical address can be seen until the next call.
pub fn map_window(address: u64) -> u64 {
    const PRESENT_WRITE: u64 = 3;
    const LARGE: u64 = 0x80;
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    let entry = (address & !(WINDOW_SIZE - 1)) | PRESENT_WRITE | LARGE;
    if let Some(first) = DIRECTORY.0.first() {
        first.store(entry, Ordering::Relaxed);
    }
    let root: u64;
    // SAFETY: reading CR3 changes nothing.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nostack, nomem)) };
    let pointers = read(root & FRAME, 8) & FRAME;
    let place = pointers + (WINDOW >> 30) * 8;
    let directory = (&raw const DIRECTORY) as u64 | PRESENT_WRITE;
    // SAFETY: the entry of the page-directory-pointer table for the window, which nothing else uses; the tables that the
    // loader made are mapped one to one, and so is this program.
    unsafe { (place as *mut u64).write_volatile(directory) };
    // SAFETY: the window is seen anew; no Rust object lies in it.
    unsafe { asm!("invlpg [{}]", in(reg) WINDOW, options(nostack)) };
    WINDOW + address % WINDOW_SIZE
}

/// IN of 8 bits.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: an IN changes no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, nomem)) };
    value
}

/// IN of 16 bits.
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as for `in8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, nomem)) };
    value
}

/// IN of 32 bits.
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as for `in8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, nomem)) };
    value
}

/// OUT of 8 bits.
pub fn out8(port: u16, value: u8) {
    // SAFETY: no device of this machine touches memory for the ports used here.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, nomem)) };
}

/// OUT of 16 bits.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as for `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, nomem)) };
}
