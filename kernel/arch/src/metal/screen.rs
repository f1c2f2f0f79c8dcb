//! The log on the screen: VGA text, or the frame buffer that the loader found.
//!
//! Until the kernel has its own page tables, text is shown only on a VGA screen, which the boot tables map; on a
//! frame buffer it appears at once when that is mapped. Nothing here waits, and a machine without a screen loses text.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::layout::{LARGE_PAGE, PAGE, SCREEN, VGA};
use crate::x86::font::letter;
use crate::x86::screen::Grid;

/// What the log is shown on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// VGA text mode of 80 columns and 25 rows.
    Text,
    /// Pixels in memory.
    Pixels {
        /// Physical address of the first one.
        address: u64,
        /// Bytes from one row to the next.
        pitch: u32,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes of a pixel: 2 to 4. All ones is white.
        bytes: u8,
    },
}

/// Physical address of the VGA text memory.
const VGA_TEXT: u64 = 0xb_8000;
/// Light grey on black.
const ATTRIBUTE: u16 = 0x0700;
/// Pixels of a character's cell; each dot of a letter is one pixel wide and two high.
const CELL: (usize, usize) = (8, 16);
/// Large pages mapped of a frame buffer, at most.
const MOST_PAGES: u64 = 8;

static GRID: Grid = Grid::new();
/// Where the text or pixels are mapped; 0 while they are not.
static MEMORY: AtomicU64 = AtomicU64::new(0);
/// Bytes from one row of pixels to the next, and of a pixel; 0 for a text screen.
static PITCH: AtomicUsize = AtomicUsize::new(0);
static PIXEL: AtomicUsize = AtomicUsize::new(0);

/// Uses `screen`, while the boot page table is in use.
pub fn start(screen: Screen) {
    match screen {
        Screen::Text => {
            GRID.resize(80, 25);
            // The boot table maps the first two large pages at their own address.
            show(VGA_TEXT);
        }
        Screen::Pixels { pitch, width, height, bytes, address } => {
            // Only as many rows as are mapped.
            let room = MOST_PAGES * LARGE_PAGE - address % LARGE_PAGE;
            let rows = u64::from(height).min(room / u64::from(pitch.max(1)));
            PITCH.store(pitch as usize, Relaxed);
            PIXEL.store(usize::from(bytes), Relaxed);
            GRID.resize(width as usize / CELL.0, rows as usize / CELL.1);
        }
    }
}

/// The pages that the final tables have to map for `screen`: virtual and physical address, large or not.
pub fn pages(screen: Option<Screen>) -> impl Iterator<Item = (u64, u64, bool)> {
    let (count, from, to, step) = match screen {
        None => (0, 0, 0, PAGE),
        Some(Screen::Text) => (1, VGA, VGA_TEXT, PAGE),
        Some(Screen::Pixels { address, pitch, height, .. }) => {
            let end = address % LARGE_PAGE + u64::from(pitch) * u64::from(height);
            let start = address & !(LARGE_PAGE - 1);
            (end.div_ceil(LARGE_PAGE).min(MOST_PAGES), SCREEN, start, LARGE_PAGE)
        }
    };
    (0..count).map(move |page| (from + page * step, to + page * step, step == LARGE_PAGE))
}

/// The final tables are in use; the screen is now where they have it.
pub fn moved(screen: Option<Screen>) {
    match screen {
        None => {}
        Some(Screen::Text) => MEMORY.store(VGA, Relaxed),
        Some(Screen::Pixels { address, .. }) => show(SCREEN + address % LARGE_PAGE),
    }
}

fn show(memory: u64) {
    MEMORY.store(memory, Relaxed);
    GRID.repaint(paint);
}

/// Writes to the screen.
pub fn send(bytes: &[u8]) {
    GRID.write(bytes, |column, row, byte| {
        if MEMORY.load(Relaxed) != 0 {
            paint(column, row, byte);
        }
    });
}

fn paint(column: usize, row: usize, byte: u8) {
    let memory = MEMORY.load(Relaxed);
    let (pitch, pixel) = (PITCH.load(Relaxed), PIXEL.load(Relaxed));
    if pixel == 0 {
        let cell = (memory + (row * 80 + column) as u64 * 2) as *mut u16;
        // SAFETY: VGA text memory, mapped here for ever (or by the boot table, see `start`); the grid is 80 by 25.
        unsafe { cell.write_volatile(ATTRIBUTE | u16::from(byte)) };
        return;
    }
    let dots = letter(byte);
    for y in 0..CELL.1 {
        for x in 0..CELL.0 {
            let lit = dots.get(x).is_some_and(|column| column >> (y / 2) & 1 != 0);
            let at = (row * CELL.1 + y) * pitch + (column * CELL.0 + x) * pixel;
            set_pixel(memory + at as u64, pixel, if lit { u32::MAX } else { 0 });
        }
    }
}

fn set_pixel(address: u64, bytes: usize, value: u32) {
    // SAFETY: a pixel within the frame buffer, whose used rows and columns are mapped for ever (`pages`). Its address
    // is a multiple of its size, except for three bytes, which are written one by one.
    unsafe {
        match bytes {
            4 => (address as *mut u32).write_volatile(value),
            2 => (address as *mut u16).write_volatile(value as u16),
            _ => (0..bytes as u64)
                .for_each(|byte| ((address + byte) as *mut u8).write_volatile(value as u8)),
        }
    }
}
