//! Last words: everything a person needs to find out why the kernel stopped, on COM1 and in a buffer
//! that a debugger can read.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use x86_64::instructions::tables::{sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr2, Cr3, Cr4};

use super::layout::{IMAGE, guarded_cpu};
use super::{apic, descriptors, msr, percpu, pic, screen, serial, tables, traps};
use crate::Registers;

/// Bytes of last words kept.
const KEPT: usize = 8192;

/// The last words, for a debugger: `x/s last_words`.
#[repr(C)]
struct LastWords {
    length: AtomicUsize,
    text: UnsafeCell<[u8; KEPT]>,
}

// SAFETY: written only by the one CPU that won `DYING`.
unsafe impl Sync for LastWords {}

#[unsafe(no_mangle)]
static last_words: LastWords =
    LastWords { length: AtomicUsize::new(0), text: UnsafeCell::new([0; KEPT]) };

/// The CPU that is dying, plus one.
static DYING: AtomicU32 = AtomicU32::new(0);

/// Writes last words; only one CPU ever gets one.
pub struct Epitaph(());

impl Epitaph {
    /// Stops all other CPUs; a second CPU that comes here stops too. A failure while dying stops at
    /// once.
    pub fn begin() -> Self {
        let me = percpu::cpu_number() as u32 + 1;
        if DYING.compare_exchange(0, me, Relaxed, Relaxed).is_err() {
            stop();
        }
        traps::nmi_stops();
        apic::stop_others();
        Self(())
    }

    /// The end of this CPU.
    pub fn end(self) -> ! {
        stop()
    }
}

impl Write for Epitaph {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        serial::send(text.as_bytes());
        screen::send(text.as_bytes());
        for byte in text.bytes() {
            let at = last_words.length.load(Relaxed);
            if at + 1 < KEPT {
                // SAFETY: `at` is below `KEPT`; this CPU alone writes (see `begin`).
                unsafe { last_words.text.get().cast::<u8>().add(at).write(byte) };
                last_words.length.store(at + 1, Relaxed);
            }
        }
        Ok(())
    }
}

/// Sleeps for ever, interrupts off.
pub fn stop() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Names of the exceptions (Intel SDM vol. 3, table 6-1).
const NAMES: [&str; 32] = [
    "divide error",
    "debug",
    "NMI",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "reserved",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualization",
    "control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "hypervisor injection",
    "VMM communication",
    "security",
    "reserved",
];

/// An exception in the kernel that nothing can repair.
pub fn exception(registers: &Registers) -> ! {
    let mut out = Epitaph::begin();
    let _ = describe(&mut out, registers);
    let _ = registers_of(&mut out, registers);
    let _ = backtrace(&mut out, registers.rip, registers.rbp);
    out.end()
}

fn describe(out: &mut Epitaph, registers: &Registers) -> fmt::Result {
    let vector = (registers.vector & 0xff) as u8;
    let pushed = registers.vector & traps::NO_ERROR_PUSHED == 0;
    let name = NAMES.get(usize::from(vector)).unwrap_or(&"interrupt");
    writeln!(out, "\n*** CPU {} stopped in the kernel: ", percpu::cpu_number())?;
    let has_error = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
    match (has_error, pushed) {
        (true, false) => writeln!(
            out,
            "an interrupt landed on exception vector {vector} ({name}): no error code was pushed{}",
            if pic::in_service(vector) { "; the 8259 has it in service" } else { "" }
        ),
        (true, true) => {
            writeln!(out, "exception {vector} ({name}), error code {:#x} pushed", registers.error)
        }
        _ => writeln!(out, "exception {vector} ({name}), which pushes no error code"),
    }?;
    let address = Cr2::read_raw();
    match guarded_cpu(address) {
        Some(cpu) if matches!(vector, 8 | 14) => {
            writeln!(
                out,
                "the kernel stack of CPU {cpu} overflowed ({address:#x} is its guard page)"
            )
        }
        _ if matches!(vector, 8 | 14) && tables::is_boot_guard(address) => {
            writeln!(out, "the boot stack overflowed ({address:#x} is its guard page)")
        }
        _ => Ok(()),
    }
}

fn registers_of(out: &mut Epitaph, r: &Registers) -> fmt::Result {
    writeln!(out, "rip {:016x} cs {:04x} rflags {:08x}", r.rip, r.cs, r.rflags)?;
    writeln!(out, "rsp {:016x} ss {:04x} tr {:04x}", r.rsp, r.ss, descriptors::task_register())?;
    writeln!(out, "rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx)?;
    writeln!(out, "rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", r.rsi, r.rdi, r.rbp, r.r8)?;
    writeln!(out, "r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", r.r9, r.r10, r.r11, r.r12)?;
    writeln!(out, "r13 {:016x} r14 {:016x} r15 {:016x}", r.r13, r.r14, r.r15)?;
    let (root, flags) = Cr3::read_raw();
    writeln!(
        out,
        "cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x}",
        Cr0::read_raw(),
        Cr2::read_raw(),
        root.start_address().as_u64() | u64::from(flags),
        Cr4::read_raw(),
        msr::read_msr(0xc000_0080).unwrap_or(0)
    )?;
    let (gdt, idt) = (sgdt(), sidt());
    let (gdt_base, gdt_limit, idt_base, idt_limit) = (gdt.base, gdt.limit, idt.base, idt.limit);
    writeln!(
        out,
        "gdt {gdt_base:p}+{gdt_limit:x} idt {idt_base:p}+{idt_limit:x} gs {:p}",
        percpu::local()
    )
}

/// Return addresses by frame pointers, as long as they look like the kernel's. Turn them into lines
/// with `addr2line -e hematite.elf64`.
pub fn backtrace(out: &mut Epitaph, rip: u64, mut frame: u64) -> fmt::Result {
    writeln!(out, "backtrace (addr2line -fie hematite.elf64):\n  {rip:#x}")?;
    for _ in 0..32 {
        if !frame.is_multiple_of(8) || !tables::is_stack(frame) || !tables::is_stack(frame + 8) {
            break;
        }
        // SAFETY: both words lie on a mapped kernel stack.
        let (next, address) = unsafe { (*(frame as *const u64), *((frame + 8) as *const u64)) };
        if address < IMAGE {
            break;
        }
        writeln!(out, "  {address:#x}")?;
        if next <= frame {
            break;
        }
        frame = next;
    }
    Ok(())
}

/// A backtrace of the caller.
pub fn backtrace_here(out: &mut Epitaph) {
    let (rip, frame): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        core::arch::asm!("lea {}, [rip]", "mov {}, rbp", out(reg) rip, out(reg) frame,
            options(nomem, nostack, preserves_flags));
    }
    let _ = backtrace(out, rip, frame);
}

/// A machine check: the end unless the CPU says that the program can go on.
#[unsafe(no_mangle)]
extern "C" fn machine_check() {
    const STATUS: u32 = 0x17a;
    const CAN_GO_ON: u64 = 1;
    let status = msr::read_msr(STATUS).unwrap_or(0);
    if status & CAN_GO_ON != 0 && msr::write_msr(STATUS, 0).is_ok() {
        return;
    }
    let mut out = Epitaph::begin();
    let _ =
        writeln!(out, "\n*** CPU {}: machine check, MCG_STATUS {status:#x}", percpu::cpu_number());
    for bank in 0..32u32 {
        if let Ok(bits) = msr::read_msr(0x401 + 4 * bank)
            && bits >> 63 != 0
        {
            let address = msr::read_msr(0x402 + 4 * bank).unwrap_or(0);
            let _ = writeln!(out, "bank {bank}: status {bits:#x} address {address:#x}");
        }
    }
    out.end()
}
