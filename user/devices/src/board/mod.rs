//! A whole PC board for N processors: owns the devices, wires their interrupts, decodes ports and
//! device memory.
//!
//! ```text
//!   PIT -- 0 --+                       +--> 8259 pair --> LINT0 of every local APIC
//!   i8042 - 1 -+                       |
//!   UART -- 4 -+-- ISA interrupt wires +
//!   RTC --- 8 -+                       |
//!   SCI --- 9 -+                       +--> I/O APIC (pin = IRQ, but IRQ 0 on pin 2) --> messages
//! ```
//!
//! The monitor calls a door for each exit (`port_read`, `mmio_write`, `write_msr`, ...), drains
//! [`Board::take_event`], asks [`Board::interrupt_for`] before it enters a processor and
//! [`Board::acknowledge`] when it injects, and calls [`Board::advance`] at
//! [`Board::next_deadline`]. Nothing here blocks or calls back, so several processors share a
//! board under one lock.

mod bus;
mod unclaimed;

pub use unclaimed::{REMEMBERED, Space, Unclaimed};

use crate::clock::Clock;
use crate::i8042::I8042;
use crate::ioapic::IoApic;
use crate::lapic::{self, Effect, Fault, Lapic};
use crate::message::{Destination, Message, Mode};
use crate::pci::Pci;
use crate::pic::PicPair;
use crate::pit::Pit;
use crate::pm::{self, Pm, PowerEvent};
use crate::rtc::{Memory, Rtc};
use crate::uart::Uart;
use crate::vga::{self, Vga};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The most processors a board takes: xAPIC identifiers 0 to 254.
pub const MAX_VCPUS: usize = 255;
/// ISA interrupts of the devices that have one as a level: keyboard, serial port, clock, ACPI.
const WIRES: [u8; 4] = [1, 4, 8, pm::SCI];

/// What a board is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Processors, 1 to [`MAX_VCPUS`] (clamped); the APIC identifier is the index.
    pub vcpus: usize,
    /// Frequency of the guest's time-stamp counter; guest time 0 is TSC 0 plus its offset.
    pub tsc_hz: u64,
    /// Seconds since 1970-01-01 UTC at guest time 0.
    pub epoch: u64,
    /// Guest memory, for the CMOS.
    pub memory: Memory,
    /// Whether the guest's CPUID offers x2APIC mode.
    pub x2apic: bool,
}

/// What the monitor must do for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset the machine.
    Reset,
    /// The guest sent bytes: [`Board::take_output`].
    Output,
    /// This processor has an interrupt it did not have before: make it exit or wake up, then ask
    /// [`Board::interrupt_for`].
    Kick(usize),
    /// Deliver a non-maskable interrupt to this processor.
    Nmi(usize),
    /// Reset this processor; unless it is processor 0, it waits for [`Event::StartUp`].
    Init(usize),
    /// Start this processor in real mode at CS = `vector` << 8, IP = 0.
    StartUp {
        /// Which processor.
        vcpu: usize,
        /// The page number of its first instruction.
        vector: u8,
    },
}

/// An interrupt that waits for a processor's IF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// From the local APIC.
    Vector(u8),
    /// From the 8259 pair, whose vector is known only when it is acknowledged.
    External,
}

/// The board.
#[derive(Debug, Clone)]
pub struct Board {
    uart: Uart,
    pic: PicPair,
    pit: Pit,
    rtc: Rtc,
    pm: Pm,
    i8042: I8042,
    vga: Vga,
    pci: Pci,
    ioapic: IoApic,
    lapics: Vec<Lapic>,
    /// Levels of [`WIRES`] as last driven.
    wires: [bool; WIRES.len()],
    /// Processors that wait for a start-up message.
    waiting: Vec<bool>,
    /// Processors with an interrupt pending, as the monitor was last told.
    told: Vec<bool>,
    events: VecDeque<Event>,
    unclaimed: unclaimed::Log,
}

impl Board {
    /// A board as firmware hands it to an operating system: processor 0 running in virtual wire
    /// mode with the 8259 pair masked, the others waiting for their start-up message.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let vcpus = config.vcpus.clamp(1, MAX_VCPUS);
        let tsc = Clock::new(config.tsc_hz);
        let mut lapics: Vec<Lapic> = (0..vcpus)
            .zip(0..)
            .map(|(index, id)| Lapic::new(id, index == 0, tsc, config.x2apic))
            .collect();
        if let Some(first) = lapics.first_mut() {
            first.set_up_virtual_wire();
        }
        let mut pic = PicPair::new();
        // The SCI is level-triggered.
        pic.write(0x4d1, 1 << (pm::SCI - 8));
        Self {
            uart: Uart::new(),
            pic,
            pit: Pit::new(),
            rtc: Rtc::new(config.epoch, config.memory),
            pm: Pm::new(true),
            i8042: I8042::new(),
            vga: Vga::default(),
            pci: Pci::new(),
            ioapic: IoApic::new(0),
            wires: [false; WIRES.len()],
            waiting: (0..vcpus).map(|index| index != 0).collect(),
            told: (0..vcpus).map(|_| false).collect(),
            lapics,
            events: VecDeque::new(),
            unclaimed: unclaimed::Log::default(),
        }
    }

    /// Whether [`Board::take_event`] has something.
    #[must_use]
    #[inline]
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next thing to do for the guest. Drain after every other call.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Lets time pass in all devices.
    pub fn advance(&mut self, now_ns: u64) {
        let mut changed = self.advance_pit(now_ns);
        changed |= self.rtc.advance(now_ns);
        changed |= self.pm.advance(now_ns);
        for lapic in &mut self.lapics {
            changed |= lapic.advance(now_ns);
        }
        // Most of the time nothing happens, and this is called at every exit.
        if changed {
            self.settle();
        }
    }

    /// When some device interrupts next, guest nanoseconds: call [`Board::advance`] then. It
    /// changes with every access.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let earlier = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let mut first = earlier(self.pit.next_deadline(), self.rtc.next_deadline());
        first = earlier(first, self.pm.next_deadline());
        self.lapics.iter().fold(first, |first, lapic| earlier(first, lapic.next_deadline()))
    }

    /// Whether `vcpu` has an interrupt to take when its IF allows.
    #[must_use]
    pub fn has_pending(&self, vcpu: usize) -> bool {
        self.interrupt_for(vcpu).is_some()
    }

    /// The interrupt `vcpu` would take now; `None` also when there is no such processor.
    #[must_use]
    pub fn interrupt_for(&self, vcpu: usize) -> Option<Interrupt> {
        let lapic = self.lapics.get(vcpu)?;
        if lapic.external() && self.pic.pending() {
            Some(Interrupt::External)
        } else {
            lapic.pending().map(Interrupt::Vector)
        }
    }

    /// The processor takes its interrupt: the vector to inject, `None` if there is none any more.
    pub fn acknowledge(&mut self, vcpu: usize) -> Option<u8> {
        let interrupt = self.interrupt_for(vcpu)?;
        let vector = match interrupt {
            Interrupt::External => self.pic.acknowledge(),
            Interrupt::Vector(_) => self.lapics.get_mut(vcpu)?.acknowledge(),
        };
        self.settle();
        Some(vector)
    }

    /// The guest reads an MSR of its local APIC (IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800 to
    /// 0x8ff). `None`: the MSR is not the board's.
    pub fn read_msr(&mut self, vcpu: usize, msr: u32, now_ns: u64) -> Option<Result<u64, Fault>> {
        if !is_apic_msr(msr) {
            return None;
        }
        let answer = self.lapics.get_mut(vcpu)?.read_msr(msr, now_ns);
        self.settle();
        Some(answer)
    }

    /// The guest writes an MSR of its local APIC. `None`: the MSR is not the board's.
    pub fn write_msr(
        &mut self,
        vcpu: usize,
        msr: u32,
        value: u64,
        now_ns: u64,
    ) -> Option<Result<(), Fault>> {
        if !is_apic_msr(msr) {
            return None;
        }
        let answer = self.lapics.get_mut(vcpu)?.write_msr(msr, value, now_ns);
        let done = answer.map(|effect| self.apply(vcpu, effect));
        self.settle();
        Some(done)
    }

    /// The guest reads CR8; 0 when there is no such processor.
    #[must_use]
    pub fn cr8(&self, vcpu: usize) -> u8 {
        self.lapics.get(vcpu).map_or(0, Lapic::cr8)
    }

    /// The guest writes CR8 (values above 15 must have got #GP).
    pub fn set_cr8(&mut self, vcpu: usize, value: u8) {
        if let Some(lapic) = self.lapics.get_mut(vcpu) {
            lapic.set_cr8(value & 0xf);
        }
        self.settle();
    }

    /// The TSC of `vcpu` has a new offset (the guest wrote IA32_TSC or IA32_TSC_ADJUST): guest TSC
    /// = ticks since guest time 0 plus `offset`, modulo 2^64.
    pub fn set_tsc_offset(&mut self, vcpu: usize, offset: u64, now_ns: u64) {
        if let Some(lapic) = self.lapics.get_mut(vcpu) {
            lapic.set_tsc_offset(offset, now_ns);
        }
    }

    /// A device that is not the board's drives its pin of the I/O APIC, below 16 its ISA wire; those of the
    /// board's own devices are left alone.
    pub fn drive(&mut self, pin: u8, high: bool) {
        match pin {
            0 | 2 => return,
            _ if WIRES.contains(&pin) => return,
            ..16 => self.wire(pin, high),
            _ => self.ioapic.set_line(pin, high),
        }
        self.settle();
    }

    /// Bytes arrive at the serial port. Returns how many it took; offer the rest again later.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.iter().take_while(|byte| self.uart.receive(**byte)).count();
        self.settle();
        taken
    }

    /// What of the text memory is on the screen.
    #[must_use]
    pub fn text(&self) -> vga::Text {
        self.vga.text()
    }

    /// Received bytes the guest has not read yet.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.uart.unread()
    }

    /// The bytes the guest has sent over its serial port since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.move_output(&mut bytes);
        bytes
    }

    /// Whether [`Board::take_output`] has something.
    #[must_use]
    #[inline]
    pub fn has_output(&self) -> bool {
        self.uart.has_output()
    }

    /// The same, behind what `into` holds.
    pub fn move_output(&mut self, into: &mut Vec<u8>) {
        if self.uart.has_output() {
            self.uart.move_output(into);
            self.settle();
        }
    }

    /// Whether the local APIC of this processor is switched on (IA32_APIC_BASE); false when there is no such processor.
    #[must_use]
    pub fn apic_is_on(&self, vcpu: usize) -> bool {
        self.lapics.get(vcpu).is_some_and(Lapic::is_on)
    }

    /// The user presses the power button.
    pub fn press_power_button(&mut self) {
        self.pm.press_power_button();
        self.settle();
    }

    /// An access nobody claimed that has not been reported yet; each different one comes once,
    /// up to [`REMEMBERED`].
    pub fn take_unclaimed(&mut self) -> Option<Unclaimed> {
        self.unclaimed.take()
    }

    /// How many accesses nobody claimed, repetitions included.
    #[must_use]
    pub fn unclaimed_total(&self) -> u64 {
        self.unclaimed.total()
    }

    /// Queues an event once: it is a fact until it is taken.
    fn push(&mut self, event: Event) {
        if !self.events.contains(&event) {
            self.events.push_back(event);
        }
    }

    fn power(&mut self, event: Option<PowerEvent>) {
        match event {
            Some(PowerEvent::Off) => self.push(Event::PowerOff),
            Some(PowerEvent::Reset) => self.push(Event::Reset),
            None => {}
        }
    }

    fn advance_pit(&mut self, now_ns: u64) -> bool {
        let rose = self.pit.advance(now_ns);
        if rose {
            self.wire(0, false);
            self.wire(0, true);
        }
        rose
    }

    /// Drives an ISA interrupt wire into both controllers.
    fn wire(&mut self, irq: u8, high: bool) {
        self.pic.set_line(irq, high);
        self.ioapic.set_line(if irq == 0 { 2 } else { irq }, high);
    }

    /// Carries every change through the wires until nothing moves, and tells the monitor.
    fn settle(&mut self) {
        let levels = [self.i8042.irq(), self.uart.irq(), self.rtc.irq(), self.pm.irq()];
        if levels != self.wires {
            for ((irq, level), before) in WIRES.into_iter().zip(levels).zip(self.wires) {
                if level != before {
                    self.wire(irq, level);
                }
            }
            self.wires = levels;
        }
        while let Some(message) = self.ioapic.take_message() {
            self.deliver(None, message);
        }
        let intr = self.pic.pending();
        for vcpu in 0..self.lapics.len() {
            let message = self.lapics.get_mut(vcpu).and_then(|lapic| lapic.set_pin(0, intr));
            if let Some(message) = message {
                self.deliver(Some(vcpu), message);
            }
        }
        if self.uart.has_output() {
            self.push(Event::Output);
        }
        for vcpu in 0..self.lapics.len() {
            let pending = self.has_pending(vcpu);
            let told = self.told.get_mut(vcpu).map(|told| core::mem::replace(told, pending));
            if pending && told == Some(false) {
                self.push(Event::Kick(vcpu));
            }
        }
    }

    /// Does what a local APIC's register write asked for.
    fn apply(&mut self, vcpu: usize, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Send(message) => self.deliver(Some(vcpu), message),
            Effect::EndOfLevel(vector) => self.ioapic.end_of_interrupt(vector),
        }
    }

    /// Delivers a message to all its targets.
    fn deliver(&mut self, sender: Option<usize>, message: Message) {
        if message.mode == Mode::Lowest {
            let priority = |vcpu: &usize| self.lapics.get(*vcpu).map_or(u8::MAX, Lapic::priority);
            let candidates = (0..self.lapics.len())
                .filter(|vcpu| self.listens(*vcpu) && self.is_target(sender, message, *vcpu));
            if let Some(vcpu) = candidates.min_by_key(priority) {
                self.deliver_to(vcpu, message);
            }
        } else {
            for vcpu in 0..self.lapics.len() {
                if self.is_target(sender, message, vcpu) {
                    self.deliver_to(vcpu, message);
                }
            }
        }
    }

    fn is_target(&self, sender: Option<usize>, message: Message, vcpu: usize) -> bool {
        match message.destination {
            Destination::Itself => sender == Some(vcpu),
            Destination::All => true,
            Destination::Others => sender != Some(vcpu),
            destination => self.lapics.get(vcpu).is_some_and(|lapic| lapic.matches(destination)),
        }
    }

    /// Whether this local APIC takes fixed interrupts at all.
    fn listens(&self, vcpu: usize) -> bool {
        self.lapics.get(vcpu).is_some_and(Lapic::listens)
    }

    fn deliver_to(&mut self, vcpu: usize, message: Message) {
        let (Some(lapic), Some(waiting)) = (self.lapics.get_mut(vcpu), self.waiting.get_mut(vcpu))
        else {
            return;
        };
        match message.mode {
            Mode::Fixed | Mode::Lowest => {
                lapic.accept(message.vector, message.trigger);
            }
            Mode::Nmi => self.push(Event::Nmi(vcpu)),
            Mode::Init => {
                lapic.init();
                *waiting = vcpu != 0;
                // Whatever was on its way to the old life of the processor is gone.
                self.events.retain(|event| {
                    !matches!(event, Event::Init(v) | Event::Nmi(v) | Event::StartUp { vcpu: v, .. }
                        if *v == vcpu)
                });
                self.push(Event::Init(vcpu));
            }
            Mode::StartUp => {
                if core::mem::take(waiting) {
                    self.push(Event::StartUp { vcpu, vector: message.vector });
                }
            }
            // There is no SMM; ExtINT reaches a processor through LINT0 only.
            Mode::Smi | Mode::External => {}
        }
    }
}

fn is_apic_msr(msr: u32) -> bool {
    msr == lapic::MSR_BASE || msr == lapic::MSR_TSC_DEADLINE || lapic::MSR_X2APIC.contains(&msr)
}

#[cfg(test)]
mod tests;
