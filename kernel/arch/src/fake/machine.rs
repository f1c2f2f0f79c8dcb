//! The state of the fake machine, and what a test does with it.

use std::boxed::Box;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::vec::Vec;

use logic::addr::Frame;
use sync::{Pool, SharedPage, Site};

use crate::{Event, GuestEvent, GuestVendor, Isolate, MAX_CPUS, Thread, vector};

/// User code at an address: does something to the thread's registers and says how it ended.
pub type Program = Box<dyn FnMut(&mut Thread) -> Event>;

/// What a guest does from one entry to the next exit; it may read and write the state as the
/// monitor's page has it (words of 64 bits).
pub type GuestScript = Box<dyn FnMut(&mut [u64; 512]) -> GuestEvent>;

/// Frames of the memory behind [`crate::with_physical`] outside of the pool.
const SPARE_FRAMES: usize = 256;
/// A wait that spins longer than this has nobody to wait for.
const PATIENCE: usize = 100_000;

/// Something the kernel did to the hardware. Slow instructions are all here, so they can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Left to user mode.
    Run,
    /// Waited for an interrupt.
    Idle,
    /// Wrote CR3.
    LoadSpace {
        /// Root of the page tables.
        root: Frame,
        /// Address-space tag.
        tag: Option<u16>,
        /// Whether the tag's translations were dropped.
        flush: bool,
    },
    /// Dropped the translation of one page.
    FlushPage(u64),
    /// Dropped all translations of a tag, or of the current space.
    FlushSpace(Option<u16>),
    /// Interrupted a CPU.
    Ipi {
        /// Which.
        cpu: usize,
        /// With what.
        vector: u8,
    },
    /// Armed or disarmed the timer.
    Deadline(Option<u64>),
    /// Ended an interrupt.
    EndOfInterrupt,
    /// Saved FPU registers.
    FpuSave,
    /// Loaded FPU registers.
    FpuRestore,
    /// Read a model-specific register.
    ReadMsr(u32),
    /// Wrote a model-specific register.
    WriteMsr(u32, u64),
    /// Wrote sleep types to the sleep registers.
    Sleep([u8; 2]),
    /// Programmed a pin of an I/O APIC.
    IoApic {
        /// Which I/O APIC.
        index: usize,
        /// Which pin.
        pin: u32,
    },
    /// Forgot what speculation left.
    Isolate(Isolate),
    /// Entered a guest.
    EnterGuest {
        /// The tag of its translations.
        tag: u16,
        /// With all translations of its tag dropped.
        flush: bool,
    },
}

/// A pin of an I/O APIC as it was programmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// Low half of the entry.
    pub low: u32,
    /// High half of the entry.
    pub high: u32,
    /// Whether it is masked.
    pub is_masked: bool,
}

/// What one CPU is doing.
pub(super) struct Cpu {
    pub pending: BTreeSet<u8>,
    pub deadline: Option<u64>,
    pub fpu: [u64; 64],
}

impl Cpu {
    fn new() -> Self {
        Self { pending: BTreeSet::new(), deadline: None, fpu: [0; 64] }
    }
}

/// Everything there is.
pub(super) struct State {
    pub cpus: Vec<Cpu>,
    pub current: usize,
    pub tsc: u64,
    pub pool: Option<&'static Pool>,
    pub vendor: GuestVendor,
    pub ioapics: Vec<Vec<Pin>>,
    pub msrs: BTreeMap<u32, u64>,
    pub console: Vec<u8>,
    pub killed: Vec<(usize, &'static str)>,
    pub fpu_order: u8,
    pub pcid: bool,
    /// Interrupts that nobody asked for: CPU and vector.
    pub unclaimed: Vec<(usize, u8)>,
    /// Deadly events: CPU, event, address.
    pub faults: Vec<(usize, u8, u64)>,
    /// First frames of ranges with their memory types, from 0 upwards.
    pub memory_types: BTreeMap<u64, u8>,
    /// How often a CPU left to user mode by IRETQ, not by SYSRET.
    pub irets: u64,
    /// Whether the machine loses power when the sleep registers are written; nothing if it has none.
    pub sleeps: Option<bool>,
    deeds: Vec<(usize, Deed)>,
    programs: BTreeMap<u64, Program>,
    guests: VecDeque<GuestScript>,
    others: Option<Box<dyn FnMut()>>,
    spins: usize,
    spare: Option<&'static Pool>,
    physical: BTreeMap<u64, Frame>,
}

impl State {
    fn new(cpus: usize) -> Self {
        Self {
            cpus: (0..cpus.clamp(1, MAX_CPUS)).map(|_| Cpu::new()).collect(),
            current: 0,
            tsc: 1,
            pool: None,
            vendor: GuestVendor::None,
            ioapics: [[Pin { is_masked: true, ..Pin::default() }; 24].to_vec()].into(),
            msrs: BTreeMap::new(),
            console: Vec::new(),
            killed: Vec::new(),
            fpu_order: 0,
            pcid: false,
            unclaimed: Vec::new(),
            faults: Vec::new(),
            memory_types: [(0, 6), (0xc_0000, 0), (0x10_0000, 6)].into(),
            irets: 0,
            sleeps: None,
            deeds: Vec::new(),
            programs: BTreeMap::new(),
            guests: VecDeque::new(),
            others: None,
            spins: 0,
            spare: None,
            physical: BTreeMap::new(),
        }
    }

    /// The CPU whose turn it is.
    pub fn cpu(&mut self) -> &mut Cpu {
        let last = self.cpus.len() - 1;
        &mut self.cpus[self.current.min(last)]
    }

    /// Writes down what the current CPU did.
    pub fn record(&mut self, deed: Deed) {
        self.spins = 0;
        self.deeds.push((self.current, deed));
    }

    /// Takes the most urgent interrupt of the current CPU.
    pub fn take_interrupt(&mut self) -> Option<u8> {
        let now = self.tsc;
        let cpu = self.cpu();
        if cpu.deadline.is_some_and(|deadline| deadline <= now) {
            cpu.deadline = None;
            cpu.pending.insert(vector::TIMER);
        }
        cpu.pending.pop_last()
    }
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::new(1));
}

/// Does something with this thread's machine.
pub(super) fn with<R>(work: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(work)
}

/// The test's hands on this thread's machine.
pub struct Machine;

impl Machine {
    /// A new machine of `cpus` CPUs (at least 1) with `frames` frames of kernel memory, which live
    /// until the test program ends. CPU 0 is the current one.
    ///
    /// # Panics
    /// If the host has no memory.
    pub fn install(cpus: usize, frames: usize) -> &'static Pool {
        let pool = Pool::leaked(Frame(0x1_0000), frames);
        assert!(pool.is_ok(), "no memory for a pool of {frames} frames");
        with(|state| {
            *state = State::new(cpus);
            state.pool = pool.ok();
        });
        Self::pool()
    }

    /// The kernel memory of the installed machine.
    ///
    /// # Panics
    /// If none was installed in this thread.
    #[must_use]
    pub fn pool() -> &'static Pool {
        let pool = with(|state| state.pool);
        assert!(pool.is_some(), "no machine was installed");
        pool.unwrap_or_else(|| std::process::abort())
    }

    /// The next calls come from this CPU.
    pub fn set_cpu(cpu: usize) {
        with(|state| state.current = cpu.min(state.cpus.len() - 1));
    }

    /// Lets TSC ticks pass on all CPUs.
    pub fn advance(ticks: u64) {
        with(|state| state.tsc += ticks);
    }

    /// An interrupt becomes pending on a CPU.
    pub fn interrupt(cpu: usize, vector: u8) {
        with(|state| state.cpus[cpu].pending.insert(vector));
    }

    /// Whether an interrupt is pending on a CPU.
    #[must_use]
    pub fn is_pending(cpu: usize, vector: u8) -> bool {
        with(|state| state.cpus[cpu].pending.contains(&vector))
    }

    /// When a CPU's timer will fire.
    #[must_use]
    pub fn deadline(cpu: usize) -> Option<u64> {
        with(|state| state.cpus[cpu].deadline)
    }

    /// Puts user code at an address: [`crate::run`] calls it whenever a thread's RIP is there.
    pub fn program(rip: u64, program: impl FnMut(&mut Thread) -> Event + 'static) {
        with(|state| state.programs.insert(rip, Box::new(program)));
    }

    /// What the next guest does; scripts are used up in order.
    pub fn guest(script: impl FnMut(&mut [u64; 512]) -> GuestEvent + 'static) {
        with(|state| state.guests.push_back(Box::new(script)));
    }

    /// Forgets what the next guests were to do.
    pub fn drop_guests() {
        with(|state| state.guests.clear());
    }

    /// Gives the machine a kind of virtualization.
    pub fn set_vendor(vendor: GuestVendor) {
        with(|state| state.vendor = vendor);
    }

    /// What the other CPUs do while the current one waits for them ([`crate::relax`]).
    pub fn while_waiting(others: impl FnMut() + 'static) {
        with(|state| state.others = Some(Box::new(others)));
    }

    /// Takes the list of what was done since the last call, with the CPU that did it.
    #[must_use]
    pub fn take_deeds() -> Vec<(usize, Deed)> {
        with(|state| std::mem::take(&mut state.deeds))
    }

    /// How often a CPU left to user mode by IRETQ so far.
    #[must_use]
    pub fn irets() -> u64 {
        with(|state| state.irets)
    }

    /// Takes what was written to the console.
    #[must_use]
    pub fn take_console() -> Vec<u8> {
        with(|state| std::mem::take(&mut state.console))
    }

    /// Takes the CPUs and reasons of killed threads.
    #[must_use]
    pub fn take_killed() -> Vec<(usize, &'static str)> {
        with(|state| std::mem::take(&mut state.killed))
    }

    /// Takes the CPUs and vectors of interrupts that nobody asked for.
    #[must_use]
    pub fn take_unclaimed() -> Vec<(usize, u8)> {
        with(|state| std::mem::take(&mut state.unclaimed))
    }

    /// From now on the FPU registers of a context take 2^`order` frames.
    pub fn set_fpu_order(order: u8) {
        with(|state| state.fpu_order = order);
    }

    /// Gives the machine sleep registers: writing them takes its power, or nothing happens.
    pub fn set_sleeps(loses_power: bool) {
        with(|state| state.sleeps = Some(loses_power));
    }

    /// From now on the CPUs tag address spaces, or do not.
    pub fn set_pcid(there: bool) {
        with(|state| state.pcid = there);
    }

    /// How a pin was programmed last.
    #[must_use]
    pub fn pin(ioapic: usize, pin: usize) -> Pin {
        with(|state| state.ioapics[ioapic][pin])
    }

    /// Memory from `first` on, to the next frame with an entry, has this type.
    pub fn set_memory_type(first: Frame, memory_type: u8) {
        with(|state| state.memory_types.insert(first.0, memory_type));
    }
}

/// Runs the user program at `rip`, if there is one. The machine is free for it to use.
pub(super) fn run_program(rip: u64, thread: &mut Thread) -> Option<Event> {
    let mut program = with(|state| state.programs.remove(&rip))?;
    let event = program(thread);
    with(|state| {
        state.programs.entry(rip).or_insert(program);
    });
    Some(event)
}

/// Runs the next guest script on the guest's state.
pub(super) fn run_guest(words: &mut [u64; 512]) -> Option<GuestEvent> {
    let mut script = with(|state| state.guests.pop_front())?;
    Some(script(words))
}

/// Lets the other CPUs do something.
pub(super) fn run_others() {
    let (others, cpu) = with(|state| {
        state.spins += 1;
        assert!(state.spins < PATIENCE, "CPU {} waits for nobody", state.current);
        (state.others.take(), state.current)
    });
    if let Some(mut others) = others {
        others();
        with(|state| state.others = state.others.take().or(Some(others)));
    }
    Machine::set_cpu(cpu);
}

/// The page of any frame: the pool's, or one of memory made when it is first looked at.
pub(super) fn page(frame: Frame) -> &'static SharedPage {
    let (pool, frame) = with(|state| match state.pool {
        Some(pool) if pool.contains(frame) => (Some(pool), frame),
        _ => {
            if state.spare.is_none() {
                state.spare = Pool::leaked(Frame(0), SPARE_FRAMES).ok();
            }
            let spare = state.spare;
            let made = || {
                spare.and_then(|spare| spare.alloc_zeroed(0, Site::Boot).ok()).unwrap_or_default()
            };
            (spare, *state.physical.entry(frame.0).or_insert_with(made))
        }
    });
    assert!(pool.is_some(), "no memory for physical pages");
    pool.unwrap_or_else(|| std::process::abort()).page(frame)
}
