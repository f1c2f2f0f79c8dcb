//! Names interrupt vectors. 0 to 31 are the processor's own (Intel SDM vol. 3, 6.3.1).

/// The first vector that user programs may configure (abi.md 13).
pub const USER_FIRST: u8 = 32;
/// How many vectors user programs may configure per CPU.
pub const USER_COUNT: u8 = 192;
/// This CPU's timer.
pub const TIMER: u8 = 0xf0;
/// Another CPU asks this one to look at its run queue.
pub const RESCHEDULE: u8 = 0xf1;
/// Another CPU asks this one to flush translations or to pass a quiescent state.
pub const SHOOTDOWN: u8 = 0xf2;
/// Thermal sensor of this CPU, when no user vector is assigned to it.
pub const LVT_THERMAL: u8 = 0xf3;
/// Local APIC error.
pub const ERROR: u8 = 0xfe;
/// Local APIC spurious interrupt: needs no end-of-interrupt (Intel SDM vol. 3, 10.9).
pub const SPURIOUS: u8 = 0xff;
