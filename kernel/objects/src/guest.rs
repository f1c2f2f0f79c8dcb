//! Running a guest on this CPU until something concerns its monitor.

use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use abi::{Mtd, Status, exit};
use arch::{GuestEnv, GuestEvent};
use sync::{Pool, Ref};

use crate::vcpu::VcpuState;
use crate::{Cpu, Pd, Resume, Vcpu};

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
        let (false, Some(guest)) = (vcpu.is_dead(), inner.guest.as_mut()) else {
            return Some(Status::BadCap);
        };
        let page = vcpu.state.page();
        guest.activate();
        guest.load(self.kernel.pool, page, order.load);
        if order.load_extended {
            guest.load_extended(self.kernel.pool, page);
        }
        let stop = match self.guest_time(&vcpu) {
            Some(GuestEvent::Exit(reason)) => {
                let Some(inner) = vcpu.cell.open(&mut self.key) else {
                    return Some(Status::BadCpu);
                };
                inner.tell(&vcpu, self.kernel.pool, reason, order.tell, order.tell_extended);
                return Some(Status::Success);
            }
            Some(event) => self.stop(&vcpu, event),
            None => return Some(Status::BadCap),
        };
        self.run_on(vcpu, order, stop)
    }

    /// The run goes on through the loop, or was poked at the same time.
    #[cold]
    #[inline(never)]
    fn run_on(
        &mut self,
        vcpu: Ref<'_, Vcpu>,
        order: RunOrder,
        stop: Option<GuestStop>,
    ) -> Option<Status> {
        let Some(inner) = vcpu.cell.open(&mut self.key) else { return Some(Status::BadCpu) };
        let Some(stop) = stop else {
            let pool = self.kernel.pool;
            inner.tell(&vcpu, pool, exit::POKED, order.tell, order.tell_extended);
            return Some(Status::Success);
        };
        let Some(held) = vcpu.hold() else { return Some(Status::BadCap) };
        inner.busy = true;
        inner.tell = order.tell;
        inner.tell_extended = order.tell_extended;
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
        let reason = match self.guest_time_again(&vcpu) {
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
            let (tell, extended) = (inner.tell, inner.tell_extended);
            inner.tell(&vcpu, self.kernel.pool, reason, tell, extended);
        }
        self.end_run(&vcpu, Status::Success)
    }

    /// [`Cpu::guest_time`] after other things have been done.
    #[inline(never)]
    fn guest_time_again(&mut self, vcpu: &Vcpu) -> Option<GuestEvent> {
        let inner = vcpu.cell.open(&mut self.key)?;
        if vcpu.is_dead() {
            return None;
        }
        inner.guest.as_mut()?.activate();
        self.guest_time(vcpu)
    }

    /// One stretch of guest time; the vCPU is alive, active and in use by the current thread's run. `None` if it
    /// cannot run.
    #[inline(always)]
    fn guest_time(&mut self, vcpu: &Vcpu) -> Option<GuestEvent> {
        let monitor = self.current.as_ref()?.fpu();
        let inner = vcpu.cell.open(&mut self.key)?;
        let guest = inner.guest.as_mut()?;
        let pd: &Pd = &vcpu.pd;
        // Whoever changes guest mappings from here on finds this CPU; earlier changes are in the generation.
        self.mine.guest_space.store(pd.identity(), SeqCst);
        let generation = pd.memory.generation();
        let mut flush_tag = inner.generation != generation;
        inner.generation = generation;
        if inner.tag_round != self.tags.round() {
            (inner.tag, inner.tag_round) = self.tags.next();
            flush_tag = true;
        }
        let env = GuestEnv {
            pool: self.kernel.pool,
            place: &vcpu.place,
            tag: inner.tag,
            flush_tag,
            ports: pd.guest_ports(),
            fpu: vcpu.fpu.page(),
            monitor,
            // The timer never fires later than `next_deadline` while somebody runs.
            host_deadline: (self.armed != u64::MAX).then_some(self.armed),
            pending_poke: vcpu.poked.load(Relaxed),
        };
        if pd.identity() != self.guest_owner {
            self.guest_owner = pd.identity();
            arch::isolate(arch::Isolate::Guest);
        }
        let event = guest.enter(&env);
        self.mine.guest_space.store(0, Release);
        Some(event)
    }

    /// Guest time ended, but not the run; unless the vCPU was poked meanwhile.
    #[cold]
    fn stop(&mut self, vcpu: &Vcpu, event: GuestEvent) -> Option<GuestStop> {
        let stop = match event {
            GuestEvent::Interrupt(vector) => GuestStop::Interrupt(vector),
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

impl VcpuState {
    /// An exit ends the run: what it tells goes to the state page.
    #[inline(always)]
    fn tell(&mut self, vcpu: &Vcpu, pool: &'static Pool, reason: u32, groups: Mtd, extended: bool) {
        vcpu.poked.store(false, Relaxed);
        let Some(guest) = self.guest.as_mut() else { return };
        let page = vcpu.state.page();
        guest.store(pool, page, reason, groups);
        if extended {
            guest.store_extended(pool, page);
        }
    }
}
