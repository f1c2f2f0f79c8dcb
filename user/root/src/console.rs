//! One terminal for the guests and the prompt: who gets a key, how output lines stay apart.
//!
//! Guest bytes pass unchanged. Lines of the root task or a monitor begin on a line of their own
//! and say who speaks; afterwards the guest goes on where it was.
use alloc::string::String;
use alloc::vec::Vec;

/// Ctrl-]: between the guest and the prompt.
pub const ESCAPE: u8 = 0x1d;
/// The prompt.
pub const PROMPT: &str = "hematite> ";
const LINE: usize = 128;

/// Who has the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// The guest with this index.
    Guest(usize),
    /// The prompt.
    Prompt,
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing more.
    None,
    /// The guest gets this byte.
    Guest(usize, u8),
    /// The user entered this command.
    Command(String),
}

/// The terminal's state.
#[derive(Debug)]
pub struct Console {
    focus: Focus,
    home: Option<usize>,
    line: String,
    column: usize,
}

impl Console {
    /// Attached to guest `home`, or at the prompt.
    pub fn new(home: Option<usize>) -> Self {
        let focus = home.map_or(Focus::Prompt, Focus::Guest);
        Self { focus, home, line: String::new(), column: 0 }
    }

    /// Who has the keys.
    pub fn focus(&self) -> Focus {
        self.focus
    }

    /// Which guest Ctrl-] goes back to.
    pub fn set_home(&mut self, home: Option<usize>) {
        self.home = home;
    }

    /// A key was pressed; what to print is added to `out`.
    pub fn key(&mut self, byte: u8, out: &mut Vec<u8>) -> Action {
        if byte == ESCAPE {
            self.toggle(out);
            return Action::None;
        }
        match self.focus {
            Focus::Guest(index) => Action::Guest(index, byte),
            Focus::Prompt => self.edit(byte, out),
        }
    }

    /// Goes to the prompt.
    pub fn to_prompt(&mut self, out: &mut Vec<u8>) {
        self.focus = Focus::Prompt;
        self.line.clear();
        self.fresh_line(out);
        self.put(PROMPT.as_bytes(), out);
    }

    /// Goes to a guest.
    pub fn to_guest(&mut self, index: usize, out: &mut Vec<u8>) {
        self.fresh_line(out);
        self.focus = Focus::Guest(index);
        self.home = Some(index);
    }

    /// Bytes of a guest.
    pub fn guest_output(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.put(bytes, out);
    }

    /// A line of the root task or a monitor.
    pub fn message(&mut self, who: &str, text: &str, out: &mut Vec<u8>) {
        if self.focus == Focus::Prompt && self.column == PROMPT.len() + self.line.len() {
            // Only the prompt stands there: write over it (ECMA-48, EL).
            out.extend_from_slice(b"\r\x1b[K");
            self.column = 0;
        }
        self.fresh_line(out);
        self.put(who.as_bytes(), out);
        self.put(b": ", out);
        self.put(text.as_bytes(), out);
        self.put(b"\r\n", out);
        if self.focus == Focus::Prompt {
            self.put(PROMPT.as_bytes(), out);
            let line = core::mem::take(&mut self.line);
            self.put(line.as_bytes(), out);
            self.line = line;
        }
    }

    fn toggle(&mut self, out: &mut Vec<u8>) {
        match (self.focus, self.home) {
            (Focus::Guest(_), _) => self.to_prompt(out),
            (Focus::Prompt, Some(index)) => self.to_guest(index, out),
            (Focus::Prompt, None) => {}
        }
    }

    fn edit(&mut self, byte: u8, out: &mut Vec<u8>) -> Action {
        match byte {
            b'\r' | b'\n' => {
                self.put(b"\r\n", out);
                return Action::Command(core::mem::take(&mut self.line));
            }
            8 | 0x7f if self.line.pop().is_some() => {
                self.put(b"\x08 \x08", out);
                self.column = self.column.saturating_sub(4);
            }
            b' '..=b'~' if self.line.len() < LINE => {
                self.line.push(char::from(byte));
                self.put(&[byte], out);
            }
            _ => {}
        }
        Action::None
    }

    fn fresh_line(&mut self, out: &mut Vec<u8>) {
        if self.column != 0 {
            self.put(b"\r\n", out);
        }
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for byte in bytes {
            match byte {
                b'\r' | b'\n' => self.column = 0,
                _ => self.column += 1,
            }
        }
        out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_goes_there_and_back() {
        let mut console = Console::new(Some(0));
        let mut out = Vec::new();
        assert_eq!(console.key(b'a', &mut out), Action::Guest(0, b'a'));
        console.guest_output(b"~ # ", &mut out);
        assert_eq!(console.key(ESCAPE, &mut out), Action::None);
        assert_eq!(out, b"~ # \r\nhematite> ");
        for byte in *b"hex\x7flp" {
            assert_eq!(console.key(byte, &mut out), Action::None);
        }
        assert_eq!(console.key(b'\r', &mut out), Action::Command("help".into()));
        console.key(ESCAPE, &mut out);
        assert_eq!(console.focus(), Focus::Guest(0));
    }

    #[test]
    fn messages_stand_on_their_own_line() {
        let mut console = Console::new(Some(0));
        let mut out = Vec::new();
        console.guest_output(b"boot", &mut out);
        console.message("vmm linux", "unknown MSR 0x42", &mut out);
        console.guest_output(b"ing\r\n", &mut out);
        console.message("root", "linux powered off", &mut out);
        assert_eq!(
            out,
            b"boot\r\nvmm linux: unknown MSR 0x42\r\ning\r\nroot: linux powered off\r\n"
        );
    }

    #[test]
    fn messages_go_above_the_prompt() {
        let mut console = Console::new(None);
        let mut out = Vec::new();
        console.to_prompt(&mut out);
        console.key(b'l', &mut out);
        console.message("vmm a", "one", &mut out);
        console.message("vmm a", "two", &mut out);
        assert_eq!(
            out,
            b"hematite> l\r\x1b[Kvmm a: one\r\nhematite> l\r\x1b[Kvmm a: two\r\nhematite> l"
        );
    }

    #[test]
    fn without_a_guest_the_prompt_stays() {
        let mut console = Console::new(None);
        let mut out = Vec::new();
        console.key(ESCAPE, &mut out);
        assert_eq!(console.focus(), Focus::Prompt);
    }
}
