//! What becomes of a chain of calls when a context in it is killed.
//!
//! A dead context is found when its turn comes. Two chains would wait for that in vain: one that waits on a semaphore is
//! woken, and one of which nobody lives and that nobody runs is taken apart, since it keeps itself (its root names its
//! last context, and each context its caller). Both are found by a walk along the chain. It may be long, so only
//! [`LINKS`] of it are done in one pass through the loop.
//!
//! Between two passes the chain may run. A dead context never runs again: it leaves its chain for good when its turn
//! comes, and as long as it is there, so is everybody above it. So one comparison tells at each link whether what was seen
//! before still holds; if it does not, the chain has run, and whoever is dead there is found without us.

use abi::Status;
use sync::Counted;

use crate::{Cpu, Ec, Resume};

/// Contexts of a chain that one pass looks at.
const LINKS: usize = 16;

/// How far such a walk has come.
pub(crate) enum Burial {
    /// From a dead context to the root of its chain.
    Up {
        /// The dead one; it is no root.
        dead: Counted<Ec>,
        /// Where the walk is.
        at: Counted<Ec>,
    },
    /// From the last context of a chain to its root, whether anybody lives.
    Look {
        /// The root.
        root: Counted<Ec>,
        /// The last context, which is dead.
        top: Counted<Ec>,
        /// Where the walk is.
        at: Counted<Ec>,
    },
    /// From the last context to the root again: each lets its caller go.
    Apart {
        /// Where the walk is.
        at: Counted<Ec>,
    },
}

impl Cpu {
    /// On its own CPU: breaks a dead context's references to itself, and gets it out of a wait. If it runs or stands
    /// in a chain that runs, it is found dead when its turn comes.
    pub(crate) fn bury(&mut self, ec: &Counted<Ec>) {
        let Some(state) = ec.cell.open(&mut self.key) else { return };
        let parked = state.parked.take();
        let idle = parked.is_some();
        drop(parked);
        let alone = state.blocked.is_none() && state.top.as_ref().is_some_and(|top| top.same(ec));
        if idle {
            state.resume = Resume::Dead;
        } else if alone {
            self.forget_alone(ec);
        } else if self.burial.is_none() {
            self.burial = self.begin_burial(ec);
            self.bury_links();
        } else {
            let _ = self.dying_ecs.push_back(ec.clone());
        }
    }

    /// A dead context that is its whole chain, and does not run.
    fn forget_alone(&mut self, ec: &Counted<Ec>) {
        let Some(state) = ec.cell.open(&mut self.key) else { return };
        let itself = state.top.take();
        let was = core::mem::replace(&mut state.resume, Resume::Dead);
        let interrupted = state.interrupted.take();
        drop(itself);
        ec.mark.clear();
        self.leave_guest(was, interrupted);
    }

    /// A chain whose time was taken from it may be one that nobody runs any more.
    pub(crate) fn forget_unrunnable(&mut self, root: &Counted<Ec>) {
        if self.burial.is_none() {
            self.burial = self.begin_look(root);
            self.bury_links();
        } else {
            let _ = self.dying_ecs.push_back(root.clone());
        }
    }

    /// The first step for a context that is dead, or the root of a chain.
    fn begin_burial(&mut self, ec: &Counted<Ec>) -> Option<Burial> {
        match ec.cell.open(&mut self.key)?.caller.clone() {
            Some(at) => Some(Burial::Up { dead: ec.clone(), at }),
            None => self.at_root(ec),
        }
    }

    /// One pass of the walk that is under way; afterwards the next one begins.
    pub(crate) fn bury_links(&mut self) {
        for _ in 0..LINKS {
            let Some(burial) = self.burial.take() else { break };
            self.burial = self.next_link(burial);
        }
        if self.burial.is_none()
            && let Some(ec) = self.dying_ecs.pop_front()
        {
            let dead = ec.is_dead();
            self.burial = if dead { self.begin_burial(&ec) } else { self.begin_look(&ec) };
        }
        if self.burial.is_some() {
            self.mourn();
        }
    }

    fn next_link(&mut self, burial: Burial) -> Option<Burial> {
        match burial {
            Burial::Up { dead, at } => {
                // Once it has left the chain, what is above may be somebody else's.
                dead.cell.open(&mut self.key)?.caller.as_ref()?;
                match at.cell.open(&mut self.key)?.caller.clone() {
                    Some(caller) => Some(Burial::Up { dead, at: caller }),
                    None => self.at_root(&at),
                }
            }
            Burial::Look { root, top, at } => {
                let state = root.cell.open(&mut self.key)?;
                if at.is_dead() && state.top.as_ref().is_some_and(|last| last.same(&top)) {
                    return match at.cell.open(&mut self.key)?.caller.clone() {
                        Some(at) => Some(Burial::Look { root, top, at }),
                        None => self.take_top(&root),
                    };
                }
                None
            }
            Burial::Apart { at } => {
                at.mark.clear();
                let state = at.cell.open(&mut self.key)?;
                let was = core::mem::replace(&mut state.resume, Resume::Dead);
                let interrupted = state.interrupted.take();
                let caller = state.caller.take();
                self.leave_guest(was, interrupted);
                caller.map(|at| Burial::Apart { at })
            }
        }
    }

    /// The chain of a dead context ends here: if it waits it is woken, else somebody must live there.
    fn at_root(&mut self, root: &Counted<Ec>) -> Option<Burial> {
        let waiting = root.cell.open(&mut self.key)?.blocked.clone();
        let Some(sc) = waiting else { return self.begin_look(root) };
        let sm = sc.cell.open(&mut self.key).and_then(|s| s.waiting.as_ref().map(|w| w.0.clone()));
        if let Some(sm) = sm
            && let Some(sc) = sm.remove(&sc)
        {
            self.wake(sc, Status::Abort);
        }
        None
    }

    fn begin_look(&mut self, root: &Counted<Ec>) -> Option<Burial> {
        let state = root.cell.open(&mut self.key)?;
        if state.blocked.is_some() {
            return None;
        }
        let top = state.top.clone()?;
        Some(Burial::Look { root: root.clone(), at: top.clone(), top })
    }

    /// Nobody in a chain lives: nobody can run it from now on.
    fn take_top(&mut self, root: &Counted<Ec>) -> Option<Burial> {
        let at = root.cell.open(&mut self.key)?.top.take()?;
        Some(Burial::Apart { at })
    }
}
