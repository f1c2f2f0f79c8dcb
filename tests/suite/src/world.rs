//! What every check may use: the tally, memory, and a handler of exceptions.

use crate::tally::Tally;
use abi::cap::{MEM_RW, RECALL, STARTUP};
use abi::utcb::offset;
use alloc::boxed::Box;
use alloc::vec::Vec;
use rt::memory::Window;
use rt::portal::Servant;
use rt::sync::Mutex;
use rt::{Boot, Crd, Mtd, Selector, Status, Utcb, calls, probe, selectors};

/// The root program's domain.
pub const PD: Selector = abi::cap::ROOT_PD;
/// The root program's thread.
pub const EC: Selector = abi::cap::ROOT_EC;
/// A selector that never holds anything.
pub const NOTHING: Selector = 0x800;

/// Bytes of heap that the suite adds.
const HEAP_BYTES: u64 = 16 << 20;

/// An exception message, as the handler saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The portal's identity: vector or special event.
    pub id: u64,
    /// The items word.
    pub items: u64,
    /// The register groups the message names.
    pub mtd: Mtd,
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// RBX.
    pub rbx: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Error code and CR2.
    pub qual: [u64; 2],
}

/// What the handler saw.
static SEEN: Mutex<Vec<Event>> = Mutex::new(Vec::new());

/// What the handler shall do with the next message.
static ANSWER: Mutex<Answer> = Mutex::new(Answer::Recover);

/// How the handler answers an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Skip the faulting probe.
    Recover,
    /// Return from the page that could not be executed.
    RecoverExecute,
    /// Set RBX and flags, and skip the probe.
    Change {
        /// New RBX.
        rbx: u64,
        /// New flags.
        rflags: u64,
    },
    /// Delegate a page of the suite's to where the fault was, and try again.
    MapPage {
        /// The page's number.
        page: u64,
    },
    /// Answer with nothing.
    Resume,
}

/// The means.
pub struct World {
    /// The counts.
    pub tally: Tally,
    /// What the start-up said.
    pub boot: Boot,
    /// Where the heap that the suite added lies: first address, and first
    /// address after it.
    pub heap: (u64, u64),
    /// The servant that hears of the first thread's exceptions.
    handler: Option<Servant>,
}

impl World {
    /// Nothing prepared: the machine as the kernel left it.
    pub fn new(boot: Boot) -> Self {
        Self { tally: Tally::new(boot.hip.ours().is_some()), boot, heap: (0, 0), handler: None }
    }

    /// Adds heap and hears of the first thread's exceptions.
    pub fn prepare(&mut self) {
        let heap = rt::memory::free_ram(&self.boot.hip, HEAP_BYTES, HEAP_BYTES)
            .ok_or(Status::Oom)
            .and_then(|address| Window::physical(address, HEAP_BYTES, MEM_RW));
        self.tally.equal("heap is mapped", heap.as_ref().map(Window::len), Ok(HEAP_BYTES as usize));
        if let Ok(heap) = &heap {
            self.heap = (heap.address(), heap.address() + heap.len() as u64);
        }
        #[cfg(target_os = "none")]
        let _ = heap.map(Window::into_heap);
        self.handler = Servant::new(self.boot.cpu, Box::new(handle)).ok();
        let mtd = all_but_fpu();
        for event in (0..=RECALL).filter(|event| *event != STARTUP) {
            let made = self.event_portal(event, mtd);
            if made.is_err() {
                self.tally.equal("event portal", made, Ok(()));
            }
        }
    }

    /// Makes the first thread's portal for an event anew.
    pub fn event_portal(&mut self, event: Selector, mtd: Mtd) -> Result<(), Status> {
        calls::revoke(Crd::objects(event, 0, 0x1f))?;
        match &self.handler {
            Some(handler) => handler.portal(event, mtd, event),
            None => Err(Status::BadCap),
        }
    }

    /// The servant that hears of exceptions.
    pub fn handler(&self) -> Option<&Servant> {
        self.handler.as_ref()
    }

    /// What the handler saw during `action`, with an answer for the first
    /// message.
    pub fn events<T>(&self, answer: Answer, action: impl FnOnce() -> T) -> (T, Vec<Event>) {
        SEEN.lock().clear();
        *ANSWER.lock() = answer;
        let result = action();
        (result, core::mem::take(&mut *SEEN.lock()))
    }

    /// A local EC on this processor without a handler: an object to name.
    pub fn idle_ec(&self) -> Selector {
        Servant::new(self.boot.cpu, Box::new(|_, _| ())).map_or(NOTHING, |servant| servant.ec())
    }

    /// A global EC on this processor that never gets time.
    pub fn idle_thread(&self) -> Selector {
        let sel = selectors::allocate();
        let _ = calls::create_ec(&thread_args(sel, self.boot.cpu));
        sel
    }

    /// A semaphore with count 0.
    pub fn semaphore(&self) -> Selector {
        let sel = selectors::allocate();
        let _ = calls::create_sm(sel, PD, 0);
        sel
    }

    /// The suite's own copy of a capability, with fewer permissions.
    pub fn reduced(&self, sel: Selector, perms: u8) -> Selector {
        let copy = selectors::allocate();
        let item = abi::TypedItem::delegate(Crd::objects(sel, 0, perms), 0);
        let _ = calls::delegate(PD, PD, item, Crd::objects(copy, 0, 0x1f));
        copy
    }

    /// A fresh zeroed page of the suite's, and its address.
    pub fn page(&self) -> u64 {
        let page: Box<Page> = Box::new(Page([0; 512]));
        Box::leak(page) as *const Page as u64
    }
}

/// A page of ordinary memory.
#[repr(C, align(4096))]
struct Page([u64; 512]);

/// A global EC with nothing of its own.
pub fn thread_args(sel: Selector, cpu: u16) -> abi::args::CreateEc {
    abi::args::CreateEc {
        sel,
        global: true,
        reserved: 0,
        utcb_in_caller: false,
        pd: PD,
        cpu,
        utcb: 0,
        stack: 0,
        event_base: NOTHING as u32,
    }
}

/// What a selector of the suite's holds.
pub fn held(sel: Selector) -> Crd {
    calls::lookup(Crd::objects(sel, 0, 0x1f)).unwrap_or_default()
}

/// The permissions of what a selector holds, 0 for nothing.
pub fn perms(sel: Selector) -> u8 {
    held(sel).perms()
}

/// Everything an exception message can hold but the FPU.
pub fn all_but_fpu() -> Mtd {
    Mtd::EXCEPTION & !Mtd::FPU
}

/// A TSC value a moment from now.
pub fn soon() -> u64 {
    rt::sync::after_us(20_000)
}

/// The handler of the first thread's exceptions.
fn handle(id: u64, utcb: &mut Utcb) {
    SEEN.lock().push(Event {
        id,
        items: utcb.get(offset::ITEMS),
        mtd: utcb.mtd(),
        rip: utcb.get(offset::RIP),
        rflags: utcb.get(offset::RFLAGS),
        rbx: utcb.get(offset::RBX),
        rsp: utcb.get(offset::RSP),
        qual: [utcb.get(offset::QUAL0), utcb.get(offset::QUAL1)],
    });
    let answer = core::mem::replace(&mut *ANSWER.lock(), Answer::Recover);
    match answer {
        Answer::Resume => utcb.set_mtd(Mtd::NONE),
        Answer::RecoverExecute => probe::recover_execute(utcb),
        Answer::MapPage { page } => {
            utcb.set_items(0, 0);
            let target = utcb.get(offset::QUAL1) >> abi::PAGE_BITS;
            utcb.push_typed(abi::TypedItem::delegate(Crd::memory(page, 0, MEM_RW), target));
            utcb.set_mtd(Mtd::NONE);
        }
        Answer::Change { rbx, rflags } => {
            let next = probe::after(utcb.get(offset::RIP));
            utcb.set(offset::RIP, next.unwrap_or_else(|| utcb.get(offset::RIP)));
            utcb.set(offset::RBX, rbx);
            utcb.set(offset::RFLAGS, rflags);
            utcb.set_mtd(Mtd::RIP_LEN | Mtd::RFLAGS | Mtd::ACDB);
        }
        Answer::Recover if id == RECALL => utcb.set_mtd(Mtd::NONE),
        Answer::Recover => {
            if !probe::recover(utcb) {
                rt::last_words::report(id, utcb);
            }
        }
    }
}
