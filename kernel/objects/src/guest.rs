//! Running a guest on this CPU until something concerns its monitor.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use abi::{Mtd, Status, exit};
use arch::{GuestEnv, GuestEvent};
use sync::Counted;

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

impl Cpu {
    /// Starts a run call of the current thread: loads what the monitor marked, then the loop enters the guest.
    pub fn begin_run(&mut self, vcpu: Counted<Vcpu>, mtd: Mtd) -> Status {
        if vcpu.cpu() != self.id {
            return Status::BadCpu;
        }
        let page = vcpu.state.page();
        let Some(state) = vcpu.cell.open(&mut self.key) else { return Status::BadCpu };
        if state.busy {
            return Status::Busy;
        }
        let Some(guest) = state.guest.as_mut() else { return Status::BadCap };
        guest.load(self.kernel.pool, page, mtd);
        state.busy = true;
        if let Some(state) = self.state() {
            state.resume = Resume::Guest(vcpu);
        }
        Status::Success
    }

    /// One stretch of guest time for the current thread, whose `resume` is [`Resume::Guest`].
    pub fn run_guest(&mut self) -> GuestStop {
        let deadline = self.next_deadline();
        let kernel = self.kernel;
        let Some(state) = self.state() else { return GuestStop::Over };
        let Resume::Guest(vcpu) = core::mem::replace(&mut state.resume, Resume::User) else {
            return GuestStop::Over;
        };
        if vcpu.is_dead() {
            return self.end_run(&vcpu, Status::BadCap);
        }
        let Ok(table) = vcpu.pd.memory.guest_root() else {
            return self.end_run(&vcpu, Status::Oom);
        };
        let Some(mine) = kernel.remotes.get(self.id) else { return GuestStop::Over };
        mine.guest_space.store(vcpu.pd.identity(), SeqCst);
        let generation = vcpu.pd.memory.generation();
        let tag = self.tag_round();
        let fresh = match vcpu.cell.open(&mut self.key) {
            Some(state) if state.tag != 0 && state.tag_round == tag => None,
            _ => Some(self.new_tag()),
        };
        let Some(inner) = vcpu.cell.open(&mut self.key) else { return GuestStop::Over };
        if let Some((tag, round)) = fresh {
            (inner.tag, inner.tag_round) = (tag, round);
        }
        let flush_tag = fresh.is_some() || inner.generation != generation;
        inner.generation = generation;
        let tag = inner.tag;
        let Some(guest) = inner.guest.as_mut() else {
            mine.guest_space.store(0, SeqCst);
            return self.end_run(&vcpu, Status::BadCap);
        };
        let access = vcpu.pd.access_page.lock().as_ref().map(|page| page.frame());
        let env = GuestEnv {
            pool: kernel.pool,
            table,
            tag,
            flush_tag,
            ports: vcpu.pd.ports.lock().guest_frames(),
            vlapic: vcpu.vlapic.frame(),
            apic_access: access.unwrap_or_default(),
            fpu: vcpu.fpu.page(),
            host_deadline: deadline,
            pending_poke: vcpu.poked.load(Relaxed),
        };
        // The monitor's FPU registers give way to the guest's (`enter` loads and saves those).
        if let Some(current) = &self.current {
            arch::fpu_save(current.fpu());
        }
        let event = guest.enter(&env);
        if let Some(current) = &self.current {
            let _ = arch::fpu_restore(current.fpu());
        }
        mine.guest_space.store(0, SeqCst);
        let poked = vcpu.poked.load(Relaxed);
        let stop = match event {
            GuestEvent::Interrupt(vector) => GuestStop::Interrupt(vector),
            GuestEvent::HostTimer => GuestStop::Timer,
            GuestEvent::Nothing => GuestStop::Again,
            GuestEvent::Exit(reason) => {
                vcpu.poked.store(false, Relaxed);
                return self.finish_run(&vcpu, reason);
            }
        };
        if poked {
            // Host interrupts are settled first: they are as good a moment to see the poke.
            if let GuestStop::Interrupt(vector) = stop {
                self.pending_interrupt = Some(vector);
            }
            vcpu.poked.store(false, Relaxed);
            return self.finish_run(&vcpu, exit::POKED);
        }
        if let Some(state) = self.state() {
            state.resume = Resume::Guest(vcpu);
        }
        stop
    }

    fn finish_run(&mut self, vcpu: &Counted<Vcpu>, reason: u32) -> GuestStop {
        let pool = self.kernel.pool;
        if let Some(inner) = vcpu.cell.open(&mut self.key)
            && let Some(guest) = inner.guest.as_mut()
        {
            guest.store(pool, vcpu.state.page(), reason);
        }
        self.end_run(vcpu, Status::Success)
    }

    fn end_run(&mut self, vcpu: &Counted<Vcpu>, status: Status) -> GuestStop {
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
