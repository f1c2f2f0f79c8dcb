//! One guest's machine: the board, the memory, and each virtual processor's private state.
use crate::ata::AtaDisk;
use crate::claims::Seen;
use crate::control::Unclaimed;
use crate::cpuid::{Leaf, View};
use crate::inject::Source;
use crate::memory::GuestMemory;
use crate::msr::MsrFile;
use crate::passed::Passed;
use crate::report::History;
use crate::virtio::Bus;
use abi::utcb::StatePage;
use alloc::string::String;
use alloc::vec::Vec;
use devices::board::{Board, Event};

/// What a virtual processor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Running guest code.
    Running,
    /// After HLT, until an interrupt.
    Halted,
    /// After INIT, until a start-up message.
    WaitForStartUp,
}

/// A virtual processor, apart from its state page.
#[derive(Debug)]
pub struct Cpu {
    /// Its index and APIC id.
    pub id: usize,
    /// Remembered registers.
    pub msrs: MsrFile,
    /// Last exits.
    pub history: History,
    /// What it does.
    pub activity: Activity,
}

impl Cpu {
    /// Processor 0 runs, the others wait for their start-up message.
    pub fn new(id: usize) -> Self {
        let activity = if id == 0 { Activity::Running } else { Activity::WaitForStartUp };
        Self { id, msrs: MsrFile::default(), history: History::default(), activity }
    }
}

/// Messages for one virtual processor that arrive while it runs elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mailbox {
    /// A non-maskable interrupt.
    pub nmi: bool,
    /// An INIT.
    pub init: bool,
    /// A start-up message with its page.
    pub start_up: Option<u8>,
}

/// The instant of an exit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Guest nanoseconds since power-on.
    pub ns: u64,
    /// The host's TSC.
    pub tsc: u64,
}

/// What all processors of a guest share.
pub struct Vm<'a> {
    /// Its devices.
    pub board: Board,
    /// Its virtio devices.
    pub virtio: Bus<'a>,
    /// The disk at the ports of a PC's first channel.
    pub ata: Option<AtaDisk<'a>>,
    /// Its RAM.
    pub memory: GuestMemory<'a>,
    /// Ports of the machine that it has.
    pub passed: Passed,
    /// The processor's own virtualization is VMX, so that exits are fully qualified.
    pub vmx: bool,
    /// Asks the real processor.
    pub host_cpuid: fn(u32, u32) -> Leaf,
    /// The host's TSC at guest time 0.
    pub tsc_zero: u64,
    /// TSC frequency.
    pub tsc_khz: u32,
    /// Seconds since 1970 at guest time 0.
    pub epoch: u64,
    /// XCR0 bits that a guest may set.
    pub xcr0_allowed: u64,
    /// Policy for holes.
    pub unclaimed: Unclaimed,
    /// One per processor.
    pub mailboxes: Vec<Mailbox>,
    /// Processors to wake after the lock is released.
    pub kicks: Vec<usize>,
    /// Lines for the log.
    pub messages: Vec<String>,
    /// Registers that were reported.
    pub seen_msrs: Seen,
    /// The guest ended.
    pub ended: Option<Ended>,
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Switched itself off.
    PowerOff,
    /// Reset itself.
    Reset,
    /// Was stopped.
    Stopped,
}

impl Vm<'_> {
    /// What CPUID answers depend on.
    pub fn view(&self, cpu: usize, page: &StatePage) -> View {
        View {
            apic_id: cpu as u32,
            vcpus: self.mailboxes.len() as u32,
            tsc_khz: self.tsc_khz,
            cr4: page.cr4,
            xcr0: page.xcr0,
            apic_enabled: self.board.apic_is_on(cpu),
        }
    }

    /// The guest reads `size` bytes (1, 2 or 4) at `port`: of the machine, of its disk, of its board.
    pub fn port_read(&mut self, port: u16, size: u8, now: Now) -> u32 {
        if self.passed.has(port, size) {
            return (self.passed.read)(port, size);
        }
        self.ata_read(port, size).unwrap_or_else(|| self.board.port_read(port, size, now.ns))
    }

    /// The guest writes `size` bytes (1, 2 or 4) at `port`.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32, now: Now) {
        if self.passed.has(port, size) {
            (self.passed.write)(port, size, value);
        } else if !self.ata_write(port, size, value) {
            self.board.port_write(port, size, value, now.ns);
        }
    }

    /// Whether [`Vm::move_output`] has something.
    #[inline]
    pub fn has_output(&self) -> bool {
        self.board.has_output() || self.virtio.has_output()
    }

    /// Moves what the board wants done into mailboxes, kicks and the end; true if there is output.
    #[inline]
    pub fn drain(&mut self) -> bool {
        self.board.has_event() && self.drain_all()
    }

    fn drain_all(&mut self) -> bool {
        let mut output = false;
        while let Some(event) = self.board.take_event() {
            match event {
                Event::PowerOff => self.end(Ended::PowerOff),
                Event::Reset => self.end(Ended::Reset),
                Event::Output => output = true,
                Event::Kick(cpu) => self.kick(cpu),
                Event::Nmi(cpu) => self.post(cpu, |mail| mail.nmi = true),
                Event::Init(cpu) => self.post(cpu, |mail| {
                    *mail = Mailbox { init: true, ..Mailbox::default() };
                }),
                Event::StartUp { vcpu, vector } => {
                    self.post(vcpu, |mail| mail.start_up = Some(vector));
                }
            }
        }
        output
    }

    /// The guest ends, for the first reason given; all processors are told.
    pub fn end(&mut self, ended: Ended) {
        if self.ended.is_none() {
            self.ended = Some(ended);
        }
        for cpu in 0..self.mailboxes.len() {
            self.kick(cpu);
        }
    }

    fn post(&mut self, cpu: usize, change: impl FnOnce(&mut Mailbox)) {
        if let Some(mail) = self.mailboxes.get_mut(cpu) {
            change(mail);
            self.kick(cpu);
        }
    }

    fn kick(&mut self, cpu: usize) {
        if !self.kicks.contains(&cpu) {
            self.kicks.push(cpu);
        }
    }
}

/// The interrupts of one processor.
pub struct Interrupts<'a, 'b> {
    /// The machine.
    pub vm: &'a mut Vm<'b>,
    /// Which processor.
    pub cpu: usize,
}

impl Source for Interrupts<'_, '_> {
    fn pending(&mut self) -> bool {
        self.vm.board.has_pending(self.cpu)
    }
    fn take(&mut self) -> Option<u8> {
        self.vm.board.acknowledge(self.cpu)
    }
    fn take_nmi(&mut self) -> bool {
        self.vm.mailboxes.get_mut(self.cpu).is_some_and(|mail| core::mem::take(&mut mail.nmi))
    }
}
