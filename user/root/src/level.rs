//! Which lines come on the console by themselves, and what is kept of those that do not.
use alloc::collections::VecDeque;
use alloc::string::{String, ToString};

/// How much comes by itself. Answers to commands always come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Quiet,
    /// What the kernel tells, and how guests end.
    Warnings,
    /// The monitors' lines too.
    #[default]
    All,
}

impl Level {
    /// All levels.
    pub const ALL: [Self; 3] = [Self::Quiet, Self::Warnings, Self::All];

    /// Its name, as the console takes and prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Warnings => "warnings",
            Self::All => "all",
        }
    }

    /// The level of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Whether a line of this weight comes.
    #[must_use]
    pub fn shows(self, weight: Self) -> bool {
        self >= weight && weight != Self::Quiet
    }
}

/// Most lines kept.
const LINES: usize = 128;

/// The latest lines of a monitor, for `guest show`.
#[derive(Debug, Default)]
pub struct Kept {
    lines: VecDeque<String>,
}

impl Kept {
    /// Keeps a line, instead of the oldest if there are 128.
    pub fn add(&mut self, line: &str) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_string());
    }

    /// Forgets all: another life begins.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_shows_what_the_one_below_shows() {
        let shown = |level: Level| Level::ALL.map(|weight| level.shows(weight));
        assert_eq!(shown(Level::Quiet), [false, false, false]);
        assert_eq!(shown(Level::Warnings), [false, true, false]);
        assert_eq!(shown(Level::All), [false, true, true]);
        assert_eq!(Level::ALL.map(|level| Level::from_name(level.name())), Level::ALL.map(Some));
    }

    #[test]
    fn the_latest_lines_are_kept() {
        let mut kept = Kept::default();
        (0..=LINES).for_each(|number| kept.add(&number.to_string()));
        assert_eq!(kept.lines().count(), LINES);
        assert_eq!(kept.lines().next(), Some("1"));
        kept.clear();
        assert!(kept.is_empty());
    }
}
