//! Running a guest on this CPU until something concerns its monitor.

use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use abi::{Mtd, Status, exit};
use arch::{GuestEnv, GuestEvent};
use sync::Ref;

use crate::{Cpu, Resume, Vcpu};

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
    /// If the first exit is the monitor's the run is over, and nobody had to hold the vCPU. Otherwise the thread's
    /// `resume` says that it goes on, and a host interrupt waits in `pending_interrupt` for the loop.
    pub fn begin_run(&mut self, vcpu: Ref<'_, Vcpu>, order: RunOrder) -> Status {
        if vcpu.cpu() != self.id {
            return Status::BadCpu;
        }
        let page = vcpu.state.page();
        let Some(state) = vcpu.cell.open(&mut self.key) else { return Status::BadCpu };
        if state.busy {
            return Status::Busy;
        }
        let Some(guest) = state.guest.as_mut() else { return Status::BadCap };
        guest.load(self.kernel.pool, page, order.load);
        if order.load_extended {
            guest.load_extended(self.kernel.pool, page);
        }
        state.busy = true;
        state.tell = order.tell;
        state.tell_extended = order.tell_extended;
        match self.guest_time(&vcpu) {
            GuestStop::Over => {}
            stop => self.run_on(vcpu, stop),
        }
        Status::Success
    }

    /// The run goes on through the loop.
    #[cold]
    fn run_on(&mut self, vcpu: Ref<'_, Vcpu>, stop: GuestStop) {
        match stop {
            GuestStop::Interrupt(vector) => {
                self.pending_interrupt = Some(vector);
                self.ask_choice();
            }
            GuestStop::Timer => self.on_timer(),
            GuestStop::Over | GuestStop::Again => {}
        }
        match vcpu.hold() {
            Some(held) => {
                if let Some(state) = self.state() {
                    state.resume = Resume::Guest(held);
                }
            }
            None => {
                self.end_run(&vcpu, Status::BadCap);
            }
        }
    }

    /// One stretch of guest time for the current thread, whose `resume` is [`Resume::Guest`].
    pub fn run_guest(&mut self) -> GuestStop {
        let Some(state) = self.state() else { return GuestStop::Over };
        let Resume::Guest(vcpu) = core::mem::replace(&mut state.resume, Resume::User) else {
            return GuestStop::Over;
        };
        let stop = self.guest_time(&vcpu);
        if stop != GuestStop::Over
            && let Some(state) = self.state()
        {
            state.resume = Resume::Guest(vcpu);
        }
        stop
    }

    /// One stretch of guest time; the vCPU is busy with the current thread's run.
    #[inline(always)]
    fn guest_time(&mut self, vcpu: &Vcpu) -> GuestStop {
        let host_deadline = self.next_deadline();
        let kernel = self.kernel;
        let Some(mine) = kernel.remotes.get(self.id) else { return GuestStop::Over };
        let Some(inner) = vcpu.cell.open(&mut self.key) else { return GuestStop::Over };
        let (false, Some(guest)) = (vcpu.is_dead(), inner.guest.as_mut()) else {
            return self.end_run(vcpu, Status::BadCap);
        };
        // Whoever changes guest mappings from here on finds this CPU; earlier changes are in the generation.
        mine.guest_space.store(vcpu.pd.identity(), SeqCst);
        let generation = vcpu.pd.memory.generation();
        let mut flush_tag = inner.generation != generation;
        inner.generation = generation;
        if inner.tag_round != self.tags.round() {
            (inner.tag, inner.tag_round) = self.tags.next();
            flush_tag = true;
        }
        let env = GuestEnv {
            pool: kernel.pool,
            place: &vcpu.place,
            tag: inner.tag,
            flush_tag,
            ports: vcpu.pd.guest_ports(),
            fpu: vcpu.fpu.page(),
            host_deadline,
            pending_poke: vcpu.poked.load(Relaxed),
        };
        // The monitor's FPU registers give way to the guest's (`enter` loads and saves those).
        let monitor = self.current.as_ref().map(|current| current.fpu());
        if let Some(monitor) = monitor {
            arch::fpu_save(monitor);
        }
        let event = guest.enter(&env);
        if let Some(monitor) = monitor {
            let _ = arch::fpu_restore(monitor);
        }
        mine.guest_space.store(0, Release);
        let reason = match event {
            GuestEvent::Exit(reason) => reason,
            event => match self.stop(vcpu, event) {
                Some(stop) => return stop,
                None => exit::POKED,
            },
        };
        vcpu.poked.store(false, Relaxed);
        let Some(inner) = vcpu.cell.open(&mut self.key) else { return GuestStop::Over };
        inner.busy = false;
        if let Some(guest) = inner.guest.as_mut() {
            guest.store(kernel.pool, vcpu.state.page(), reason, inner.tell);
            if inner.tell_extended {
                guest.store_extended(kernel.pool, vcpu.state.page());
            }
        }
        self.answer_run(Status::Success)
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

    #[cold]
    fn end_run(&mut self, vcpu: &Vcpu, status: Status) -> GuestStop {
        if let Some(inner) = vcpu.cell.open(&mut self.key) {
            inner.busy = false;
        }
        self.answer_run(status)
    }

    #[inline(always)]
    fn answer_run(&mut self, status: Status) -> GuestStop {
        if let Some(state) = self.state() {
            state.resume = Resume::User;
            state.thread.registers.rdi = status as u64;
        }
        GuestStop::Over
    }

    /// Makes a virtual CPU leave its guest soon.
    pub fn poke(&mut self, vcpu: &Vcpu) {
        vcpu.poked.store(true, SeqCst);
        let cpu = vcpu.cpu();
        let runs = self
            .kernel
            .remotes
            .get(cpu)
            .is_some_and(|remote| remote.guest_space.load(SeqCst) == vcpu.pd.identity());
        if cpu != self.id && runs {
            arch::send_ipi(cpu, arch::vector::RESCHEDULE);
        }
    }
}
