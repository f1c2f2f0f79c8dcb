//! One line of text, put together without `core::fmt`: for the paths where the kernel may not panic.

/// Bytes that a line holds; what does not fit is left out.
pub const CAPACITY: usize = 160;

/// A line that grows to the right.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    bytes: [u8; CAPACITY],
    length: usize,
}

impl Line {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; CAPACITY], length: 0 }
    }

    /// Adds text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        // The last place is kept for the line's end.
        let room = self.bytes.iter_mut().take(CAPACITY - 1).skip(self.length);
        for (slot, byte) in room.zip(bytes) {
            *slot = *byte;
            self.length += 1;
        }
        self
    }

    /// Adds a number as people count.
    #[must_use]
    pub fn decimal(self, number: u64) -> Self {
        self.digits::<10>(number)
    }

    /// Adds a number as `0x1f`.
    #[must_use]
    pub fn hex(self, number: u64) -> Self {
        self.text("0x").digits::<16>(number)
    }

    fn digits<const BASE: u64>(self, number: u64) -> Self {
        let mut digits = [0; 20];
        let mut left = number;
        let mut unused = digits.len();
        for slot in digits.iter_mut().rev() {
            let digit = (left % BASE) as u8;
            *slot = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            left /= BASE;
            unused -= 1;
            if left == 0 {
                break;
            }
        }
        self.bytes(digits.get(unused..).unwrap_or(&digits))
    }

    /// Ends the line, whatever it holds.
    #[must_use]
    pub fn end(mut self) -> Self {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = b'\n';
            self.length += 1;
        }
        self
    }

    /// The line so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: Line) -> String {
        String::from_utf8(line.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn numbers_look_as_core_formats_them() {
        for number in [0, 1, 9, 10, 15, 16, 99, 100, 4096, u64::MAX / 10, u64::MAX - 1, u64::MAX] {
            let line = Line::new().decimal(number).text(" ").hex(number);
            assert_eq!(text(line), format!("{number} {number:#x}"));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let long = "x".repeat(3 * CAPACITY);
        let line = Line::new().text(&long).decimal(7).end();
        assert_eq!(line.as_bytes().len(), CAPACITY);
        assert!(text(line).ends_with("xx\n"));
        assert_eq!(text(Line::default().end()), "\n");
    }
}
