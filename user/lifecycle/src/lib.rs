//! The states of a guest, or of one of its virtual processors, and the only moves between them.
//!
//! ```text
//!             create            kick            schedule
//!   UNKNOWN ---------> RESET ---------> READY <----------> RUNNING
//!           <---------       <--.         |  pause / halt     |
//!             destroy           |         v                   v
//!                               |      PAUSED -- resume --> READY
//!                               '-- reset: READY, RUNNING, PAUSED, HALTED
//! ```
//! Whoever keeps a [`State`] asks [`State::after`] before it does anything, so that a refused
//! operation changes nothing. A guest in HLT is READY and waits; only the user pauses.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

use core::fmt;

/// Where a guest is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Described, but nothing of it exists.
    #[default]
    Unknown,
    /// It has its memory and its monitor, and has executed nothing since.
    Reset,
    /// It may run and waits for its turn, or for an interrupt.
    Ready,
    /// It is executing.
    Running,
    /// The user holds it; it goes on where it was.
    Paused,
    /// It has ended, by itself or by the user; only its remains can be looked at.
    Halted,
}

/// What a user can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Give it memory and a monitor.
    Create,
    /// Let it begin.
    Kick,
    /// Hold it.
    Pause,
    /// Let it go on.
    Resume,
    /// End it.
    Halt,
    /// Back to before its first instruction.
    Reset,
    /// Take everything back.
    Destroy,
}

/// The operation does not fit the state; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The state it is in.
    pub state: State,
    /// What was asked for.
    pub operation: Operation,
}

impl State {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Unknown, Self::Reset, Self::Ready, Self::Running, Self::Paused, Self::Halted];

    /// The state after an operation.
    ///
    /// # Errors
    /// The pair is none of the allowed moves.
    pub const fn after(self, operation: Operation) -> Result<Self, Refused> {
        use Operation as Op;
        use State::{Halted, Paused, Ready, Reset, Running, Unknown};
        Ok(match (self, operation) {
            (Unknown, Op::Create) => Reset,
            (Reset, Op::Kick) | (Paused, Op::Resume) => Ready,
            (Ready | Running, Op::Pause) => Paused,
            (Ready | Running, Op::Halt) => Halted,
            (Ready | Running | Paused | Halted, Op::Reset) => Reset,
            (Reset, Op::Destroy) => Unknown,
            (state, operation) => return Err(Refused { state, operation }),
        })
    }

    /// The scheduler's own moves, READY to RUNNING and back; every other state stays.
    #[must_use]
    pub const fn scheduled(self, executes: bool) -> Self {
        match (self, executes) {
            (Self::Ready, true) => Self::Running,
            (Self::Running, false) => Self::Ready,
            (other, _) => other,
        }
    }

    /// Its name, as the console prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Reset => "RESET",
            Self::Ready => "READY",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Halted => "HALTED",
        }
    }

    /// What a user in this state may want instead.
    const fn advice(self) -> &'static str {
        match self {
            Self::Unknown => "create it first",
            Self::Reset => "kick starts it, destroy takes it apart",
            Self::Ready | Self::Running => "pause, halt or reset it",
            Self::Paused => "resume or reset it",
            Self::Halted => "reset it",
        }
    }
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Kick,
        Self::Pause,
        Self::Resume,
        Self::Halt,
        Self::Reset,
        Self::Destroy,
    ];

    /// Its name, as the console takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Kick => "kick",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Halt => "halt",
            Self::Reset => "reset",
            Self::Destroy => "destroy",
        }
    }

    /// The operation of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, state) = (self.operation.name(), self.state);
        write!(f, "cannot {operation}: the guest is {state}; {}", state.advice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row: state; column: operation in the order of `Operation::ALL`; the letter is the state
    /// after it, a dot a refusal.
    const TABLE: [(State, &str); 6] = [
        (State::Unknown, "R......"),
        (State::Reset, ".Y....U"),
        (State::Ready, "..P.HR."),
        (State::Running, "..P.HR."),
        (State::Paused, "...Y.R."),
        (State::Halted, ".....R."),
    ];

    fn letter(state: State) -> char {
        match state {
            State::Unknown => 'U',
            State::Reset => 'R',
            State::Ready => 'Y',
            State::Running => 'N',
            State::Paused => 'P',
            State::Halted => 'H',
        }
    }

    #[test]
    fn every_pair_of_state_and_operation() {
        assert_eq!(TABLE.map(|(state, _)| state), State::ALL);
        for (state, row) in TABLE {
            for (operation, wanted) in Operation::ALL.into_iter().zip(row.chars()) {
                let got = state.after(operation).map_or('.', letter);
                assert_eq!(got, wanted, "{} {}", state.name(), operation.name());
                if let Err(refused) = state.after(operation) {
                    assert_eq!(refused, Refused { state, operation });
                    assert!(refused.to_string().contains(state.name()));
                }
            }
        }
    }

    #[test]
    fn the_scheduler_moves_between_ready_and_running_only() {
        for state in State::ALL {
            for executes in [false, true] {
                let next = state.scheduled(executes);
                match state {
                    State::Ready | State::Running => {
                        assert_eq!(next == State::Running, executes);
                    }
                    other => assert_eq!(next, other),
                }
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for operation in Operation::ALL {
            assert_eq!(Operation::from_name(operation.name()), Some(operation));
        }
        assert_eq!(Operation::from_name("schedule"), None);
    }
}
