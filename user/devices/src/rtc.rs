//! The MC146818 real-time clock and its CMOS memory (Motorola MC146818A data sheet; the memory
//! bytes as the IBM PC/AT BIOS and Linux's `nvram` driver know them).
//!
//! The time of day is an epoch given at power-on plus the guest nanoseconds since: the host's
//! clock is never asked again. Modelled: time, calendar and century, BCD and binary, 12 and 24
//! hours, the three alarms with "don't care", the periodic, alarm and update interrupts, UIP for
//! the 244 µs before each update, SET and the divider's reset, 128 bytes of memory.
//!
//! Not modelled: daylight saving (the bit reads back, nothing happens), the square-wave pin, the
//! second bank of memory at 0x72. With SET or a divider reset the clock stands still.

use crate::clock::SECOND;

/// Index and data port.
pub const PORTS: [u16; 2] = [0x70, 0x71];
/// Where the FADT says that the century lives.
pub const CENTURY: u8 = 0x32;

/// UIP rises this long before an update (data sheet, "update cycle", tBUC).
const BEFORE_UPDATE: u64 = 244_000;
/// Seconds in a day.
const DAY: u64 = 86_400;

/// Register B: stop updates, periodic, alarm, update interrupt, binary, 24 hours.
const B_SET: u8 = 0x80;
const B_PERIODIC: u8 = 0x40;
const B_ALARM: u8 = 0x20;
const B_UPDATE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24H: u8 = 0x02;
/// The three interrupt flags: the same bits in registers B and C.
const INTERRUPTS: u8 = B_PERIODIC | B_ALARM | B_UPDATE;

/// What the firmware of a real machine would have left in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Bytes of RAM below 4 GiB, from address 0.
    pub below_4g: u64,
    /// Bytes of RAM from 4 GiB up.
    pub above_4g: u64,
}

/// The clock and its memory.
#[derive(Debug, Clone)]
pub struct Rtc {
    index: u8,
    cells: [u8; 128],
    /// Seconds since 1970-01-01 shown at `base_ns`; the last update was then.
    base_seconds: u64,
    base_ns: u64,
    /// When the periodic divider was last reset or its rate changed.
    periodic_ns: u64,
    /// Up to when flags have been collected.
    seen_ns: u64,
    flags: u8,
    /// Before this instant no flag changes. Looking for the next alarm takes long, and time passes at every exit.
    quiet_ns: u64,
}

impl Rtc {
    /// A running clock that shows `epoch` (seconds since 1970-01-01 UTC) at guest time 0, 24-hour
    /// BCD, interrupts off.
    #[must_use]
    pub fn new(epoch: u64, memory: Memory) -> Self {
        let mut rtc = Self {
            index: 0,
            cells: [0; 128],
            base_seconds: epoch,
            base_ns: 0,
            periodic_ns: 0,
            seen_ns: 0,
            flags: 0,
            quiet_ns: 0,
        };
        rtc.set(0x0a, 0x26);
        rtc.set(0x0b, B_24H);
        rtc.set(0x14, 0x02);
        // Base memory 640 KiB; extended memory in KiB (twice); above 16 MiB in 64 KiB; above
        // 4 GiB in 64 KiB. All saturate.
        let kib = |bytes: u64, unit: u64, most: u64| (bytes / unit).min(most).to_le_bytes();
        let extended = kib(memory.below_4g.saturating_sub(1 << 20), 1 << 10, 0xffff);
        let high = kib(memory.below_4g.saturating_sub(16 << 20), 1 << 16, 0xffff);
        let above = kib(memory.above_4g, 1 << 16, 0xff_ffff);
        for (cell, value) in [
            (0x15, 0x80),
            (0x16, 0x02),
            (0x17, extended[0]),
            (0x18, extended[1]),
            (0x30, extended[0]),
            (0x31, extended[1]),
            (0x34, high[0]),
            (0x35, high[1]),
            (0x5b, above[0]),
            (0x5c, above[1]),
            (0x5d, above[2]),
        ] {
            rtc.set(cell, value);
        }
        rtc
    }

    /// The guest reads port 0x70 (write-only: all ones) or 0x71; all ones from any other.
    pub fn read(&mut self, port: u16, now_ns: u64) -> u8 {
        if port != 0x71 {
            return 0xff;
        }
        self.advance(now_ns);
        match self.index {
            0x00 | 0x02 | 0x04 | 0x06..=0x09 | CENTURY => {
                if self.running() {
                    self.show(now_ns);
                }
                self.get(self.index)
            }
            0x0a => {
                let updating = self.running()
                    && SECOND - now_ns.saturating_sub(self.base_ns) % SECOND <= BEFORE_UPDATE;
                self.get(0x0a) & 0x7f | if updating { 0x80 } else { 0 }
            }
            0x0c => {
                let flags = self.flags | if self.irq() { 0x80 } else { 0 };
                self.flags = 0;
                self.quiet_ns = 0;
                flags
            }
            // Valid RAM and time: the battery is good.
            0x0d => 0x80,
            index => self.get(index),
        }
    }

    /// The guest writes port 0x70 (index; bit 7, the NMI mask, is ignored) or 0x71; dropped at
    /// any other.
    pub fn write(&mut self, port: u16, value: u8, now_ns: u64) {
        match port {
            0x70 => self.index = value & 0x7f,
            0x71 => {
                self.advance(now_ns);
                self.write_cell(value, now_ns);
                self.quiet_ns = 0;
            }
            _ => {}
        }
    }

    /// Lets time pass: collects the flags of register C. `true`: one was raised.
    #[inline]
    pub fn advance(&mut self, now_ns: u64) -> bool {
        let raised = now_ns >= self.quiet_ns && self.collect(now_ns);
        self.seen_ns = self.seen_ns.max(now_ns);
        raised
    }

    /// Raises the flags whose time came after `seen_ns`, and notes when the next of the others comes. `true`: one was raised.
    fn collect(&mut self, now_ns: u64) -> bool {
        let before = self.flags;
        self.quiet_ns = u64::MAX;
        for flag in [B_PERIODIC, B_UPDATE, B_ALARM] {
            // A flag that is up stays up until it is read.
            if self.flags & flag != 0 {
                continue;
            }
            match self.next(flag, self.seen_ns) {
                Some(at) if at <= now_ns => self.flags |= flag,
                Some(at) => self.quiet_ns = self.quiet_ns.min(at),
                None => {}
            }
        }
        self.flags != before
    }

    /// When the cause of this flag comes next after an instant.
    fn next(&self, flag: u8, after: u64) -> Option<u64> {
        match flag {
            B_PERIODIC => self.next_periodic(after),
            B_UPDATE => self.next_update(after),
            _ => self.next_alarm(after),
        }
    }

    /// When an enabled interrupt comes next, guest nanoseconds. An interrupt that is pending
    /// already makes no deadline: the guest has to read register C first.
    #[must_use]
    #[inline]
    pub fn next_deadline(&self) -> Option<u64> {
        let enabled = self.get(0x0b) & INTERRUPTS;
        if enabled == 0 || self.irq() { None } else { self.first(enabled) }
    }

    /// When the first of these flags is due.
    fn first(&self, enabled: u8) -> Option<u64> {
        let flags = [B_PERIODIC, B_UPDATE, B_ALARM].into_iter();
        flags
            .filter(|flag| enabled & flag != 0)
            .filter_map(|flag| self.next(flag, self.seen_ns))
            .min()
    }

    /// The interrupt output, IRQ 8.
    #[must_use]
    pub fn irq(&self) -> bool {
        self.flags & self.get(0x0b) & INTERRUPTS != 0
    }

    fn get(&self, cell: u8) -> u8 {
        self.cells[usize::from(cell & 0x7f)]
    }

    fn set(&mut self, cell: u8, value: u8) {
        self.cells[usize::from(cell & 0x7f)] = value;
    }

    /// Whether the time advances: SET clear and the divider not held in reset.
    fn running(&self) -> bool {
        self.get(0x0b) & B_SET == 0 && self.get(0x0a) >> 4 & 7 < 6
    }

    /// Seconds since 1970 shown at `now_ns`.
    fn seconds(&self, now_ns: u64) -> u64 {
        self.base_seconds.saturating_add(now_ns.saturating_sub(self.base_ns) / SECOND)
    }

    fn write_cell(&mut self, value: u8, now_ns: u64) {
        let was_running = self.running();
        match self.index {
            0x00 | 0x02 | 0x04 | 0x06..=0x09 | CENTURY => {
                if was_running {
                    self.show(now_ns);
                    self.set(self.index, value);
                    self.base_seconds = self.shown().unwrap_or(self.seconds(now_ns));
                    self.base_ns = now_ns - now_ns.saturating_sub(self.base_ns) % SECOND;
                } else {
                    self.set(self.index, value);
                }
            }
            0x0a | 0x0b => {
                if was_running {
                    self.show(now_ns);
                }
                let old = self.get(self.index);
                // SET also clears the update interrupt enable (data sheet, register B).
                let value = match self.index {
                    0x0a => value & 0x7f,
                    _ if value & B_SET != 0 => value & !B_UPDATE,
                    _ => value,
                };
                if self.index == 0x0a && (old ^ value) & 0x0f != 0 {
                    self.periodic_ns = now_ns;
                }
                self.set(self.index, value);
                if !was_running && self.running() {
                    self.base_seconds = self.shown().unwrap_or(self.base_seconds);
                    // The first update after a divider reset comes half a second later.
                    let reset = self.index == 0x0a;
                    self.base_ns = if reset { now_ns.saturating_sub(SECOND / 2) } else { now_ns };
                    self.seen_ns = self.seen_ns.max(now_ns);
                }
            }
            0x0c | 0x0d => {}
            index => self.set(index, value),
        }
    }

    fn next_periodic(&self, after: u64) -> Option<u64> {
        let period = match self.get(0x0a) & 0x0f {
            0 => return None,
            // Rates 1 and 2 repeat 8 and 9 (data sheet, table 5).
            rate @ 1..=2 => SECOND >> (9 - rate),
            rate => (SECOND << (rate - 1)) / 32_768,
        }
        .max(1);
        let passed = after.saturating_sub(self.periodic_ns) / period;
        self.periodic_ns.checked_add(passed.saturating_add(1).saturating_mul(period))
    }

    fn next_update(&self, after: u64) -> Option<u64> {
        if !self.running() {
            return None;
        }
        let passed = after.saturating_sub(self.base_ns) / SECOND;
        self.base_ns.checked_add(passed.saturating_add(1).saturating_mul(SECOND))
    }

    /// The next update after which the time of day equals the alarm.
    fn next_alarm(&self, after: u64) -> Option<u64> {
        let first = self.next_update(after)?;
        // The two top bits set: any value matches (data sheet, "alarm bytes").
        let field = |cell: u8| {
            let raw = self.get(cell);
            let hour = cell == 0x05;
            (raw < 0xc0).then(|| u64::from(if hour { self.hour(raw) } else { self.number(raw) }))
        };
        let (second, minute, hour) = (field(0x01), field(0x03), field(0x05));
        let start = self.seconds(first) % DAY;
        let mut time = start;
        // Skips to the next hour, minute or second that may match: at most 24 + 60 + 60 steps in
        // each of two days.
        while time < start + DAY {
            let (h, m, s) = (time / 3600 % 24, time / 60 % 60, time % 60);
            if hour.is_some_and(|want| want != h) {
                time += 3600 - time % 3600;
            } else if minute.is_some_and(|want| want != m) {
                time += 60 - time % 60;
            } else if second.is_some_and(|want| want != s) {
                time += 1;
            } else {
                return first.checked_add((time - start) * SECOND);
            }
        }
        None
    }

    /// A stored byte as a number: binary or BCD as register B says.
    fn number(&self, raw: u8) -> u8 {
        if self.get(0x0b) & B_BINARY != 0 { raw } else { (raw >> 4) * 10 + (raw & 0xf) }
    }

    /// A number as a stored byte.
    fn stored(&self, number: u64) -> u8 {
        let number = u8::try_from(number % 100).unwrap_or(0);
        if self.get(0x0b) & B_BINARY != 0 { number } else { ((number / 10) << 4) | (number % 10) }
    }

    /// A stored hour as 0 to 23.
    fn hour(&self, raw: u8) -> u8 {
        if self.get(0x0b) & B_24H != 0 {
            self.number(raw)
        } else {
            self.number(raw & 0x7f) % 12 + if raw & 0x80 != 0 { 12 } else { 0 }
        }
    }

    /// Brings the time cells up to date.
    fn show(&mut self, now_ns: u64) {
        let seconds = self.seconds(now_ns);
        let date = Date::of(seconds / DAY);
        let hour = seconds / 3600 % 24;
        let hour_cell = if self.get(0x0b) & B_24H != 0 {
            self.stored(hour)
        } else {
            self.stored((hour + 11) % 12 + 1) | if hour >= 12 { 0x80 } else { 0 }
        };
        for (cell, value) in [
            (0x00, self.stored(seconds % 60)),
            (0x02, self.stored(seconds / 60 % 60)),
            (0x04, hour_cell),
            // 1970-01-01 was a Thursday; Sunday is 1.
            (0x06, self.stored((seconds / DAY + 4) % 7 + 1)),
            (0x07, self.stored(date.day)),
            (0x08, self.stored(date.month)),
            (0x09, self.stored(date.year)),
            (CENTURY, self.stored(date.year / 100)),
        ] {
            self.set(cell, value);
        }
    }

    /// The time cells as seconds since 1970; `None` before that or when the month is no month.
    fn shown(&self) -> Option<u64> {
        let number = |cell: u8| u64::from(self.number(self.get(cell)));
        let date = Date {
            year: number(CENTURY) * 100 + number(0x09),
            month: number(0x08),
            day: number(0x07),
        };
        let hour = u64::from(self.hour(self.get(0x04)));
        Some(date.days()? * DAY + hour * 3600 + number(0x02) * 60 + number(0x00))
    }
}

/// A day of the Gregorian calendar.
struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// The day `days` after 1970-01-01. Years are counted from March in eras of 400 years (Howard
    /// Hinnant, "chrono-compatible low-level date algorithms").
    fn of(days: u64) -> Self {
        let shifted = days.saturating_add(719_468);
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
        }
    }

    /// Days since 1970-01-01; a day beyond its month runs into the next.
    fn days(&self) -> Option<u64> {
        if !(1..=12).contains(&self.month) {
            return None;
        }
        let year = self.year - u64::from(self.month <= 2 && self.year > 0);
        let (era, year_of_era) = (year / 400, year % 400);
        let march_month = (self.month + 9) % 12;
        let day_of_year = (153 * march_month + 2) / 5 + self.day;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        (era * 146_097 + day_of_era).checked_sub(719_468 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29 23:59:58 UTC, a Thursday.
    const LEAP: u64 = 1_709_251_198;

    fn get(rtc: &mut Rtc, cell: u8, now: u64) -> u8 {
        rtc.write(0x70, cell, now);
        rtc.read(0x71, now)
    }

    fn set(rtc: &mut Rtc, cell: u8, value: u8, now: u64) {
        rtc.write(0x70, cell, now);
        rtc.write(0x71, value, now);
    }

    fn time(rtc: &mut Rtc, now: u64) -> [u8; 8] {
        [CENTURY, 9, 8, 7, 6, 4, 2, 0].map(|cell| get(rtc, cell, now))
    }

    #[test]
    fn shows_the_epoch_and_counts_over_a_leap_day() {
        let mut rtc = Rtc::new(LEAP, Memory::default());
        assert_eq!(time(&mut rtc, 0), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
        assert_eq!(time(&mut rtc, 2 * SECOND), [0x20, 0x24, 0x03, 0x01, 6, 0, 0, 0]);
        set(&mut rtc, 0x0b, B_BINARY, 2 * SECOND);
        assert_eq!(time(&mut rtc, 2 * SECOND), [20, 24, 3, 1, 6, 12, 0, 0]);
        assert_eq!(get(&mut rtc, 0x0d, 0), 0x80);
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_round_trip() {
        for days in 0..146_097 {
            assert_eq!(Date::of(days).days(), Some(days));
        }
    }

    #[test]
    fn linux_sets_the_time_with_set_and_divider_reset() {
        let mut rtc = Rtc::new(0, Memory::default());
        let now = 7 * SECOND + 123;
        set(&mut rtc, 0x0b, B_24H | B_SET, now);
        set(&mut rtc, 0x0a, 0x70, now);
        for (cell, value) in
            [(9, 0x26), (8, 0x11), (7, 0x21), (4, 8), (2, 0x45), (0, 0x30), (CENTURY, 0x20)]
        {
            set(&mut rtc, cell, value, now);
        }
        set(&mut rtc, 0x0b, B_24H, now);
        set(&mut rtc, 0x0a, 0x26, now);
        assert_eq!(time(&mut rtc, now + SECOND / 2 - 1)[5..], [8, 0x45, 0x30]);
        assert_eq!(time(&mut rtc, now + SECOND / 2), [0x20, 0x26, 0x11, 0x21, 7, 8, 0x45, 0x31]);
    }

    #[test]
    fn uip_is_up_just_before_each_update() {
        let mut rtc = Rtc::new(LEAP, Memory::default());
        assert_eq!(get(&mut rtc, 0x0a, SECOND - BEFORE_UPDATE - 1), 0x26);
        assert_eq!(get(&mut rtc, 0x0a, SECOND - BEFORE_UPDATE), 0xa6);
        assert_eq!(get(&mut rtc, 0x0a, SECOND - 1), 0xa6);
        assert_eq!(get(&mut rtc, 0x0a, SECOND), 0x26);
    }

    #[test]
    fn update_interrupt_comes_each_second_and_is_read_away() {
        let mut rtc = Rtc::new(LEAP, Memory::default());
        set(&mut rtc, 0x0b, B_24H | B_UPDATE, 0);
        assert_eq!(rtc.next_deadline(), Some(SECOND));
        rtc.advance(SECOND);
        assert!(rtc.irq());
        assert_eq!(rtc.next_deadline(), None);
        assert_eq!(get(&mut rtc, 0x0c, SECOND) & 0xb0, 0x90);
        assert!(!rtc.irq());
        assert_eq!(rtc.next_deadline(), Some(2 * SECOND));
    }

    #[test]
    fn alarm_matches_with_and_without_wildcards() {
        let mut rtc = Rtc::new(LEAP, Memory::default());
        set(&mut rtc, 0x0b, B_24H | B_ALARM, 0);
        for (cell, value) in [(1, 0x10), (3, 0x01), (5, 0x00)] {
            set(&mut rtc, cell, value, 0);
        }
        assert_eq!(rtc.next_deadline(), Some(72 * SECOND));
        set(&mut rtc, 5, 0xff, 0);
        set(&mut rtc, 3, 0xc0, 0);
        assert_eq!(rtc.next_deadline(), Some(12 * SECOND));
        set(&mut rtc, 1, 0x75, 0);
        assert_eq!(rtc.next_deadline(), None);
        set(&mut rtc, 1, 0xff, 0);
        rtc.advance(SECOND);
        assert!(rtc.irq());
    }

    #[test]
    fn periodic_rate_of_1024_hertz() {
        let mut rtc = Rtc::new(LEAP, Memory::default());
        set(&mut rtc, 0x0b, B_24H | B_PERIODIC, 0);
        let mut now = 0;
        for _ in 0..1024 {
            now = rtc.next_deadline().unwrap();
            rtc.advance(now);
            assert_eq!(get(&mut rtc, 0x0c, now) & 0xc0, 0xc0);
        }
        assert!(now.abs_diff(SECOND) < 1024);
    }

    #[test]
    fn memory_sizes_are_where_firmware_puts_them() {
        let mut rtc = Rtc::new(0, Memory { below_4g: 512 << 20, above_4g: 1 << 30 });
        assert_eq!((get(&mut rtc, 0x15, 0), get(&mut rtc, 0x16, 0)), (0x80, 0x02));
        assert_eq!((get(&mut rtc, 0x17, 0), get(&mut rtc, 0x31, 0)), (0xff, 0xff));
        assert_eq!((get(&mut rtc, 0x34, 0), get(&mut rtc, 0x35, 0)), (0x00, 0x1f));
        assert_eq!((get(&mut rtc, 0x5c, 0), get(&mut rtc, 0x5d, 0)), (0x40, 0x00));
    }
}
