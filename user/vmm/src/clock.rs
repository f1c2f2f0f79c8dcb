//! Guest time from the processor's time-stamp counter, and back.
//!
//! Asked at every exit. Whole milliseconds and the rest are converted apart, so that 64 bits suffice: the results are those of
//! 128-bit arithmetic, to the last bit, without its divisions.
use crate::machine::Now;

/// Nanoseconds in a millisecond.
const MS: u64 = 1_000_000;

/// Guest time: nanoseconds since the guest's beginning.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: u64,
    khz: u32,
}

impl Clock {
    /// A clock that began at a value of the time-stamp counter, which counts `khz` thousand ticks a second (0 is taken as 1).
    pub fn new(zero: u64, khz: u32) -> Self {
        Self { zero, khz: khz.max(1) }
    }

    /// The time-stamp counter at guest time 0.
    pub fn zero(&self) -> u64 {
        self.zero
    }

    /// The instant of a value of the time-stamp counter: whole nanoseconds that have passed. Before the beginning is the
    /// beginning; saturates.
    pub fn at(&self, tsc: u64) -> Now {
        let khz = u64::from(self.khz);
        let ticks = tsc.saturating_sub(self.zero);
        let ns = (ticks / khz).saturating_mul(MS);
        Now { ns: ns.saturating_add(ticks % khz * MS / khz), tsc }
    }

    /// The first value of the time-stamp counter at which so many nanoseconds have passed; saturates.
    pub fn tsc_at(&self, ns: u64) -> u64 {
        let khz = u64::from(self.khz);
        let ticks = (ns / MS).saturating_mul(khz);
        let rest = (ns % MS * khz).div_ceil(MS);
        self.zero.saturating_add(ticks.saturating_add(rest))
    }

    /// Ticks of so many milliseconds; saturates.
    pub fn ticks_from_ms(&self, ms: u64) -> u64 {
        ms.saturating_mul(u64::from(self.khz))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide_ns(clock: &Clock, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(clock.zero));
        u64::try_from(ticks * 1_000_000 / u128::from(clock.khz)).unwrap_or(u64::MAX)
    }

    fn wide_tsc(clock: &Clock, ns: u64) -> u64 {
        let ticks = (u128::from(ns) * u128::from(clock.khz)).div_ceil(1_000_000);
        clock.zero.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    #[test]
    fn as_with_128_bits() {
        let edges = [0, 1, 2, 999_999, 1_000_000, 1_000_001, u64::MAX / 2, u64::MAX - 1, u64::MAX];
        let mut seed = 3_u64;
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed ^ seed >> 29
        };
        for khz in [0, 1, 7, 999_983, 1_000_000, 2_904_123, 4_200_001, u32::MAX] {
            for zero in [0, 12_345, 1 << 62] {
                let clock = Clock::new(zero, khz);
                let mut values = edges.to_vec();
                values.extend((0..20_000).map(|round| next() >> (round % 64)));
                for value in values {
                    assert_eq!(clock.at(value).ns, wide_ns(&clock, value), "{clock:?} {value}");
                    assert_eq!(clock.tsc_at(value), wide_tsc(&clock, value), "{clock:?} {value}");
                }
            }
        }
    }

    #[test]
    fn a_deadline_is_over_when_its_tick_has_come() {
        for khz in [1_000, 199_995, 2_904_123] {
            let clock = Clock::new(1000, khz);
            for ns in [1, 999, 1_000_003, 86_400_000_000_000] {
                let tsc = clock.tsc_at(ns);
                assert!(clock.at(tsc).ns >= ns && clock.at(tsc - 1).ns < ns);
            }
        }
        assert_eq!(Clock::new(0, 3000).ticks_from_ms(2), 6000);
        assert_eq!(Clock::new(500, 1000).at(3).ns, 0);
    }
}
