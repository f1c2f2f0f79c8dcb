//! A local APIC (Intel SDM vol. 3, chapter 11, revision of December 2023).
//!
//! Modelled: the xAPIC register page and the x2APIC MSRs, IA32_APIC_BASE and its state machine,
//! the timer in its three modes, LINT0/LINT1, performance, thermal and error entries, TPR, PPR,
//! ISR, IRR, TMR, EOI, all interprocessor interrupts and shorthands, physical and logical (flat,
//! cluster) destinations, ExtINT through LINT0 (virtual wire mode), the spurious vector, the error
//! register.
//!
//! Not modelled: EOI-broadcast suppression, CMCI and extended entries (the version register says
//! so), SMI, level-triggered LINT pins (taken as edges), arbitration. Messages arrive at once, so
//! delivery status is always idle.
//!
//! The model decides nothing about other processors: a message to send is a returned [`Effect`].

mod registers;
mod timer;

pub use timer::BUS_HZ;

use crate::clock::Clock;
use crate::message::{Destination, Message, Mode, Trigger};
use timer::{Timer, TimerMode};

/// Physical address of the register page after reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
/// IA32_APIC_BASE.
pub const MSR_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// The x2APIC registers: MSR 0x800 plus the offset in the xAPIC page divided by 16.
pub const MSR_X2APIC: core::ops::RangeInclusive<u32> = 0x800..=0x8ff;

/// IA32_APIC_BASE: bootstrap processor, x2APIC mode, enabled.
const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
/// Where the register page may be: 52 bits of physical address.
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// An LVT entry's mask bit.
const LVT_MASKED: u32 = 1 << 16;
/// Software enable in the spurious-vector register.
const SVR_ENABLED: u32 = 1 << 8;
/// ESR: a message with an illegal vector was sent, was received; an illegal register was used.
const ESR_SEND_VECTOR: u32 = 1 << 5;
const ESR_RECEIVED_VECTOR: u32 = 1 << 6;
const ESR_REGISTER: u32 = 1 << 7;

/// What a register write asks the board to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// Deliver an interprocessor interrupt.
    Send(Message),
    /// A level-triggered interrupt ended: tell the I/O APIC its vector.
    EndOfLevel(u8),
}

/// The access is refused: raise #GP(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;

/// The entries of the local vector table that have a source here; 1 and 2 are the thermal sensor
/// and the performance counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lvt {
    Timer = 0,
    Lint0 = 3,
    Lint1 = 4,
    Error = 5,
}

/// A set of vectors: eight registers of 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Vectors {
    words: [u32; 8],
    /// Which words are not 0, so that the highest is found without looking at all.
    used: u8,
}

impl Vectors {
    fn set(&mut self, vector: u8, on: bool) {
        let bit = 1 << (vector & 31);
        let word = &mut self.words[usize::from(vector >> 5)];
        *word = if on { *word | bit } else { *word & !bit };
        let used = 1 << (vector >> 5);
        self.used = if *word != 0 { self.used | used } else { self.used & !used };
    }

    fn has(&self, vector: u8) -> bool {
        self.words[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
    }

    fn highest(&self) -> Option<u8> {
        let index = self.used.checked_ilog2()?;
        let bit = self.words[(index & 7) as usize].checked_ilog2()?;
        u8::try_from(index * 32 + bit).ok()
    }

    fn word(&self, index: u32) -> u32 {
        self.words[(index & 7) as usize]
    }
}

/// One local APIC.
#[derive(Debug, Clone)]
pub struct Lapic {
    id: u32,
    base: u64,
    x2apic_allowed: bool,
    task_priority: u8,
    logical: u32,
    format: u32,
    spurious: u32,
    requests: Vectors,
    service: Vectors,
    level: Vectors,
    /// Errors since the last write to ESR, and what ESR shows.
    errors: u32,
    error_status: u32,
    command: u64,
    lvt: [u32; 6],
    timer: Timer,
    /// LINT0 and LINT1.
    pins: [bool; 2],
}

impl Lapic {
    /// A local APIC after power-on: enabled in xAPIC mode, software-disabled, all entries masked.
    ///
    /// `id` is the APIC identifier (below 255 for xAPIC mode), `bsp` says that this is the
    /// bootstrap processor, `tsc` is the guest's time-stamp counter, `x2apic` whether CPUID
    /// offers x2APIC mode.
    #[must_use]
    pub fn new(id: u32, bsp: bool, tsc: Clock, x2apic: bool) -> Self {
        Self {
            id,
            base: DEFAULT_BASE | BASE_ENABLED | if bsp { BASE_BSP } else { 0 },
            x2apic_allowed: x2apic,
            task_priority: 0,
            logical: 0,
            format: 0xffff_ffff,
            spurious: 0xff,
            requests: Vectors::default(),
            service: Vectors::default(),
            level: Vectors::default(),
            errors: 0,
            error_status: 0,
            command: 0,
            lvt: [LVT_MASKED; 6],
            timer: Timer::new(tsc),
            pins: [false; 2],
        }
    }

    /// What firmware leaves on the bootstrap processor: virtual wire mode (MultiProcessor
    /// Specification 1.4, 3.6.2.2): software-enabled, LINT0 ExtINT, LINT1 NMI.
    pub fn set_up_virtual_wire(&mut self) {
        self.spurious = SVR_ENABLED | 0xff;
        self.lvt[Lvt::Lint0 as usize] = 0x700;
        self.lvt[Lvt::Lint1 as usize] = 0x400;
    }

    /// INIT (SDM 11.4.7.3): everything but the identifier and IA32_APIC_BASE.
    pub fn init(&mut self) {
        let mut timer = self.timer.clone();
        timer.reset();
        *self = Self {
            base: self.base,
            timer,
            pins: self.pins,
            ..Self::new(self.id, false, Clock::new(1), self.x2apic_allowed)
        };
        if self.x2apic() {
            self.logical = x2apic_logical(self.id);
        }
    }

    /// The APIC identifier.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The physical address of the register page, `None` when the APIC is disabled or in x2APIC
    /// mode.
    #[must_use]
    pub fn page(&self) -> Option<u64> {
        (self.enabled() && !self.x2apic()).then_some(self.base & BASE_ADDRESS)
    }

    /// CR8: the upper four bits of the task priority.
    #[must_use]
    pub fn cr8(&self) -> u8 {
        self.task_priority >> 4
    }

    /// The guest writes CR8 (bits 4 to 7 must have been refused already).
    pub fn set_cr8(&mut self, value: u8) {
        self.task_priority = value << 4;
    }

    /// The guest's TSC has a new offset: guest TSC = ticks since guest time 0 plus `offset`,
    /// modulo 2^64.
    pub fn set_tsc_offset(&mut self, offset: u64, now_ns: u64) {
        self.timer.set_tsc_offset(offset, now_ns);
    }

    /// A fixed interrupt arrives. `false`: the APIC is disabled and ignores it.
    pub fn accept(&mut self, vector: u8, trigger: Trigger) -> bool {
        if !self.listens() {
            return false;
        }
        if vector < 16 {
            self.report(ESR_RECEIVED_VECTOR);
            return true;
        }
        self.requests.set(vector, true);
        self.level.set(vector, trigger == Trigger::Level);
        true
    }

    /// Whether a message with this destination is for this APIC; the shorthands are the board's
    /// business and never match.
    #[must_use]
    pub fn matches(&self, destination: Destination) -> bool {
        match destination {
            Destination::Physical(id) => id == self.id,
            Destination::Logical(mask) if self.x2apic() => {
                mask >> 16 == self.logical >> 16 && mask & self.logical & 0xffff != 0
            }
            Destination::Logical(mask) => {
                let logical = self.logical >> 24;
                if self.format >> 28 == 0xf {
                    mask & logical & 0xff != 0
                } else {
                    // Cluster model: four bits of cluster, four of members (SDM 11.6.2.2).
                    let cluster = mask >> 4 & 0xf;
                    (cluster == 0xf || cluster == logical >> 4) && mask & logical & 0xf != 0
                }
            }
            Destination::Itself | Destination::All | Destination::Others => false,
        }
    }

    /// The processor priority (SDM 11.8.3.1): what [`Mode::Lowest`] compares.
    #[must_use]
    pub fn priority(&self) -> u8 {
        let served = self.service.highest().unwrap_or(0);
        if self.task_priority >> 4 >= served >> 4 { self.task_priority } else { served & 0xf0 }
    }

    /// The vector to deliver now if the processor's IF allows.
    #[must_use]
    pub fn pending(&self) -> Option<u8> {
        if !self.enabled() {
            return None;
        }
        self.requests.highest().filter(|vector| vector >> 4 > self.priority() >> 4)
    }

    /// The most urgent request whatever its priority: with it the monitor can set a TPR threshold.
    #[must_use]
    pub fn highest_request(&self) -> Option<u8> {
        self.requests.highest().filter(|_| self.enabled())
    }

    /// The processor takes its interrupt: from requested to in service. With nothing pending any
    /// more this is the spurious vector (SDM 11.9), and nothing goes into service.
    pub fn acknowledge(&mut self) -> u8 {
        match self.pending() {
            Some(vector) => {
                self.requests.set(vector, false);
                self.service.set(vector, true);
                vector
            }
            None => self.spurious as u8,
        }
    }

    /// The wire to LINT0 (`pin` 0: the 8259 pair) or LINT1 (`pin` 1: NMI) changes; other pins
    /// are ignored. Returns a message to this processor itself when an entry asks for NMI or INIT.
    #[must_use]
    pub fn set_pin(&mut self, pin: usize, high: bool) -> Option<Message> {
        let entry = match pin {
            0 => Lvt::Lint0,
            1 => Lvt::Lint1,
            _ => return None,
        };
        let rose = high && !self.pins[pin & 1];
        self.pins[pin & 1] = high;
        if rose { self.raise(entry) } else { None }
    }

    /// The processor should take a vector from the 8259 pair: LINT0 is high and programmed as
    /// ExtINT, or the APIC of the bootstrap processor is disabled and LINT0 is INTR.
    #[must_use]
    pub fn external(&self) -> bool {
        let entry = self.lvt[Lvt::Lint0 as usize];
        let routed = if self.enabled() {
            entry & LVT_MASKED == 0 && entry >> 8 & 7 == 7
        } else {
            self.base & BASE_BSP != 0
        };
        routed && self.pins[0]
    }

    /// Lets time pass: the timer may raise its interrupt. `true`: it has expired.
    pub fn advance(&mut self, now_ns: u64) -> bool {
        let expired = self.timer.advance(now_ns);
        if expired && self.enabled() {
            // The timer's entry has no delivery mode: it never asks for a message.
            let _ = self.raise(Lvt::Timer);
        }
        expired
    }

    /// Whether the APIC is switched on in IA32_APIC_BASE, which CPUID shows.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.enabled()
    }

    /// When the timer interrupts next, guest nanoseconds; `None` too while its entry is masked.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timer.expires().filter(|_| self.lvt[Lvt::Timer as usize] & LVT_MASKED == 0)
    }

    /// Whether fixed interrupts are accepted: enabled, also in the spurious-vector register.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.enabled() && self.software_enabled()
    }

    fn enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0
    }

    fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    fn software_enabled(&self) -> bool {
        self.spurious & SVR_ENABLED != 0
    }

    /// The source of an LVT entry fires.
    fn raise(&mut self, entry: Lvt) -> Option<Message> {
        let word = self.lvt[entry as usize];
        if word & LVT_MASKED != 0 || !self.enabled() {
            return None;
        }
        let has_mode = !matches!(entry, Lvt::Timer | Lvt::Error);
        let mode = if has_mode { Mode::from_bits(word >> 8)? } else { Mode::Fixed };
        match mode {
            Mode::Fixed => {
                if word & 0xff < 16 {
                    self.errors |= ESR_RECEIVED_VECTOR;
                } else {
                    self.accept(word as u8, Trigger::Edge);
                }
                None
            }
            Mode::Nmi | Mode::Init => Some(Message {
                vector: 0,
                mode,
                trigger: Trigger::Edge,
                destination: Destination::Itself,
            }),
            _ => None,
        }
    }

    /// Notes an error and raises the error entry.
    fn report(&mut self, error: u32) {
        if self.errors & error == 0 {
            self.errors |= error;
            let _ = self.raise(Lvt::Error);
        }
    }

    /// EOI: the most urgent interrupt in service ends.
    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.service.highest() else { return Effect::None };
        self.service.set(vector, false);
        if self.level.has(vector) { Effect::EndOfLevel(vector) } else { Effect::None }
    }
}

/// The logical identifier in x2APIC mode (SDM 11.12.10.2): 16 clusters of bits.
fn x2apic_logical(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

#[cfg(test)]
mod tests;
