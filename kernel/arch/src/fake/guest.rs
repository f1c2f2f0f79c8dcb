//! Guests that are scripts: their state is the page their monitor sees.

use std::boxed::Box;

use abi::Mtd;
use logic::Oom;
use sync::{Pool, SharedPage};

use super::custody::Custody;
use super::machine::{Deed, run_guest, with};
use crate::{GuestEnv, GuestEvent, GuestVendor};

/// First and last word of the state page that hold architectural state (abi.md 7.1).
const STATE: core::ops::RangeInclusive<usize> = 4..=83;
/// Offset of the exit reason.
const EXIT_REASON: usize = 0x298;
/// Exit reason of a guest without a script: HLT.
const HLT: u32 = 12;
/// Exit reason of a poke (abi.md 11.10).
const POKED: u32 = 255;

/// The virtualization of the machine.
#[must_use]
pub fn guest_vendor() -> GuestVendor {
    with(|state| state.vendor)
}

/// Nothing is to be done.
///
/// # Errors
/// Says so when the machine has no virtualization.
pub fn guest_enable_cpu() -> Result<(), &'static str> {
    match guest_vendor() {
        GuestVendor::None => Err("the fake machine was made without it"),
        _ => Ok(()),
    }
}

/// How many tags there are for guests' translations.
#[must_use]
pub fn guest_tags() -> u16 {
    15
}

/// A guest.
pub struct Guest {
    words: Box<[u64; 512]>,
    custody: Custody,
}

impl Guest {
    /// Frames of kernel memory that one guest is charged.
    pub const FRAMES: u64 = 1;

    /// A guest with all state zero.
    ///
    /// # Errors
    /// Never; the real one needs memory from the pool.
    pub fn new(_pool: &Pool) -> Result<Self, Oom> {
        Ok(Self { words: Box::new([0; 512]), custody: Custody::default() })
    }

    /// Prepares for the end.
    pub fn retire(&mut self) {
        self.custody.clear();
    }

    /// The end.
    pub fn free(self, _pool: &Pool) {}

    /// Takes the monitor's state; the fake takes all of it whatever the message descriptor says.
    pub fn load(&mut self, _pool: &Pool, page: &SharedPage, _mtd: Mtd) {
        for index in STATE {
            self.words[index] = page.word(index);
        }
    }

    /// Gives the monitor the state and the exit reason.
    pub fn store(&mut self, _pool: &Pool, page: &SharedPage, exit_reason: u32) {
        for index in STATE {
            page.set_word(index, self.words[index]);
        }
        page.write_u32(EXIT_REASON, exit_reason);
    }

    /// Runs the next script; a poked guest comes back at once.
    pub fn enter(&mut self, env: &GuestEnv<'_>) -> GuestEvent {
        with(|state| state.record(Deed::EnterGuest { tag: env.tag, flush: env.flush_tag }));
        self.custody.enter();
        if env.pending_poke {
            return GuestEvent::Exit(POKED);
        }
        if let Some(vector) = with(|state| state.take_interrupt()) {
            return GuestEvent::Interrupt(vector);
        }
        run_guest(&mut self.words).unwrap_or(GuestEvent::Exit(HLT))
    }
}
