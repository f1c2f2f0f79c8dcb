//! Death, which is not the same as freeing.
//!
//! When a creator's capability goes the object is killed at once, whatever its count: marked, unlinked, its waiters
//! woken. What only the home CPU may touch is left in that CPU's inbox. The memory returns later, by count
//! and grace period.

use core::sync::atomic::Ordering::Relaxed;

use abi::Status;
use sync::{AnyCounted, Counted, Creator, Mark, Removed, Token, Tree};

use crate::{Attention, Cpu, Ec, Kp, Pd, Pt, Resume, Sc, Sm, Vcpu};

impl Cpu {
    /// Kills an object of whatever kind whose creator's capability is gone.
    #[inline]
    pub fn kill(&mut self, object: AnyCounted) {
        let object = match object.downcast::<Sm>() {
            Ok(sm) => return self.kill_sm(sm),
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

    /// Kills a semaphore: nobody waits there from now on. Its waiters go in steps, few of them at once.
    #[inline]
    fn kill_sm(&mut self, sm: Counted<Sm>) {
        sm.kill();
        if !self.release_orphans(&sm) {
            let _ = self.dying_sms.push_back(sm);
            self.mourn();
        }
    }

    /// Wakes some of the waiters of a dead semaphore; whether all are gone.
    fn release_orphans(&mut self, sm: &Sm) -> bool {
        for _ in 0..ORPHANS {
            let Some(sc) = sm.next_orphan() else { return true };
            self.wake(sc, Status::BadCap);
        }
        false
    }

    #[inline]
    fn kill_kp(&mut self, kp: &Kp) {
        let mapped = kp.mapped.lock().take();
        if let Some((pd, page)) = mapped {
            self.unmap_kernel_page(&pd, page);
        }
    }

    #[inline]
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

    #[inline]
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
    #[inline]
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

    /// A dead thread runs its virtual processor no more.
    pub(crate) fn leave_guest(&mut self, was: Resume, interrupted: Option<Counted<Vcpu>>) {
        let vcpu = if let Resume::Guest(vcpu) = was { Some(vcpu) } else { interrupted };
        if let Some(vcpu) = vcpu
            && let Some(inner) = vcpu.cell.open(&mut self.key)
        {
            inner.busy = false;
        }
    }

    /// The running thread is dead: its caller, if any, gets `ABORT`, and the CPU goes on with whoever is left. A caller
    /// that waited for the handling of an exception must die too: it is current now, and the next pass finds it.
    #[inline]
    pub fn kill_current(&mut self, reason: &'static str) {
        self.depart();
        let Some(current) = self.current.take() else { return };
        current.mark.clear();
        self.tell_killed(reason);
        current.ask(Attention::KILL);
        let Some(state) = current.cell.open(&mut self.key) else { return };
        let was = core::mem::replace(&mut state.resume, Resume::Dead);
        self.current = state.caller.take();
        let interrupted = state.interrupted.take();
        self.leave_guest(was, interrupted);
        let Some(state) = self.state() else {
            // The root died: its time has nothing left to run.
            self.chain = None;
            self.sc = None;
            return self.ask_choice();
        };
        if let Resume::AwaitReply = state.resume {
            state.resume = Resume::User;
            state.thread.registers.rdi = Status::Abort as u64;
        }
        self.arrive();
    }

    /// Kills a domain. What it consists of goes in steps ([`Cpu::bury_some`]).
    #[inline]
    fn kill_pd(&mut self, pd: Counted<Pd>) {
        if pd.kill() {
            self.bury_later(pd);
        }
    }

    /// Whether something dead still has parts to take back. A revoke does not end before that is done.
    #[inline(always)]
    pub fn has_dying(&self) -> bool {
        self.mourns
    }

    /// Somebody dead has parts to take back.
    pub(crate) fn mourn(&mut self) {
        self.mourns = true;
        self.mine.note_work();
    }

    /// One step of taking back what the dead hold: places in chains; waiters; contexts, capabilities, ports.
    #[inline]
    pub fn bury_some(&mut self, token: &Token) {
        if self.burial.is_some() {
            self.bury_links();
        } else if let Some(sm) = self.dying_sms.first_counted() {
            if self.release_orphans(&sm) {
                let _ = self.dying_sms.pop_front();
            }
        } else if let Some(pd) = self.dying.first_counted() {
            self.bury_domain(&pd, token);
        }
        self.mourns = self.burial.is_some() || !self.dying_sms.is_empty() || !self.dying.is_empty();
    }

    fn bury_domain(&mut self, pd: &Pd, token: &Token) {
        for _ in 0..CONTEXTS {
            let first = pd.ecs.lock().first_counted();
            match first {
                Some(ec) => self.kill_ec(ec),
                None => return self.bury_spaces(pd, token),
            }
        }
    }

    /// The step of a dead domain without contexts.
    fn bury_spaces(&mut self, pd: &Pd, token: &Token) {
        if let Some(next) = self.revoke_space(pd, self.dying_cursor, token) {
            self.dying_cursor = next;
        } else if !crate::ports::revoke_one(self.kernel, pd) {
            self.dying_cursor = 0;
            pd.mark.clear();
            let _ = self.dying.pop_front();
        }
    }

    /// Takes some capabilities from a space; the next cursor, or `None` at the end.
    fn revoke_space(&mut self, pd: &Pd, from: u64, token: &Token) -> Option<u64> {
        let (first, count) = pd.objects.next_page(from)?;
        let mut left = EFFORT;
        for selector in first..first + count {
            let Some(slot) = pd.objects.slot(selector) else { continue };
            loop {
                if left == 0 {
                    return Some(selector);
                }
                let effort = self.revoke_step(slot, abi::cap::ALL, true, &pd.mark, token);
                left = left.saturating_sub(effort.cost());
                if effort != Effort::Nothing {
                    continue;
                }
                break;
            }
        }
        Some(first + count)
    }

    /// One step of revoking `permissions` below a slot, and with `itself` from it. Where it goes on is kept by `mark`.
    pub fn revoke_step(
        &mut self,
        slot: &sync::CapSlot,
        permissions: u8,
        itself: bool,
        mark: &Mark,
        token: &Token,
    ) -> Effort {
        mark.prepare(slot);
        let removed = {
            let Some(tree) = Tree::lock(slot, token) else { return Effort::Nothing };
            tree.revoke(permissions, itself, mark)
        };
        match removed {
            Removed::Nothing => Effort::Nothing,
            Removed::Slot(object, Creator::Yes) => {
                self.kill(object);
                Effort::Death
            }
            Removed::More | Removed::Slot(..) => Effort::Capability,
        }
    }
}

/// What a step of a revocation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Nothing was left to do.
    Nothing,
    /// One capability vanished, or many were looked at; there may be more.
    Capability,
    /// An object died.
    Death,
}

impl Effort {
    /// Its share of the [`EFFORT`] of one pass through the loop.
    pub const fn cost(self) -> usize {
        match self {
            Effort::Nothing | Effort::Capability => 1,
            Effort::Death => 8,
        }
    }
}

/// What one pass of a revocation may cost: 12 capabilities, or 2 objects that die.
pub const EFFORT: usize = 12;
/// Waiters of a dead semaphore that are woken in one step.
const ORPHANS: usize = 8;
/// Contexts of a dead domain that are killed in one step.
const CONTEXTS: usize = 2;
