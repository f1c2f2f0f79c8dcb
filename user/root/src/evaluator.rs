//! Asks the program that evaluates AML: a domain for one question, which gets copies and has nothing else.
use crate::cell::Maker;
use crate::loader::{self, Space, give_object, refused};
use abi::args::{CreateEc, CreateSc};
use abi::cap::{ALL, MEM_R, MEM_RW, MEM_RWX, PT_ALL, ROOT_UTCB, STARTUP};
use abi::hip::MemoryKind;
use abi::utcb::offset;
use abi::{Crd, Mtd, PAGE_SIZE, Selector};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use root::acpi::{Physical, Power};
use root::evaluation::{self, Answer, Order};
use root::power::Machine;
use root::taken::{Kept, Taken};
use rt::memory::Window;
use rt::portal::Servant;
use rt::start::own_pd;
use rt::{Boot, selectors};

/// Below the console, which waits and looks.
const PRIORITY: u8 = 1;
const QUANTUM_US: u32 = 10_000;
/// How long the answer may take, and how often it is looked for, in microseconds.
const PATIENCE_US: u64 = 5_000_000;
const POLL_US: u64 = 1_000;
/// Kernel memory that the domain may use, in bytes.
const QUOTA: u64 = 1 << 20;
/// Types of memory of the firmware's own (ACPI 6.4, table 15.6): for its tables, and for what it keeps across sleep.
const FIRMWARE: [MemoryKind; 2] = [MemoryKind::Other(3), MemoryKind::Other(4)];
/// More of it than this is not copied, in bytes.
const MOST_FIRMWARE: u64 = 4 << 20;
/// Everything that is mapped into the domain lies in the first 2^31 pages.
const ALL_PAGES: u8 = 31;

/// Where it is asked from: selectors and a portal that are used again for each question.
pub struct Evaluator {
    pd: Selector,
    ec: Selector,
    sc: Selector,
    start: Selector,
    entry: Arc<AtomicU64>,
}

impl Evaluator {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// A sentence with the kernel's answer.
    pub fn new(boot: &Boot) -> Result<Self, String> {
        let entry = Arc::new(AtomicU64::new(0));
        let (told, cpu) = (Arc::clone(&entry), boot.cpu);
        let handler = move |_, utcb: &mut rt::Utcb| {
            utcb.set(offset::RIP, told.load(Ordering::Acquire));
            utcb.set(offset::RDI, u64::from(cpu));
            utcb.set_mtd(Mtd::RIP_LEN | Mtd::BSD);
        };
        let servant = Servant::new(boot.cpu, Box::new(handler)).map_err(refused)?;
        let start = servant.new_portal(Mtd::RSP | Mtd::BSD, STARTUP).map_err(refused)?;
        let [pd, ec, sc] = [(); 3].map(|()| selectors::allocate());
        Ok(Self { pd, ec, sc, start, entry })
    }

    /// Sleep types from these tables.
    ///
    /// # Errors
    /// A sentence: the program is missing, cannot be started, or does not answer.
    pub fn ask(&self, maker: &mut Maker<'_>, power: &Power) -> Result<Answer, String> {
        let mut taken = Taken::default();
        let answer = self.run(maker, power, &mut taken);
        let revoked = rt::calls::revoke_from(self.pd, Crd::memory(0, ALL_PAGES, MEM_RWX));
        for object in [self.sc, self.ec, self.pd] {
            let _ = rt::calls::revoke(Crd::objects(object, 0, ALL));
        }
        let back = taken.give_back(maker.pool, revoked.map_err(refused), loader::scrub);
        if let Err(Kept { bytes, why }) = back {
            rt::println!("root: {} KiB are kept out of use: {why}", bytes >> 10);
        }
        answer
    }

    fn run(
        &self,
        maker: &mut Maker<'_>,
        power: &Power,
        taken: &mut Taken,
    ) -> Result<Answer, String> {
        let module = maker.module("aml")?;
        let file = Window::physical(module.address, module.size, MEM_R).map_err(refused)?;
        rt::calls::create_pd(self.pd, own_pd(), Crd::null()).map_err(refused)?;
        if maker.boot.hip.ours().is_some() {
            rt::calls::quota_give(self.pd, QUOTA).map_err(refused)?;
        }
        let bytes = file.bytes().ok_or("the program cannot be read")?;
        let entry = loader::load(maker.pool, taken, self.pd, bytes);
        file.close().map_err(refused)?;
        self.entry.store(entry.map_err(|why| format!("aml: {why}"))?, Ordering::Release);
        let firmware = firmware(&maker.boot);
        let memory = firmware.iter().map(|(address, bytes)| (*address, bytes.as_slice()));
        let tables = power.programs.iter().map(Vec::as_slice).collect();
        let order = Order { tables, memory: memory.collect() }.encode();
        self.share(maker, taken, &order, order.len() as u64, evaluation::ORDER, MEM_R)?
            .close()
            .map_err(refused)?;
        let heap = evaluation::HEAP_BYTES;
        self.share(maker, taken, &[], heap, evaluation::HEAP, MEM_RW)?.close().map_err(refused)?;
        let page = self.share(maker, taken, &[], PAGE_SIZE, evaluation::ANSWER, MEM_RW)?;
        give_object(self.pd, self.start, u64::from(evaluation::EVENTS) + STARTUP, PT_ALL)?;
        let started = self.thread(&maker.boot);
        let answer = started.and_then(|()| wait(&page));
        page.close().map_err(refused)?;
        answer
    }

    /// Fresh memory that begins with `bytes`, for the domain; and a window to it.
    fn share(
        &self,
        maker: &mut Maker<'_>,
        taken: &mut Taken,
        bytes: &[u8],
        size: u64,
        address: u64,
        rights: u8,
    ) -> Result<Window, String> {
        let (physical, window) = loader::fresh(maker.pool, size)?;
        taken.add(physical, size.next_multiple_of(PAGE_SIZE));
        window.copy_in(0, bytes).ok_or("a window is too small")?;
        loader::give(self.pd, physical, size, address, rights, Space::Host)?;
        Ok(window)
    }

    fn thread(&self, boot: &Boot) -> Result<(), String> {
        rt::calls::create_ec(&CreateEc {
            sel: self.ec,
            global: true,
            reserved: 0,
            utcb_in_caller: false,
            pd: self.pd,
            cpu: boot.cpu,
            utcb: ROOT_UTCB,
            stack: ROOT_UTCB,
            event_base: evaluation::EVENTS,
        })
        .map_err(refused)?;
        rt::calls::create_sc(&CreateSc {
            sel: self.sc,
            owner: own_pd(),
            ec: self.ec,
            priority: PRIORITY,
            quantum_us: QUANTUM_US,
        })
        .map_err(refused)
    }
}

/// Copies of the firmware's own memory.
fn firmware(boot: &Boot) -> Vec<(u64, Vec<u8>)> {
    let mut left = MOST_FIRMWARE;
    let ranges = boot.hip.memory().filter(|range| FIRMWARE.contains(&range.kind));
    let copies = ranges.filter_map(|range| {
        left = left.checked_sub(range.size)?;
        Some((range.addr, Machine.read(range.addr, range.size as usize)?))
    });
    copies.collect()
}

/// Waits for the answer, for a while.
fn wait(page: &Window) -> Result<Answer, String> {
    for _ in 0..PATIENCE_US / POLL_US {
        rt::sync::sleep_us(POLL_US);
        let words: Vec<u64> = (0..512).map_while(|word| page.read(8 * word)).collect();
        if let Some(answer) = Answer::decode(&words) {
            return Ok(answer);
        }
    }
    let seconds = PATIENCE_US / 1_000_000;
    Err(format!("this machine's AML gave no answer within {seconds} seconds"))
}
