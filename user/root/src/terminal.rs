//! Keys and bytes between the serial line, the prompt and the guests.
use crate::cell::{Cell, Maker};
use crate::evaluator::Evaluator;
use crate::kernel_says::KernelSays;
use crate::serial::Serial;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use lifecycle::{Operation, State};
use root::command::{Command, HELP};
use root::console::{Action, Console, Focus};
use root::level::Level;
use root::listing;
use root::power;
use rt::sync::{Semaphore, after_us};
use vmm::control::End;
use vmm::status::{self, Kind, Thread};

/// Longest sleep when keys announce themselves, and when they do not, in microseconds.
const LONG_US: u64 = 100_000;
const SHORT_US: u64 = 5_000;
const CHUNK: usize = 4096;
/// Counters of the kernel's (`docs/spec/statistics.md`).
const UNOWNED: u64 = 0;
const SHOOT_DOWNS: u64 = 1;
const FREE_FRAMES: u64 = 2;
/// The console's time, once it is started.
pub static CONSOLE: AtomicU64 = AtomicU64::new(0);
/// Priority of the console: above all monitors, so that it stays alive.
pub const PRIORITY: u8 = 20;
/// How long the number of free frames has to stay the same, and how often that is looked at.
const SETTLE_US: u64 = 30_000;
const SETTLE_ROUNDS: u32 = 30;

/// The console with everything it serves.
pub struct Terminal<'a> {
    /// Makes the guests' lives.
    pub maker: Maker<'a>,
    /// The line.
    pub serial: Serial,
    /// Evaluates AML.
    pub evaluator: Evaluator,
    /// What the kernel tells.
    pub kernel: KernelSays,
    /// Up when there is something to do.
    pub wake: Semaphore,
    /// The guests of the manifest.
    pub guests: Vec<Cell>,
    /// Who has the keys, how lines stay apart.
    pub console: Console,
    /// Which lines come by themselves.
    pub level: Level,
}

impl Terminal<'_> {
    /// Serves for ever.
    pub fn serve(&mut self) -> ! {
        let mut out = Vec::new();
        if self.console.focus() == Focus::Prompt {
            self.console.to_prompt(&mut out);
        }
        loop {
            self.serial.acknowledge();
            while let Some(key) = self.serial.key() {
                match self.console.key(key, &mut out) {
                    Action::None => {}
                    Action::Guest(index, byte) => self.to_guest(index, byte),
                    Action::Command(line) => self.command(&line, &mut out),
                }
            }
            for index in 0..self.guests.len() {
                self.from_guest(index, &mut out);
            }
            for line in self.kernel.lines() {
                if self.level.shows(Level::Warnings) {
                    self.console.message("kernel", &line, &mut out);
                }
            }
            self.serial.send(&out);
            out.clear();
            let pause = if self.serial.interrupts() { LONG_US } else { SHORT_US };
            let _ = rt::calls::sm_down_all(self.wake.selector(), after_us(pause));
        }
    }

    fn to_guest(&self, index: usize, byte: u8) {
        let Some(guest) = self.guests.get(index) else { return };
        guest.seat.keys.write(&[byte]);
        let _ = guest.seat.wake.up();
    }

    /// Bytes of the guest, lines of its monitor, its end.
    fn from_guest(&mut self, index: usize, out: &mut Vec<u8>) {
        let shared = self.guests.len() > 1;
        let Some(guest) = self.guests.get_mut(index) else { return };
        let mut buffer = vec![0; CHUNK];
        let end = match End::from_word(guest.seat.messages.status()) {
            _ if guest.seat.crashed() => "its monitor crashed",
            End::Running | End::Crashed => "",
            End::PoweredOff => "powered off",
            End::Reset => "reset itself and could not start again",
            End::Stopped => "stopped by its monitor",
        };
        let count = guest.seat.out.read(&mut buffer);
        let bytes = buffer.get(..count).unwrap_or_default();
        let seen = self.console.focus() == Focus::Guest(index);
        // Who is not looked at writes into its log alone, unless nobody else could be meant.
        guest.remember(bytes, seen || !shared);
        if seen || !shared {
            self.console.guest_output(bytes, out);
        }
        let count = guest.seat.messages.read(&mut buffer);
        let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
        let who = format!("vmm {}", guest.guest.name);
        for line in text.lines() {
            guest.said.add(line);
            if self.level.shows(Level::All) {
                self.console.message(&who, line, out);
            }
        }
        let lives = matches!(guest.state, State::Ready | State::Running | State::Paused);
        if !end.is_empty() && lives {
            if guest.seat.crashed() && self.level.shows(Level::Warnings) {
                self.console.message(&who, end, out);
            }
            guest.ended(end, &mut self.maker);
            self.console.set_home(None);
            if seen {
                self.console.to_prompt(out);
            }
        }
    }

    /// Carries out a line: commands with `;` between them, up to the first that is refused.
    fn command(&mut self, line: &str, out: &mut Vec<u8>) {
        for part in line.split(';') {
            match Command::parse(part).and_then(|command| self.execute(command, out)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(why) => {
                    say(out, &why);
                    break;
                }
            }
        }
        self.console.to_prompt(out);
    }

    /// Whether the prompt comes next.
    fn execute(&mut self, command: Command, out: &mut Vec<u8>) -> Result<bool, String> {
        match command {
            Command::Empty => {}
            Command::Help => {
                HELP.iter().for_each(|(words, what)| say(out, &format!("{words:22} {what}")));
            }
            Command::List => self.guests.iter().for_each(|guest| say(out, &line(guest))),
            Command::Show(name) => self.show(&name, out)?,
            Command::Operate(operation, name) => self.operate(operation, &name, out)?,
            Command::Load(name) => {
                let index = self.index(&name)?;
                let Some(guest) = self.guests.get_mut(index) else { return Ok(true) };
                guest.load(&self.maker)?;
                say(out, &format!("{name} is loaded"));
            }
            Command::Start(name) => self.change(&name, out, Cell::start)?,
            Command::Stop(name) => self.change(&name, out, Cell::stop)?,
            Command::Console(name) => return self.attach(name.as_deref(), out).map(|()| false),
            Command::Log(name) => {
                let index = self.index(&name)?;
                let Some(guest) = self.guests.get(index) else { return Ok(true) };
                out.extend_from_slice(&guest.log);
                say(out, "");
            }
            Command::Screen(name) => {
                let index = self.index(&name)?;
                let Some(guest) = self.guests.get(index) else { return Ok(true) };
                let lines = guest.screen().map_err(|why| format!("{name}: {why}"))?;
                lines.iter().for_each(|line| say(out, line));
            }
            Command::Threads => self.threads(out),
            Command::Exits(name) => {
                let index = self.index(&name)?;
                let khz = self.maker.boot.hip.tsc_khz();
                let lines = self.guests.get_mut(index).map(|guest| guest.exits(khz));
                lines.into_iter().flatten().for_each(|line| say(out, &line));
            }
            Command::Interrupts => self.interrupts(out),
            Command::Memory => self.memory(out),
            Command::Processors => {
                for cpu in self.maker.boot.hip.cpus() {
                    let guests = self.guests.iter().filter(|guest| guest.sits_on(cpu.number));
                    let names = guests.map(|guest| guest.guest.name.as_str());
                    say(out, &listing::processor(&cpu, names));
                }
            }
            Command::LogLevel(level) => {
                self.level = level.unwrap_or(self.level);
                say(out, &format!("log level is {}", self.level.name()));
            }
            Command::Suspend => {
                let power = power::tables(&self.maker.boot)?;
                let types = self.evaluator.ask(&mut self.maker, &power)?.suspend?;
                power::suspend(&power, types)?;
                self.serial.resume(&self.maker.boot);
                say(out, "the machine is awake again");
            }
            Command::PowerOff => {
                let power = power::tables(&self.maker.boot).unwrap_or_default();
                let answer = self.evaluator.ask(&mut self.maker, &power);
                power::off(&power, answer.ok().and_then(|answer| answer.off));
            }
            Command::Reboot => power::reboot(&self.maker.boot),
        }
        Ok(true)
    }

    fn index(&self, name: &str) -> Result<usize, String> {
        let found = self.guests.iter().position(|guest| guest.guest.name == name);
        found.ok_or_else(|| format!("{name}: no such guest; guest list names them"))
    }

    fn operate(
        &mut self,
        operation: Operation,
        name: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        self.change(name, out, |guest, maker| guest.operate(operation, maker))
    }

    fn change(
        &mut self,
        name: &str,
        out: &mut Vec<u8>,
        body: impl FnOnce(&mut Cell, &mut Maker<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let index = self.index(name)?;
        let Some(guest) = self.guests.get_mut(index) else { return Ok(()) };
        body(guest, &mut self.maker).map_err(|why| format!("{name}: {why}"))?;
        say(out, &format!("{name} is {}", guest.state));
        Ok(())
    }

    fn show(&self, name: &str, out: &mut Vec<u8>) -> Result<(), String> {
        let index = self.index(name)?;
        let Some(guest) = self.guests.get(index) else { return Ok(()) };
        say(out, &line(guest));
        let memory = guest.guest.all_memory() >> 10;
        say(out, &format!("  {} vCPUs, {memory} KiB of memory", guest.guest.vcpus.count));
        if let Some((used, limit)) = guest.kernel_memory() {
            say(out, &format!("  {} of {} KiB of kernel memory", used >> 10, limit >> 10));
        }
        if guest.state == State::Halted && !guest.said.is_empty() {
            say(out, "  what its monitor said:");
            guest.said.lines().for_each(|line| say(out, &format!("  | {line}")));
        }
        Ok(())
    }

    /// All threads: this program's, the monitors'.
    fn threads(&self, out: &mut Vec<u8>) {
        say(out, &listing::threads_head());
        let cpu = self.maker.boot.cpu;
        let console = CONSOLE.load(Ordering::Acquire);
        let slice_us = rt::thread::QUANTUM_US;
        // The kernel books a thread's time when it gives up its processor: what this command line did so far counts.
        rt::sync::sleep_us(1);
        let told = Thread {
            kind: Kind::Streams,
            state: status::State::Runs,
            priority: PRIORITY,
            cpu,
            slice_us,
            time_us: rt::calls::sc_time_us(console).unwrap_or(0),
        };
        say(out, &listing::thread("root", "console", "RUNNING", &told));
        for guest in &self.guests {
            guest.threads(cpu).iter().for_each(|line| say(out, line));
        }
    }

    /// Interrupts with their owners, and what each processor counts.
    fn interrupts(&self, out: &mut Vec<u8>) {
        let cpu = self.maker.boot.cpu;
        match self.serial.interrupt() {
            Some((vector, seen)) => {
                say(out, &format!("vector {vector} CPU {cpu}: serial line, of root: {seen} seen"));
            }
            None => say(out, "the serial line has no interrupt here; root looks for keys"),
        }
        for cpu in (0..).take(self.maker.boot.hip.cpus().count()) {
            let read = |counter| rt::calls::statistics(cpu, counter).unwrap_or(0);
            let (unowned, shot) = (read(UNOWNED), read(SHOOT_DOWNS));
            say(out, &format!("CPU {cpu}: {unowned} of nobody's, {shot} shoot-downs"));
        }
    }

    /// What is free, what is lost, what each guest has.
    fn memory(&self, out: &mut Vec<u8>) {
        for guest in &self.guests {
            let Some((kernel, _)) = guest.kernel_memory() else { continue };
            let (memory, monitor) = (guest.guest.all_memory() >> 10, guest.monitor_memory() >> 10);
            let (name, kernel) = (&guest.guest.name, kernel >> 10);
            say(
                out,
                &format!("{name:15} {memory} KiB, monitor {monitor} KiB, kernel {kernel} KiB"),
            );
        }
        self.maker.shares.lines().for_each(|line| say(out, &line));
        let lost = self.maker.pool.lost();
        if lost > 0 {
            say(out, &format!("{} KiB kept out of use", lost >> 10));
        }
        if let Some(frames) = settled(|| rt::calls::statistics(self.maker.boot.cpu, FREE_FRAMES)) {
            say(out, &format!("{} KiB free in the kernel", frames * (abi::PAGE_SIZE >> 10)));
        }
        say(out, &format!("{} KiB free for guests", self.maker.pool.bytes() >> 10));
    }

    fn attach(&mut self, name: Option<&str>, out: &mut Vec<u8>) -> Result<(), String> {
        let index = match name {
            Some(name) => self.index(name)?,
            None => self
                .guests
                .iter()
                .position(|guest| matches!(guest.state, State::Ready | State::Running))
                .ok_or("no guest runs")?,
        };
        self.console.to_guest(index, out);
        if let Some(guest) = self.guests.get_mut(index) {
            self.console.guest_output(guest.catch_up(), out);
        }
        Ok(())
    }
}

/// A number that the kernel brings up to date after grace periods: as soon as it stays the same.
fn settled(read: impl Fn() -> Result<u64, abi::Status>) -> Option<u64> {
    let mut last = read().ok()?;
    for _ in 0..SETTLE_ROUNDS {
        rt::sync::sleep_us(SETTLE_US);
        let now = read().ok()?;
        if now == last {
            break;
        }
        last = now;
    }
    Some(last)
}

/// One line about a guest.
fn line(guest: &Cell) -> String {
    let why = if guest.state == State::Halted { guest.end } else { "" };
    let state = guest.state.scheduled(guest.executes());
    format!("{:15} {:8} {why}", guest.guest.name, state.name())
}

fn say(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}
