//! The kernel's final page tables: built once, then shared by every address space through three slots.
//!
//! ```text
//!   509 ... task states                      data
//!   510 I/O bitmap ...                       constant, not global (domains with ports have their own)
//!   511 pool            2 MiB pages          data
//!       devices         4 KiB                device
//!       CPUs            4 KiB                data; guard pages and windows empty
//!       image           4 KiB                code | constant | data; the boot stack's guard empty
//! ```
//!
//! Nothing is both writable and executable, and nothing is mapped at its physical address.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use logic::Oom;
use logic::addr::Frame;
use sync::Pool;

use super::early::{built, finished, point};
use super::layout::{
    BOOT_BUILD_WINDOW, CHECK_STACK, DEVICE_PAGES, DEVICES, FAULT_STACK, IMAGE, LARGE_PAGE,
    NMI_STACK, PAGE, POOL, POOL_MAX, PORT_BITMAP_ADDRESS, STACK, TASK_PAGES, TASKS, WINDOWS,
};
use super::percpu;
use super::screen::{self, Screen};
use crate::MAX_CPUS;
use crate::x86::page::{
    ADDRESS, CODE, CONSTANT, DATA, DEVICE, GLOBAL, LARGE, PRESENT, TABLE, index,
};

unsafe extern "C" {
    static image_code_end: u8;
    static image_constants_end: u8;
    static image_end: u8;
    static boot_stack_guard: u8;
    static boot_stack_top: u8;
}

/// Frames set aside for tables; 128 CPUs and 8 GiB of pool need 40.
const TABLE_FRAMES: u64 = 64;

static ROOT: AtomicU64 = AtomicU64::new(0);
static SLOTS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static ALL_ONES: AtomicU64 = AtomicU64::new(0);

/// The top-level slots that every address space carries.
const FIRST_SLOT: usize = 509;

/// Why the final tables cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TablesError {
    /// The kernel's range is too small or too large, or not made of large pages.
    Range,
    /// More tables than were set aside: a bug.
    Tables,
}

/// The kernel's range, now mapped: the proof that [`take_over`] has run, which it does once.
#[derive(Debug)]
pub struct Taken {
    /// All of it, in physical bytes; image first.
    range: Range<u64>,
    /// What image and tables leave.
    free: Range<u64>,
}

impl Taken {
    /// The kernel's whole range in physical bytes: what user space never gets.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Bytes that image, tables and stacks leave for the pool.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free.end - self.free.start
    }

    /// Makes a pool of what is left.
    ///
    /// # Errors
    /// Too little is left even for the pool's own records.
    pub fn into_pool(self) -> Result<Pool, Oom> {
        let address = POOL + (self.free.start - self.range.start);
        let base = NonNull::new(address as *mut u8).ok_or(Oom)?;
        let count = usize::try_from(self.free_bytes() / PAGE).map_err(|_| Oom)?;
        // SAFETY: RAM that `take_over` mapped here for ever and that neither image nor tables nor
        // stacks use; `self` is not copied, so there is one pool.
        unsafe { Pool::new(base, Frame::containing(self.free.start), count) }
    }
}

/// Bytes of the image, from its link address.
pub fn image_bytes() -> u64 {
    (&raw const image_end) as u64 - IMAGE
}

/// Builds the final tables in `range`, whose start receives the image (if it is not there already, at
/// `load_base`), and switches to them. `cpus` stacks are made, `devices`
/// and the screen of the log are mapped.
///
/// # Errors
/// See [`TablesError`]; nothing has changed then.
pub fn take_over(
    load_base: u64,
    range: Range<u64>,
    cpus: usize,
    devices: impl Iterator<Item = u64>,
    shown_on: Option<Screen>,
) -> Result<Taken, TablesError> {
    let bytes = range.end.saturating_sub(range.start);
    let large = (range.start | range.end).is_multiple_of(LARGE_PAGE);
    let image = image_bytes().next_multiple_of(PAGE);
    let tables = range.start + image..range.start + image + TABLE_FRAMES * PAGE;
    let room = image + TABLE_FRAMES * PAGE <= 2 * LARGE_PAGE;
    if !large || !room || bytes > POOL_MAX || bytes < 2 * LARGE_PAGE {
        return Err(TablesError::Range);
    }
    point(BOOT_BUILD_WINDOW, range.start);
    let frames = tables.end..range.end;
    let moves = load_base != range.start;
    let mut builder = Builder { base: range.start, tables, frames, root: 0 };
    builder.root = builder.table()?;
    builder.image(range.start)?;
    for offset in (0..bytes).step_by(LARGE_PAGE as usize) {
        builder.map(POOL + offset, range.start + offset, DATA | LARGE, 1)?;
    }
    for (page, address) in (0..DEVICE_PAGES - 1).zip(devices) {
        builder.map(DEVICES + page * PAGE, address, DEVICE, 0)?;
    }
    for (page, address, large) in screen::pages(shown_on) {
        let (rights, level) = if large { (DEVICE | LARGE, 1) } else { (DEVICE, 0) };
        builder.map(page, address, rights, level)?;
    }
    builder.cpus(cpus)?;
    builder.tasks_and_ports()?;
    for (index, slot) in SLOTS.iter().enumerate() {
        slot.store(builder.word(builder.root, FIRST_SLOT + index)?.load(Relaxed), Relaxed);
    }
    ROOT.store(builder.root, Relaxed);
    let taken = Taken { range, free: builder.frames.clone() };
    finished();
    switch(builder.root, moves);
    screen::moved(shown_on);
    Ok(taken)
}

/// Copies the image, if it moves, and loads the tables: in one piece, so that no variable changes
/// between the two.
fn switch(root: u64, moves: bool) {
    let words = if moves { image_bytes().div_ceil(8) } else { 0 };
    // SAFETY: the build window names the range's start, which the caller took for the image; the new
    // tables map everything this code uses (image, stack) at the same addresses with the same bytes.
    unsafe {
        core::arch::asm!(
            "cld",
            "rep movsq",
            "mov cr3, rax",
            in("rax") root,
            inout("rcx") words => _,
            inout("rsi") IMAGE => _,
            inout("rdi") BOOT_BUILD_WINDOW => _,
            options(nostack),
        );
    }
}

/// Hands out the frames of the kernel's range while the tables are made.
struct Builder {
    base: u64,
    tables: Range<u64>,
    frames: Range<u64>,
    root: u64,
}

impl Builder {
    /// A zeroed table.
    fn table(&mut self) -> Result<u64, TablesError> {
        let frame = self.tables.start;
        if frame >= self.tables.end {
            return Err(TablesError::Tables);
        }
        self.tables.start += PAGE;
        self.fill(frame, 0)?;
        Ok(frame)
    }

    fn fill(&self, table: u64, value: u64) -> Result<(), TablesError> {
        for slot in 0..512 {
            self.word(table, slot)?.store(value, Relaxed);
        }
        Ok(())
    }

    /// A frame whose contents nobody cares about.
    fn frame(&mut self) -> Result<u64, TablesError> {
        let frame = self.frames.start;
        if frame >= self.frames.end {
            return Err(TablesError::Range);
        }
        self.frames.start += PAGE;
        Ok(frame)
    }

    fn word(&self, table: u64, slot: usize) -> Result<&'static AtomicU64, TablesError> {
        built(self.base, table + slot as u64 * 8).ok_or(TablesError::Tables)
    }

    /// The leaf entry for `address` in the table of `level`; makes the tables above it.
    fn leaf(&mut self, address: u64, level: u32) -> Result<&'static AtomicU64, TablesError> {
        let mut table = self.root;
        for above in (level + 1..4).rev() {
            let entry = self.word(table, index(address, above))?;
            if entry.load(Relaxed) & PRESENT == 0 {
                entry.store(self.table()? | TABLE, Relaxed);
            }
            table = entry.load(Relaxed) & ADDRESS;
        }
        self.word(table, index(address, level))
    }

    fn map(
        &mut self,
        address: u64,
        frame: u64,
        rights: u64,
        level: u32,
    ) -> Result<(), TablesError> {
        self.leaf(address, level)?.store(frame & ADDRESS | rights, Relaxed);
        Ok(())
    }

    /// The image by its three segments, without the page below the boot stack.
    fn image(&mut self, base: u64) -> Result<(), TablesError> {
        let guard = (&raw const boot_stack_guard) as u64;
        for address in (IMAGE..(&raw const image_end) as u64).step_by(PAGE as usize) {
            let rights = if address < (&raw const image_code_end) as u64 {
                CODE
            } else if address < (&raw const image_constants_end) as u64 {
                CONSTANT
            } else {
                DATA
            };
            if address != guard {
                self.map(address, base + (address - IMAGE), rights, 0)?;
            }
        }
        Ok(())
    }

    /// Stacks and windows of all CPUs.
    fn cpus(&mut self, cpus: usize) -> Result<(), TablesError> {
        for cpu in 0..cpus {
            for stack in [STACK, NMI_STACK, FAULT_STACK, CHECK_STACK] {
                for address in (stack.start(cpu)..stack.end(cpu)).step_by(PAGE as usize) {
                    let frame = self.frame()?;
                    self.map(address, frame, DATA, 0)?;
                }
            }
            // The windows' entries stay empty; remember where they are in the pool's mapping. All of a
            // CPU's entries lie in one table, because the stride divides a table's reach.
            self.leaf(WINDOWS.start(cpu), 0)?;
            let entry = self.physical_entry(WINDOWS.start(cpu))?;
            percpu::of(cpu).window_entries.store(POOL + (entry - self.base), Relaxed);
        }
        Ok(())
    }

    /// Physical address of the existing lowest-level entry for `address`.
    fn physical_entry(&self, address: u64) -> Result<u64, TablesError> {
        let mut table = self.root;
        for level in (1..4).rev() {
            table = self.word(table, index(address, level))?.load(Relaxed) & ADDRESS;
        }
        Ok(table + index(address, 0) as u64 * 8)
    }

    fn tasks_and_ports(&mut self) -> Result<(), TablesError> {
        for page in 0..TASK_PAGES {
            let frame = self.table()?;
            self.map(TASKS + page * PAGE, frame, DATA, 0)?;
        }
        let ones = self.table()?;
        self.fill(ones, u64::MAX)?;
        ALL_ONES.store(ones, Relaxed);
        for page in 0..3 {
            self.map(PORT_BITMAP_ADDRESS + page * PAGE, ones, CONSTANT & !GLOBAL, 0)?;
        }
        Ok(())
    }
}

/// Physical address of the kernel's own top-level table: no user part. For CPUs without a domain.
pub fn kernel_root() -> u64 {
    ROOT.load(Relaxed)
}

/// The entries that every domain's top-level table carries. Slot 510 is the default without any port;
/// a domain with ports makes its own: three tables, two pages of bitmap, and [`port_bitmap_tail`].
#[must_use]
pub fn kernel_root_entries() -> [(usize, u64); 3] {
    let [first, second, third] = &SLOTS;
    [(FIRST_SLOT, first), (FIRST_SLOT + 1, second), (FIRST_SLOT + 2, third)]
        .map(|(slot, entry)| (slot, entry.load(Relaxed)))
}

/// The page-table entry for the third page at [`PORT_BITMAP_ADDRESS`]: the byte of ones that the CPU
/// reads behind the bitmap (Intel SDM vol. 1, 19.5.2).
#[must_use]
pub fn port_bitmap_tail() -> u64 {
    port_bitmap_entry(Frame::containing(ALL_ONES.load(Relaxed)))
}

/// A page-table entry for a page of a domain's own port bitmap: readable by the CPU in ring 0 only.
#[must_use]
pub fn port_bitmap_entry(page: Frame) -> u64 {
    page.address() & ADDRESS | CONSTANT & !GLOBAL
}

/// An entry of the tables above a domain's own port bitmap.
#[must_use]
pub fn port_table_entry(table: Frame) -> u64 {
    table.address() & ADDRESS | TABLE
}

/// Whether `address` lies in the unmapped page below the boot stack.
pub fn is_boot_guard(address: u64) -> bool {
    address & !(PAGE - 1) == (&raw const boot_stack_guard) as u64
}

/// Whether the word at `address` lies on a stack of the kernel, for the backtrace.
pub fn is_stack(address: u64) -> bool {
    let boot = (&raw const boot_stack_guard) as u64 + PAGE;
    let boot_end = (&raw const boot_stack_top) as u64;
    (boot..boot_end).contains(&address)
        || (0..MAX_CPUS).any(|cpu| {
            let made = percpu::of(cpu).window_entries.load(Relaxed) != 0;
            made && [STACK, FAULT_STACK, CHECK_STACK, NMI_STACK]
                .iter()
                .any(|stack| (stack.start(cpu)..stack.end(cpu)).contains(&address))
        })
}
