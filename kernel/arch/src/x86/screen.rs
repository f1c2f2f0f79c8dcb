//! The text on a screen: where the next character goes, and what scrolls.
//!
//! It keeps what the screen shows, because reading a frame buffer is slow; painting a cell is its user's duty.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

/// The most columns and rows that are used; a larger screen stays empty at its right and bottom.
pub const MOST_COLUMNS: usize = 128;
/// See [`MOST_COLUMNS`].
pub const MOST_ROWS: usize = 48;

/// A grid of characters. All fields are atomic so that last words can be written whoever held the log; a character
/// may then be lost, nothing else.
pub struct Grid {
    cells: [AtomicU8; MOST_COLUMNS * MOST_ROWS],
    columns: AtomicUsize,
    rows: AtomicUsize,
    column: AtomicUsize,
    row: AtomicUsize,
}

impl Grid {
    /// An empty grid of no size, which swallows everything.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cells: [const { AtomicU8::new(b' ') }; MOST_COLUMNS * MOST_ROWS],
            columns: AtomicUsize::new(0),
            rows: AtomicUsize::new(0),
            column: AtomicUsize::new(0),
            row: AtomicUsize::new(0),
        }
    }

    /// Gives it a size, in characters, and starts at the top.
    pub fn resize(&self, columns: usize, rows: usize) {
        self.columns.store(columns.min(MOST_COLUMNS), Relaxed);
        self.rows.store(rows.min(MOST_ROWS), Relaxed);
        self.column.store(0, Relaxed);
        self.row.store(0, Relaxed);
        self.cells.iter().for_each(|cell| cell.store(b' ', Relaxed));
    }

    /// Paints every cell anew.
    pub fn repaint(&self, mut paint: impl FnMut(usize, usize, u8)) {
        for row in 0..self.rows.load(Relaxed) {
            for column in 0..self.columns.load(Relaxed) {
                paint(column, row, self.cell(column, row));
            }
        }
    }

    /// Writes `text`; `paint` is told column, row and character of each cell that changes. Long lines go on in the
    /// next row, and a full screen scrolls.
    pub fn write(&self, text: &[u8], mut paint: impl FnMut(usize, usize, u8)) {
        let columns = self.columns.load(Relaxed);
        if columns == 0 || self.rows.load(Relaxed) == 0 {
            return;
        }
        for byte in text {
            match byte {
                b'\r' => {}
                b'\n' => self.next_row(&mut paint),
                byte => {
                    if self.column.load(Relaxed) >= columns {
                        self.next_row(&mut paint);
                    }
                    let column = self.column.fetch_add(1, Relaxed);
                    self.set(column, self.row.load(Relaxed), *byte, &mut paint);
                }
            }
        }
    }

    fn next_row(&self, paint: &mut impl FnMut(usize, usize, u8)) {
        let (columns, rows) = (self.columns.load(Relaxed), self.rows.load(Relaxed));
        self.column.store(0, Relaxed);
        let row = self.row.load(Relaxed) + 1;
        if row < rows {
            self.row.store(row, Relaxed);
            return;
        }
        for row in 0..rows {
            for column in 0..columns {
                let below = if row + 1 < rows { self.cell(column, row + 1) } else { b' ' };
                self.set(column, row, below, paint);
            }
        }
    }

    fn cell(&self, column: usize, row: usize) -> u8 {
        self.cells.get(row * MOST_COLUMNS + column).map_or(b' ', |cell| cell.load(Relaxed))
    }

    fn set(&self, column: usize, row: usize, byte: u8, paint: &mut impl FnMut(usize, usize, u8)) {
        if let Some(cell) = self.cells.get(row * MOST_COLUMNS + column)
            && cell.swap(byte, Relaxed) != byte
        {
            paint(column, row, byte);
        }
    }
}

impl Default for Grid {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(grid: &Grid, columns: usize, rows: usize) -> Vec<String> {
        let mut lines = vec![vec![b'?'; columns]; rows];
        grid.repaint(|column, row, byte| lines[row][column] = byte);
        lines.iter().map(|line| String::from_utf8_lossy(line).trim_end().to_string()).collect()
    }

    #[test]
    fn lines_wrap_and_scroll() {
        let grid = Grid::new();
        grid.write(b"swallowed", |_, _, _| panic!("nothing to paint on"));
        grid.resize(4, 3);
        grid.write(b"one\r\nlonger\n", |_, _, _| {});
        assert_eq!(shown(&grid, 4, 3), ["long", "er", ""]);
        grid.write(b"abcd", |_, _, _| {});
        assert_eq!(shown(&grid, 4, 3), ["long", "er", "abcd"]);
        grid.write(b"\n", |_, _, _| {});
        assert_eq!(shown(&grid, 4, 3), ["er", "abcd", ""]);
    }

    #[test]
    fn what_is_painted_is_what_is_kept() {
        let grid = Grid::new();
        grid.resize(7, 5);
        let mut painted = vec![vec![b' '; 7]; 5];
        for line in 0..40 {
            let text = format!("{}{}\n", "x".repeat(line % 9), line);
            grid.write(text.as_bytes(), |column, row, byte| painted[row][column] = byte);
        }
        let lines: Vec<_> =
            painted.iter().map(|row| String::from_utf8_lossy(row).trim_end().to_string()).collect();
        assert_eq!(lines, shown(&grid, 7, 5));
    }

    #[test]
    fn a_larger_screen_is_used_in_part() {
        let grid = Grid::new();
        grid.resize(1000, 1000);
        grid.write(&[b'a'; 20_000], |column, row, _| {
            assert!(column < MOST_COLUMNS && row < MOST_ROWS);
        });
    }
}
