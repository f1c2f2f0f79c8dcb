//! From the mode in which firmware left a local APIC to the one the kernel wants (Intel SDM vol. 3, 10.12.5).
//!
//! ```text
//!   off --> xAPIC --> x2APIC          back only through off; firmware may have locked that (10.12.1.1: then
//!                                     IA32_APIC_BASE faults on any write that would leave x2APIC)
//! ```

/// Bits of IA32_APIC_BASE: on, x2APIC.
pub const ENABLED: u64 = 1 << 11;
/// See [`ENABLED`].
pub const X2APIC_ON: u64 = 1 << 10;

/// What to write to IA32_APIC_BASE, in this order; nothing where it is right already. A value that firmware left in x2APIC mode is
/// never written with less: the mode stays, even where `wanted` does not ask for it.
#[must_use]
pub fn writes(found: u64, wanted: bool) -> [Option<u64>; 2] {
    let on = found | ENABLED;
    let first = (found & ENABLED == 0).then_some(found & !X2APIC_ON | ENABLED);
    let already = found & (ENABLED | X2APIC_ON) == ENABLED | X2APIC_ON;
    [first, (wanted && !already).then_some(on | X2APIC_ON)]
}

/// Whether the registers are MSRs, by what IA32_APIC_BASE says after the writes.
#[must_use]
pub fn is_x2apic(base: u64) -> bool {
    base & (ENABLED | X2APIC_ON) == ENABLED | X2APIC_ON
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xfee0_0000 | 1 << 8;

    /// The register of a CPU: which writes it takes.
    struct Cpu {
        base: u64,
        has_x2apic: bool,
        locked: bool,
    }

    impl Cpu {
        /// As table 10-5 and figure 10-27 have it; false for #GP.
        fn write(&mut self, value: u64) -> bool {
            let modes = ENABLED | X2APIC_ON;
            let allowed = match (self.base & modes, value & modes) {
                (_, X2APIC_ON) => false,
                (was, is) if was == is => true,
                (0, is) => is == ENABLED,
                (ENABLED, 0) => true,
                (ENABLED, _) => self.has_x2apic,
                // From x2APIC: off only, and not even that where firmware locked it.
                (_, is) => is == 0 && !self.locked,
            };
            if allowed {
                self.base = value;
            }
            allowed
        }

        fn bring_up(&mut self, wanted: bool) {
            for value in writes(self.base, wanted).into_iter().flatten() {
                assert!(self.write(value), "{:#x} over {:#x} faults", value, self.base);
            }
        }
    }

    #[test]
    fn every_mode_that_firmware_leaves_is_taken_without_a_fault() {
        for mode in [0, ENABLED, ENABLED | X2APIC_ON] {
            for (has_x2apic, wanted) in [(false, false), (true, false), (true, true)] {
                if mode & X2APIC_ON != 0 && !has_x2apic {
                    continue;
                }
                let mut cpu = Cpu { base: BASE | mode, has_x2apic, locked: false };
                cpu.bring_up(wanted);
                assert_eq!(cpu.base & ENABLED, ENABLED);
                assert_eq!(is_x2apic(cpu.base), wanted || mode & X2APIC_ON != 0);
                assert_eq!(cpu.base & !(ENABLED | X2APIC_ON), BASE, "the rest stays");
            }
        }
    }

    #[test]
    fn x2apic_locked_on_by_firmware_stays_and_is_used() {
        for wanted in [false, true] {
            let mut cpu = Cpu { base: BASE | ENABLED | X2APIC_ON, has_x2apic: true, locked: true };
            assert!(!cpu.write(BASE | ENABLED), "the lock of the test holds");
            cpu.bring_up(wanted);
            // Written nothing: nothing can fault, and registers are MSRs, whatever was wanted.
            assert_eq!(writes(cpu.base, wanted), [None, None]);
            assert!(is_x2apic(cpu.base));
        }
    }
}
