//! The timer of a local APIC (Intel SDM vol. 3, 11.5.4): one-shot, periodic, TSC deadline.

use crate::clock::Clock;

/// Ticks a second before the divider; what a guest finds by calibration.
pub const BUS_HZ: u64 = 1_000_000_000;
/// Shorter periods are stretched to this, nanoseconds: a guest that programs a period of a few
/// ticks must not keep the monitor from everything else.
const SHORTEST_PERIOD: u64 = 20_000;

/// What the LVT says about counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    Deadline,
}

/// The counter; masking and the vector are the LVT's business.
#[derive(Debug, Clone)]
pub(super) struct Timer {
    mode: TimerMode,
    initial: u32,
    /// The divide configuration register.
    pub divide: u32,
    /// When the count reaches zero or the deadline passes, guest nanoseconds.
    expires: Option<u64>,
    /// IA32_TSC_DEADLINE.
    deadline: u64,
    tsc: Clock,
    /// Guest TSC minus ticks of `tsc` since guest time 0.
    tsc_offset: u64,
}

impl Timer {
    pub fn new(tsc: Clock) -> Self {
        Self {
            mode: TimerMode::OneShot,
            initial: 0,
            divide: 0,
            expires: None,
            deadline: 0,
            tsc,
            tsc_offset: 0,
        }
    }

    /// After INIT: stopped; the TSC goes on.
    pub fn reset(&mut self) {
        *self = Self { tsc_offset: self.tsc_offset, ..Self::new(self.tsc) };
    }

    /// Bus ticks (which are nanoseconds) per count.
    fn divisor(&self) -> u64 {
        match self.divide & 3 | (self.divide >> 1) & 4 {
            7 => 1,
            power => 2 << power,
        }
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }

    pub fn set_mode(&mut self, mode: TimerMode) {
        // Entering or leaving deadline mode disarms the timer.
        if mode != self.mode && (mode == TimerMode::Deadline || self.mode == TimerMode::Deadline) {
            self.expires = None;
            self.deadline = 0;
            self.initial = 0;
        }
        self.mode = mode;
    }

    pub fn set_divide(&mut self, divide: u32, now_ns: u64) {
        let left = self.current(now_ns);
        self.divide = divide & 0xb;
        if self.mode != TimerMode::Deadline && self.expires.is_some() {
            self.expires = now_ns.checked_add(u64::from(left) * self.divisor());
        }
    }

    /// The initial count register.
    pub fn initial(&self) -> u32 {
        self.initial
    }

    pub fn set_initial(&mut self, count: u32, now_ns: u64) {
        if self.mode == TimerMode::Deadline {
            return;
        }
        self.initial = count;
        self.expires = if count == 0 { None } else { now_ns.checked_add(self.period()) };
    }

    /// The current count register.
    pub fn current(&self, now_ns: u64) -> u32 {
        match (self.mode, self.expires) {
            (TimerMode::Deadline, _) | (_, None) => 0,
            (_, Some(at)) => {
                let left = at.saturating_sub(now_ns).div_ceil(self.divisor());
                u32::try_from(left).unwrap_or(u32::MAX).min(self.initial)
            }
        }
    }

    /// IA32_TSC_DEADLINE; 0 when disarmed or in another mode.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    pub fn set_deadline(&mut self, deadline: u64, now_ns: u64) {
        if self.mode != TimerMode::Deadline {
            return;
        }
        self.deadline = deadline;
        let ticks = self.tsc.ticks(now_ns);
        let wait = deadline.saturating_sub(ticks.wrapping_add(self.tsc_offset));
        self.expires =
            (deadline != 0).then(|| self.tsc.nanoseconds(ticks.saturating_add(wait)).max(now_ns));
    }

    pub fn set_tsc_offset(&mut self, offset: u64, now_ns: u64) {
        self.tsc_offset = offset;
        self.set_deadline(self.deadline, now_ns);
    }

    /// Lets time pass; whether the timer has expired at least once since the last call.
    pub fn advance(&mut self, now_ns: u64) -> bool {
        let Some(at) = self.expires.filter(|at| *at <= now_ns) else { return false };
        self.expires = if self.mode == TimerMode::Periodic && self.initial != 0 {
            let period = self.period().max(SHORTEST_PERIOD);
            let passed = (now_ns - at) / period + 1;
            passed.checked_mul(period).and_then(|after| at.checked_add(after))
        } else {
            self.deadline = 0;
            None
        };
        true
    }

    pub fn expires(&self) -> Option<u64> {
        self.expires
    }
}
