//! The lines of the prompt, as values.
use crate::level::Level;
use alloc::format;
use alloc::string::{String, ToString};
use lifecycle::Operation;

/// What `help` prints: the words, and what they do.
pub const HELP: &[(&str, &str)] = &[
    ("guest list", "all guests and their states"),
    ("guest show NAME", "one guest: state, processors, memory, how it ended"),
    ("guest start NAME", "create, load and kick it, as far as needed"),
    ("guest stop NAME", "halt and reset it"),
    ("guest create NAME", "give it memory and a monitor"),
    ("guest load NAME", "put its images in place"),
    ("guest kick NAME", "let it begin"),
    ("guest pause NAME", "hold it; resume lets it go on"),
    ("guest resume NAME", "let it go on"),
    ("guest halt NAME", "end it"),
    ("guest reset NAME", "back to before its first instruction"),
    ("guest destroy NAME", "take everything back"),
    ("guest console [NAME]", "the keys go to a guest; Ctrl-] comes back here"),
    ("guest log NAME", "the latest it has printed"),
    ("guest screen NAME", "its VGA text screen, and where the cursor stands"),
    ("ps", "threads and virtual processors: state, CPU, priority, slice, time used"),
    ("exits NAME", "how often a guest left for which reason, and the rate since the last look"),
    ("irq", "interrupts: whose they are, how many came"),
    ("mem", "memory that is free"),
    ("cpu", "the machine's processors, and who is on them"),
    ("log level [LEVEL]", "which lines come by themselves: quiet, warnings or all"),
    ("suspend", "suspend the machine to memory, until somebody wakes it"),
    ("poweroff", "switch the machine off"),
    ("reboot", "start the machine again"),
];

/// A line of the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing.
    Empty,
    /// What there is.
    Help,
    /// All guests.
    List,
    /// One guest.
    Show(String),
    /// One move.
    Operate(Operation, String),
    /// Images into place.
    Load(String),
    /// Create, load, kick.
    Start(String),
    /// Halt, reset.
    Stop(String),
    /// Attach the terminal.
    Console(Option<String>),
    /// Latest output.
    Log(String),
    /// Text screen.
    Screen(String),
    /// Threads.
    Threads,
    /// Why a guest left.
    Exits(String),
    /// Interrupts.
    Interrupts,
    /// Memory.
    Memory,
    /// Processors.
    Processors,
    /// Which lines come by themselves, or, with a level, shall come from now on.
    LogLevel(Option<Level>),
    /// Machine asleep.
    Suspend,
    /// Machine off.
    PowerOff,
    /// Machine again.
    Reboot,
}

impl Command {
    /// Reads a line.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let first = words.next();
        let command = match first {
            None => Self::Empty,
            Some("help") => Self::Help,
            Some("guest") => return guest(words),
            Some("ps") => Self::Threads,
            Some("exits") => Self::Exits(
                words.next().ok_or("exits: which guest? guest list names them")?.to_string(),
            ),
            Some("irq") => Self::Interrupts,
            Some("mem") => Self::Memory,
            Some("cpu") => Self::Processors,
            Some("log") => return log(words),
            Some("suspend") => Self::Suspend,
            Some("poweroff") => Self::PowerOff,
            Some("reboot") => Self::Reboot,
            Some(other) => return Err(format!("{other}: no such command; try help")),
        };
        end(first.unwrap_or_default(), words).map(|()| command)
    }
}

fn guest<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Command, String> {
    let verb = words.next().ok_or("guest: what? try help")?;
    let mut name = || words.next().map(ToString::to_string);
    let missing = || format!("guest {verb}: which guest? guest list names them");
    let command = match verb {
        "list" => Command::List,
        "console" => Command::Console(name()),
        "show" => Command::Show(name().ok_or_else(missing)?),
        "load" => Command::Load(name().ok_or_else(missing)?),
        "start" => Command::Start(name().ok_or_else(missing)?),
        "stop" => Command::Stop(name().ok_or_else(missing)?),
        "log" => Command::Log(name().ok_or_else(missing)?),
        "screen" => Command::Screen(name().ok_or_else(missing)?),
        other => match Operation::from_name(other) {
            Some(operation) => Command::Operate(operation, name().ok_or_else(missing)?),
            None => return Err(format!("guest {other}: no such command; try help")),
        },
    };
    end(verb, words).map(|()| command)
}

fn log<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Command, String> {
    match words.next() {
        None => return Err("log: what? try help".into()),
        Some("level") => {}
        Some(other) => return Err(format!("log {other}: no such command; try help")),
    }
    let level = words.next().map(|word| {
        Level::from_name(word).ok_or(format!("log level {word}: it is quiet, warnings or all"))
    });
    let level = level.transpose()?;
    end("level", words).map(|()| Command::LogLevel(level))
}

fn end<'a>(after: &str, mut words: impl Iterator<Item = &'a str>) -> Result<(), String> {
    words.next().map_or(Ok(()), |extra| Err(format!("{after}: {extra} is too much")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_help_is_a_command() {
        for (line, _) in HELP {
            let line = line.replace("[NAME]", "NAME").replace("[LEVEL]", "all");
            assert!(Command::parse(&line).is_ok(), "{line}");
            assert!(Command::parse(&format!("{line} more")).is_err(), "{line}");
        }
    }

    #[test]
    fn guests_are_named() {
        let name = || "a".to_string();
        assert_eq!(
            Command::parse(" guest  pause a "),
            Ok(Command::Operate(Operation::Pause, name()))
        );
        assert_eq!(Command::parse("guest console"), Ok(Command::Console(None)));
        assert_eq!(Command::parse("guest console a"), Ok(Command::Console(Some(name()))));
        assert_eq!(
            Command::parse("guest pause"),
            Err("guest pause: which guest? guest list names them".into())
        );
        assert_eq!(Command::parse("exits a"), Ok(Command::Exits(name())));
        assert_eq!(
            Command::parse("exits"),
            Err("exits: which guest? guest list names them".into())
        );
        assert_eq!(Command::parse("guest"), Err("guest: what? try help".into()));
        assert_eq!(Command::parse("fly"), Err("fly: no such command; try help".into()));
        assert_eq!(
            Command::parse("guest fly a"),
            Err("guest fly: no such command; try help".into())
        );
        assert_eq!(Command::parse(""), Ok(Command::Empty));
    }

    #[test]
    fn levels_are_named() {
        assert_eq!(Command::parse("log level"), Ok(Command::LogLevel(None)));
        assert_eq!(Command::parse("log level quiet"), Ok(Command::LogLevel(Some(Level::Quiet))));
        for (line, why) in [
            ("log", "log: what? try help"),
            ("log loud", "log loud: no such command; try help"),
            ("log level loud", "log level loud: it is quiet, warnings or all"),
            ("log level all more", "level: more is too much"),
        ] {
            assert_eq!(Command::parse(line), Err(why.into()));
        }
    }

    #[test]
    fn random_lines_are_read_or_refused() {
        let words = ["guest", "help", "list", "pause", "a", "", "\u{1b}", "console", "mem", "ä"];
        let mut x = 9_u64;
        for _ in 0..20_000 {
            let mut line = String::new();
            for _ in 0..4 {
                x = x
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                line.push_str(words[(x >> 33) as usize % words.len()]);
                line.push(' ');
            }
            if let Err(why) = Command::parse(&line) {
                assert!(why.contains(": "), "{line}: {why}");
            }
        }
    }
}
