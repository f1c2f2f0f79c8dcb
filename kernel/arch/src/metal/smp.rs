//! Starts the other CPUs: one at a time through a low page, then all at once through a barrier.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use sync::SpinLock;

use super::layout::{LARGE_PAGE, PAGE, STACK};
use super::{apic, bring_up, clock, percpu, physical, sleep, tables};
use crate::x86::page::{LARGE, PRESENT, TABLE, WRITABLE};

/// How many pages the start block takes below 640 KiB: code, and three tables that map it 1:1.
pub const START_PAGES: u64 = 4;

unsafe extern "C" {
    static ap_start: u8;
    static ap_start_end: u8;
    static ap_start_words: u8;
}

static STARTED: AtomicUsize = AtomicUsize::new(0);
static ENTERED: AtomicUsize = AtomicUsize::new(0);
static GO: AtomicBool = AtomicBool::new(false);
static COMMON_TSC: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(1);
/// What a CPU does while it is alone, and where it goes when all are up: set before any is started.
static DOORS: SpinLock<Option<(fn(), fn(usize) -> !)>> = SpinLock::new(None);

static BOOT_CPU: AtomicUsize = AtomicUsize::new(0);

/// How many CPUs the firmware lists; their numbers are below this. Some may be missing
/// ([`cpu_online`]).
#[inline]
pub fn cpu_count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// Number of the CPU that the loader started.
#[inline]
pub fn boot_cpu() -> usize {
    BOOT_CPU.load(Ordering::Relaxed)
}

/// Whether CPU number `cpu` is up.
#[inline]
pub fn cpu_online(cpu: usize) -> bool {
    cpu < cpu_count() && percpu::of(cpu).online.load(Ordering::Relaxed) != 0
}

/// The start block cannot be put where it was to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPlace(pub u64);

/// The start block in low memory; what was there comes back when it is dropped.
pub struct StartBlock {
    address: u64,
}

/// Where the start block was put; 0 if there is no place for it.
static PLACE: AtomicU64 = AtomicU64::new(0);

/// Where the start block was put; 0 if there is no place for it.
pub fn place() -> u64 {
    PLACE.load(Ordering::Relaxed)
}

/// How many CPUs are up besides the calling one.
pub fn others() -> usize {
    (0..cpu_count()).filter(|cpu| cpu_online(*cpu)).count().saturating_sub(1)
}

/// The boot CPU is about to sleep: firmware will start it at `entry` through the start block, which is in place, and
/// the others are to be started and to meet once more.
pub fn before_sleep(entry: extern "C" fn(usize) -> !) {
    StartBlock::in_place().aim(boot_cpu(), entry);
    STARTED.store(0, Ordering::Relaxed);
    ENTERED.store(0, Ordering::Relaxed);
    GO.store(false, Ordering::Relaxed);
    COMPARED.store(false, Ordering::Relaxed);
    COMMON_TSC.store(clock::now(), Ordering::Relaxed);
}

/// The bring-up of the calling CPU, with what the kernel adds to it.
pub fn bring_up_again() {
    bring_up::this_cpu();
    let doors = *DOORS.lock();
    if let Some((prepare, _)) = doors {
        prepare();
    }
}

/// What was in the pages of the start block.
static SAVED: SpinLock<[[u64; 512]; START_PAGES as usize]> =
    SpinLock::new([[0; 512]; START_PAGES as usize]);

impl StartBlock {
    /// Puts the block at physical `address`: page aligned, RAM, below 640 KiB, [`START_PAGES`] pages.
    ///
    /// # Errors
    /// The address is not such a place.
    pub fn new(address: u64) -> Result<Self, BadPlace> {
        if !address.is_multiple_of(PAGE) || address == 0 || address + START_PAGES * PAGE > 0xa_0000
        {
            return Err(BadPlace(address));
        }
        PLACE.store(address, Ordering::Relaxed);
        for (page, words) in (0..START_PAGES).zip(SAVED.lock().iter_mut()) {
            with_words(address + page * PAGE, |slot, word| {
                if let Some(kept) = words.get_mut(slot) {
                    *kept = word;
                }
                0
            });
        }
        let block = Self { address };
        block.fill();
        Ok(block)
    }

    /// The block that is in place, which its owner gives back.
    fn in_place() -> core::mem::ManuallyDrop<Self> {
        core::mem::ManuallyDrop::new(Self { address: place() })
    }

    /// Code, and tables: slot 0 maps 2 MiB 1:1, the kernel's slots are as everywhere.
    fn fill(&self) {
        let [code, root, second, third] = [0, 1, 2, 3].map(|page| self.address + page * PAGE);
        // SAFETY: the symbols are the two ends of boot/src/ap_start.S in the constant segment.
        let bytes = unsafe {
            let start = &raw const ap_start;
            core::slice::from_raw_parts(
                start,
                (&raw const ap_start_end).offset_from_unsigned(start),
            )
        };
        write_bytes(code, bytes);
        write_word(root, 0, second | TABLE);
        for (slot, entry) in tables::kernel_root_entries() {
            write_word(root, slot, entry);
        }
        write_word(second, 0, third | TABLE);
        write_word(third, 0, PRESENT | WRITABLE | LARGE);
        let words = (&raw const ap_start_words) as u64 - (&raw const ap_start) as u64;
        let at = code + words;
        // The order of the words is that of ap_start.S.
        add_half(at + 2, code as u32);
        add_half(at + 8, code as u32);
        write_bytes(at + 16, &root.to_le_bytes());
    }

    /// Says which CPU the block starts next, and where that goes: to `entry` on its own stack, or below what it left
    /// there when it went to sleep.
    fn aim(&self, cpu: usize, entry: extern "C" fn(usize) -> !) {
        let words = (&raw const ap_start_words) as u64 - (&raw const ap_start) as u64;
        let at = self.address + words;
        let left = sleep::left_stack(cpu) & !15;
        let stack = if left == 0 { STACK.end(cpu) } else { left };
        write_bytes(at + 24, &stack.to_le_bytes());
        write_bytes(at + 32, &(entry as usize as u64).to_le_bytes());
        write_bytes(at + 40, &(cpu as u64).to_le_bytes());
    }

    /// Starts CPU number `cpu` with identifier `apic_id`; false if it does not come up in time.
    #[must_use]
    pub fn start(&self, cpu: usize, apic_id: u32) -> bool {
        self.aim(cpu, enter);
        let before = STARTED.load(Ordering::Acquire);
        let page = (self.address / PAGE) as u8;
        apic::send_init(apic_id);
        // Processors since 1997 need no 10 ms here, only old boards with an external APIC did.
        clock::wait_us(10);
        for patience_us in [10_000, 2_000_000] {
            apic::send_startup(apic_id, page);
            if wait_until(patience_us, || STARTED.load(Ordering::Acquire) > before) {
                return true;
            }
        }
        // It may still come: into code that will not be there. Hold it in reset.
        apic::send_init(apic_id);
        false
    }
}

impl Drop for StartBlock {
    fn drop(&mut self) {
        for (page, words) in (0..START_PAGES).zip(SAVED.lock().iter()) {
            with_words(self.address + page * PAGE, |slot, _| words.get(slot).copied().unwrap_or(0));
        }
    }
}

/// The first Rust on another CPU, on its own stack.
extern "C" fn enter(cpu: usize) -> ! {
    percpu::adopt(cpu);
    bring_up_again();
    STARTED.fetch_add(1, Ordering::AcqRel);
    if sleep::left_stack(cpu) == 0 {
        join();
    }
    meet();
    sleep::come_back(cpu)
}

/// Says what each CPU does after its bring-up, and where it goes when all are up.
pub fn set_doors(prepare: fn(), run: fn(usize) -> !) {
    *DOORS.lock() = Some((prepare, run));
}

/// Fixes how many CPUs the machine has, and which of them the loader started.
pub fn set_count(count: usize, boot: usize) {
    COUNT.store(count, Ordering::Relaxed);
    BOOT_CPU.store(boot, Ordering::Relaxed);
}

/// Waits until all CPUs are here, sets the TSC as all others do at the same moment, and goes on in the
/// loop on this CPU's own stack.
pub fn join() -> ! {
    meet();
    on_own_stack()
}

/// The barrier: all TSCs go on from one value, which is not below any that was seen.
pub fn meet() {
    if percpu::cpu_number() == boot_cpu() {
        while ENTERED.load(Ordering::Acquire) < STARTED.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
        COMMON_TSC.fetch_max(clock::now(), Ordering::Relaxed);
        GO.store(true, Ordering::Release);
    } else {
        ENTERED.fetch_add(1, Ordering::AcqRel);
        while !GO.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
    }
    clock::set_tsc(COMMON_TSC.load(Ordering::Relaxed));
    compare_clocks();
}

/// Whose TSC is asked for, plus one; 0 when the answer is there.
static ASKED: AtomicUsize = AtomicUsize::new(0);
static ANSWER: AtomicU64 = AtomicU64::new(0);
static COMPARED: AtomicBool = AtomicBool::new(false);
/// Questions to each CPU; the quickest answer counts.
const QUESTIONS: u32 = 8;
/// How long an answer may take.
const ANSWER_US: u64 = 10_000;

/// Measures how far the TSCs are apart, and tells it: the first CPU asks each other one for its TSC, which lies between
/// the asker's before and after, if both go together.
fn compare_clocks() {
    let me = percpu::cpu_number();
    if me != boot_cpu() {
        while !COMPARED.load(Ordering::Acquire) {
            if ASKED.load(Ordering::Acquire) == me + 1 {
                ANSWER.store(clock::now(), Ordering::Relaxed);
                ASKED.store(0, Ordering::Release);
            }
            core::hint::spin_loop();
        }
        return;
    }
    let mut worst = Skew::default();
    for cpu in (0..cpu_count()).filter(|cpu| *cpu != me && cpu_online(*cpu)) {
        let answers = (0..QUESTIONS).filter_map(|_| ask_clock(cpu));
        let Some(best) = answers.min_by_key(|skew| skew.within) else {
            log::warn!("CPU {cpu} does not say what its TSC is");
            continue;
        };
        if best.apart >= worst.apart {
            worst = best;
        }
    }
    COMPARED.store(true, Ordering::Release);
    if STARTED.load(Ordering::Relaxed) > 0 {
        log::info!("TSC skew: at most {} ticks, known to {}", worst.apart, worst.within);
    }
}

/// How far two TSCs are apart, in ticks, and how exactly that is known.
#[derive(Clone, Copy, Default)]
struct Skew {
    apart: u64,
    within: u64,
}

fn ask_clock(cpu: usize) -> Option<Skew> {
    let before = clock::now();
    ASKED.store(cpu + 1, Ordering::Release);
    if !wait_until(ANSWER_US, || ASKED.load(Ordering::Acquire) == 0) {
        return None;
    }
    let after = clock::now();
    let within = (after - before) / 2;
    Some(Skew { apart: ANSWER.load(Ordering::Relaxed).abs_diff(before + within), within })
}

/// Goes to the loop on the calling CPU's own stack (the first CPU still uses the boot stack).
fn on_own_stack() -> ! {
    extern "C" fn arrive(cpu: usize) -> ! {
        let doors = *DOORS.lock();
        match doors {
            Some((_, run)) => run(cpu),
            None => super::dump::stop(),
        }
    }
    let cpu = percpu::cpu_number();
    // SAFETY: the stack is mapped and this CPU's; nothing on the old one is used again.
    unsafe {
        core::arch::asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push rbp",
            "push rbp",
            "mov rbp, rsp",
            "call {arrive}",
            "ud2",
            stack = in(reg) STACK.end(cpu),
            arrive = sym arrive,
            in("rdi") cpu,
            options(noreturn),
        );
    }
}

fn wait_until(microseconds: u64, condition: impl Fn() -> bool) -> bool {
    let end = clock::now() + clock::tsc_khz() * microseconds / 1000;
    while clock::now() < end {
        if condition() {
            return true;
        }
        core::hint::spin_loop();
    }
    condition()
}

/// Replaces each word of the page at physical `address` by what `change` makes of it.
fn with_words(address: u64, mut change: impl FnMut(usize, u64) -> u64) {
    physical::with_physical(logic::addr::Frame::containing(address), &mut |page| {
        for slot in 0..512 {
            page.set_word(slot, change(slot, page.word(slot)));
        }
    });
}

fn write_word(page: u64, slot: usize, value: u64) {
    write_bytes(page + slot as u64 * 8, &value.to_le_bytes());
}

fn write_bytes(address: u64, bytes: &[u8]) {
    physical::with_physical(logic::addr::Frame::containing(address), &mut |page| {
        let start = (address % PAGE) as usize;
        for (offset, byte) in bytes.iter().enumerate() {
            page.write_u8(start + offset, *byte);
        }
    });
}

/// Adds `value` to the 32-bit word at physical `address`, which may lie across a word boundary.
fn add_half(address: u64, value: u32) {
    let mut bytes = [0; 4];
    if physical::read(address, &mut bytes) {
        write_bytes(address, &u32::from_le_bytes(bytes).wrapping_add(value).to_le_bytes());
    }
}

const _: () = assert!(LARGE_PAGE > 0xa_0000);
