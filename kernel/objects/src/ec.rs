//! Execution contexts: threads, and the local ones that serve portals.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::Status;
use arch::{ExitKind, Thread};
use sync::{Counted, CpuCell, List, Mark, SharedPage};

use crate::{Charge, OwnedFrames, Pd, Pt, Sc, Vcpu};

/// Whether a context has time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Serves portals on its callers' time.
    Local,
    /// A thread; needs a scheduling context.
    Global,
}

/// What others ask of a context; looked at whenever it is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attention(pub u32);

impl Attention {
    /// It must die.
    pub const KILL: Attention = Attention(1);
    /// It must take event 31.
    pub const RECALL: Attention = Attention(2);
}

/// An execution context. Lists link 1: the contexts of its domain; link 2: those to be killed.
pub struct Ec {
    /// Where it lives.
    pub pd: Counted<Pd>,
    /// Local or global.
    pub kind: Kind,
    /// Selector of its exception portal 0.
    pub event_base: u32,
    /// The page number at which user space sees the UTCB, and in which domain.
    pub utcb_mapping: Option<(Counted<Pd>, u64)>,
    /// Register state, place in a call chain: its CPU's alone.
    pub cell: CpuCell<EcState>,
    /// Where its revocation is in a delegation tree. Only its CPU moves it.
    pub mark: Mark,
    attention: AtomicU32,
    utcb: OwnedFrames,
    fpu: OwnedFrames,
    charge: Charge,
}

/// What a context does when it gets the CPU.
pub enum Resume {
    /// Goes to user mode with its registers.
    User,
    /// Repeats the system call in its registers (it was busy, or is done in steps).
    Restart,
    /// Takes its startup event.
    Startup,
    /// Waits for the reply to its call.
    AwaitReply,
    /// Waits for the reply to an exception message.
    AwaitEventReply,
    /// Moves its caller's typed items, then serves.
    ReceiveItems,
    /// Moves its own typed items to its caller, then parks.
    SendItems,
    /// Raises an event again whose handler was busy.
    RaiseAgain {
        /// The event number.
        event: u8,
        /// The error code.
        error: u64,
        /// CR2 then.
        cr2: u64,
    },
    /// Enters the guest.
    Guest(Counted<Vcpu>),
    /// Never runs again.
    Dead,
}

/// Typed items on their way between a caller and the thread that serves it.
#[derive(Default)]
pub struct Moving {
    /// How many there are.
    pub count: usize,
    /// How many are done.
    pub done: usize,
    /// The next one, if it was begun.
    pub item: Option<Item>,
}

/// An item as it was read from the sender's page, with the receiver's windows.
pub struct Item {
    /// What is sent.
    pub send: u64,
    /// How.
    pub meta: u64,
    /// Where a translation may lead.
    pub translate: u64,
    /// Where a delegation may go.
    pub delegate: u64,
    /// How far it has come.
    pub cursor: u64,
}

/// A call that finds no memory waits once for what is about to be freed, then is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frees {
    /// It has not had to wait.
    Unasked,
    /// It waits until nothing is about to be freed, at most until this epoch.
    Until(u64),
    /// It has waited: if there is still no memory, that is the answer.
    Waited,
}

/// What the home CPU knows of a context.
pub struct EcState {
    /// Registers.
    pub thread: Thread,
    /// What comes next.
    pub resume: Resume,
    /// An idle local context's reference to itself, taken by its caller's CPU.
    pub parked: Option<Counted<Ec>>,
    /// Who waits for this one's reply.
    pub caller: Option<Counted<Ec>>,
    /// In the root of a chain that is not running: the context at the chain's end.
    pub top: Option<Counted<Ec>>,
    /// In the root of a chain that waits on a semaphore: contexts whose time waits behind it.
    pub helpers: List<Sc, 0>,
    /// In the root of a chain: whether it waits on a semaphore, and which time brought it there.
    pub blocked: Option<Counted<Sc>>,
    /// How far a call that is done in steps has come.
    pub cursor: u64,
    /// The domain that it is making, in steps; nobody else knows it.
    pub making: Option<Counted<Pd>>,
    /// Whether the call that it makes has waited for memory.
    pub frees: Frees,
    /// The typed items of its caller's call, or of its own reply.
    pub moving: Moving,
    /// CR2 of the exception that is being handled.
    pub fault_address: u64,
    /// The guest run that an event interrupted; it goes on after the reply.
    pub interrupted: Option<Counted<Vcpu>>,
}

impl EcState {
    /// A context whose first step is `resume`, with a stack pointer.
    pub fn new(resume: Resume, stack: u64) -> EcState {
        let mut thread = Thread::default();
        thread.registers.rsp = stack;
        thread.registers.rflags = USER_FLAGS;
        EcState {
            thread,
            resume,
            parked: None,
            caller: None,
            top: None,
            helpers: List::new(),
            blocked: None,
            cursor: 0,
            making: None,
            frees: Frees::Unasked,
            moving: Moving::default(),
            fault_address: 0,
            interrupted: None,
        }
    }

    /// It serves a message that came through `pt`. (An idle thread's `resume` is `User`, from its making or its
    /// last reply.)
    #[inline(always)]
    pub(crate) fn start(&mut self, pt: &Pt) {
        self.thread.registers.rip = pt.entry;
        self.thread.registers.rdi = pt.id();
        self.thread.exit = ExitKind::Syscall;
    }

    /// Its wait is over, with this status; a thread that repeats its call still needs its own RDI.
    #[inline(always)]
    pub(crate) fn woken(&mut self, status: Status) {
        if !matches!(self.resume, Resume::Restart) {
            self.thread.registers.rdi = status as u64;
        }
    }

    /// From now on it returns to user mode with all its registers as they stand here, not as from a system call.
    pub fn restore_all(&mut self) {
        if self.thread.exit == ExitKind::Syscall {
            self.thread.exit = ExitKind::Trap;
            let registers = &mut self.thread.registers;
            registers.rcx = registers.rip;
            registers.r11 = USER_FLAGS;
            registers.rflags = USER_FLAGS;
        }
    }
}

/// RFLAGS of user code after every system call: interrupts on, bit 1 (abi.md 4).
pub const USER_FLAGS: u64 = 0x202;

impl Ec {
    /// A context that has never run.
    #[allow(clippy::too_many_arguments, reason = "the parts of a thread; made in one place")]
    pub fn new(
        pd: Counted<Pd>,
        kind: Kind,
        event_base: u32,
        utcb_mapping: Option<(Counted<Pd>, u64)>,
        utcb: OwnedFrames,
        fpu: OwnedFrames,
        cell: CpuCell<EcState>,
        charge: Charge,
    ) -> Ec {
        Ec {
            pd,
            kind,
            event_base,
            utcb_mapping,
            cell,
            mark: Mark::new(),
            attention: AtomicU32::new(0),
            utcb,
            fpu,
            charge,
        }
    }

    /// The message page.
    #[inline(always)]
    pub fn utcb(&self) -> &'static SharedPage {
        self.utcb.page()
    }

    /// The message page's frame.
    pub fn utcb_frame(&self) -> logic::addr::Frame {
        self.utcb.frame()
    }

    /// Where its FPU registers are while another context's are loaded.
    #[inline(always)]
    pub fn fpu(&self) -> &'static SharedPage {
        self.fpu.page()
    }

    /// Gives this context the FPU registers that another one has saved.
    pub fn copy_fpu(&self, from: &Ec) {
        for page in 0..1 << arch::fpu_order() {
            self.fpu.page_at(page).copy_words(from.fpu.page_at(page), 0, 512);
        }
    }

    /// The CPU it belongs to.
    #[inline(always)]
    pub fn cpu(&self) -> usize {
        self.cell.cpu()
    }

    /// Whether anything is asked of it.
    #[inline(always)]
    pub fn has_attention(&self) -> bool {
        self.attention.load(Relaxed) != 0
    }

    /// Whether it was killed.
    #[inline(always)]
    pub fn is_dead(&self) -> bool {
        self.attention.load(Relaxed) & Attention::KILL.0 != 0
    }

    /// Asks something of it; its CPU must then be told.
    pub fn ask(&self, what: Attention) {
        self.attention.fetch_or(what.0, Relaxed);
    }

    /// Takes a request back; whether it was there.
    pub fn take(&self, what: Attention) -> bool {
        self.attention.fetch_and(!what.0, Relaxed) & what.0 != 0
    }

    /// The account that paid for it.
    pub fn charge(&self) -> &Charge {
        &self.charge
    }
}
