//! Running a guest on this CPU until something concerns its monitor.

use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use abi::{Mtd, Status, exit};
use arch::{GuestEnv, GuestEvent};
use sync::{Pool, Ref, SharedPage};

use crate::cpu::Tags;
use crate::vcpu::{Translations, VcpuState};
use crate::{Cpu, Pd, Remote, Resume, Vcpu};

/// What the loop does after a stretch of guest time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestStop {
    /// An interrupt for the host arrived.
    Interrupt(u8),
    /// This CPU's own deadline passed.
    Timer,
    /// The run call is over; its thread has its status.
    Over,
    /// Nothing: look around and go on.
    Again,
}

/// What a run call asks for.
#[derive(Clone, Copy, Debug)]
pub struct RunOrder {
    /// Groups loaded from the state page before the first entry.
    pub load: Mtd,
    /// Groups told at the exit, as far as an exit tells them.
    pub tell: Mtd,
    /// The extended words of the state page are loaded.
    pub load_extended: bool,
    /// They are told.
    pub tell_extended: bool,
}

impl RunOrder {
    /// Version 10's: everything comes back, the extended words stay as they are.
    #[must_use]
    pub const fn version10(load: Mtd) -> Self {
        Self { load, tell: Mtd(!0), load_extended: false, tell_extended: false }
    }
}

impl Cpu {
    /// A run call of the current thread: loads what the monitor marked and enters the guest at once.
    ///
    /// If the first exit is the monitor's the run is over, and nobody had to hold the vCPU: the answer is the call's.
    /// Otherwise there is none yet: the thread's `resume` says that it goes on, and a host interrupt waits in
    /// `pending_interrupt` for the loop.
    #[inline(always)]
    pub fn begin_run(&mut self, vcpu: Ref<'_, Vcpu>, order: RunOrder) -> Option<Status> {
        let Some(inner) = vcpu.cell.open(&mut self.key) else { return Some(Status::BadCpu) };
        if inner.busy {
            return Some(Status::Busy);
        }
        let (false, Some(guest), Some(current)) =
            (vcpu.is_dead(), inner.guest.as_mut(), &self.current)
        else {
            return Some(Status::BadCap);
        };
        let page = vcpu.state.page();
        let here = Here { mine: self.mine, owner: &mut self.guest_owner, tags: &mut self.tags };
        let (known, pool) = (&mut inner.translations, self.kernel.pool);
        let event = guest.start(page, order.load, order.load_extended, || {
            here.surround(&vcpu, known, pool, current.fpu(), self.armed)
        });
        self.mine.guest_space.store(0, Release);
        let GuestEvent::Exit(reason) = event else {
            return self.run_on(vcpu, order.tell, order.tell_extended, event);
        };
        vcpu.poked.store(false, Relaxed);
        guest.store(self.kernel.pool, page, reason, order.tell);
        if order.tell_extended {
            guest.store_extended(self.kernel.pool, page, reason);
        }
        Some(Status::Success)
    }

    /// The first exit was not the monitor's: the run goes on through the loop, or was poked at the same time.
    #[inline(never)]
    fn run_on(
        &mut self,
        vcpu: Ref<'_, Vcpu>,
        tell: Mtd,
        tell_extended: bool,
        event: GuestEvent,
    ) -> Option<Status> {
        let stop = self.stop(&vcpu, event);
        let Some(inner) = vcpu.cell.open(&mut self.key) else { return Some(Status::BadCpu) };
        (inner.tell, inner.tell_extended) = (tell, tell_extended);
        let Some(stop) = stop else {
            inner.tell(&vcpu, self.kernel.pool, exit::POKED);
            return Some(Status::Success);
        };
        let Some(held) = vcpu.hold() else { return Some(Status::BadCap) };
        inner.busy = true;
        match stop {
            GuestStop::Interrupt(vector) => {
                self.pending_interrupt = Some(vector);
                self.ask_choice();
            }
            GuestStop::Timer => self.on_timer(),
            GuestStop::Over | GuestStop::Again => {}
        }
        if let Some(state) = self.state() {
            state.resume = Resume::Guest(held);
        }
        None
    }

    /// One stretch of guest time for the current thread, whose `resume` is [`Resume::Guest`].
    pub fn run_guest(&mut self) -> GuestStop {
        let Some(state) = self.state() else { return GuestStop::Over };
        let Resume::Guest(vcpu) = core::mem::replace(&mut state.resume, Resume::User) else {
            return GuestStop::Over;
        };
        let reason = match self.guest_time(&vcpu) {
            Some(GuestEvent::Exit(reason)) => reason,
            Some(event) => match self.stop(&vcpu, event) {
                Some(stop) => {
                    if let Some(state) = self.state() {
                        state.resume = Resume::Guest(vcpu);
                    }
                    return stop;
                }
                None => exit::POKED,
            },
            None => return self.end_run(&vcpu, Status::BadCap),
        };
        if let Some(inner) = vcpu.cell.open(&mut self.key) {
            inner.tell(&vcpu, self.kernel.pool, reason);
        }
        self.end_run(&vcpu, Status::Success)
    }

    /// One more stretch of guest time, or `None` if the vCPU has died.
    fn guest_time(&mut self, vcpu: &Vcpu) -> Option<GuestEvent> {
        let current = self.current.as_ref()?;
        let inner = vcpu.cell.open(&mut self.key)?;
        if vcpu.is_dead() {
            return None;
        }
        let guest = inner.guest.as_mut()?;
        let here = Here { mine: self.mine, owner: &mut self.guest_owner, tags: &mut self.tags };
        let env = here.surround(
            vcpu,
            &mut inner.translations,
            self.kernel.pool,
            current.fpu(),
            self.armed,
        );
        let event = guest.enter(env);
        self.mine.guest_space.store(0, Release);
        Some(event)
    }

    /// Guest time ended, but not the run; unless the vCPU was poked meanwhile.
    #[cold]
    fn stop(&mut self, vcpu: &Vcpu, event: GuestEvent) -> Option<GuestStop> {
        let stop = match event {
            GuestEvent::Interrupt(vector) => GuestStop::Interrupt(vector as u8),
            GuestEvent::HostTimer => GuestStop::Timer,
            GuestEvent::Nothing | GuestEvent::Exit(_) => GuestStop::Again,
        };
        if !vcpu.poked.load(Relaxed) {
            return Some(stop);
        }
        // Host interrupts are settled first: they are as good a moment to see the poke.
        if let GuestStop::Interrupt(vector) = stop {
            self.pending_interrupt = Some(vector);
            self.ask_choice();
        }
        None
    }

    fn end_run(&mut self, vcpu: &Vcpu, status: Status) -> GuestStop {
        if let Some(inner) = vcpu.cell.open(&mut self.key) {
            inner.busy = false;
        }
        if let Some(state) = self.state() {
            state.resume = Resume::User;
            state.thread.registers.rdi = status as u64;
        }
        GuestStop::Over
    }

    /// Makes a virtual CPU leave its guest soon.
    #[inline(always)]
    pub fn poke(&mut self, vcpu: &Vcpu) {
        vcpu.poked.store(true, SeqCst);
        let cpu = vcpu.cpu();
        if cpu != self.id {
            self.poke_there(vcpu, cpu);
        }
    }

    /// It may run on CPU `cpu`.
    #[inline(never)]
    fn poke_there(&self, vcpu: &Vcpu, cpu: usize) {
        let runs = self
            .kernel
            .remotes
            .get(cpu)
            .is_some_and(|remote| remote.guest_space.load(SeqCst) == vcpu.pd.identity());
        if runs {
            arch::send_ipi(cpu, arch::vector::RESCHEDULE);
        }
    }
}

/// What of a CPU a guest's entry needs, apart from its key.
struct Here<'a> {
    mine: &'static Remote,
    owner: &'a mut u64,
    tags: &'a mut Tags,
}

impl Here<'_> {
    /// What the guest needs for one entry, which comes now. The host's timer fires at `armed`, and never later than
    /// this CPU has something to do.
    #[inline(always)]
    fn surround<'v>(
        self,
        vcpu: &'v Vcpu,
        known: &mut Translations,
        pool: &'static Pool,
        monitor: &'v SharedPage,
        armed: u64,
    ) -> GuestEnv<'v> {
        let pd: &Pd = &vcpu.pd;
        // Whoever changes guest mappings from here on finds this CPU; earlier changes are in the generation.
        self.mine.guest_space.store(pd.identity(), SeqCst);
        let generation = pd.memory.generation();
        let mut flush_tag = known.generation != generation;
        known.generation = generation;
        if known.round != self.tags.round() {
            (known.tag, known.round) = self.tags.next();
            flush_tag = true;
        }
        if pd.identity() != *self.owner {
            *self.owner = pd.identity();
            arch::isolate(arch::Isolate::Guest);
        }
        GuestEnv {
            pool,
            place: &vcpu.place,
            tag: known.tag,
            flush_tag,
            ports: pd.guest_ports(),
            fpu: vcpu.fpu.page(),
            monitor,
            host_deadline: (armed != u64::MAX).then_some(armed),
            pending_poke: vcpu.poked.load(Relaxed),
        }
    }
}

impl VcpuState {
    /// An exit ends the run: what it tells goes to the state page.
    fn tell(&mut self, vcpu: &Vcpu, pool: &'static Pool, reason: u32) {
        vcpu.poked.store(false, Relaxed);
        let Some(guest) = self.guest.as_mut() else { return };
        let page = vcpu.state.page();
        guest.store(pool, page, reason, self.tell);
        if self.tell_extended {
            guest.store_extended(pool, page, reason);
        }
    }
}
