//! Segment, gate and task-state formats (Intel SDM vol. 3, 3.4.5, 5.8.3, 6.14.1, 7.7).

/// Kernel code.
pub const KERNEL_CS: u16 = 0x08;
/// Kernel data; SYSCALL loads it as SS (STAR bits 47:32, plus 8).
pub const KERNEL_SS: u16 = 0x10;
/// Base of the user selectors for SYSRET: SS is this plus 8, CS this plus 16 (STAR bits 63:48).
pub const SYSRET_BASE: u16 = 0x18;
/// User data, requested privilege 3.
pub const USER_SS: u16 = 0x23;
/// User code, requested privilege 3.
pub const USER_CS: u16 = 0x2b;
/// Task state.
pub const TASK: u16 = 0x30;
/// Entries of a CPU's descriptor table; the last two are the task-state descriptor.
pub const GDT_ENTRIES: usize = 8;

/// The table without a task state: accessed bits are set, so the CPU never writes to it.
pub const GDT: [u64; GDT_ENTRIES] = [
    0,
    0x00af_9b00_0000_ffff, // kernel code: present, ring 0, execute/read, 64-bit
    0x00cf_9300_0000_ffff, // kernel data
    0,                     // where 32-bit user code would be
    0x00cf_f300_0000_ffff, // user data, ring 3
    0x00af_fb00_0000_ffff, // user code, ring 3, 64-bit
    0,
    0,
];

/// Type "available 64-bit task state", present.
const TASK_AVAILABLE: u64 = 0x89 << 40;
/// The bit that LTR sets in the type.
pub const TASK_BUSY: u64 = 1 << 41;

/// The two words of a task-state descriptor.
#[must_use]
pub const fn task(base: u64, limit: u32) -> [u64; 2] {
    let limit = limit as u64;
    let low = (limit & 0xffff)
        | (base & 0x00ff_ffff) << 16
        | TASK_AVAILABLE
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// An interrupt gate (interrupts off on entry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Gate([u64; 2]);

impl Gate {
    /// Present nowhere.
    pub const EMPTY: Self = Self([0; 2]);

    /// To `handler`, on interrupt stack `stack` (0: the usual one; else 1 to 7), callable by software
    /// in rings up to `ring`.
    #[must_use]
    pub const fn new(handler: u64, stack: u8, ring: u8) -> Self {
        let low = (handler & 0xffff)
            | (KERNEL_CS as u64) << 16
            | (stack as u64 & 7) << 32
            | (0x8e | (ring as u64 & 3) << 5) << 40
            | (handler >> 16 & 0xffff) << 48;
        Self([low, handler >> 32])
    }
}

/// Bytes of a 64-bit task state without its I/O bitmap.
pub const TASK_STATE_BYTES: usize = 104;
/// Offset of RSP0 in it.
pub const TASK_RSP0: usize = 4;
/// Offset of interrupt stack 1 in it; the others follow, 8 bytes each.
pub const TASK_IST1: usize = 36;
/// Offset of the 16-bit distance to the I/O bitmap.
pub const TASK_IO_BITMAP: usize = 102;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_descriptor_as_the_manual_draws_it() {
        let [low, high] = task(0xffff_feff_ffff_c080, 0x5f80);
        assert_eq!(low, 0xff00_89ff_c080_5f80);
        assert_eq!(high, 0xffff_feff);
    }

    #[test]
    fn a_gate_as_the_manual_draws_it() {
        let gate = Gate::new(0xffff_ffff_8012_3456, 2, 3);
        assert_eq!(gate.0, [0x8012_ee02_0008_3456, 0xffff_ffff]);
    }
}
