//! What one processor is doing.
//!
//! ```text
//!   sc ──► sc.ec = root ── call ──► ... ── call ──► current
//!                           (each holds its caller; the last one runs)
//! ```
//!
//! `current` is the thread whose registers the CPU runs, `sc` the time it runs on. When `sc`'s own chain waits for a
//! busy thread, it lends its time to that thread's chain: then `chain` is that other chain's root.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use logic::addr::Frame;
use sync::{Counted, CpuKey, List, Rcu, Token};

use crate::burial::Burial;
use crate::loaded::Loaded;
use crate::{
    Deadlines, Ec, EcState, Frees, Kernel, Memory, Pd, Progress, Remote, RunQueue, Sc, Sm,
};

/// One processor's own state; nobody else can reach it.
pub struct Cpu {
    /// Opens what belongs to this CPU.
    pub key: CpuKey,
    /// Its number.
    pub id: usize,
    /// What all CPUs share.
    pub kernel: &'static Kernel,
    /// The thread that runs; `None` while idle or choosing.
    pub current: Option<Counted<Ec>>,
    /// The time it runs on.
    pub sc: Option<Counted<Sc>>,
    /// The root of the running chain if it is not `sc`'s own.
    pub chain: Option<Counted<Ec>>,
    /// What other CPUs may touch of this one.
    pub(crate) mine: &'static Remote,
    /// Grace periods.
    rcu: &'static Rcu,
    /// A decision about who runs next is due.
    reschedule: bool,
    /// It looks after what is due.
    caring: bool,
    /// Lending steps since somebody last made progress.
    pub helped: u32,
    /// A host interrupt that ended guest time, not yet settled; `reschedule` is set with it, so that the loop looks.
    pub pending_interrupt: Option<u8>,
    pub(crate) queue: RunQueue,
    pub(crate) deadlines: Deadlines<Sc>,
    pub(crate) started: u64,
    /// When the timer fires, TSC; `u64::MAX` for never.
    pub(crate) armed: u64,
    /// The address space, and what is known of others.
    pub(crate) loaded: Loaded,
    /// Dead domains whose contexts, capabilities and ports are not all taken back (link 0).
    pub(crate) dying: List<Pd, 0>,
    pub(crate) dying_cursor: u64,
    /// Dead semaphores whose waiters are not all woken (link 0).
    pub(crate) dying_sms: List<Sm, 0>,
    /// The walk along a chain of calls in which somebody died.
    pub(crate) burial: Option<Burial>,
    /// Dead contexts whose chains come after it (link 2).
    pub(crate) dying_ecs: List<Ec, 2>,
    /// There is something in any of these.
    pub(crate) mourns: bool,
    limbo: Limbo,
    /// Not 0 if there is anything in `limbo`.
    tables: u8,
    /// The epoch for which other CPUs were last interrupted.
    hurried: u64,
    /// Since when garbage waits, TSC; 0 for not at all.
    pub waiting_since: u64,
    /// Kernel entries until a running CPU looks after garbage again.
    patience: u8,
    /// The domain whose guest ran here last.
    pub(crate) guest_owner: u64,
    /// Tags for guests' translations.
    pub(crate) tags: Tags,
}

/// Hands out this CPU's tags for guests' translations. When all were given a new round begins, and every
/// tag of an older one is void: its holder takes another and flushes before it enters.
pub(crate) struct Tags {
    last: u16,
    round: u64,
}

impl Tags {
    const fn new() -> Self {
        Self { last: 0, round: 1 }
    }

    /// The present round.
    #[inline(always)]
    pub const fn round(&self) -> u64 {
        self.round
    }

    /// A tag and its round.
    #[cold]
    pub fn next(&mut self) -> (u16, u64) {
        if self.last >= arch::guest_tags() {
            self.last = 0;
            self.round += 1;
        }
        self.last += 1;
        (self.last, self.round)
    }
}

/// Kernel entries between two looks at garbage.
const PATIENCE: u8 = 16;

/// Table pages freed in one pass through the loop.
const TABLES: usize = 16;
/// Grace periods that a call short of memory waits for, at most: what an object holds dies after the object.
const GRACE_PERIODS: u64 = 8;
/// Objects freed in one pass.
const OBJECTS: usize = 4;

/// Table pages on their way back to the pool.
#[derive(Default)]
struct Limbo {
    open: u64,
    waiting: u64,
    target: u64,
}

impl Cpu {
    /// A CPU that idles. (Not inlined: it is built where it stays, not twice on the stack.)
    #[inline(never)]
    pub fn new(key: CpuKey, kernel: &'static Kernel) -> Cpu {
        let id = key.cpu();
        kernel.remote(id).note_work();
        Cpu {
            id,
            key,
            kernel,
            current: None,
            sc: None,
            chain: None,
            mine: kernel.remote(id),
            rcu: kernel.rcu,
            reschedule: true,
            caring: false,
            helped: 0,
            pending_interrupt: None,
            queue: RunQueue::new(),
            deadlines: Deadlines::new(),
            started: 0,
            armed: u64::MAX,
            loaded: Loaded::new(),
            dying: List::new(),
            dying_cursor: 0,
            dying_sms: List::new(),
            burial: None,
            dying_ecs: List::new(),
            mourns: false,
            limbo: Limbo::default(),
            tables: 0,
            hurried: 0,
            waiting_since: 0,
            patience: 0,
            guest_owner: 0,
            tags: Tags::new(),
        }
    }

    /// Whether something else than the current thread wants attention. On the path of every system call: three words.
    #[inline(always)]
    pub fn needs_care(&mut self) -> bool {
        let work = self.mine.work();
        work | self.tables | self.rcu.dead() != 0 && self.cares_now(work != 0)
    }

    /// Whether a decision about who runs next is due.
    #[inline(always)]
    pub fn must_choose(&self) -> bool {
        self.reschedule
    }

    /// From now on a decision about who runs next is due.
    pub(crate) fn ask_choice(&mut self) {
        self.reschedule = true;
        // While this CPU looks after things it comes to the decision anyway.
        if !self.caring {
            self.mine.note_work();
        }
    }

    /// This CPU looks after everything now, until it is [`Cpu::settled`].
    pub fn begin_care(&mut self) {
        self.caring = true;
        self.mine.begin_care();
    }

    /// The decision is about to be made.
    pub(crate) fn chosen(&mut self) {
        self.reschedule = false;
    }

    /// What was due is settled as far as it goes: what is left keeps the CPU's care ([`Cpu::begin_care`] ended it).
    #[inline(always)]
    pub fn settled(&mut self) {
        self.caring = false;
        if self.reschedule | self.has_dying() {
            self.mine.note_work();
        }
    }

    /// The short form of that for a CPU that idled: it was mostly rung to wake one thread. What else is due stays due.
    #[inline(always)]
    pub fn answer_bell(&mut self) {
        self.begin_care();
        let _ = self.take_inbox();
        self.settled();
    }

    /// A dead domain joined the list of those to be buried.
    pub(crate) fn bury_later(&mut self, pd: Counted<Pd>) {
        let _ = self.dying.push_back(pd);
        self.mourn();
    }

    /// The quiescent state: between two rounds this CPU holds no borrowed reference.
    #[inline(always)]
    pub fn quiesce(&self, token: &mut Token) {
        self.rcu.quiesce(token);
    }

    /// Puts a thread's registers and space in place; it is `current` now.
    #[inline(always)]
    pub(crate) fn arrive(&mut self) {
        let Some(current) = &self.current else { return };
        // A page the thread cannot reach: its own FPU area, always valid.
        let _ = arch::fpu_restore(current.fpu());
        self.loaded.enter(self.mine, &current.pd);
        if current.has_attention() {
            self.mine.note_work();
        }
    }

    /// Turns from the running thread, which is returned, to `next`: what [`Cpu::depart`] and [`Cpu::arrive`] do.
    #[inline(always)]
    pub(crate) fn turn_to(&mut self, next: Counted<Ec>) -> Option<Counted<Ec>> {
        let from: &Ec = self.current.as_ref()?;
        match from.cell.open_both(&next.cell, &mut self.key) {
            Some((old, new)) => {
                arch::exchange(&mut old.thread, from.fpu(), &mut new.thread, next.fpu());
            }
            None => {
                self.depart();
                let _ = arch::fpu_restore(next.fpu());
            }
        }
        self.loaded.enter(self.mine, &next.pd);
        if next.has_attention() {
            self.mine.note_work();
        }
        self.current.replace(next)
    }

    /// Leaves the space of whoever ran last, if nobody runs now: its domain may end.
    #[inline(always)]
    pub fn leave_space(&mut self) {
        if self.current.is_none() && self.loaded.space != 0 {
            self.loaded.space = 0;
            arch::load_kernel_space();
            self.mine.space.store(0, SeqCst);
        }
    }

    /// Saves what `arrive` and the way to user mode load: FPU state, FS and GS base.
    #[inline(always)]
    pub fn depart(&mut self) {
        if let Some(current) = &self.current {
            arch::fpu_save(current.fpu());
        }
        if let Some(state) = self.state() {
            arch::park(&mut state.thread);
        }
    }

    /// Makes a CPU look at what was left for it or asked of its threads, before it runs one again.
    pub fn tell(&self, cpu: usize) {
        self.kernel.remote(cpu).note_work();
        if cpu != self.id {
            arch::send_ipi(cpu, arch::vector::RESCHEDULE);
        }
    }

    /// Ends an operation on `memory` of the domain `identity`: flushes where stale translations may be, then lets the
    /// released table pages go.
    #[inline(always)]
    pub fn settle(&mut self, identity: u64, progress: &Progress) {
        if progress.flush.is_needed() | (progress.released != 0) {
            self.settle_now(identity, progress);
        }
    }

    fn settle_now(&mut self, identity: u64, progress: &Progress) {
        if progress.flush.is_needed() {
            self.shoot_down(identity);
        }
        self.keep_tables(progress.released);
    }

    /// Makes every CPU that uses a domain's host or guest tables forget what it knows of them.
    fn shoot_down(&mut self, identity: u64) {
        if self.loaded.space == identity {
            arch::flush_space(None);
        }
        let kernel = self.kernel;
        let concerned = |remote: &crate::Remote| {
            remote.space.load(SeqCst) == identity || remote.guest_space.load(SeqCst) == identity
        };
        for (cpu, remote) in kernel.remotes.iter().enumerate().take(kernel.cpus) {
            if cpu == self.id || !concerned(remote) {
                continue;
            }
            let ticket = remote.flush_wanted.fetch_add(1, SeqCst) + 1;
            arch::send_ipi(cpu, arch::vector::SHOOTDOWN);
            while remote.flush_done.load(SeqCst) < ticket && concerned(remote) {
                self.serve_flush();
                arch::relax();
            }
        }
    }

    /// Does the shoot-downs that others ask of this CPU.
    #[inline]
    pub fn serve_flush(&mut self) {
        let mine = self.mine;
        let wanted = mine.flush_wanted.load(SeqCst);
        if wanted != mine.flush_done.load(Relaxed) {
            arch::flush_space(None);
            mine.flush_done.store(wanted, SeqCst);
        }
    }

    /// Keeps table pages until every CPU has passed a quiescent state.
    fn keep_tables(&mut self, list: u64) {
        let mut list = list;
        while list != 0 {
            let page = self.kernel.pool.page(Frame(list >> 12));
            let next = page.word(0);
            page.set_word(0, self.limbo.open);
            self.limbo.open = list;
            self.tables = 1;
            list = next;
        }
    }

    /// Returns table pages whose time has come, and dead objects; whether more waits.
    pub fn release_memory(&mut self) -> bool {
        let rcu = self.kernel.rcu;
        if self.limbo.waiting == 0 && self.limbo.open != 0 {
            self.limbo.waiting = core::mem::take(&mut self.limbo.open);
            self.limbo.target = rcu.begin();
        } else if self.limbo.waiting != 0 && rcu.has_passed(self.limbo.target) {
            for _ in 0..TABLES {
                if self.limbo.waiting == 0 {
                    break;
                }
                let frame = Frame(self.limbo.waiting >> 12);
                self.limbo.waiting = self.kernel.pool.page(frame).word(0);
                self.kernel.pool.free(frame, 0);
            }
            self.waiting_since = 0;
        }
        let waits = self.limbo.waiting != 0 || self.limbo.open != 0;
        self.tables = waits.into();
        let collected = rcu.collect(OBJECTS);
        if collected == sync::Collected::More {
            // Nobody keeps us waiting; the rest of the batch goes at the next entries.
            self.waiting_since = 0;
            if rcu.waits_for() != 0 {
                self.patience = PATIENCE - 1;
            }
        }
        (collected != sync::Collected::Nothing) | waits
    }

    /// Interrupts the CPUs that garbage waits for: they sit in user or guest code.
    pub fn hurry_others(&mut self) {
        let rcu = self.kernel.rcu;
        let target =
            rcu.waits_for().max(if self.limbo.waiting != 0 { self.limbo.target } else { 0 });
        if target > self.hurried {
            self.hurried = target;
            for cpu in rcu.laggards(target) {
                self.tell(cpu);
            }
        }
    }

    /// Whether it is time to look after garbage: at once while idle, else at every 16th kernel entry, since a grace
    /// period needs some entries to end and each look costs more than one object's share of it.
    fn garbage_due(&mut self) -> bool {
        self.patience = self.patience.wrapping_add(1) % PATIENCE;
        self.may_collect()
    }

    /// The rest of `needs_care`, once there is something.
    #[cold]
    #[inline(never)]
    fn cares_now(&mut self, work: bool) -> bool {
        let due = self.has_garbage() && self.garbage_due();
        work | due
    }

    /// Whether this kernel entry is one of those that look after garbage.
    #[inline(always)]
    pub fn may_collect(&self) -> bool {
        self.patience == 0 || self.current.is_none()
    }

    /// Whether `release_memory` has anything to do.
    #[inline(always)]
    pub fn has_garbage(&self) -> bool {
        self.tables | self.rcu.dead() != 0
    }

    /// The running thread found no memory: it shall wait for what is about to be freed and try again. `false` if there is
    /// nothing to wait for, or it has waited already.
    #[cold]
    pub fn wait_for_frees(&mut self) -> bool {
        let until = self.rcu.epoch() + GRACE_PERIODS;
        let has_garbage = self.has_garbage();
        let Some(state) = self.state() else { return false };
        let waits = has_garbage && state.frees == Frees::Unasked;
        if waits {
            state.frees = Frees::Until(until);
        }
        waits
    }

    /// Whether the running thread still waits for that; frees what can be freed by now.
    #[inline]
    pub fn awaits_frees(&mut self) -> bool {
        let Some(EcState { frees: Frees::Until(until), .. }) = self.state() else { return false };
        let until = *until;
        let waits = self.release_memory() && self.rcu.epoch() < until;
        if waits {
            self.hurry_others();
        } else if let Some(state) = self.state() {
            state.frees = Frees::Waited;
        }
        waits
    }

    /// The call of the running thread is over: the next one may wait again.
    pub fn forget_frees(&mut self) {
        if let Some(state) = self.state() {
            state.frees = Frees::Unasked;
        }
    }

    /// Unmaps the page of an object from a domain, for ever or until it is mapped again.
    pub fn unmap_kernel_page(&mut self, pd: &Pd, page: u64) {
        let mut cursor = 0;
        let progress = pd.memory.unmap(crate::Target::Host, page, 0, &mut cursor, u64::MAX);
        self.settle(pd.identity(), &progress);
    }

    /// Maps a kernel page into a domain.
    pub fn map_kernel_page(
        &mut self,
        pd: &Pd,
        page: u64,
        frame: Frame,
        rights: logic::page_table::Rights,
    ) -> Result<(), logic::Oom> {
        let memory: &Memory = &pd.memory;
        let progress = memory.map_kernel_page(page, frame, rights);
        self.settle(pd.identity(), &progress);
        if progress.oom { Err(logic::Oom) } else { Ok(()) }
    }
}
