//! Calls and replies: how the CPU moves along a chain of threads.
//!
//! References move, they are not cloned: a call takes the callee's reference to itself out of the callee, makes it
//! `current`, and stores the caller's in the callee; a reply does the opposite.

use sync::Counted;

use crate::{Cpu, Ec, EcState, Pt, Resume};

/// Lending steps without progress after which a caller is taken for part of a deadlock (abi.md 8).
const MOST_HELP: u32 = 100;

/// What became of an attempt to lend time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    /// The other chain runs now, or this one waits behind it.
    Lent,
    /// Too many steps: a circle of calls.
    Livelock,
}

/// What a reply found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The caller is current again.
    Returned,
    /// There was no caller: a global context that replied never runs again.
    NoCaller,
    /// The message has parts that take longer; nothing has happened.
    More,
}

/// What became of an attempt to go through a portal.
#[derive(Clone, Copy)]
pub enum Entered<'t> {
    /// The portal's thread is current.
    Running,
    /// There is no portal.
    Nowhere,
    /// The message has parts that take longer; nothing has happened.
    More(&'t Pt),
    /// The portal's thread is busy, or another CPU's.
    Refused(&'t Pt),
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// All of it has arrived.
    All,
    /// Some of it takes longer than a thread switch may; nothing that matters has been written.
    More,
}

impl Cpu {
    /// The running thread and its state.
    #[inline(always)]
    pub fn running(&mut self) -> Option<(&Ec, &mut EcState)> {
        let current: &Ec = self.current.as_ref()?;
        let state = current.cell.open(&mut self.key)?;
        Some((current, state))
    }

    /// The running thread's state.
    #[inline(always)]
    pub fn state(&mut self) -> Option<&mut EcState> {
        self.current.as_ref()?.cell.open(&mut self.key)
    }

    /// Goes through the portal that `find` finds for the running thread: it waits as `resume` says, the portal's
    /// thread runs at its entry.
    ///
    /// `deliver` gets both threads and their states once nothing can fail any more; where it is [`Passed::More`], the
    /// message has parts that take longer, and nothing else has happened. This is the path of every call: each cell is
    /// opened once, references move, no count changes.
    #[inline(always)]
    pub fn enter_portal<'t>(
        &mut self,
        find: impl FnOnce(&Ec) -> Option<&'t Pt>,
        resume: Resume,
        deliver: impl FnOnce(&Pt, &Ec, &mut EcState, &Ec) -> Passed,
    ) -> Entered<'t> {
        let current: &Ec = match &self.current {
            Some(current) => current,
            None => return Entered::Nowhere,
        };
        let Some(pt) = find(current) else { return Entered::Nowhere };
        let ec: &Ec = &pt.ec;
        let Some((caller, callee)) = current.cell.open_both(&ec.cell, &mut self.key) else {
            return Entered::Refused(pt);
        };
        if callee.parked.is_none() {
            return Entered::Refused(pt);
        }
        if deliver(pt, current, caller, ec) == Passed::More {
            return Entered::More(pt);
        }
        caller.resume = resume;
        callee.start(pt);
        arch::exchange(&mut caller.thread, current.fpu(), &mut callee.thread, ec.fpu());
        self.loaded.enter(self.mine, &ec.pd);
        let next = callee.parked.take();
        callee.caller = core::mem::replace(&mut self.current, next);
        if ec.has_attention() {
            self.mine.note_work();
        }
        Entered::Running
    }

    /// The running thread's caller, if it has one.
    #[inline(always)]
    pub fn with_caller<R>(
        &mut self,
        f: impl FnOnce(&Ec, &mut EcState, &Ec, &mut EcState) -> R,
    ) -> Option<R> {
        let current = self.current.as_ref()?;
        let state = current.cell.open(&mut self.key)?;
        let caller = state.caller.take()?;
        let result = current
            .cell
            .open_both(&caller.cell, &mut self.key)
            .map(|(mine, theirs)| f(current, mine, &caller, theirs));
        if let Some(state) = current.cell.open(&mut self.key) {
            state.caller = Some(caller);
        }
        result
    }

    /// Ends a service: the running thread parks and its caller runs on.
    ///
    /// `deliver` gets the running thread, its caller and the caller's state; where it is [`Passed::More`], nothing else
    /// has happened.
    #[inline(always)]
    pub fn leave_portal(
        &mut self,
        deliver: impl FnOnce(&Ec, &Ec, &mut EcState) -> Passed,
    ) -> Reply {
        let current: &Ec = match &self.current {
            Some(current) => current,
            None => return Reply::NoCaller,
        };
        let Some(state) = current.cell.open(&mut self.key) else { return Reply::NoCaller };
        let Some(caller) = state.caller.take() else { return Reply::NoCaller };
        let Some((mine, theirs)) = current.cell.open_both(&caller.cell, &mut self.key) else {
            return Reply::NoCaller;
        };
        if deliver(current, &caller, theirs) == Passed::More {
            mine.caller = Some(caller);
            return Reply::More;
        }
        arch::exchange(&mut mine.thread, current.fpu(), &mut theirs.thread, caller.fpu());
        self.loaded.enter(self.mine, &caller.pd);
        if caller.has_attention() {
            self.mine.note_work();
        }
        let key = &mut self.key;
        if let Some(done) = self.current.replace(caller) {
            let _ = done.park(|ec| ec.cell.open(key).map(|state| &mut state.parked));
        }
        if self.chain.is_some() {
            self.end_help();
        }
        Reply::Returned
    }

    /// The lent time has served its purpose: the other chain is put away, the own one goes on and tries again.
    #[cold]
    #[inline(never)]
    fn end_help(&mut self) {
        self.helped = 0;
        let _ = self.put_away();
        let own = match &self.sc {
            Some(sc) => sc.ec.cell.open(&mut self.key).and_then(|state| state.top.take()),
            None => None,
        };
        self.current = own;
        self.arrive();
        if self.current.is_none() {
            self.ask_choice();
        }
    }

    /// The portal's thread is busy: the running thread will try again as `resume` says, and its time is lent to
    /// the chain that keeps the thread busy.
    pub fn help(&mut self, busy: &Counted<Ec>, resume: Resume) -> Help {
        self.helped += 1;
        let Some(root) = self.root_of(busy) else { return Help::Livelock };
        let own = self.sc.as_ref().map(|sc| sc.ec.clone());
        let running = self.chain.clone().or(own);
        if self.helped > MOST_HELP || running.is_some_and(|running| running.same(&root)) {
            return Help::Livelock;
        }
        if let Some(state) = self.state() {
            state.resume = resume;
        }
        let _ = self.put_away();
        let Some(state) = root.cell.open(&mut self.key) else { return Help::Livelock };
        if state.blocked.is_some() {
            if let Some(sc) = self.sc.take() {
                let _ = state.helpers.push_back(sc);
            }
            self.ask_choice();
            return Help::Lent;
        }
        match state.top.take() {
            Some(top) => {
                self.current = Some(top);
                self.chain = Some(root);
                self.arrive();
            }
            None => self.ask_choice(),
        }
        Help::Lent
    }

    /// The root of the chain that a busy local thread serves.
    fn root_of(&mut self, busy: &Counted<Ec>) -> Option<Counted<Ec>> {
        let mut at = busy.clone();
        for _ in 0..=MOST_HELP {
            let above = at.cell.open(&mut self.key)?.caller.clone();
            match above {
                Some(caller) => at = caller,
                None => return Some(at),
            }
        }
        None
    }
}
