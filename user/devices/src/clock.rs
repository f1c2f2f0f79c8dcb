//! Conversions between guest nanoseconds and the ticks of a device's oscillator.
//!
//! Both directions are exact to one tick. Whole seconds and the rest are converted apart, so 64
//! bits suffice (a 128-bit division would cost more than the rest of most exits); results saturate.

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// The fastest oscillator, ticks a second: a second's worth of nanoseconds times this fits 64 bits.
pub const FASTEST: u64 = 18_000_000_000;

/// An oscillator that started at guest time 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    hz: u64,
}

impl Clock {
    /// An oscillator of `hz` ticks a second; 0 is taken as 1, and more than [`FASTEST`] as that.
    #[must_use]
    pub const fn new(hz: u64) -> Self {
        Self {
            hz: match hz {
                0 => 1,
                1..FASTEST => hz,
                _ => FASTEST,
            },
        }
    }

    /// Ticks a second.
    #[must_use]
    pub const fn hz(self) -> u64 {
        self.hz
    }

    /// Whole ticks completed at `now_ns`.
    #[must_use]
    pub fn ticks(self, now_ns: u64) -> u64 {
        let whole = (now_ns / SECOND).saturating_mul(self.hz);
        whole.saturating_add((now_ns % SECOND) * self.hz / SECOND)
    }

    /// The first nanosecond at which `ticks` ticks are completed.
    #[must_use]
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        let whole = (ticks / self.hz).saturating_mul(SECOND);
        whole.saturating_add(((ticks % self.hz) * SECOND).div_ceil(self.hz))
    }
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
        assert_eq!(Clock::new(1 << 63).hz(), FASTEST);
        assert_eq!(Clock::new(1 << 63).ticks(u64::MAX), u64::MAX);
        assert_eq!(Clock::new(1).nanoseconds(u64::MAX), u64::MAX);
        assert_eq!(Clock::new(0).ticks(SECOND), 1);
    }
}
