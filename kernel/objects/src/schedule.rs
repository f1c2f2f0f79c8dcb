//! Who runs next on this CPU, and until when.
//!
//! 128 priorities, round robin within one, preemptive. A budget that is used up is refilled and its owner goes to the
//! tail; whoever is woken with budget left goes to the head (abi.md 12). No timer runs for the quantum while
//! nobody else of the same priority is ready.

use core::sync::atomic::Ordering::Relaxed;

use abi::Status;
use sync::{Counted, List};

use crate::{Cpu, Ec, Sc, Sm, remote::Errand, sm::Down};

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

    /// Whether nobody is ready.
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.ready == [0; 2]
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
                arch::send_ipi(cpu, arch::vector::RESCHEDULE);
            }
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
        if sc.cpu() == self.id {
            self.make_ready(sc, status);
        } else {
            self.wake_there(sc, status);
        }
    }

    /// [`Cpu::wake`] of one that another CPU runs.
    #[inline]
    fn wake_there(&mut self, sc: Counted<Sc>, status: Status) {
        let cpu = sc.cpu();
        if let Some(remote) = self.kernel.remotes.get(cpu) {
            remote.leave_ready(sc, status);
            arch::send_ipi(cpu, arch::vector::RESCHEDULE);
        }
    }

    /// As [`Cpu::wake`] with SUCCESS, where the running thread has its status already: who is woken here and is more
    /// important runs at once. Whether the same thread still runs.
    #[inline]
    pub fn wake_and_choose(&mut self, sc: Counted<Sc>) -> bool {
        if sc.cpu() != self.id {
            self.wake_there(sc, Status::Success);
            return true;
        }
        let end = self.end_its_wait(&sc, Status::Success);
        if sc.dead.load(Relaxed) {
            return true;
        }
        if self.sc.as_ref().is_none_or(|running| running.priority >= sc.priority) {
            self.enqueue(sc, end);
            // Somebody who helped may be more important.
            let due = self.must_choose();
            if due {
                self.choose();
            }
            return !due;
        }
        self.displace(sc, end);
        false
    }

    /// Runs on `sc`, which is more important than the running one; that waits for its turn.
    ///
    /// The timer stays as it is: nobody is ready at this priority, and no deadline is new.
    #[inline(always)]
    fn displace(&mut self, sc: Counted<Sc>, end: End) {
        let due = self.must_choose();
        let top = match sc.ec.cell.open(&mut self.key) {
            Some(state) if !due && state.blocked.is_none() => state.top.take(),
            _ => None,
        };
        let Some(top) = top else { return self.displace_slowly(sc, end) };
        self.helped = 0;
        let end = if self.stop_clock() { End::Tail } else { End::Head };
        let displaced = self.turn_to(top);
        let Some(old) = self.sc.replace(sc) else { return };
        let chain = self.chain.take();
        if let Some(state) = chain.as_ref().unwrap_or(&old.ec).cell.open(&mut self.key) {
            state.top = displaced;
        }
        if !old.dead.load(Relaxed) {
            self.queue.push(old, end);
        }
    }

    /// Somebody else may be more important still, or `sc` cannot run now.
    #[cold]
    #[inline(never)]
    fn displace_slowly(&mut self, sc: Counted<Sc>, end: End) {
        self.enqueue(sc, end);
        self.choose();
    }

    #[inline(always)]
    fn make_ready(&mut self, sc: Counted<Sc>, status: Status) {
        let end = self.end_its_wait(&sc, status);
        if sc.dead.load(Relaxed) {
            return;
        }
        if self.sc.is_some() || !self.queue.is_empty() {
            self.enqueue(sc, end);
        } else if !self.begin(sc) {
            // (The timer stays as it is: while this CPU idled, it was set to the next deadline.)
            self.ask_choice();
        }
    }

    /// The chain of `sc`, if it waited, goes on with `status`. Where `sc` joins its queue: who waited, at the head.
    #[inline(always)]
    fn end_its_wait(&mut self, sc: &Counted<Sc>, status: Status) -> End {
        // Only this CPU writes deadlines.
        if sc.due.at.load(Relaxed) != 0 {
            self.deadlines.remove(sc);
        }
        let waited = sc.cell.open(&mut self.key).and_then(|state| state.waiting.take());
        let Some((_sm, chain)) = waited else { return End::Tail };
        self.end_wait(chain.as_ref().unwrap_or(&sc.ec), status);
        End::Head
    }

    /// The chain of `root` no longer waits: its last thread gets `status`, and everybody behind it is ready.
    #[inline(always)]
    pub(crate) fn end_wait(&mut self, root: &Counted<Ec>, status: Status) {
        let Some(state) = root.cell.open(&mut self.key) else { return };
        state.blocked = None;
        let helpers = (!state.helpers.is_empty()).then(|| core::mem::take(&mut state.helpers));
        if state.top.as_ref().is_some_and(|top| top.same(root)) {
            state.woken(status);
        } else if let Some(top) = state.top.take() {
            if let Some(state) = top.cell.open(&mut self.key) {
                state.woken(status);
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
            let chain = self.put_away();
            if let Some(sc) = self.sc.take() {
                if stays {
                    self.queue.push(sc, if used_up { End::Tail } else { End::Head });
                } else {
                    self.forget_unrunnable(chain.as_ref().unwrap_or(&sc.ec));
                }
            }
        }
        while let Some(sc) = self.queue.pop() {
            if sc.dead.load(Relaxed) {
                continue;
            }
            if self.begin(sc) {
                break;
            }
        }
        self.arm_timer();
    }

    /// Starts running on a scheduling context, where nobody runs; `false` if its chain cannot run now.
    #[inline(always)]
    fn begin(&mut self, sc: Counted<Sc>) -> bool {
        let Some(state) = sc.ec.cell.open(&mut self.key) else { return false };
        if state.blocked.is_some() {
            let _ = state.helpers.push_back(sc.clone());
            return false;
        }
        let Some(top) = state.top.take() else { return false };
        self.helped = 0;
        self.current = Some(top);
        self.sc = Some(sc);
        self.started = arch::now();
        self.arrive();
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
    #[inline(always)]
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
    #[inline(always)]
    pub(crate) fn arm_timer(&mut self) {
        let next = self.next_deadline().unwrap_or(u64::MAX);
        let stays = if self.current.is_some() { self.armed <= next } else { self.armed == next };
        if !stays {
            self.set_timer(next);
        }
    }

    #[cold]
    #[inline(never)]
    fn set_timer(&mut self, next: u64) {
        self.armed = next;
        arch::set_deadline((next != u64::MAX).then_some(next));
    }

    /// The timer fired.
    pub fn on_timer(&mut self) {
        self.armed = u64::MAX;
        self.expire();
        self.ask_choice();
    }

    /// Does some of what others left; whether that may have taken long. The rest waits for the next pass.
    #[inline(always)]
    pub fn take_inbox(&mut self) -> bool {
        self.mine.take_left() && self.run_errands()
    }

    #[inline(never)]
    fn run_errands(&mut self) -> bool {
        match self.mine.take_errand() {
            (Some(Errand::Wake(sc)), false) => {
                let status = sc.left_status();
                self.make_ready(sc, status);
                false
            }
            (first, more) => {
                self.run_many(first, more);
                true
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn run_many(&mut self, first: Option<Errand>, mut more: bool) {
        let mut errand = first;
        for _ in 1..INBOX {
            if let Some(errand) = errand {
                self.run_errand(errand);
            }
            if !more {
                return;
            }
            (errand, more) = self.mine.take_errand();
        }
        if let Some(errand) = errand {
            self.run_errand(errand);
        }
        if more {
            self.mine.leave_rest();
        }
    }

    fn run_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Adopt(ec) => self.adopt(&ec),
            Errand::Wake(sc) => {
                let status = sc.left_status();
                self.make_ready(sc, status);
            }
            Errand::TakeOff(sc) => self.take_off(&sc),
            Errand::Bury(ec) => self.bury(&ec),
            Errand::Retire(vcpu) => self.retire(&vcpu),
            Errand::Microcode(address) => self.trigger_microcode(address),
            Errand::Sleep => self.sleep(),
        }
    }
}

/// What is taken from the inbox in one pass.
const INBOX: usize = 8;
/// Waits that end by their deadline in one pass; the timer fires again for the rest.
const EXPIRED: usize = 8;
