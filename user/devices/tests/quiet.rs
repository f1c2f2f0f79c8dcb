//! Time may pass in many small steps or in one: devices that look away until something is due miss nothing.

use devices::clock::SECOND;
use devices::pit::Pit;
use devices::pm::Pm;
use devices::rtc::{Memory, Rtc};

/// Numbers that come out the same in every run (Knuth's MMIX generator).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) % limit
    }

    /// An instant up to `most` nanoseconds after `now`; small steps as often as large ones.
    fn after(&mut self, now: u64, most: u64) -> u64 {
        let most = most >> self.below(24);
        now + 1 + self.below(most.max(1))
    }
}

/// A minute before midnight, so that alarms come.
const EPOCH: u64 = 1_709_251_140;

#[test]
fn the_clock_collects_the_same_flags() {
    let mut random = Random(1);
    for _ in 0..300 {
        let mut often = Rtc::new(EPOCH, Memory::default());
        let mut seldom = often.clone();
        let mut now = 0;
        for _ in 0..60 {
            // Registers A and B, the alarms, the time; then C is read, which clears it.
            let cell = [0x0a, 0x0b, 1, 3, 5, 0, 2, 4][random.below(8) as usize];
            let value = random.below(256) as u8;
            for rtc in [&mut often, &mut seldom] {
                rtc.write(0x70, cell, now);
                rtc.write(0x71, value, now);
                rtc.write(0x70, 0x0c, now);
            }
            let until = random.after(now, 40 * SECOND);
            while now < until {
                now = random.after(now, until - now).min(until);
                often.advance(now);
            }
            seldom.advance(now);
            assert_eq!(often.irq(), seldom.irq());
            assert_eq!(often.next_deadline(), seldom.next_deadline());
            if random.below(2) == 0 {
                assert_eq!(often.read(0x71, now), seldom.read(0x71, now), "{cell:#x} {value:#x}");
            }
        }
    }
}

#[test]
fn the_timer_chip_reports_the_same_edges() {
    let mut random = Random(2);
    for _ in 0..500 {
        let mut often = Pit::new();
        let mut seldom = Pit::new();
        let mut now = 0;
        for _ in 0..60 {
            let port = [0x43, 0x40, 0x40, 0x61][random.below(4) as usize];
            // Counter 0 with both bytes, in any mode; or a byte of its count; or the gate of counter 2.
            let value =
                if port == 0x43 { 0x30 | random.below(16) } else { random.below(256) } as u8;
            for pit in [&mut often, &mut seldom] {
                pit.write(port, value, now);
            }
            let until = random.after(now, SECOND / 4);
            let mut rose = false;
            while now < until {
                now = random.after(now, until - now).min(until);
                rose |= often.advance(now);
            }
            assert_eq!(rose, seldom.advance(now), "{port:#x} {value:#x}");
            assert_eq!(often.next_deadline(), seldom.next_deadline());
        }
    }
}

#[test]
fn the_acpi_timer_carries_at_the_same_time() {
    let mut random = Random(3);
    for wide in [false, true] {
        let mut often = Pm::new(wide);
        let mut seldom = Pm::new(wide);
        let mut now = 0;
        for _ in 0..2000 {
            let until = random.after(now, 2000 * SECOND);
            while now < until {
                now = random.after(now, until - now).min(until);
                often.advance(now);
            }
            seldom.advance(now);
            let (offset, value) = [(0, 1), (2, 1), (2, 0)][random.below(3) as usize];
            for pm in [&mut often, &mut seldom] {
                pm.write(offset, 2, value, now);
            }
            assert_eq!(often.read(0, 4, now), seldom.read(0, 4, now));
            assert_eq!(
                (often.irq(), often.next_deadline()),
                (seldom.irq(), seldom.next_deadline())
            );
        }
    }
}
