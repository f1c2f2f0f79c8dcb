//! The time interface that Linux knows from KVM: how fast the TSC is, and when the guest began.
//!
//! Without it a guest measures its TSC against a timer, which under an emulator's load goes wrong.
//! Only the clock is offered: two registers through which the guest names memory that is filled
//! once. The TSC never changes its rate here, so nothing is updated later.
//! Source: Linux `Documentation/virt/kvm/x86/msr.rst` and `cpuid.rst`.
use crate::cpuid::Leaf;
use crate::memory::GuestMemory;

/// First leaf of this interface; ours proper is at 0x40000000.
pub const LEAF: u32 = 0x4000_0100;
/// KVM_FEATURE_NOP_IO_DELAY, KVM_FEATURE_CLOCKSOURCE2, KVM_FEATURE_CLOCKSOURCE_STABLE_BIT.
const FEATURES: u32 = (1 << 1) | (1 << 3) | (1 << 24);
/// Register: where the time of the start goes.
pub const WALL_CLOCK: u32 = 0x4b56_4d00;
/// Register: where a processor's time goes; bit 0 switches it on.
pub const SYSTEM_TIME: u32 = 0x4b56_4d01;
/// The TSC of all processors agrees.
const STABLE: u8 = 1;

/// What the guest is told about time.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// TSC frequency.
    pub tsc_khz: u32,
    /// The guest's TSC at guest time 0.
    pub tsc_zero: u64,
    /// Seconds since 1970 at guest time 0.
    pub epoch: u64,
}

/// The answer to a leaf of this interface.
pub fn leaf(eax: u32) -> Leaf {
    match eax {
        LEAF => Leaf {
            eax: LEAF + 1,
            ebx: u32::from_le_bytes(*b"KVMK"),
            ecx: u32::from_le_bytes(*b"VMKV"),
            edx: u32::from_le_bytes(*b"M\0\0\0"),
        },
        0x4000_0101 => Leaf { eax: FEATURES, ..Leaf::default() },
        _ => Leaf::default(),
    }
}

/// Carries out a write of one of the registers; false if it is none, or the memory is not RAM.
pub fn write(index: u32, value: u64, memory: &GuestMemory, time: &Time) -> bool {
    match index {
        WALL_CLOCK => {
            let mut bytes = [0u8; 12];
            put(&mut bytes, 0, &2u32.to_le_bytes());
            put(&mut bytes, 4, &(time.epoch as u32).to_le_bytes());
            memory.write(value, &bytes).is_ok()
        }
        SYSTEM_TIME if value & 1 == 0 => true,
        SYSTEM_TIME => {
            let (multiplier, shift) = scale(time.tsc_khz);
            let mut bytes = [0u8; 32];
            put(&mut bytes, 0, &2u32.to_le_bytes());
            put(&mut bytes, 8, &time.tsc_zero.to_le_bytes());
            put(&mut bytes, 24, &multiplier.to_le_bytes());
            put(&mut bytes, 28, &[shift as u8, STABLE]);
            memory.write(value & !1, &bytes).is_ok()
        }
        _ => false,
    }
}

/// Nanoseconds = (ticks << shift) * multiplier >> 32, with a negative shift to the right; the
/// largest multiplier that fits 32 bits.
fn scale(tsc_khz: u32) -> (u32, i8) {
    let khz = u128::from(tsc_khz.max(1));
    let mut shift = 31i8;
    loop {
        let multiplier = (1_000_000u128 << 32) / khz;
        let multiplier =
            if shift >= 0 { multiplier >> shift } else { multiplier << shift.unsigned_abs() };
        if multiplier > u128::from(u32::MAX) {
            // One step too far: only possible for a TSC below 0.5 Hz.
            return (u32::MAX, shift);
        }
        if multiplier >= 1 << 31 || shift == -31 {
            return (multiplier as u32, shift);
        }
        shift -= 1;
    }
}

fn put(bytes: &mut [u8], at: usize, from: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(from) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    /// As Linux computes it (`pvclock_scale_delta`).
    fn nanoseconds(ticks: u64, multiplier: u32, shift: i8) -> u64 {
        let ticks =
            if shift < 0 { ticks >> shift.unsigned_abs() } else { ticks << shift.unsigned_abs() };
        ((u128::from(ticks) * u128::from(multiplier)) >> 32) as u64
    }

    #[test]
    fn a_second_of_ticks_is_a_second() {
        for khz in [100_000u32, 200_000, 999_999, 1_000_000, 2_450_786, 5_000_000] {
            let (multiplier, shift) = scale(khz);
            let second = nanoseconds(u64::from(khz) * 1000, multiplier, shift);
            assert!(second.abs_diff(1_000_000_000) < 100, "{khz}: {second}");
        }
    }

    #[test]
    fn the_registers_fill_memory_and_refuse_the_rest() {
        let words: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
        let memory = GuestMemory::new(&words);
        let time = Time { tsc_khz: 1_000_000, tsc_zero: 5, epoch: 99 };
        assert!(write(SYSTEM_TIME, 0x101, &memory, &time));
        assert_eq!(memory.read_number(0x108, 8), Ok(5));
        assert_eq!(memory.read_number(0x11d, 1), Ok(1));
        assert!(write(WALL_CLOCK, 0x200, &memory, &time));
        assert_eq!(memory.read_number(0x204, 4), Ok(99));
        assert!(!write(SYSTEM_TIME, 0xffff_f001, &memory, &time));
        assert!(!write(0x4b56_4d02, 0, &memory, &time));
        assert_eq!(leaf(LEAF).ebx.to_le_bytes(), *b"KVMK");
    }
}
