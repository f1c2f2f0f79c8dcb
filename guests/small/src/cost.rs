//! What an exit costs as the guest sees it: from an instruction to the next, in ticks of the time stamp counter, the mean of
//! many. Kernel and monitor together; in Bochs a tick is an instruction.

use crate::machine::{cpuid, in8, in32, out8, read_msr, read32, tsc, write_msr, write32};
use crate::println;

/// How often each is done.
const ROUNDS: u64 = 1000;
/// A port that everybody has and that does nothing; COM1's line status; the ACPI timer.
const DELAY: u16 = 0x80;
const LINE_STATUS: u16 = 0x3fd;
const PM_TIMER: u16 = 0x608;
/// IA32_APIC_BASE, IA32_TSC_DEADLINE.
const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
/// The local APIC's task priority.
const TASK_PRIORITY: u64 = 0xfee0_0080;

/// An instruction that the monitor carries out.
type Exit = fn();

/// One row for each kind of exit.
const ROWS: [(&str, Exit); 8] = [
    ("out", || out8(DELAY, 0)),
    ("in", || {
        in8(LINE_STATUS);
    }),
    ("timer", || {
        in32(PM_TIMER);
    }),
    ("cpuid", || {
        cpuid(1);
    }),
    ("rdmsr", || {
        read_msr(APIC_BASE);
    }),
    ("wrmsr", || write_msr(TSC_DEADLINE, 0)),
    ("load", || {
        read32(TASK_PRIORITY);
    }),
    ("store", || write32(TASK_PRIORITY, 0)),
];

/// Prints the rows.
pub fn rows() {
    for (name, exit) in ROWS {
        // The first may find something in other places than the rest do.
        exit();
        let begun = tsc();
        for _ in 0..ROUNDS {
            exit();
        }
        println!("small: cost of {name:8} {}", (tsc() - begun) / ROUNDS);
    }
}
