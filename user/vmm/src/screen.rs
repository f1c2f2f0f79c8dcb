//! The guest's VGA text screen as a page that the root task can read, and as lines.
//!
//! ```text
//! word 0..500   the 2000 characters with their attributes, as in the guest's memory
//! word 500      the cursor: 1 + its place in characters from the screen's first; 0 if it is not seen
//! ```
//! The guest writes its text memory without an exit; this is a copy, made when the root task asks. The root task
//! believes nothing that could harm it: any word is some screen.
use crate::layout;
use crate::memory::GuestMemory;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use devices::vga::{COLUMNS, LINES, Text};

const CELLS: u64 = COLUMNS as u64 * LINES as u64;
const CURSOR_WORD: usize = CELLS as usize / 4;
/// What clears a screen: a space, light grey on black.
const BLANK: u64 = 0x0720_0720_0720_0720;

/// Writes the screen as it is now.
pub fn put(page: &[AtomicU64], memory: &GuestMemory, text: Text) {
    let size = layout::TEXT.end - layout::TEXT.start;
    let cell = |number: u64| {
        let offset = (u64::from(text.start) + number) * 2 % size;
        memory.read_number(layout::TEXT.start + offset, 2).unwrap_or(0)
    };
    for (word, first) in page.iter().zip((0..CELLS).step_by(4)) {
        let four = (0..4).rev().fold(0, |four, next| four << 16 | cell(first + next));
        word.store(four, Ordering::Relaxed);
    }
    let place = text.cursor.map(|cursor| u64::from(cursor.wrapping_sub(text.start)));
    if let Some(word) = page.get(CURSOR_WORD) {
        word.store(
            place.filter(|place| *place < CELLS).map_or(0, |place| place + 1),
            Ordering::Relaxed,
        );
    }
}

/// The screen's lines, then one about the cursor. What is no printable ASCII is a dot, or a space if it is 0.
pub fn lines(page: &[AtomicU64]) -> Vec<String> {
    let word = |at: usize| page.get(at).map_or(0, |word| word.load(Ordering::Relaxed));
    let character = |cell: usize| match (word(cell / 4) >> (cell % 4 * 16)) as u8 {
        0 => ' ',
        byte @ b' '..=b'~' => char::from(byte),
        _ => '.',
    };
    let columns = usize::from(COLUMNS);
    let line = |number: usize| {
        let text: String = (number * columns..(number + 1) * columns).map(character).collect();
        format!("|{}", text.trim_end())
    };
    let mut lines: Vec<String> = (0..usize::from(LINES)).map(line).collect();
    lines.push(match word(CURSOR_WORD).checked_sub(1).filter(|place| *place < CELLS) {
        Some(place) => {
            let (line, column) = (place / u64::from(COLUMNS), place % u64::from(COLUMNS));
            format!("cursor: line {}, column {}", line + 1, column + 1)
        }
        None => "cursor: not seen".into(),
    });
    lines
}

/// An empty screen, and what a BIOS leaves about it in its data area: kernels that look for a text screen look there.
pub fn prepare(memory: &GuestMemory) -> Option<()> {
    let blank = |at| memory.write_number(at, 8, BLANK);
    layout::TEXT.step_by(8).try_for_each(blank).ok()?;
    // Equipment: 80 by 25 in colour. Mode 3, columns, bytes of a page, the CRTC's port, the last line.
    let words = [(0x410, 0x20), (0x449, 3), (0x44a, COLUMNS), (0x44c, 0x1000), (0x463, 0x3d4)];
    words.iter().try_for_each(|(at, value)| memory.write_number(*at, 2, u64::from(*value))).ok()?;
    memory.write_number(0x484, 1, u64::from(LINES - 1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<AtomicU64> {
        (0..512).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn what_the_guest_writes_is_seen() {
        let (ram, page) = (crate::exits::tests::ram(), page());
        let memory = GuestMemory::new(&ram);
        prepare(&memory).unwrap();
        let write = |place: u64, text: &[u8]| {
            for (number, byte) in (0..).zip(text) {
                memory.write(0xb_8000 + (place + number) * 2, &[*byte, 0x1f]).unwrap();
            }
        };
        write(0, b"first");
        write(80, b"\xc9second\0line");
        write(80 * 24 + 75, b"last!");
        put(&page, &memory, Text { start: 0, cursor: Some(80 + 6) });
        let shown = lines(&page);
        assert_eq!(shown.len(), 26);
        assert_eq!((&*shown[0], &*shown[1], &*shown[2]), ("|first", "|.second line", "|"));
        assert_eq!(shown[24], format!("|{:75}last!", ""));
        assert_eq!(shown[25], "cursor: line 2, column 7");
        // Scrolled by hardware: one line down; the screen's end wraps to the memory's beginning.
        put(&page, &memory, Text { start: 80, cursor: Some(0) });
        assert_eq!((&*lines(&page)[0], &*lines(&page)[25]), ("|.second line", "cursor: not seen"));
        put(&page, &memory, Text { start: 0x4000 - 80, cursor: None });
        assert_eq!((&*lines(&page)[1], &*lines(&page)[25]), ("|first", "cursor: not seen"));
        assert_eq!(memory.read_number(0x44a, 2), Ok(80));
    }

    #[test]
    fn any_page_is_some_screen() {
        for value in [0, u64::MAX, 0x1b1b_1b1b_1b1b_1b1b] {
            let page: Vec<_> = (0..512).map(|_| AtomicU64::new(value)).collect();
            let lines = lines(&page);
            assert!(lines.iter().all(|line| line.is_ascii() && line.len() <= 81));
            assert_eq!(lines[25], "cursor: not seen");
        }
        assert_eq!(lines(&[]).len(), 26);
    }
}
