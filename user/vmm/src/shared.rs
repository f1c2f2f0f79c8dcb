//! What the monitor's threads share, under one lock.
use crate::streams;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use devices::board::Board;
use rt::instructions::rdtsc;
use rt::sync::{Mutex, Semaphore};
use vmm::ata::AtaDisk;
use vmm::channel::{CAPACITY, Channel};
use vmm::clock::Clock;
use vmm::machine::{Mailbox, Now, Vm};

/// How often guest output is looked for in one turn.
const FLUSHES: usize = 8;

/// How long guest output waits in the stream before the root task is told, in milliseconds.
const PATIENCE_MS: u64 = 1;

/// How to reach a virtual processor's thread.
pub struct Line {
    /// Waits here when there is nothing to run.
    pub sleep: Semaphore,
    /// Its vCPU's selector, 0 before there is one.
    pub vcpu: AtomicU64,
}

/// What is done without the lock, after it was held.
struct Follows {
    /// The root task is told of output.
    wake: bool,
    /// Other monitors that are woken.
    peers: Vec<u64>,
    /// Lines for the log.
    messages: Vec<String>,
    /// Processors to wake, and whether their threads sleep.
    kicks: Vec<(usize, bool)>,
    /// The watcher is told of the end.
    tell: bool,
}

/// What is under the lock.
pub struct Inside {
    /// The machine.
    pub machine: Vm<'static>,
    /// Guest bytes that found the stream full.
    held: Vec<u8>,
    out: Option<Channel<'static>>,
    /// Output waits in the stream, and the root task is to be told of it at this TSC at the latest.
    wake_at: Option<u64>,
    /// How long after the first byte that is, in ticks.
    patience: u64,
    /// The watcher knows of the end.
    told: bool,
    /// Which processors' threads sleep.
    pub asleep: Vec<bool>,
    /// The user holds the guest: nobody enters it.
    pub held_back: bool,
    /// The monitor is to come to rest; which processors' threads have.
    pub over: bool,
    /// See [`Inside::over`].
    pub resting: Vec<bool>,
    /// The watcher is awake, because the guest has ended.
    pub watching: bool,
    /// TSC when the guest last said something, or began, or was let go.
    spoke: u64,
    /// Its silence since then was reported.
    reported: bool,
    /// Processors that are to tell what they do.
    pub asked: Vec<bool>,
    /// How often the guest was reset.
    pub generation: u64,
    /// Processors' threads that have seen the end of this generation.
    pub parked: usize,
}

impl Inside {
    /// Moves guest output into the stream as far as it fits.
    ///
    /// The root task hears of it when the stream is half full, when this guest has nothing to do ([`Inside::hurry`]), or a
    /// little later: to change to the root task and back for each byte costs more than the rest of the exit.
    pub fn flush(&mut self) {
        let waits = !self.held.is_empty() || self.machine.has_output();
        let Some(out) = self.out.filter(|_| waits) else { return };
        for _ in 0..FLUSHES {
            if self.held.is_empty() {
                self.machine.move_output(&mut self.held);
            }
            if self.held.is_empty() {
                break;
            }
            let now = rdtsc();
            (self.spoke, self.reported) = (now, false);
            let (count, was_empty) = out.write(&self.held);
            self.held.drain(..count);
            if was_empty && count > 0 && self.wake_at.is_none() {
                self.wake_at = Some(now.saturating_add(self.patience));
            }
            if out.waiting() > CAPACITY / 2 {
                self.hurry();
            }
            if !self.held.is_empty() {
                break;
            }
        }
    }

    /// What follows from what was done under the lock; nothing most of the time.
    fn follows(&mut self, who: Who) -> Option<Follows> {
        self.machine.drain();
        let machine = &mut self.machine;
        let tell = machine.ended.is_some() && !self.told;
        let calls = !machine.kicks.is_empty() || machine.virtio.has_wakes();
        let output = match self.wake_at {
            Some(at) => who == Who::Other || at <= rdtsc(),
            None => false,
        };
        if !(calls || tell || output || !machine.messages.is_empty()) {
            return None;
        }
        let messages = core::mem::take(&mut machine.messages);
        let kicks = core::mem::take(&mut machine.kicks).into_iter();
        let peers = machine.virtio.take_wakes();
        if who == Who::Other || !messages.is_empty() {
            // What the guest said before stands before them.
            self.hurry();
        }
        let wake = self.wake_at.is_some_and(|at| at <= rdtsc());
        if wake {
            self.wake_at = None;
        }
        self.told |= tell;
        let kicks = kicks
            .filter(|cpu| who != Who::Processor(*cpu))
            .map(|cpu| (cpu, self.asleep.get(cpu).copied().unwrap_or(true)))
            .collect();
        Some(Follows { wake, peers, messages, kicks, tell })
    }

    /// Output that waits in the stream waits no longer.
    pub fn hurry(&mut self) {
        self.wake_at = self.wake_at.map(|_| 0);
    }

    /// When the root task is to be told of output, if there is some; TSC.
    pub fn wake_at(&self) -> Option<u64> {
        self.wake_at
    }

    /// The guest begins again on a new board; all its processors' threads must be parked.
    pub fn begin_again(&mut self, board: Board) {
        self.machine.board = board;
        self.machine.mailboxes.iter_mut().for_each(|mail| *mail = Mailbox::default());
        self.machine.kicks.clear();
        self.machine.virtio.reset();
        self.machine.ata.iter_mut().for_each(AtaDisk::reset);
        self.machine.ended = None;
        self.told = false;
        self.parked = 0;
        self.generation += 1;
    }

    /// A processor's thread is going to sleep, or to run; the root task may look how many run.
    pub fn note(&mut self, cpu: usize, sleeps: bool) {
        let Some(asleep) = self.asleep.get_mut(cpu).filter(|asleep| **asleep != sleeps) else {
            return;
        };
        *asleep = sleeps;
        if let Some(out) = self.out {
            out.set_status(self.asleep.iter().filter(|asleep| !**asleep).count() as u64);
        }
    }

    /// Holds the guest or lets it go; whether all processors' threads do so.
    pub fn obey(&mut self, hold: bool) -> bool {
        let changed = self.held_back != hold;
        self.held_back = hold;
        if changed {
            (self.spoke, self.reported) = (rdtsc(), false);
        }
        if changed && hold {
            self.machine.kicks = (0..self.asleep.len()).collect();
        }
        !hold || self.asleep.iter().all(|asleep| *asleep)
    }

    /// Reports a guest that has said nothing for `limit` ticks, once for each silence: all its processors tell what they do.
    /// The TSC at which to look again.
    pub fn listen(&mut self, limit: u64, seconds: u32) -> u64 {
        let now = rdtsc();
        let due = self.spoke.saturating_add(limit);
        if self.held_back || self.reported || self.machine.ended.is_some() {
            return now.saturating_add(limit);
        }
        if now < due {
            return due;
        }
        self.reported = true;
        self.machine.messages.push(format!("silent for {seconds} s:"));
        self.asked.iter_mut().for_each(|asked| *asked = true);
        self.machine.kicks = (0..self.asked.len()).collect();
        now.saturating_add(limit)
    }

    /// Lets all threads come to rest; whether they have.
    pub fn finish(&mut self) -> bool {
        if !core::mem::replace(&mut self.over, true) {
            self.machine.kicks = (0..self.asleep.len()).collect();
        }
        !self.watching && self.resting.iter().all(|rests| *rests)
    }

    /// Whether this processor's thread is to rest now; it has to, then.
    pub fn rests(&mut self, cpu: usize) -> bool {
        if let Some(rests) = self.resting.get_mut(cpu) {
            *rests = self.over;
        }
        self.over
    }

    /// Whether output waits for room.
    pub fn output_waits(&self) -> bool {
        !self.held.is_empty() || self.machine.virtio.has_output()
    }
}

/// The monitor.
pub struct Shared {
    inside: Mutex<Inside>,
    /// Guest time.
    pub clock: Clock,
    /// One line per processor.
    pub lines: Vec<Line>,
    /// How many seconds of silence are reported; 0 for none.
    pub silent_s: u32,
    /// Up when the guest has ended.
    pub ended: Semaphore,
}

/// Who takes the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The thread of this processor, which needs no kick for itself.
    Processor(usize),
    /// Another thread.
    Other,
}

impl Shared {
    /// The present.
    pub fn now(&self) -> Now {
        self.clock.at(rdtsc())
    }

    /// A monitor around a machine.
    pub fn new(
        machine: Vm<'static>,
        clock: Clock,
        lines: Vec<Line>,
        silent_s: u32,
        ended: Semaphore,
    ) -> Self {
        let inside = Inside {
            machine,
            held: Vec::new(),
            out: streams::channel(vmm::control::GUEST_OUT),
            wake_at: None,
            patience: clock.ticks_from_ms(PATIENCE_MS),
            told: false,
            // None has begun.
            asleep: lines.iter().map(|_| true).collect(),
            held_back: false,
            over: false,
            resting: lines.iter().map(|_| false).collect(),
            watching: false,
            spoke: rdtsc(),
            reported: false,
            asked: lines.iter().map(|_| false).collect(),
            generation: 0,
            parked: 0,
        };
        Self { inside: Mutex::new(inside), clock, lines, silent_s, ended }
    }

    /// Does something under the lock, then what follows from it outside: wakes and messages.
    pub fn with<T>(&self, who: Who, body: impl FnOnce(&mut Inside) -> T) -> T {
        let mut inside = self.inside.lock();
        let answer = body(&mut inside);
        let follows = inside.follows(who);
        drop(inside);
        if let Some(follows) = follows {
            self.carry_out(follows);
        }
        answer
    }

    fn carry_out(&self, follows: Follows) {
        if follows.wake {
            streams::wake_root();
        }
        for peer in follows.peers {
            let _ = rt::calls::sm_up(peer);
        }
        for message in follows.messages {
            rt::println!("{message}");
        }
        for (cpu, asleep) in follows.kicks {
            self.kick(cpu, asleep);
        }
        if follows.tell {
            let _ = self.ended.up();
        }
    }

    /// All processors' threads look at the machine again.
    pub fn wake_all(&self) {
        for line in &self.lines {
            let _ = line.sleep.up();
        }
    }

    /// Wakes a processor's thread, or makes its guest exit.
    fn kick(&self, cpu: usize, asleep: bool) {
        let Some(line) = self.lines.get(cpu) else { return };
        if asleep {
            let _ = line.sleep.up();
            return;
        }
        match line.vcpu.load(Ordering::Acquire) {
            0 => {}
            vcpu => {
                let _ = rt::calls::poke_vcpu(vcpu);
            }
        }
    }
}
