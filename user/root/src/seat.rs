//! What a guest's place in the machine consists of as long as the machine runs: selectors, portals
//! for its monitor's events, and the pages that the root task shares with the monitor.
//!
//! A guest is created and destroyed many times in one seat, so nothing is lost with a life.
use crate::loader::{self, give_object, refused};
use crate::pages::words;
use abi::cap::{MEM_R, MEM_RW, PT_ALL, ROOT_HIP, SM_DOWN, SM_UP, STARTUP};
use abi::utcb::offset;
use abi::{Mtd, PAGE_SIZE, Selector};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use root::pool::Pool;
use rt::memory::Window;
use rt::portal::Servant;
use rt::sync::Semaphore;
use rt::{Boot, last_words, selectors};
use vmm::channel::Channel;
use vmm::control::{self, Control, End};
use vmm::status;

/// How often, and after how many microseconds each time, an answer of a monitor is looked for.
const PATIENCE_ROUNDS: u32 = 200;
const PATIENCE_US: u64 = 1_000;

/// A page that both sides see.
struct Shared {
    physical: u64,
    words: &'static [AtomicU64],
    address: u64,
    rights: u8,
}

/// What the events' handler and the console tell each other.
#[derive(Default)]
struct Events {
    /// The monitor's first instruction.
    entry: AtomicU64,
    /// A thread of the monitor faulted.
    crashed: AtomicBool,
    /// The domain is being taken apart: faults mean nothing any more.
    closing: AtomicBool,
}

/// A guest's seat.
pub struct Seat {
    /// The domain's selector, empty while there is none.
    pub pd: Selector,
    /// The first thread's.
    pub ec: Selector,
    /// Its time's.
    pub sc: Selector,
    /// What its serial line sends.
    pub out: Channel<'static>,
    /// What its serial line gets; the status word is the monitor's answer to the order.
    pub keys: Channel<'static>,
    /// What its monitor says.
    pub messages: Channel<'static>,
    /// Up after something was put into `keys`, or the order was changed.
    pub wake: Semaphore,
    pages: Vec<Shared>,
    portals: Vec<Selector>,
    events: Arc<Events>,
    wake_root: Selector,
}

impl Seat {
    /// Makes a seat; `wake_root` goes up when its monitor has something for the console.
    ///
    /// # Errors
    /// A sentence.
    pub fn new(boot: &Boot, pool: &mut Pool, wake_root: Selector) -> Result<Self, String> {
        let mut pages = Vec::new();
        for (address, rights) in [
            (control::CONTROL, MEM_R),
            (ROOT_HIP, MEM_R),
            (control::GUEST_OUT, MEM_RW),
            (control::GUEST_IN, MEM_RW),
            (control::MESSAGES, MEM_RW),
            (control::STATUS, MEM_RW),
            (control::DEVICES, MEM_R),
            (control::SCREEN, MEM_RW),
            (control::REGIONS, MEM_R),
        ] {
            let (physical, window) = loader::fresh(pool, PAGE_SIZE)?;
            if address == ROOT_HIP {
                // Without memory map: a monitor needs the clock of it.
                let head = boot.hip.0.get(..abi::hip::MEMORY_OFFSET).unwrap_or_default();
                window.copy_in(0, head).ok_or("the information page is short")?;
            }
            let window: &'static Window = Box::leak(Box::new(window));
            let words = words(window).ok_or("a page is not aligned")?;
            pages.push(Shared { physical, words, address, rights });
        }
        let channel = |address| {
            let page = pages.iter().find(|page| page.address == address);
            page.and_then(|page| Channel::new(page.words)).ok_or("a channel is short")
        };
        let (out, keys) = (channel(control::GUEST_OUT)?, channel(control::GUEST_IN)?);
        let messages = channel(control::MESSAGES)?;
        let events = Arc::new(Events::default());
        Ok(Self {
            pd: selectors::allocate(),
            ec: selectors::allocate(),
            sc: selectors::allocate(),
            out,
            keys,
            messages,
            wake: Semaphore::new(0).map_err(refused)?,
            pages,
            portals: portals(boot.cpu, &events, wake_root)?,
            events,
            wake_root,
        })
    }

    /// Gives a new domain what the seat has for it, with the order and those for devices and regions; all channels are
    /// empty afterwards.
    ///
    /// # Errors
    /// A sentence with the kernel's answer.
    pub fn furnish(
        &self,
        entry: u64,
        order: &Control,
        devices: [u64; 512],
        regions: [u64; 512],
    ) -> Result<(), String> {
        self.events.entry.store(entry, Ordering::Release);
        self.events.crashed.store(false, Ordering::Release);
        self.events.closing.store(false, Ordering::Release);
        for page in &self.pages {
            match page.address {
                control::CONTROL => store(page.words, order.encode()),
                control::DEVICES => store(page.words, devices),
                control::REGIONS => store(page.words, regions),
                ROOT_HIP => {}
                _ => store(page.words, [0; 512]),
            }
            let (from, to) = (page.physical, page.address);
            loader::give(self.pd, from, PAGE_SIZE, to, page.rights, loader::Space::Host)?;
        }
        for (event, portal) in (0..).zip(&self.portals) {
            give_object(self.pd, *portal, control::SEL_EVENTS + event, PT_ALL)?;
        }
        give_object(self.pd, self.wake_root, control::SEL_WAKE_ROOT, SM_UP)?;
        give_object(self.pd, self.wake.selector(), control::SEL_WAKE_MONITOR, SM_DOWN)
    }

    /// Tells the monitor what its guest shall do now.
    pub fn order(&self, order: control::Order) {
        if let Some(word) = self.words(control::CONTROL).get(control::ORDER_WORD) {
            word.store(order.word(), Ordering::Release);
        }
        let _ = self.wake.up();
    }

    /// Whether the monitor has carried the order out.
    pub fn obeyed(&self, order: control::Order) -> bool {
        self.keys.status() == order.word()
    }

    /// What the monitor tells of itself: exits at any time, threads after [`Seat::ask`].
    pub fn status(&self) -> &'static [AtomicU64] {
        self.words(control::STATUS)
    }

    /// The guest's text screen at the last [`Seat::ask`].
    pub fn screen(&self) -> &'static [AtomicU64] {
        self.words(control::SCREEN)
    }

    /// Asks the monitor to tell of its threads and its guest's screen; whether it has answered within a fifth of a second.
    pub fn ask(&self) -> bool {
        let question = self.words(control::CONTROL).get(control::QUESTION_WORD);
        let answer = self.status().get(status::ANSWER_WORD);
        let (Some(question), Some(answer)) = (question, answer) else { return false };
        let number = question.load(Ordering::Relaxed).wrapping_add(1);
        question.store(number, Ordering::Release);
        let _ = self.wake.up();
        (0..PATIENCE_ROUNDS).any(|_| {
            rt::sync::sleep_us(PATIENCE_US);
            answer.load(Ordering::Acquire) == number
        })
    }

    fn words(&self, address: u64) -> &'static [AtomicU64] {
        let page = self.pages.iter().find(|page| page.address == address);
        page.map_or(&[], |page| page.words)
    }

    /// The domain is going to be taken apart.
    pub fn close(&self) {
        self.events.closing.store(true, Ordering::Release);
    }

    /// Whether a thread of the monitor has faulted in this life.
    pub fn crashed(&self) -> bool {
        let told = End::from_word(self.messages.status()) == End::Crashed;
        told || self.events.crashed.load(Ordering::Acquire)
    }
}

/// Portals for all events of a monitor's threads that have none of their own.
fn portals(cpu: u16, events: &Arc<Events>, wake: Selector) -> Result<Vec<Selector>, String> {
    let events = Arc::clone(events);
    let handler = move |event: u64, utcb: &mut rt::Utcb| {
        if event == STARTUP {
            utcb.set(offset::RIP, events.entry.load(Ordering::Acquire));
            utcb.set(offset::RDI, u64::from(cpu));
            utcb.set_mtd(Mtd::RIP_LEN | Mtd::BSD);
            return;
        }
        if !events.closing.load(Ordering::Acquire) && !events.crashed.load(Ordering::Acquire) {
            last_words::describe(event, utcb);
        }
        // The thread faults again when it goes on, until the console, which is above it, has taken
        // its domain apart.
        events.crashed.store(true, Ordering::Release);
        let _ = rt::calls::sm_up(wake);
        utcb.set_mtd(Mtd::NONE);
    };
    let servant = Servant::new(cpu, Box::new(handler)).map_err(refused)?;
    let mut portals = Vec::new();
    for event in 0..=STARTUP {
        let mtd = if event == STARTUP { Mtd::RSP | Mtd::BSD } else { last_words::MTD };
        portals.push(servant.new_portal(mtd, event).map_err(refused)?);
    }
    Ok(portals)
}

fn store(words: &[AtomicU64], values: [u64; 512]) {
    for (word, value) in words.iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
}
