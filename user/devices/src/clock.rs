//! Conversions between guest nanoseconds and the ticks of a device's oscillator.
//!
//! Both directions are exact to one tick and never overflow: products are formed in 128 bits and
//! results saturate.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// An oscillator that started at guest time 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    hz: u64,
}

impl Clock {
    /// An oscillator of `hz` ticks a second; 0 is taken as 1.
    #[must_use]
    pub const fn new(hz: u64) -> Self {
        Self { hz: if hz == 0 { 1 } else { hz } }
    }

    /// Ticks a second.
    #[must_use]
    pub const fn hz(self) -> u64 {
        self.hz
    }

    /// Whole ticks completed at `now_ns`.
    #[must_use]
    pub fn ticks(self, now_ns: u64) -> u64 {
        scale(now_ns, self.hz, SECOND, 0)
    }

    /// The first nanosecond at which `ticks` ticks are completed.
    #[must_use]
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        scale(ticks, SECOND, self.hz, self.hz - 1)
    }
}

/// `(value * by + round) / over`, saturating; `over` is not 0.
fn scale(value: u64, by: u64, over: u64, round: u64) -> u64 {
    let product = u128::from(value) * u128::from(by) + u128::from(round);
    u64::try_from(product / u128::from(over.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_at_its_nanosecond_and_not_before() {
        for hz in [1, 1_193_182, 3_579_545, 1_000_000_000, 3_300_000_001] {
            let clock = Clock::new(hz);
            for ticks in [1, 2, 3, 1000, 65_535, 1 << 33] {
                let at = clock.nanoseconds(ticks);
                assert!(clock.ticks(at) >= ticks);
                assert!(clock.ticks(at - 1) < ticks);
            }
        }
        assert_eq!(Clock::new(1 << 63).ticks(u64::MAX), u64::MAX);
        assert_eq!(Clock::new(0).ticks(SECOND), 1);
    }
}
