//! The two doors to a local APIC's registers: the xAPIC page and the x2APIC MSRs.
//!
//! Registers are numbered by their offset in the page divided by 16, which is also their MSR
//! number less 0x800 (Intel SDM vol. 3, tables 11-1 and 11-6). The doors differ in their manners:
//! the page ignores what it does not understand and notes an error, the MSRs fault.

use super::{
    BASE_ADDRESS, BASE_BSP, BASE_ENABLED, BASE_X2APIC, Clock, Destination, ESR_REGISTER,
    ESR_SEND_VECTOR, Effect, Fault, LVT_MASKED, Lapic, Lvt, MSR_BASE, MSR_TSC_DEADLINE, Message,
    Mode, TimerMode, Trigger, x2apic_logical,
};

/// Register numbers.
const ID: u32 = 0x02;
const VERSION: u32 = 0x03;
const TPR: u32 = 0x08;
const APR: u32 = 0x09;
const PPR: u32 = 0x0a;
const EOI: u32 = 0x0b;
const RRD: u32 = 0x0c;
const LDR: u32 = 0x0d;
const DFR: u32 = 0x0e;
const SVR: u32 = 0x0f;
const ESR: u32 = 0x28;
const ICR: u32 = 0x30;
const ICR_HIGH: u32 = 0x31;
const LVT_FIRST: u32 = 0x32;
const LVT_LAST: u32 = 0x37;
const INITIAL: u32 = 0x38;
const CURRENT: u32 = 0x39;
const DIVIDE: u32 = 0x3e;
const SELF_IPI: u32 = 0x3f;

/// Version 0x14 (integrated, xAPIC), six LVT entries, no EOI-broadcast suppression.
const VERSION_VALUE: u32 = 0x0005_0014;
/// The bits an LVT entry keeps, and those it shows but never sets (delivery status, remote IRR).
const LVT_BITS: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
const LVT_STATUS: u32 = 1 << 12 | 1 << 14;
/// The bits of the interrupt command that are kept: all but delivery status and reserved ones.
const ICR_BITS: u32 = 0x000c_cfff;

impl Lapic {
    /// The guest reads 32 bits at `offset` of the register page (aligned down to 16 bytes).
    pub fn read(&mut self, offset: u64, now_ns: u64) -> u32 {
        self.advance(now_ns);
        let register = (offset >> 4 & 0xff) as u32;
        match register {
            ID => self.id << 24,
            APR | RRD => 0,
            DFR => self.format,
            ICR_HIGH => (self.command >> 32) as u32,
            _ => self.get(register, now_ns).unwrap_or_else(|| {
                self.report(ESR_REGISTER);
                0
            }),
        }
    }

    /// The guest writes 32 bits at `offset` of the register page (aligned down to 16 bytes).
    pub fn write(&mut self, offset: u64, value: u32, now_ns: u64) -> Effect {
        self.advance(now_ns);
        match (offset >> 4 & 0xff) as u32 {
            // The identifier is fixed, as in processors since Nehalem.
            ID => Effect::None,
            EOI => self.end_of_interrupt(),
            LDR => {
                self.logical = value & 0xff00_0000;
                Effect::None
            }
            DFR => {
                self.format = value | 0x0fff_ffff;
                Effect::None
            }
            ICR_HIGH => {
                self.command = u64::from(value & 0xff00_0000) << 32 | self.command & 0xffff_ffff;
                Effect::None
            }
            ICR => {
                let command = self.command & !0xffff_ffff | u64::from(value & ICR_BITS);
                self.command = command;
                let logical = command & 1 << 11 != 0;
                self.send(Destination::from_byte((command >> 56) as u8, logical))
            }
            register @ (TPR | SVR | ESR | LVT_FIRST..=LVT_LAST | INITIAL | DIVIDE) => {
                self.put(register, value, now_ns);
                Effect::None
            }
            _ => {
                self.report(ESR_REGISTER);
                Effect::None
            }
        }
    }

    /// The guest reads IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register.
    ///
    /// # Errors
    /// #GP when there is no such register, or when it is an x2APIC one in another mode.
    pub fn read_msr(&mut self, msr: u32, now_ns: u64) -> Result<u64, Fault> {
        self.advance(now_ns);
        match msr {
            MSR_BASE => return Ok(self.base),
            MSR_TSC_DEADLINE => return Ok(self.timer.deadline()),
            _ if !self.x2apic() => return Err(Fault),
            _ => {}
        }
        match msr.wrapping_sub(0x800) {
            ID => Ok(self.id.into()),
            ICR => Ok(self.command),
            register => self.get(register, now_ns).map(u64::from).ok_or(Fault),
        }
    }

    /// The guest writes IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register.
    ///
    /// # Errors
    /// #GP when there is no such register, it is read-only, a reserved bit is set, or the mode
    /// change is forbidden (SDM 11.12.5); nothing has changed then.
    pub fn write_msr(&mut self, msr: u32, value: u64, now_ns: u64) -> Result<Effect, Fault> {
        self.advance(now_ns);
        match msr {
            MSR_BASE => return self.set_base(value).map(|()| Effect::None),
            MSR_TSC_DEADLINE => {
                self.timer.set_deadline(value, now_ns);
                self.advance(now_ns);
                return Ok(Effect::None);
            }
            _ if !self.x2apic() => return Err(Fault),
            _ => {}
        }
        let register = msr.wrapping_sub(0x800);
        if register == ICR {
            if value & !u64::from(ICR_BITS) & 0xffff_ffff != 0 {
                return Err(Fault);
            }
            self.command = value;
            let target = (value >> 32) as u32;
            return Ok(self.send(match (target, value & 1 << 11 != 0) {
                (u32::MAX, _) => Destination::All,
                (_, true) => Destination::Logical(target),
                (_, false) => Destination::Physical(target),
            }));
        }
        let allowed = match register {
            EOI | ESR => 0,
            TPR | SELF_IPI => 0xff,
            SVR => 0x1ff,
            DIVIDE => 0xb,
            INITIAL => u32::MAX,
            LVT_FIRST..=LVT_LAST => {
                let index = (register - LVT_FIRST) as usize;
                LVT_BITS.get(index).copied().unwrap_or(0) | LVT_STATUS
            }
            _ => return Err(Fault),
        };
        let word = u32::try_from(value).map_err(|_| Fault)?;
        if word & !allowed != 0 {
            return Err(Fault);
        }
        Ok(match register {
            EOI => self.end_of_interrupt(),
            SELF_IPI => {
                self.command = self.command & !0xff | value;
                if self.legal(word as u8) {
                    self.accept(word as u8, Trigger::Edge);
                }
                Effect::None
            }
            _ => {
                self.put(register, word, now_ns);
                Effect::None
            }
        })
    }

    /// The registers that both doors read alike; `None` when there is no such register.
    fn get(&self, register: u32, now_ns: u64) -> Option<u32> {
        Some(match register {
            VERSION => VERSION_VALUE,
            TPR => self.task_priority.into(),
            PPR => self.priority().into(),
            LDR => self.logical,
            SVR => self.spurious,
            0x10..=0x17 => self.service.word(register),
            0x18..=0x1f => self.level.word(register),
            0x20..=0x27 => self.requests.word(register),
            ESR => self.error_status,
            ICR => self.command as u32,
            LVT_FIRST..=LVT_LAST => *self.lvt.get((register - LVT_FIRST) as usize)?,
            INITIAL => self.timer.initial(),
            CURRENT => self.timer.current(now_ns),
            DIVIDE => self.timer.divide,
            // The page reads EOI as 0; Linux never does.
            EOI if !self.x2apic() => 0,
            _ => return None,
        })
    }

    /// The registers that both doors write alike.
    fn put(&mut self, register: u32, value: u32, now_ns: u64) {
        match register {
            TPR => self.task_priority = value as u8,
            SVR => {
                self.spurious = value & 0x1ff;
                if !self.software_enabled() {
                    self.lvt.iter_mut().for_each(|entry| *entry |= LVT_MASKED);
                }
            }
            ESR => {
                self.error_status = self.errors;
                self.errors = 0;
            }
            INITIAL => self.timer.set_initial(value, now_ns),
            DIVIDE => self.timer.set_divide(value, now_ns),
            _ => self.set_lvt(register.wrapping_sub(LVT_FIRST) as usize, value),
        }
    }

    fn set_lvt(&mut self, index: usize, value: u32) {
        let masked = if self.software_enabled() { 0 } else { LVT_MASKED };
        let bits = LVT_BITS.get(index).copied().unwrap_or(0);
        if let Some(entry) = self.lvt.get_mut(index) {
            *entry = value & bits | masked;
        }
        if index == Lvt::Timer as usize {
            self.timer.set_mode(match value >> 17 & 3 {
                1 => TimerMode::Periodic,
                2 => TimerMode::Deadline,
                _ => TimerMode::OneShot,
            });
        }
    }

    /// Notes an error for a vector that may not be sent.
    fn legal(&mut self, vector: u8) -> bool {
        if vector < 16 {
            self.report(ESR_SEND_VECTOR);
        }
        vector >= 16
    }

    /// The message that the interrupt command register now describes.
    fn send(&mut self, destination: Destination) -> Effect {
        let command = self.command as u32;
        let vector = command as u8;
        let Some(mode) = Mode::from_bits(command >> 8) else { return Effect::None };
        let asserted = command & 1 << 14 != 0;
        let level = command & 1 << 15 != 0;
        match mode {
            Mode::Fixed | Mode::Lowest if !self.legal(vector) => return Effect::None,
            // INIT level de-assert only synchronised arbitration identifiers, long ago.
            Mode::Init if level && !asserted => return Effect::None,
            Mode::External => return Effect::None,
            _ => {}
        }
        let destination = match command >> 18 & 3 {
            0 => destination,
            1 => Destination::Itself,
            2 => Destination::All,
            _ => Destination::Others,
        };
        // The trigger mode of a fixed interprocessor interrupt is always edge (SDM 11.6.1).
        Effect::Send(Message { vector, mode, trigger: Trigger::Edge, destination })
    }

    /// IA32_APIC_BASE and its state machine (SDM figure 11-27).
    fn set_base(&mut self, value: u64) -> Result<(), Fault> {
        let known = BASE_ADDRESS | BASE_BSP | BASE_X2APIC | BASE_ENABLED;
        let (enabled, x2apic) = (value & BASE_ENABLED != 0, value & BASE_X2APIC != 0);
        let forbidden = match (self.enabled(), self.x2apic()) {
            (_, true) => enabled && !x2apic || !enabled && x2apic,
            (true, false) => x2apic && !enabled,
            (false, false) => x2apic,
        };
        if value & !known != 0 || forbidden || x2apic && !self.x2apic_allowed {
            return Err(Fault);
        }
        if self.enabled() && !enabled {
            // Disabling loses all state (SDM 11.4.3).
            let wires = self.pins;
            let mut timer = self.timer.clone();
            timer.reset();
            *self = Self {
                timer,
                pins: wires,
                ..Self::new(self.id, false, Clock::new(1), self.x2apic_allowed)
            };
        } else if x2apic && !self.x2apic() {
            self.logical = x2apic_logical(self.id);
            self.command = 0;
        }
        self.base = value;
        Ok(())
    }
}
