//! Reads a machine's serial line and plays expectations against it.
//!
//! Everything that arrives goes to the log file; a search starts after the previous match.

use crate::emulator::Emulator;
use crate::steady::{Pace, Shares, Steady, tick};
use crate::{monitor, outside};
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// One step of a conversation with the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait until the serial line has said this.
    Expect(String),
    /// Type this and Enter, byte by byte, at the pace at which it is taken.
    Send(Vec<u8>),
    /// Fail when the serial line says this before the conversation ends.
    Refuse(String),
    /// Wait for a line with this and remember its last number.
    Measure(String),
    /// Wait for a line with this; the number behind it is at most this.
    AtMost(String, u64),
    /// Wait for a line with this whose last number is at most this.
    LastAtMost(String, u64),
    /// The last of many measured cycles cost what the first did.
    Steady(Steady),
    /// Wait until a guest has ticked so many times more; then all ticks since the last such step have the pace of the first.
    Ticks(Ticks),
    /// Compare what two measured numbers have grown by since the first time.
    Compare(Shares),
    /// Wait until the machine ends by itself.
    End,
    /// Wait for a line with this; fail when it is not what it was at the first such step.
    Same(String),
    /// Type this at QEMU's monitor.
    Monitor(String),
    /// Wait until QEMU says that the machine is suspended.
    Asleep,
    /// Wait until the VGA text screen, seen from outside, shows this.
    Screen(String),
    /// Dump the live page tables of so many processors from outside: they keep what the kernel promises.
    Tables(u32),
}

/// A guest that ticks: lines `TEXT NUMBER SECONDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// What they begin with.
    pub text: &'static str,
    /// How many more are waited for.
    pub more: usize,
    /// How far off the first step's mean each gap may be, in percent.
    pub percent: u64,
}

/// Why a conversation did not reach its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The time was up while waiting for this text.
    TimeOut(String),
    /// The machine ended while this text was waited for.
    Ended(String),
    /// The serial line said what it must not.
    Refused(String),
    /// A line that should have stayed the same: what it was first, and what it is now.
    Changed(String, String),
    /// What was seen from outside is not as it should be.
    Outside(String),
    /// Two numbers did not grow as they should.
    Unfair(String),
    /// The number in this line is larger than this, or there is none.
    Over(String, u64),
    /// The user interrupted us.
    Interrupted,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TimeOut(text) => write!(f, "time-out while waiting for '{text}'"),
            Self::Ended(text) => write!(f, "the machine ended while waiting for '{text}'"),
            Self::Refused(text) => write!(f, "the serial line said '{text}'"),
            Self::Changed(first, now) => write!(f, "'{first}' became '{now}'"),
            Self::Outside(what) => write!(f, "seen from outside: {what}"),
            Self::Unfair(what) => write!(f, "{what}"),
            Self::Over(line, most) => write!(f, "'{line}': at most {most}"),
            Self::Interrupted => write!(f, "interrupted"),
        }
    }
}

/// How long a typed character may go without an echo before the next one follows.
const ECHO_PATIENCE: Duration = Duration::from_millis(1500);
/// The pace once it is plain that nothing is echoed.
const SILENT_PACE: Duration = Duration::from_millis(200);
/// Time between two looks at a screen.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// A prompt comes out a little before its program reads.
const SETTLE: Duration = Duration::from_millis(200);

/// A machine's serial line, its log and what was said so far.
#[derive(Debug)]
pub struct Serial {
    emulator: Emulator,
    log: File,
    log_path: PathBuf,
    echo: bool,
    said: Vec<u8>,
    searched: usize,
    closed: bool,
    refused: Vec<String>,
    /// Up to here nothing refused was found.
    clean: usize,
}

impl Serial {
    /// Takes the line of `emulator`; everything it says goes to `log`, and to standard output if
    /// `echo`.
    ///
    /// # Errors
    /// When the log file cannot be written.
    pub fn new(emulator: Emulator, log: &Path, echo: bool) -> Result<Self> {
        let file =
            File::create(log).with_context(|| format!("cannot write the log {}", log.display()))?;
        Ok(Self {
            emulator,
            log: file,
            log_path: log.to_path_buf(),
            echo,
            said: Vec::new(),
            searched: 0,
            closed: false,
            refused: Vec::new(),
            clean: 0,
        })
    }

    /// Where the full log is.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// Where the emulator's own messages are.
    #[must_use]
    pub fn emulator_log(&self) -> &Path {
        self.emulator.own_log()
    }

    /// The emulator behind the line.
    pub fn emulator(&mut self) -> &mut Emulator {
        &mut self.emulator
    }

    /// Whether the machine has ended.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// The last `count` lines said, without carriage returns and escape characters.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        last_lines(&self.said, count)
    }

    /// Everything said so far.
    #[must_use]
    pub fn said(&self) -> &[u8] {
        &self.said
    }

    /// Takes what arrives within `limit`; true if something did.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn listen(&mut self, limit: Duration) -> Result<bool> {
        match self.emulator.output().recv_timeout(limit) {
            Ok(part) => {
                self.log.write_all(&part).context("cannot write the serial log")?;
                if self.echo {
                    let mut out = std::io::stdout().lock();
                    // A closed terminal must not end the run: the log has it all.
                    let _ = out.write_all(&part).and_then(|()| out.flush());
                }
                self.said.extend_from_slice(&part);
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                self.closed = true;
                Ok(false)
            }
        }
    }

    /// Plays the steps in order. `None` for the time-out means to wait for ever.
    ///
    /// # Errors
    /// When the log cannot be written; a failed expectation is an `Ok(Err(..))`.
    pub fn play(
        &mut self,
        steps: &[Step],
        timeout: Option<Duration>,
        interrupted: &AtomicBool,
    ) -> Result<std::result::Result<(), Failure>> {
        let deadline = timeout.map(|limit| Instant::now() + limit);
        let mut firsts = HashMap::new();
        let mut numbers: HashMap<&str, Vec<u64>> = HashMap::new();
        let mut paces: HashMap<&str, (usize, Pace)> = HashMap::new();
        self.refused = steps
            .iter()
            .filter_map(|step| match step {
                Step::Refuse(text) => Some(text.clone()),
                _ => None,
            })
            .collect();
        for step in steps {
            let failure = match step {
                Step::Expect(text) => self.expect(text, deadline, interrupted)?,
                Step::Send(text) => self.send(text, deadline, interrupted)?,
                Step::Refuse(_) => None,
                Step::Monitor(command) => {
                    self.emulator.ask(command)?;
                    None
                }
                Step::Asleep => self.asleep(deadline)?,
                Step::Screen(text) => self.screen(text, deadline, interrupted)?,
                Step::Tables(cpus) => self.tables(*cpus)?,
                Step::Measure(text) => {
                    let (line, failure) = self.line(text, deadline, interrupted)?;
                    numbers.entry(text).or_default().push(last_number(&line).unwrap_or(0));
                    failure
                }
                Step::AtMost(text, most) => {
                    let (line, failure) = self.line(text, deadline, interrupted)?;
                    failure.or_else(|| more_than(&line, text, *most).map(Failure::Unfair))
                }
                Step::LastAtMost(text, most) => {
                    let (line, failure) = self.line(text, deadline, interrupted)?;
                    let over = last_number(&line).is_none_or(|number| number > *most);
                    failure.or_else(|| over.then_some(Failure::Over(line, *most)))
                }
                Step::Steady(steady) => {
                    let means = steady.means(&numbers);
                    let words = means.map_or("too little was measured".into(), |m| m.to_string());
                    eprintln!("        {words}");
                    let holds = means.is_some_and(|means| steady.holds(means));
                    (!holds).then_some(Failure::Unfair(words))
                }
                Step::Ticks(ticks) => {
                    let from = paces.get(ticks.text).map_or(self.searched, |(from, _)| *from);
                    let failure = self.ticks(ticks, deadline, interrupted)?;
                    let said = last_lines(self.said.get(from..).unwrap_or_default(), usize::MAX);
                    let all: Vec<_> = said.iter().filter_map(|l| tick(l, ticks.text)).collect();
                    let pace = Pace::of(&all);
                    eprintln!(
                        "        {}",
                        pace.map_or("no ticks".into(), |pace| pace.to_string())
                    );
                    let first = paces.get(ticks.text).map(|(_, first)| *first).or(pace);
                    let even = pace.zip(first).filter(|(now, then)| now.like(then, ticks.percent));
                    if let Some(first) = first {
                        paces.insert(ticks.text, (self.searched, first));
                    }
                    failure.or_else(|| {
                        let words = || format!("{} are not even", ticks.text);
                        even.is_none().then(|| Failure::Unfair(words()))
                    })
                }
                Step::Compare(shares) => {
                    let grown = shares.rows.map(|row| {
                        let all = numbers.get(row).map(Vec::as_slice).unwrap_or_default();
                        let ends = all.first().zip(all.last());
                        ends.map_or(0, |(first, last)| last.saturating_sub(*first))
                    });
                    shares.wrong(grown).map(Failure::Unfair)
                }
                Step::End => self.end(deadline, interrupted)?,
                Step::Same(text) => {
                    let (line, failure) = self.line(text, deadline, interrupted)?;
                    let first: &mut String = firsts.entry(text).or_insert_with(|| line.clone());
                    let changed = || Failure::Changed(first.clone(), line.clone());
                    failure.or_else(|| (*first != line).then(changed))
                }
            };
            if let Some(failure) = failure {
                return Ok(Err(failure));
            }
        }
        Ok(Ok(()))
    }

    /// Waits for so many ticks more.
    fn ticks(
        &mut self,
        ticks: &Ticks,
        deadline: Option<Instant>,
        interrupted: &AtomicBool,
    ) -> Result<Option<Failure>> {
        let mut seen = 0;
        while seen < ticks.more {
            let (line, failure) = self.line(ticks.text, deadline, interrupted)?;
            if failure.is_some() {
                return Ok(failure);
            }
            seen += usize::from(tick(&line, ticks.text).is_some());
        }
        Ok(None)
    }

    /// Looks at the screen until it shows `text`.
    fn screen(
        &mut self,
        text: &str,
        deadline: Option<Instant>,
        interrupted: &AtomicBool,
    ) -> Result<Option<Failure>> {
        loop {
            let memory = monitor::bytes(&self.emulator.ask("xp /4000bx 0xb8000")?);
            let seen = monitor::screen(&memory);
            if seen.contains(text) {
                return Ok(None);
            }
            if interrupted.load(Ordering::Relaxed) {
                return Ok(Some(Failure::Interrupted));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Some(Failure::Outside(format!("no '{text}' on the screen:\n{seen}"))));
            }
            self.listen(LOOK_AGAIN)?;
        }
    }

    /// Asks until the machine is suspended.
    fn asleep(&mut self, deadline: Option<Instant>) -> Result<Option<Failure>> {
        while !self.emulator.ask("info status")?.contains("suspended") {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Some(Failure::Outside("the machine does not sleep".to_string())));
            }
            if let Some(bad) = self.refused_word() {
                return Ok(Some(Failure::Refused(bad)));
            }
            self.listen(LOOK_AGAIN)?;
        }
        Ok(None)
    }

    /// Judges the page tables of processors 0 to `cpus`.
    fn tables(&mut self, cpus: u32) -> Result<Option<Failure>> {
        self.emulator.ask("stop")?;
        let mut failure = None;
        for cpu in 0..cpus {
            let dump = self.emulator.ask(&format!("cpu {cpu}\ninfo tlb"))?;
            if let Err(what) = outside::judge(&dump) {
                failure = Some(Failure::Outside(format!("CPU {cpu}: {what}")));
                break;
            }
        }
        self.emulator.ask("cont")?;
        Ok(failure)
    }

    fn expect(
        &mut self,
        text: &str,
        deadline: Option<Instant>,
        interrupted: &AtomicBool,
    ) -> Result<Option<Failure>> {
        loop {
            if let Some(bad) = self.refused_word() {
                return Ok(Some(Failure::Refused(bad)));
            }
            if let Some(end) = find(&self.said, self.searched, text) {
                self.searched = end;
                return Ok(None);
            }
            if interrupted.load(Ordering::Relaxed) {
                return Ok(Some(Failure::Interrupted));
            }
            if self.closed {
                return Ok(Some(Failure::Ended(text.to_string())));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Some(Failure::TimeOut(text.to_string())));
            }
            self.listen(Duration::from_millis(100))?;
        }
    }

    /// The next line with this text, whole.
    fn line(
        &mut self,
        text: &str,
        deadline: Option<Instant>,
        interrupted: &AtomicBool,
    ) -> Result<(String, Option<Failure>)> {
        let begun = self.searched;
        let failure = match self.expect(text, deadline, interrupted)? {
            None => self.expect("\n", deadline, interrupted)?,
            failure => failure,
        };
        Ok((line_with(self.said.get(begun..self.searched), text), failure))
    }

    fn end(
        &mut self,
        deadline: Option<Instant>,
        interrupted: &AtomicBool,
    ) -> Result<Option<Failure>> {
        // Nothing says this, so the wait is over when the line is closed.
        match self.expect("\0the end of the machine", deadline, interrupted)? {
            Some(Failure::Ended(_)) => Ok(None),
            failure => Ok(failure),
        }
    }

    /// What was said and must not be, searched for in what is new.
    fn refused_word(&mut self) -> Option<String> {
        let longest = self.refused.iter().map(String::len).max().unwrap_or(0);
        // A word may have begun in what was searched before.
        let from = self.clean.saturating_sub(longest);
        self.clean = self.said.len();
        self.refused.iter().find(|bad| find(&self.said, from, bad).is_some()).cloned()
    }

    fn send(
        &mut self,
        text: &[u8],
        deadline: Option<Instant>,
        interrupted: &AtomicBool,
    ) -> Result<Option<Failure>> {
        self.listen_for(SETTLE, |_| false)?;
        let mut unanswered = 0_u32;
        for byte in text.iter().copied().chain(std::iter::once(b'\r')) {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(Some(Failure::Interrupted));
            }
            let typed = String::from_utf8_lossy(text).into_owned();
            if self.closed {
                return Ok(Some(Failure::Ended(typed)));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Some(Failure::TimeOut(format!("the end of the input '{typed}'"))));
            }
            self.emulator.type_byte(byte);
            let patience = if unanswered < 3 { ECHO_PATIENCE } else { SILENT_PACE };
            let wanted = if byte == b'\r' { b'\n' } else { byte };
            let plain = wanted == b'\n' || (0x20..0x7f).contains(&wanted);
            let echoed = self.listen_for(patience, |new| !plain || new.contains(&wanted))?;
            unanswered = if echoed { 0 } else { unanswered + 1 };
        }
        Ok(None)
    }

    /// Listens until `enough` likes what has come since, or `limit` is over.
    fn listen_for(&mut self, limit: Duration, enough: impl Fn(&[u8]) -> bool) -> Result<bool> {
        let (begun, from) = (Instant::now(), self.said.len());
        while begun.elapsed() < limit && !self.closed {
            self.listen(Duration::from_millis(20))?;
            let new = self.said.get(from..).unwrap_or_default();
            if !new.is_empty() && enough(new) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Where `text` ends in `said`, searched from byte `from` on.
fn find(said: &[u8], from: usize, text: &str) -> Option<usize> {
    let text = text.as_bytes();
    if text.is_empty() {
        return Some(from);
    }
    let rest = said.get(from..)?;
    rest.windows(text.len()).position(|part| part == text).map(|at| from + at + text.len())
}

/// The last whole number in a line, as a word of its own.
fn last_number(line: &str) -> Option<u64> {
    line.split_whitespace().rev().find_map(|word| word.parse().ok())
}

/// The last line of `said` that has `text`, made fit to print.
fn line_with(said: Option<&[u8]>, text: &str) -> String {
    let said = last_lines(said.unwrap_or_default(), usize::MAX);
    said.into_iter().rfind(|line| line.contains(text)).unwrap_or_default()
}

/// What is wrong if the number behind `text` is larger than this, or is none.
fn more_than(line: &str, text: &str, most: u64) -> Option<String> {
    let (_, rest) = line.split_once(text)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    let fits =
        digits.and_then(|digits| digits.parse().ok()).is_some_and(|found: u64| found <= most);
    (!fits).then(|| format!("'{line}': more than {most} behind '{text}'"))
}

/// The last `count` lines of serial output, made fit to print.
#[must_use]
pub fn last_lines(said: &[u8], count: usize) -> Vec<String> {
    let text: String = String::from_utf8_lossy(said)
        .chars()
        .filter(|c| *c == '\n' || *c == '\t' || !c.is_control())
        .collect();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(count)).map(ToString::to_string).collect()
}

/// Turns what `--send` was given into bytes: `\xNN` is the byte NN.
///
/// # Errors
/// When a `\x` is not followed by two hexadecimal digits.
pub fn unescape(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        let Some(byte) = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            bail!("--send '{text}': \\x needs two hexadecimal digits");
        };
        bytes.push(byte);
        rest = after.get(2..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_starts_after_the_previous_match() {
        let said = b"~ # uname\r\n~ # ";
        let first = find(said, 0, "~ #").unwrap();
        let second = find(said, first, "~ #").unwrap();
        assert_eq!((first, second), (3, 14));
        assert_eq!(find(said, second, "~ #"), None);
        assert_eq!(find(said, 99, "~"), None);
    }

    #[test]
    fn a_line_is_found_by_a_part_of_it() {
        let said = b"mem\r\n12 KiB free\r\nhematite> mem\r\n13 KiB free\r\n";
        assert_eq!(line_with(Some(said), "KiB free"), "13 KiB free");
        assert_eq!(line_with(Some(said), "none"), "");
        assert_eq!(line_with(None, "none"), "");
    }

    #[test]
    fn the_last_number_of_a_line_counts() {
        assert_eq!(last_number("Cpuid  500  200/s  1200 ticks each"), Some(1200));
        assert_eq!(last_number("small: cost of out 3"), Some(3));
        assert_eq!(last_number("none here 1/s"), None);
    }

    #[test]
    fn escapes_become_bytes() {
        assert_eq!(unescape("a\\x1db\\x00").unwrap(), [b'a', 0x1d, b'b', 0]);
        assert_eq!(unescape("").unwrap(), []);
        assert!(unescape("\\x1").is_err());
        assert!(unescape("\\xzz").is_err());
    }

    #[test]
    fn numbers_behind_a_text_are_compared() {
        let line = "linux 262144 KiB, monitor 1616 KiB, kernel 254 KiB";
        assert_eq!(more_than(line, "monitor ", 1616), None);
        assert!(more_than(line, "monitor ", 1615).is_some());
        assert!(more_than(line, "linux", 1).is_some_and(|why| why.contains("behind 'linux'")));
    }

    #[test]
    fn last_lines_are_printable() {
        let said = b"one\r\n\x1b[1mtwo\r\n\r\nthree\xff\n";
        assert_eq!(last_lines(said, 2), ["[1mtwo", "three\u{fffd}"]);
    }
}
