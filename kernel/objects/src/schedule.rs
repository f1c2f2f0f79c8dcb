//! Who runs next on this CPU, and until when.
//!
//! 128 priorities, round robin within one, preemptive. A budget that is used up is refilled and its owner goes to the
//! tail; whoever is woken with budget left goes to the head (abi.md 12). No timer runs for the quantum while
//! nobody else of the same priority is ready.

use core::sync::atomic::Ordering::Relaxed;

use abi::Status;
use sync::{Counted, List};

use crate::{Cpu, Ec, Resume, Sc, Sm, Work, sm::Down};

/// Ready scheduling contexts by priority.
pub struct RunQueue {
    lists: [List<Sc, 0>; 128],
    /// A bit for each priority that somebody is ready at, 0 to 63 and 64 to 127.
    ready: [u64; 2],
}

/// Which end of a priority's queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Head,
    Tail,
}

impl Default for RunQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl RunQueue {
    /// Nobody is ready.
    pub const fn new() -> RunQueue {
        RunQueue { lists: [const { List::new() }; 128], ready: [0; 2] }
    }

    fn push(&mut self, sc: Counted<Sc>, end: End) {
        let priority = sc.priority & 127;
        if let Some(list) = self.lists.get_mut(priority as usize) {
            let _ = if end == End::Head { list.push_front(sc) } else { list.push_back(sc) };
            self.ready[usize::from(priority >> 6)] |= 1 << (priority & 63);
        }
    }

    fn nobody_at(&mut self, priority: u8) {
        self.ready[usize::from(priority >> 6 & 1)] &= !(1 << (priority & 63));
    }

    fn pop(&mut self) -> Option<Counted<Sc>> {
        let priority = self.highest()?;
        let list = self.lists.get_mut(priority as usize)?;
        let first = list.pop_front();
        if list.is_empty() {
            self.nobody_at(priority);
        }
        first
    }

    fn remove(&mut self, sc: &Counted<Sc>) -> Option<Counted<Sc>> {
        let priority = sc.priority & 127;
        let list = self.lists.get_mut(priority as usize)?;
        let found = list.remove(sc);
        if list.is_empty() {
            self.nobody_at(priority);
        }
        found
    }

    /// What is wrong with the queue of CPU `cpu`, if anything is (host only).
    #[cfg(not(target_os = "none"))]
    pub(crate) fn audit(&self, cpu: usize) -> Option<&'static str> {
        let mut wrong = None;
        for (priority, list) in self.lists.iter().enumerate() {
            if list.is_empty() == self.has(priority as u8) {
                wrong = Some("the mark of a priority lies");
            }
            list.each(|sc| {
                if usize::from(sc.priority) != priority || sc.cpu() != cpu {
                    wrong = Some("a time in the wrong queue");
                }
            });
        }
        wrong
    }

    /// The highest priority that somebody is ready at.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        let [low, high] = self.ready;
        match (high.checked_ilog2(), low.checked_ilog2()) {
            (Some(bit), _) => Some(64 + bit as u8),
            (None, bit) => bit.map(|bit| bit as u8),
        }
    }

    fn has(&self, priority: u8) -> bool {
        self.ready[usize::from(priority >> 6 & 1)] >> (priority & 63) & 1 != 0
    }
}

impl Cpu {
    /// Puts a new scheduling context at the tail, here or on its own CPU.
    pub fn start(&mut self, sc: Counted<Sc>) {
        if sc.cpu() == self.id {
            self.enqueue(sc, End::Tail);
        } else {
            let cpu = sc.cpu();
            if let Some(remote) = self.kernel.remotes.get(cpu) {
                remote.leave_ready(sc, Status::Success);
            }
            self.tell(cpu);
        }
    }

    fn enqueue(&mut self, sc: Counted<Sc>, end: End) {
        let priority = sc.priority;
        self.queue.push(sc, end);
        match &self.sc {
            Some(running) if running.priority > priority => {}
            Some(running) if running.priority == priority => self.arm_timer(),
            _ => self.ask_choice(),
        }
    }

    /// Wakes a scheduling context that waited on a semaphore; its thread gets `status`.
    pub fn wake(&mut self, sc: Counted<Sc>, status: Status) {
        let cpu = sc.cpu();
        if cpu == self.id {
            self.make_ready(sc, status);
        } else {
            if let Some(remote) = self.kernel.remotes.get(cpu) {
                remote.leave_ready(sc, status);
            }
            self.tell(cpu);
        }
    }

    /// As [`Cpu::wake`] with SUCCESS, where the running thread has its status already: who is woken here and is more
    /// important runs at once. Whether the same thread still runs.
    #[inline]
    pub fn wake_and_choose(&mut self, sc: Counted<Sc>) -> bool {
        if sc.cpu() != self.id {
            self.wake(sc, Status::Success);
            return true;
        }
        self.defer_choice(|cpu| cpu.make_ready(sc, Status::Success));
        let due = self.must_choose();
        if due {
            self.choose();
        }
        !due
    }

    #[inline(always)]
    fn make_ready(&mut self, sc: Counted<Sc>, status: Status) {
        let mut fresh = true;
        // Only this CPU writes deadlines.
        if sc.due.at.load(Relaxed) != 0 {
            self.deadlines.remove(&sc);
        }
        let waited = sc.cell.open(&mut self.key).and_then(|state| state.waiting.take());
        if let Some((_sm, chain)) = waited {
            fresh = false;
            self.end_wait(chain.as_ref().unwrap_or(&sc.ec), status);
        }
        let end = if fresh { End::Tail } else { End::Head };
        if !sc.dead.load(Relaxed) {
            self.enqueue(sc, end);
        }
    }

    /// The chain of `root` no longer waits: its last thread gets `status`, and everybody behind it is ready.
    #[inline(always)]
    pub(crate) fn end_wait(&mut self, root: &Counted<Ec>, status: Status) {
        let Some(state) = root.cell.open(&mut self.key) else { return };
        state.blocked = None;
        let top = state.top.take();
        let helpers = (!state.helpers.is_empty()).then(|| core::mem::take(&mut state.helpers));
        if let Some(top) = top {
            // A thread that repeats its call still needs its own RDI.
            if let Some(state) = top.cell.open(&mut self.key)
                && !matches!(state.resume, Resume::Restart)
            {
                state.thread.registers.rdi = status as u64;
            }
            if let Some(state) = root.cell.open(&mut self.key) {
                state.top = Some(top);
            }
        }
        if let Some(helpers) = helpers {
            self.enqueue_all(helpers);
        }
    }

    #[cold]
    #[inline(never)]
    fn enqueue_all(&mut self, mut helpers: List<Sc, 0>) {
        while let Some(helper) = helpers.pop_front() {
            self.enqueue(helper, End::Tail);
        }
    }

    /// Waits on a semaphore on behalf of the running thread: the status at once, or `None` if it waits now.
    ///
    /// References move where they can: the queue gets a new one to the time, the chain's root the CPU's own.
    pub fn wait_on(&mut self, sm: Counted<Sm>, zero: bool, deadline: u64) -> Option<Status> {
        let sc = self.sc.as_ref()?;
        if deadline != 0 && deadline <= arch::now() {
            return Some(if sm.try_down(zero) { Status::Success } else { Status::Timeout });
        }
        match sm.down_or_wait(zero, sc.clone()) {
            Down::Taken => return Some(Status::Success),
            Down::Dead => return Some(Status::BadCap),
            Down::Queued => {}
        }
        if deadline != 0 {
            self.deadlines.insert(sc.clone(), deadline);
        }
        self.stop_clock();
        let chain = self.put_away();
        let sc = self.sc.take()?;
        let root = chain.clone();
        let key = &mut self.key;
        if let Some(state) = sc.cell.open(key) {
            state.waiting = Some((sm, chain));
        }
        match root {
            None => drop(sc.park(|sc| sc.ec.cell.open(key).map(|state| &mut state.blocked))),
            Some(root) => {
                if let Some(state) = root.cell.open(key) {
                    state.blocked = Some(sc);
                }
            }
        }
        None
    }

    /// Stores the running chain in its root; nothing is current afterwards. The root, if it is not `sc`'s own.
    #[inline(always)]
    pub(crate) fn put_away(&mut self) -> Option<Counted<Ec>> {
        self.depart();
        let current = self.current.take()?;
        let chain = self.chain.take();
        let root = match (&chain, &self.sc) {
            (Some(root), _) => root,
            (None, Some(sc)) => &sc.ec,
            (None, None) => return None,
        };
        if let Some(state) = root.cell.open(&mut self.key) {
            state.top = Some(current);
        }
        chain
    }

    /// Charges the time since `started` to the running scheduling context; whether its budget is used up.
    fn stop_clock(&mut self) -> bool {
        let now = arch::now();
        let Some(sc) = &self.sc else { return false };
        let spent = now.wrapping_sub(self.started);
        self.started = now;
        // Only this CPU writes it.
        sc.used.store(sc.used.load(Relaxed).wrapping_add(spent), Relaxed);
        let quantum = sc.quantum;
        let Some(state) = sc.cell.open(&mut self.key) else { return false };
        if state.left > spent {
            state.left -= spent;
            false
        } else {
            state.left = quantum;
            true
        }
    }

    /// Puts the running scheduling context back and picks the next: after this, either `current` is set or nobody
    /// is ready.
    pub fn choose(&mut self) {
        self.chosen();
        self.helped = 0;
        if self.sc.is_some() {
            let used_up = self.stop_clock();
            let Some(sc) = &self.sc else { return };
            let stays = self.current.is_some() && !sc.dead.load(Relaxed);
            let rival = self.queue.highest();
            // The running one goes on unless somebody is more important, or as important and it is its turn.
            let yields = match rival {
                Some(rival) => rival > sc.priority || rival == sc.priority && used_up,
                None => false,
            };
            if stays && !yields {
                self.arm_timer();
                return;
            }
            let _ = self.put_away();
            if let Some(sc) = self.sc.take()
                && stays
            {
                self.queue.push(sc, if used_up { End::Tail } else { End::Head });
            }
        }
        while let Some(sc) = self.queue.pop() {
            if sc.dead.load(Relaxed) {
                continue;
            }
            if self.begin(sc) {
                return;
            }
        }
        self.arm_timer();
    }

    /// Starts running on a scheduling context; `false` if its chain cannot run now.
    fn begin(&mut self, sc: Counted<Sc>) -> bool {
        let Some(state) = sc.ec.cell.open(&mut self.key) else { return false };
        if state.blocked.is_some() {
            let _ = state.helpers.push_back(sc.clone());
            return false;
        }
        let Some(top) = state.top.take() else { return false };
        self.current = Some(top);
        self.sc = Some(sc);
        self.started = arch::now();
        self.arrive();
        self.arm_timer();
        true
    }

    /// Takes a dead scheduling context off this CPU, wherever it stands.
    pub(crate) fn take_off(&mut self, sc: &Counted<Sc>) {
        if self.sc.as_ref().is_some_and(|running| running.same(sc)) {
            self.ask_choice();
            return;
        }
        if self.queue.remove(sc).is_some() {
            self.forget_unrunnable(&sc.ec);
            return;
        }
        let waiting = sc.cell.open(&mut self.key).and_then(|state| state.waiting.take());
        if let Some((sm, chain)) = waiting {
            let _ = sm.remove(sc);
            if sc.due.at.load(Relaxed) != 0 {
                self.deadlines.remove(sc);
            }
            self.end_wait(chain.as_ref().unwrap_or(&sc.ec), Status::Abort);
        }
    }

    /// Wakes those whose deadline has passed, a few at once.
    pub fn expire(&mut self) {
        let now = arch::now();
        let mut effort = EXPIRED;
        while let Some(sc) = self.deadlines.expired(now, &mut effort) {
            let sm = sc.cell.open(&mut self.key).and_then(|state| state.waiting.as_ref());
            // If somebody released it meanwhile it is in our inbox, with its status.
            if let Some(sm) = sm.map(|(sm, _)| sm.clone())
                && sm.remove(&sc).is_some()
            {
                self.make_ready(sc, Status::Timeout);
            }
        }
    }

    /// The next moment at which this CPU has something to do by itself.
    pub fn next_deadline(&mut self) -> Option<u64> {
        let timeout = self.deadlines.next();
        let slice = match &self.sc {
            Some(sc) if self.queue.has(sc.priority) => {
                let started = self.started;
                sc.cell.open(&mut self.key).map(|state| started.wrapping_add(state.left))
            }
            _ => None,
        };
        match (timeout, slice) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        }
    }

    /// Sees to it that the timer fires at `next_deadline`. One that fires before that stays as it is, as long as
    /// somebody runs: then it costs one interrupt, where setting it at every switch would cost a slow write each time.
    pub(crate) fn arm_timer(&mut self) {
        let next = self.next_deadline().unwrap_or(u64::MAX);
        if self.current.is_some() && self.armed <= next {
            return;
        }
        self.set_timer(next);
    }

    fn set_timer(&mut self, next: u64) {
        if next != self.armed {
            self.armed = next;
            arch::set_deadline((next != u64::MAX).then_some(next));
        }
    }

    /// The timer fired.
    pub fn on_timer(&mut self) {
        self.armed = u64::MAX;
        self.expire();
        self.ask_choice();
    }

    /// Takes some of what others left: ready contexts, dead ones; whether there was any. The rest waits for the next pass.
    #[inline(always)]
    pub fn take_inbox(&mut self) -> bool {
        if self.inbox_has_more {
            self.inbox_has_more = false;
            // There may be still more with the others.
            self.mine.note_work();
            let work = core::mem::take(&mut self.inbox);
            self.take(work);
        } else if let Some(work) = self.mine.take_work() {
            self.take(work);
        } else {
            return false;
        }
        true
    }

    #[inline(never)]
    fn take(&mut self, mut work: Work) {
        for _ in 0..INBOX {
            if let Some(ec) = work.new_ecs.pop_front() {
                self.adopt(&ec);
            } else if let Some(sc) = work.ready.pop_front() {
                let status = Status::from_u8(sc.wake_status.load(Relaxed)).unwrap_or(Status::Abort);
                self.make_ready(sc, status);
            } else if let Some(sc) = work.dead_scs.pop_front() {
                self.take_off(&sc);
            } else if let Some(ec) = work.dead_ecs.pop_front() {
                self.bury(&ec);
            } else if let Some(vcpu) = work.dead_vcpus.pop_front() {
                self.retire(&vcpu);
            } else if let Some(address) = work.microcode.take() {
                self.trigger_microcode(address);
            } else if core::mem::take(&mut work.sleep) {
                self.sleep();
            } else {
                return;
            }
        }
        self.inbox = work;
        self.inbox_has_more = true;
        self.mine.note_work();
    }
}

/// What is taken from the inbox in one pass.
const INBOX: usize = 8;
/// Waits that end by their deadline in one pass; the timer fires again for the rest.
const EXPIRED: usize = 8;
