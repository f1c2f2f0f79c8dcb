//! The ACPI fixed hardware: PM1 events and control, the power-management timer (ACPI
//! specification 6.5, 4.8.3). The machine is always in ACPI mode; there is no SMI command port.
//!
//! Modelled: the timer with 24 or 32 bits and its carry event, the power button, wake status,
//! SLP_EN with the type of S5.
//!
//! Not modelled: other sleep states (asking for one does nothing), the general-purpose event
//! blocks, the RTC alarm as a wake-up source.

use crate::clock::Clock;

/// First of [`SIZE`] ports.
pub const BASE: u16 = 0x600;
/// PM1 status and enable (the FADT's `PM1a_EVT_BLK`, length 4).
pub const PM1_EVENT: u16 = BASE;
/// PM1 control (`PM1a_CNT_BLK`, length 2).
pub const PM1_CONTROL: u16 = BASE + 4;
/// The timer (`PM_TMR_BLK`, length 4).
pub const TIMER: u16 = BASE + 8;
/// Ports of the block.
pub const SIZE: u16 = 12;
/// What `\_S5` must name as the sleep type.
pub const S5: u8 = 5;
/// Interrupt of ACPI events (the FADT's `SCI_INT`): level, active high.
pub const SCI: u8 = 9;
/// Ticks of the timer a second.
pub const HZ: u64 = 3_579_545;

const CLOCK: Clock = Clock::new(HZ);
/// Status and enable bits: timer carry, global lock, power button, sleep button, RTC; wake status.
const TIMER_CARRY: u16 = 1 << 0;
const POWER_BUTTON: u16 = 1 << 8;
const ENABLES: u16 = 1 << 0 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10;
const STATUSES: u16 = ENABLES | 1 << 4 | 1 << 14 | 1 << 15;
/// Control bits: ACPI mode, bus-master reload, sleep type, enter it.
const SCI_ENABLED: u16 = 1 << 0;
const RELOAD: u16 = 1 << 1;
const SLEEP_TYPE: u16 = 7 << 10;
const SLEEP: u16 = 1 << 13;

/// What the guest wants of the whole machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerEvent {
    /// Switch it off.
    Off,
    /// Reset it.
    Reset,
}

/// The register block.
#[derive(Debug, Clone)]
pub struct Pm {
    status: u16,
    enable: u16,
    control: u16,
    wide: bool,
    seen_ns: u64,
    /// When the timer's highest bit toggles next; reckoned anew when it has.
    carry_ns: Option<u64>,
}

impl Pm {
    /// After power-on. `wide` gives the timer 32 bits (the FADT's `TMR_VAL_EXT` flag), else 24.
    #[must_use]
    pub fn new(wide: bool) -> Self {
        let carry_ns = next_carry(wide, 0);
        Self { status: 0, enable: 0, control: SCI_ENABLED, wide, seen_ns: 0, carry_ns }
    }

    /// The guest reads `size` bytes (1, 2 or 4) at `offset` of the block; reserved bytes are 0.
    pub fn read(&mut self, offset: u16, size: u8, now_ns: u64) -> u32 {
        self.advance(now_ns);
        let block = u128::from(self.status)
            | u128::from(self.enable) << 16
            | u128::from(self.control) << 32
            | u128::from(self.timer(now_ns)) << 64;
        let mask = match size {
            1 => 0xff,
            2 => 0xffff,
            _ => u32::MAX,
        };
        (block >> (u32::from(offset & 0xf) * 8)) as u32 & mask
    }

    /// The guest writes `size` bytes (1, 2 or 4) at `offset` of the block. Writes of the timer
    /// are ignored.
    pub fn write(&mut self, offset: u16, size: u8, value: u32, now_ns: u64) -> Option<PowerEvent> {
        self.advance(now_ns);
        let mut event = None;
        for (index, byte) in value.to_le_bytes().into_iter().take(size.into()).enumerate() {
            let at = u32::from(offset) + u32::try_from(index).unwrap_or(0);
            let shift = (at & 1) * 8;
            let (bits, lane) = (u16::from(byte) << shift, 0xff_u16 << shift);
            match at / 2 {
                // Status bits are cleared by writing ones.
                0 => self.status &= !bits,
                1 => self.enable = self.enable & !lane | bits & ENABLES,
                2 => {
                    // SLP_EN reads as 0, and ACPI mode cannot be left.
                    let kept = RELOAD | SLEEP_TYPE;
                    self.control = self.control & !lane | bits & kept | self.control & SCI_ENABLED;
                    if bits & SLEEP != 0 && self.control & SLEEP_TYPE == u16::from(S5) << 10 {
                        event = Some(PowerEvent::Off);
                    }
                }
                _ => {}
            }
        }
        event
    }

    /// The user presses the power button.
    pub fn press_power_button(&mut self) {
        self.status |= POWER_BUTTON;
    }

    /// The SCI.
    #[must_use]
    pub fn irq(&self) -> bool {
        self.status & self.enable & STATUSES != 0
    }

    /// Lets time pass. `true`: the timer's highest bit has toggled.
    pub fn advance(&mut self, now_ns: u64) -> bool {
        self.seen_ns = self.seen_ns.max(now_ns);
        let toggled = self.carry_ns.is_some_and(|at| at <= now_ns);
        if toggled {
            self.status |= TIMER_CARRY;
            self.carry_ns = next_carry(self.wide, self.seen_ns);
        }
        toggled
    }

    /// When an enabled carry comes next, guest nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let waits = self.enable & TIMER_CARRY != 0 && self.status & TIMER_CARRY == 0;
        self.carry_ns.filter(|_| waits)
    }

    fn timer(&self, now_ns: u64) -> u32 {
        let ticks = CLOCK.ticks(now_ns) as u32;
        if self.wide { ticks } else { ticks & 0xff_ffff }
    }
}

/// When the highest bit of a timer toggles first after an instant.
fn next_carry(wide: bool, after_ns: u64) -> Option<u64> {
    let half = if wide { 1 << 31 } else { 1 << 23 };
    let passed = CLOCK.ticks(after_ns) / half;
    passed.checked_add(1)?.checked_mul(half).map(|ticks| CLOCK.nanoseconds(ticks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn the_timer_counts_at_its_rate() {
        let mut pm = Pm::new(true);
        assert_eq!(pm.read(8, 4, SECOND), 3_579_545);
        assert_eq!(pm.read(8, 4, 2000 * SECOND), (3_579_545_u64 * 2000) as u32);
        assert_eq!(pm.read(8, 2, SECOND), 3_579_545 & 0xffff);
        assert_eq!(pm.write(8, 4, 0, SECOND), None);
        let mut narrow = Pm::new(false);
        assert_eq!(narrow.read(8, 4, 10 * SECOND), 35_795_450 & 0xff_ffff);
    }

    #[test]
    fn s5_switches_off_and_nothing_else_does() {
        let mut pm = Pm::new(true);
        assert_eq!(pm.read(4, 2, 0), 1);
        assert_eq!(pm.write(4, 2, 5 << 10 | 1, 0), None);
        assert_eq!(pm.write(4, 2, 1 << 10 | 1 << 13, 0), None);
        assert_eq!(pm.write(4, 2, 5 << 10 | 1 << 13 | 1, 0), Some(PowerEvent::Off));
        assert_eq!(pm.read(4, 2, 0), 5 << 10 | 1);
        // By bytes, as ACPICA never does but may.
        assert_eq!(pm.write(5, 1, 5 << 2 | 1 << 5, 0), Some(PowerEvent::Off));
    }

    #[test]
    fn power_button_raises_the_sci_until_cleared() {
        let mut pm = Pm::new(true);
        pm.press_power_button();
        assert!(!pm.irq());
        assert_eq!(pm.write(2, 2, 1 << 8, 0), None);
        assert!(pm.irq());
        assert_eq!(pm.read(0, 2, 0), 1 << 8);
        assert_eq!(pm.write(0, 2, 1 << 8, 0), None);
        assert!(!pm.irq());
    }

    #[test]
    fn the_carry_comes_when_the_top_bit_toggles() {
        let mut pm = Pm::new(false);
        assert_eq!(pm.next_deadline(), None);
        assert_eq!(pm.write(2, 2, 1, 0), None);
        let at = pm.next_deadline().unwrap();
        assert_eq!(at, CLOCK.nanoseconds(1 << 23));
        assert!(!pm.advance(at - 1));
        assert!(!pm.irq());
        assert!(pm.advance(at));
        assert!(pm.irq());
        assert_eq!(pm.write(0, 2, 1, at), None);
        assert_eq!(pm.next_deadline(), Some(CLOCK.nanoseconds(1 << 24)));
    }
}
