//! The 8254 interval timer and the port at 0x61 that gates its third counter (Intel 8254 data
//! sheet, 231164-005; port 0x61: Intel 82371SB PIIX3 data sheet, 2.5.4.1).
//!
//! Modelled: three counters at 1.193182 MHz, modes 0 to 5, binary and BCD, all access modes, count
//! and status latches, read-back, the gate of counter 2, the refresh toggle. Counting starts with
//! the write of the count instead of one clock later. OUT of counter 0 is reported as rising
//! edges, since in mode 2 it is low for a single clock that no observer could see.
//!
//! Not modelled: sound, the parity and channel-check bits of port 0x61 (they read back 0).

use crate::clock::Clock;

/// Ticks a second of all three counters.
pub const HZ: u64 = 1_193_182;
/// The oscillator of all three counters.
const CLOCK: Clock = Clock::new(HZ);
/// Nanoseconds between two toggles of the refresh bit of port 0x61.
const REFRESH: u64 = 15_085;

/// How a counter is accessed (control word, RW bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Low,
    High,
    Both,
}

/// One counter.
#[derive(Debug, Clone)]
struct Counter {
    /// Control word bits 0 to 5, as the status byte shows them.
    control: u8,
    mode: u8,
    access: Access,
    /// The count register: ticks, 1 to 65536 (BCD already converted).
    count: u64,
    /// A count has been written since the control word (the status byte's NULL COUNT, inverted).
    loaded: bool,
    /// The low byte of a two-byte count that is not complete.
    low: Option<u8>,
    /// The next read in `Both` mode gives the high byte.
    high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    gate: bool,
    /// The tick at which counting began, `None` while there is nothing to count: before the
    /// first count, or in modes 1 and 5 before the trigger.
    start: Option<u64>,
    /// Ticks counted when the gate fell.
    held: Option<u64>,
}

impl Counter {
    fn new(gate: bool) -> Self {
        Self {
            control: 0,
            mode: 0,
            access: Access::Both,
            count: 0x1_0000,
            loaded: false,
            low: None,
            high_next: false,
            latched_count: None,
            latched_status: None,
            gate,
            start: None,
            held: None,
        }
    }

    fn bcd(&self) -> bool {
        self.control & 1 != 0
    }

    fn set_control(&mut self, value: u8) {
        *self = Self {
            control: value & 0x3f,
            // Modes 6 and 7 are 2 and 3: the top bit is "don't care" there.
            mode: match value >> 1 & 7 {
                mode @ 6.. => mode - 4,
                mode => mode,
            },
            access: match value >> 4 & 3 {
                1 => Access::Low,
                2 => Access::High,
                _ => Access::Both,
            },
            ..Self::new(self.gate)
        };
    }

    fn write(&mut self, value: u8, tick: u64) {
        let raw = match (self.access, self.low) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Both, None) => {
                self.low = Some(value);
                // The first byte stops a mode 0 count (data sheet, mode 0).
                if self.mode == 0 {
                    self.start = None;
                    self.loaded = false;
                }
                return;
            }
        };
        self.low = None;
        let count = if self.bcd() { from_bcd(raw) } else { u64::from(raw) };
        let limit = self.modulus();
        let new = if count == 0 { limit } else { count };
        let running = self.loaded && self.start.is_some();
        self.count = new;
        self.loaded = true;
        match self.mode {
            // A trigger starts these; a new count waits for the next trigger.
            1 | 5 => {}
            // A running rate takes the new count at the end of its period. Its phase does not
            // matter to anyone, so it starts a new period at once.
            2 | 3 if running && !self.gate => self.start = Some(tick),
            _ => {
                self.start = Some(tick);
                self.held = if self.gate { None } else { Some(0) };
            }
        }
    }

    /// The count at which the register wraps: 2^16, or 10^4 in BCD.
    fn modulus(&self) -> u64 {
        if self.bcd() { 10_000 } else { 0x1_0000 }
    }

    fn set_gate(&mut self, gate: bool, tick: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match (self.mode, gate) {
            (1 | 5, true) => self.start = self.loaded.then_some(tick),
            (1 | 5, false) => {}
            // A rising gate reloads a rate generator.
            (2 | 3, true) => {
                self.held = None;
                self.start = self.loaded.then_some(tick);
            }
            (_, true) => {
                if let Some(held) = self.held.take() {
                    self.start = self.loaded.then_some(tick.saturating_sub(held));
                }
            }
            (_, false) => self.held = Some(self.elapsed(tick)),
        }
    }

    /// Ticks counted so far.
    fn elapsed(&self, tick: u64) -> u64 {
        match (self.held, self.start) {
            (Some(held), _) => held,
            (None, Some(start)) => tick.saturating_sub(start),
            (None, None) => 0,
        }
    }

    /// What the counting element shows.
    fn value(&self, tick: u64) -> u16 {
        let elapsed = self.elapsed(tick);
        let modulus = self.modulus();
        let value = match self.mode {
            2 => self.count - elapsed % self.count,
            3 => (self.count - (2 * (elapsed % self.count)) % self.count) & !1,
            _ => (self.count + modulus - elapsed % modulus) % modulus,
        } % modulus;
        let value = u16::try_from(value).unwrap_or(0);
        if self.bcd() { to_bcd(value) } else { value }
    }

    /// The OUT pin.
    fn out(&self, tick: u64) -> bool {
        let elapsed = self.elapsed(tick);
        match (self.mode, self.start) {
            (0, start) => start.is_some() && elapsed >= self.count,
            (_, None) => true,
            (1, _) => elapsed >= self.count,
            (2 | 3, _) if !self.gate => true,
            (2, _) => elapsed % self.count != self.count - 1,
            (3, _) => elapsed % self.count < self.count.div_ceil(2),
            _ => elapsed != self.count,
        }
    }

    /// The first tick after `tick` at which OUT rises.
    fn next_rise(&self, tick: u64) -> Option<u64> {
        let start = self.start?;
        if self.held.is_some() {
            return None;
        }
        let rise = match self.mode {
            0 | 1 => start.saturating_add(self.count),
            4 | 5 => start.saturating_add(self.count + 1),
            _ => {
                let periods = tick.saturating_sub(start) / self.count + 1;
                start.saturating_add(periods.saturating_mul(self.count))
            }
        };
        (rise > tick).then_some(rise)
    }

    fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
        }
    }

    fn latch_status(&mut self, tick: u64) {
        let out = if self.out(tick) { 0x80 } else { 0 };
        let null = if self.loaded { 0 } else { 0x40 };
        self.latched_status.get_or_insert(out | null | self.control);
    }

    fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.value(tick)).to_le_bytes();
        let (byte, last) = match (self.access, self.high_next) {
            (Access::Low, _) => (low, true),
            (Access::High, _) => (high, true),
            (Access::Both, false) => (low, false),
            (Access::Both, true) => (high, true),
        };
        self.high_next = !last;
        if last {
            self.latched_count = None;
        }
        byte
    }
}

/// Four BCD digits to a number; digits above 9 count as they would in the chip's adders.
fn from_bcd(raw: u16) -> u64 {
    (0..4).rev().fold(0, |sum, digit| sum * 10 + u64::from(raw >> (4 * digit) & 0xf)) % 10_000
}

/// A number below 10000 to four BCD digits.
fn to_bcd(value: u16) -> u16 {
    let digit = |place: u16| (value / place) % 10;
    (digit(1000) << 12) | (digit(100) << 8) | (digit(10) << 4) | digit(1)
}

/// The timer chip and port 0x61.
#[derive(Debug, Clone)]
pub struct Pit {
    counters: [Counter; 3],
    /// Bits 0 (gate of counter 2) and 1 (speaker) of port 0x61.
    control: u8,
    /// The tick up to which edges of counter 0 have been reported.
    seen: u64,
    /// Before this instant there is no edge of counter 0, so that [`Pit::advance`] has nothing to do.
    quiet_ns: u64,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// Three counters without a count; the gates of 0 and 1 are wired high.
    #[must_use]
    pub fn new() -> Self {
        Self {
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            control: 0,
            seen: 0,
            quiet_ns: 0,
        }
    }

    /// The guest reads port 0x40 to 0x43 or 0x61; all ones from any other.
    pub fn read(&mut self, port: u16, now_ns: u64) -> u8 {
        let tick = CLOCK.ticks(now_ns);
        match port {
            0x40..=0x42 => self
                .counters
                .get_mut(usize::from(port - 0x40))
                .map_or(0xff, |counter| counter.read(tick)),
            0x61 => {
                let refresh = if (now_ns / REFRESH) & 1 != 0 { 0x10 } else { 0 };
                let out = if self.counters[2].out(tick) { 0x20 } else { 0 };
                self.control | refresh | out
            }
            // The control word cannot be read.
            _ => 0xff,
        }
    }

    /// The guest writes port 0x40 to 0x43 or 0x61; dropped at any other.
    ///
    /// Call [`Pit::advance`] first, so that edges before this write are not lost.
    pub fn write(&mut self, port: u16, value: u8, now_ns: u64) {
        let tick = CLOCK.ticks(now_ns);
        self.quiet_ns = 0;
        match port {
            0x40..=0x42 => {
                if let Some(counter) = self.counters.get_mut(usize::from(port - 0x40)) {
                    counter.write(value, tick);
                }
            }
            0x43 if value >> 6 == 3 => {
                for (index, counter) in self.counters.iter_mut().enumerate() {
                    if value >> (index + 1) & 1 != 0 {
                        if value & 0x20 == 0 {
                            counter.latch_count(tick);
                        }
                        if value & 0x10 == 0 {
                            counter.latch_status(tick);
                        }
                    }
                }
            }
            0x43 => {
                if let Some(counter) = self.counters.get_mut(usize::from(value >> 6)) {
                    if value & 0x30 == 0 {
                        counter.latch_count(tick);
                    } else {
                        counter.set_control(value);
                    }
                }
            }
            0x61 => {
                self.control = value & 3;
                self.counters[2].set_gate(value & 1 != 0, tick);
            }
            _ => {}
        }
    }

    /// Lets time pass. `true`: OUT of counter 0, the wire of IRQ 0, has risen since the last
    /// call; several edges are reported as one.
    #[must_use]
    #[inline]
    pub fn advance(&mut self, now_ns: u64) -> bool {
        now_ns >= self.quiet_ns && self.look(now_ns)
    }

    /// Whether OUT of counter 0 has risen, and until when it does not.
    fn look(&mut self, now_ns: u64) -> bool {
        let tick = CLOCK.ticks(now_ns);
        let rose = self.counters[0].next_rise(self.seen).is_some_and(|rise| rise <= tick);
        self.seen = self.seen.max(tick);
        self.quiet_ns = self.next_deadline().unwrap_or(u64::MAX);
        rose
    }

    /// When OUT of counter 0 rises next, guest nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.counters[0].next_rise(self.seen).map(|tick| CLOCK.nanoseconds(tick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    fn at(tick: u64) -> u64 {
        CLOCK.nanoseconds(tick)
    }

    #[test]
    fn linux_calibrates_against_counter_2() {
        let mut pit = Pit::new();
        pit.write(0x61, 0x01, 0);
        pit.write(0x43, 0xb0, 0);
        pit.write(0x42, (11932_u32 & 0xff) as u8, 0);
        pit.write(0x42, (11932_u32 >> 8) as u8, 0);
        assert_eq!(pit.read(0x61, at(11_931)) & 0x20, 0);
        assert_eq!(pit.read(0x61, at(11_932)) & 0x21, 0x21);
        // The quick calibration watches the high byte fall, low byte first.
        pit.write(0x43, 0xb0, 0);
        pit.write(0x42, 0xff, 0);
        pit.write(0x42, 0xff, 0);
        for high in (0xf0..=0xfe).rev() {
            let tick = at((0xff - high) * 256 + 10);
            pit.read(0x42, tick);
            assert_eq!(u64::from(pit.read(0x42, tick)), high);
        }
    }

    #[test]
    fn rate_generator_is_within_a_tick_of_a_hundred_hertz() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x34, 0);
        pit.write(0x40, 0x9c, 0);
        assert_eq!(pit.next_deadline(), None);
        pit.write(0x40, 0x2e, 0);
        let mut edges = 0;
        let mut now = 0;
        while now < SECOND {
            now = pit.next_deadline().unwrap();
            assert!(!pit.advance(now - 1));
            assert!(pit.advance(now));
            edges += 1;
        }
        assert_eq!(edges, 100);
        assert!(pit.advance(now + 10 * SECOND), "many edges are one");
        assert!(!pit.advance(now + 10 * SECOND));
    }

    #[test]
    fn one_shot_fires_once() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x30, 0);
        pit.write(0x40, 0, 0);
        pit.write(0x40, 0, 0);
        assert_eq!(pit.next_deadline(), Some(at(0x1_0000)));
        assert!(pit.advance(SECOND));
        assert_eq!(pit.next_deadline(), None);
        // Writing the control word silences it for good (Linux's pit_shutdown).
        pit.write(0x43, 0x30, SECOND);
        assert!(!pit.advance(2 * SECOND));
    }

    #[test]
    fn square_wave_is_high_for_half_its_period() {
        let mut pit = Pit::new();
        pit.write(0x61, 3, 0);
        pit.write(0x43, 0xb6, 0);
        pit.write(0x42, 100, 0);
        pit.write(0x42, 0, 0);
        let high = (0..1000).filter(|t| pit.read(0x61, at(*t)) & 0x20 != 0).count();
        assert_eq!(high, 500);
    }

    #[test]
    fn latches_and_read_back() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x34, 0);
        pit.write(0x40, 0x00, 0);
        pit.write(0x40, 0x10, 0);
        pit.write(0x43, 0xc2, at(0x10));
        assert_eq!(pit.read(0x40, at(0x500)), 0xb4);
        assert_eq!(pit.read(0x40, at(0x500)), 0xf0);
        assert_eq!(pit.read(0x40, at(0x500)), 0x0f);
        pit.write(0x43, 0x00, at(0x20));
        assert_eq!(pit.read(0x40, at(0x700)), 0xe0);
        assert_eq!(pit.read(0x40, at(0x700)), 0x0f);
        assert_eq!(pit.read(0x43, 0), 0xff);
    }

    #[test]
    fn the_gate_holds_mode_0() {
        let mut pit = Pit::new();
        pit.write(0x43, 0xb0, 0);
        pit.write(0x42, 100, 0);
        pit.write(0x42, 0, 0);
        assert_eq!(pit.read(0x61, at(1000)) & 0x20, 0, "gate low: not counting");
        pit.write(0x61, 1, at(1000));
        pit.write(0x61, 0, at(1040));
        pit.write(0x61, 1, at(2000));
        assert_eq!(pit.read(0x61, at(2055)) & 0x20, 0);
        assert_eq!(pit.read(0x61, at(2061)) & 0x20, 0x20);
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let mut pit = Pit::new();
        pit.write(0x43, 0x31, 0);
        pit.write(0x40, 0x00, 0);
        pit.write(0x40, 0x10, 0);
        assert_eq!(pit.counters[0].value(1), 0x0999);
        assert_eq!(pit.counters[0].value(1001), 0x9999);
    }
}
