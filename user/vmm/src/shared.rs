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
use vmm::channel::Channel;
use vmm::machine::{Mailbox, Now, Vm};

/// Guest time from the TSC.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// TSC at guest time 0.
    pub zero: u64,
    /// TSC frequency.
    pub khz: u32,
}

impl Clock {
    /// The present.
    pub fn now(&self) -> Now {
        let tsc = rdtsc();
        let ticks = u128::from(tsc.saturating_sub(self.zero));
        let ns = ticks * 1_000_000 / u128::from(self.khz.max(1));
        Now { ns: u64::try_from(ns).unwrap_or(u64::MAX), tsc }
    }

    /// The TSC at a guest time, rounded up.
    pub fn tsc_at(&self, ns: u64) -> u64 {
        let ticks = (u128::from(ns) * u128::from(self.khz)).div_ceil(1_000_000);
        self.zero.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    /// TSC ticks of so many milliseconds.
    pub fn ticks_from_ms(&self, ms: u64) -> u64 {
        ms.saturating_mul(u64::from(self.khz))
    }
}

/// How often guest output is looked for in one turn.
const FLUSHES: usize = 8;

/// How to reach a virtual processor's thread.
pub struct Line {
    /// Waits here when there is nothing to run.
    pub sleep: Semaphore,
    /// Its vCPU's selector, 0 before there is one.
    pub vcpu: AtomicU64,
}

/// What is under the lock.
pub struct Inside {
    /// The machine.
    pub machine: Vm<'static>,
    /// Guest bytes that found the stream full.
    held: Vec<u8>,
    out: Option<Channel<'static>>,
    wake_root: bool,
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
    pub fn flush(&mut self) {
        self.machine.drain();
        let Some(out) = self.out else { return };
        for _ in 0..FLUSHES {
            if self.held.is_empty() {
                self.held = self.machine.take_output();
            }
            if self.held.is_empty() {
                break;
            }
            (self.spoke, self.reported) = (rdtsc(), false);
            let (count, was_empty) = out.write(&self.held);
            self.held.drain(..count);
            self.wake_root |= was_empty && count > 0;
            if !self.held.is_empty() {
                break;
            }
        }
        self.machine.drain();
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
            wake_root: false,
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
        inside.machine.drain();
        let kicks = core::mem::take(&mut inside.machine.kicks);
        let messages: Vec<String> = core::mem::take(&mut inside.machine.messages);
        let wake = core::mem::take(&mut inside.wake_root);
        let peers = inside.machine.virtio.take_wakes();
        let tell = inside.machine.ended.is_some() && !inside.told;
        inside.told |= tell;
        let kicks: Vec<(usize, bool)> = kicks
            .into_iter()
            .filter(|cpu| who != Who::Processor(*cpu))
            .map(|cpu| (cpu, inside.asleep.get(cpu).copied().unwrap_or(true)))
            .collect();
        drop(inside);
        if wake {
            streams::wake_root();
        }
        for peer in peers {
            let _ = rt::calls::sm_up(peer);
        }
        for message in messages {
            rt::println!("{message}");
        }
        for (cpu, asleep) in kicks {
            self.kick(cpu, asleep);
        }
        if tell {
            let _ = self.ended.up();
        }
        answer
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
