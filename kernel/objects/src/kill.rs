//! Death, which is not the same as freeing.
//!
//! When a creator's capability goes the object is killed at once, whatever its count: marked, unlinked, its waiters
//! woken. What only the home CPU may touch is left in that CPU's inbox. The memory returns later, by count
//! and grace period.

use core::sync::atomic::Ordering::Relaxed;

use abi::Status;
use sync::{AnyCounted, CapSpace, Counted, Creator, Removed, Token, Tree};

use crate::{Attention, Cpu, Ec, Kp, Pd, Pt, Resume, Sc, Sm, Vcpu};

impl Cpu {
    /// Kills an object of whatever kind whose creator's capability is gone.
    pub fn kill(&mut self, object: AnyCounted) {
        let object = match object.downcast::<Sm>() {
            Ok(sm) => return self.kill_sm(&sm),
            Err(object) => object,
        };
        let object = match object.downcast::<Ec>() {
            Ok(ec) => return self.kill_ec(ec),
            Err(object) => object,
        };
        let object = match object.downcast::<Sc>() {
            Ok(sc) => return self.kill_sc(sc),
            Err(object) => object,
        };
        let object = match object.downcast::<Kp>() {
            Ok(kp) => return self.kill_kp(&kp),
            Err(object) => object,
        };
        let object = match object.downcast::<Vcpu>() {
            Ok(vcpu) => return self.kill_vcpu(vcpu),
            Err(object) => object,
        };
        let object = match object.downcast::<Pd>() {
            Ok(pd) => return self.kill_pd(pd),
            Err(object) => object,
        };
        // A portal has nothing beyond its memory.
        drop(object.downcast::<Pt>());
    }

    fn kill_sm(&mut self, sm: &Sm) {
        sm.kill();
        while let Some(sc) = sm.next_orphan() {
            self.wake(sc, Status::BadCap);
        }
    }

    fn kill_kp(&mut self, kp: &Kp) {
        let mapped = kp.mapped.lock().take();
        if let Some((pd, page)) = mapped {
            self.unmap_kernel_page(&pd, page);
        }
    }

    fn kill_sc(&mut self, sc: Counted<Sc>) {
        sc.dead.store(true, Relaxed);
        let cpu = sc.cpu();
        if cpu == self.id {
            self.take_off(&sc);
        } else if let Some(remote) = self.kernel.remotes.get(cpu) {
            remote.leave(|work| drop(work.dead_scs.push_back(sc)));
            self.tell(cpu);
        }
    }

    fn kill_vcpu(&mut self, vcpu: Counted<Vcpu>) {
        if !vcpu.kill() {
            return;
        }
        let cpu = vcpu.cpu();
        if cpu == self.id {
            self.retire(&vcpu);
        } else if let Some(remote) = self.kernel.remotes.get(cpu) {
            remote.leave(|work| drop(work.dead_vcpus.push_back(vcpu)));
            self.tell(cpu);
        }
    }

    /// Takes a dead virtual CPU's control block away from this CPU. If a thread is running it, that thread finds it
    /// dead when it next looks.
    pub(crate) fn retire(&mut self, vcpu: &Vcpu) {
        let pool = self.kernel.pool;
        if let Some(state) = vcpu.cell.open(&mut self.key)
            && let Some(mut guest) = state.guest.take()
        {
            guest.retire();
            guest.free(pool);
        }
    }

    /// Kills a context: it never runs again.
    pub fn kill_ec(&mut self, ec: Counted<Ec>) {
        ec.ask(Attention::KILL);
        if let Some((pd, page)) = &ec.utcb_mapping {
            let there = pd.memory.lookup(*page).is_some_and(|m| m.frame == ec.utcb_frame());
            if there {
                self.unmap_kernel_page(pd, *page);
            }
        }
        let listed = ec.pd.ecs.lock().remove(&ec);
        drop(listed);
        let cpu = ec.cpu();
        if cpu == self.id {
            // It may be the running one.
            self.mine.note_work();
            self.bury(&ec);
        } else if let Some(remote) = self.kernel.remotes.get(cpu) {
            remote.leave(|work| drop(work.dead_ecs.push_back(ec)));
            self.tell(cpu);
        }
    }

    /// On its own CPU: breaks a dead context's references to itself, and gets it out of a wait. If it runs or stands
    /// in a chain it is found dead when its turn comes.
    pub(crate) fn bury(&mut self, ec: &Counted<Ec>) {
        let Some(state) = ec.cell.open(&mut self.key) else { return };
        let parked = state.parked.take();
        let idle = parked.is_some();
        drop(parked);
        if idle {
            state.resume = Resume::Dead;
            return;
        }
        let mut root = ec.clone();
        while let Some(state) = root.cell.open(&mut self.key)
            && let Some(caller) = state.caller.clone()
        {
            root = caller;
        }
        let waiting = root.cell.open(&mut self.key).and_then(|state| state.blocked.clone());
        let Some(sc) = waiting else {
            self.forget_unrunnable(&root);
            return;
        };
        let sm = sc.cell.open(&mut self.key).and_then(|s| s.waiting.as_ref().map(|w| w.0.clone()));
        if let Some(sm) = sm
            && let Some(sc) = sm.remove(&sc)
        {
            self.wake(sc, Status::Abort);
        }
    }

    /// A dead root that no time is bound to must not keep itself.
    fn forget_unrunnable(&mut self, root: &Counted<Ec>) {
        if root.is_dead()
            && let Some(state) = root.cell.open(&mut self.key)
            && state.top.as_ref().is_some_and(|top| top.same(root))
        {
            state.resume = Resume::Dead;
            let itself = state.top.take();
            drop(itself);
        }
    }

    /// The running thread is dead: its caller, if any, gets `ABORT` (or dies too, if it waited for the handling of
    /// an exception), and the CPU goes on with whoever is left.
    pub fn kill_current(&mut self, reason: &'static str) {
        self.depart();
        let mut reason = reason;
        while let Some(current) = self.current.take() {
            arch::note_killed(self.id, reason);
            current.ask(Attention::KILL);
            let Some(state) = current.cell.open(&mut self.key) else { return };
            let was = core::mem::replace(&mut state.resume, Resume::Dead);
            self.current = state.caller.take();
            let interrupted = state.interrupted.take();
            let vcpu = if let Resume::Guest(vcpu) = was { Some(vcpu) } else { interrupted };
            if let Some(vcpu) = vcpu
                && let Some(inner) = vcpu.cell.open(&mut self.key)
            {
                inner.busy = false;
            }
            let Some(state) = self.state() else { break };
            if let Resume::AwaitReply = state.resume {
                state.resume = Resume::User;
                state.thread.registers.rdi = Status::Abort as u64;
                self.arrive();
                return;
            }
            reason = "its exception handler died";
        }
        // The root died: its time has nothing left to run.
        self.chain = None;
        self.sc = None;
        self.ask_choice();
    }

    /// Kills a domain: its contexts die now, its ports go now, its capabilities are taken back in steps
    /// ([`Cpu::bury_domains`]) before any user code runs on this CPU again.
    fn kill_pd(&mut self, pd: Counted<Pd>) {
        if !pd.kill() {
            return;
        }
        loop {
            let ec = pd.ecs.lock().first_counted();
            match ec {
                Some(ec) => self.kill_ec(ec),
                None => break,
            }
        }
        self.bury_later(pd);
    }

    /// Whether a dead domain still has capabilities to take back.
    #[inline(always)]
    pub fn has_dying(&self) -> bool {
        !self.dying.is_empty()
    }

    /// One step of taking back what dead domains hold: the capabilities of one page of selectors.
    pub fn bury_domains(&mut self, token: &Token) {
        let Some(pd) = self.dying.first_counted() else { return };
        match self.revoke_space(&pd.objects, self.dying_cursor, token) {
            Some(next) => self.dying_cursor = next,
            None => {
                crate::ports::revoke_all(self.kernel, &pd);
                self.dying_cursor = 0;
                let _ = self.dying.pop_front();
            }
        }
    }

    /// Takes the capabilities of one page of selectors from a space; the next cursor, or `None` at the end.
    fn revoke_space(&mut self, objects: &CapSpace, from: u64, token: &Token) -> Option<u64> {
        let (first, count) = objects.next_page(from)?;
        for selector in first..first + count {
            let Some(slot) = objects.slot(selector) else { continue };
            while self.revoke_step(slot, abi::cap::ALL, true, token) {}
        }
        Some(first + count)
    }

    /// One step of revoking `permissions` below a slot, and with `itself` from it; whether there may be more.
    pub fn revoke_step(
        &mut self,
        slot: &sync::CapSlot,
        permissions: u8,
        itself: bool,
        token: &Token,
    ) -> bool {
        let removed = {
            let Some(tree) = Tree::lock(slot, token) else { return false };
            match tree.revoke_descendant(permissions) {
                Removed::Nothing if itself => match tree.revoke_self(permissions) {
                    Removed::Reduced => Removed::Nothing,
                    other => other,
                },
                other => other,
            }
        };
        match removed {
            Removed::Nothing => false,
            Removed::Reduced => true,
            Removed::Slot(object, creator) => {
                if creator == Creator::Yes {
                    self.kill(object);
                    return false;
                }
                true
            }
        }
    }
}
