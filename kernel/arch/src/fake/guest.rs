//! Guests that are scripts: their state is the page their monitor sees.

use std::boxed::Box;

use abi::Mtd;
use logic::Oom;
use logic::addr::Frame;
use sync::{Pool, SharedPage, Site};

use super::custody::Custody;
use super::machine::{Deed, run_guest, with};
use super::{fpu_restore, fpu_save};
use crate::{GuestEnv, GuestEvent, GuestVendor};

/// First and last word of the state page that hold architectural state (abi.md 7.1).
const STATE: core::ops::RangeInclusive<usize> = 4..=83;
/// First and last word of our own additions, bytes 0x2a0 to 0x3ff.
const EXTENDED: core::ops::RangeInclusive<usize> = 84..=127;
/// Offset of the exit reason.
const EXIT_REASON: usize = 0x298;
/// Groups that the fake tells by choice, as words of the page; the others it always tells.
const GROUPS: [(Mtd, core::ops::RangeInclusive<usize>); 4] =
    [(Mtd::RIP_LEN, 5..=6), (Mtd::RFLAGS, 7..=7), (Mtd::ACDB, 11..=14), (Mtd::R8_R15, 19..=26)];
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
    block: Frame,
    words: Box<[u64; 512]>,
    custody: Custody,
}

impl Guest {
    /// Frames of kernel memory that one guest is charged.
    pub const FRAMES: u64 = 1;

    /// A guest with all state zero.
    ///
    /// # Errors
    /// When the pool has no frame for its control block, which stays empty here.
    pub fn new(pool: &Pool) -> Result<Self, Oom> {
        let block = pool.alloc_zeroed(0, Site::GuestBlock)?;
        Ok(Self { block, words: Box::new([0; 512]), custody: Custody::default() })
    }

    /// Prepares for the end.
    pub fn retire(&mut self) {
        self.custody.clear();
    }

    /// The end.
    pub fn free(self, pool: &Pool) {
        pool.free(self.block, 0);
    }

    /// Takes the monitor's state and runs: the fake takes all of it whatever the message descriptor says.
    pub fn start<'a>(
        &mut self,
        page: &SharedPage,
        _mtd: Mtd,
        extended: bool,
        surround: impl FnOnce() -> GuestEnv<'a>,
    ) -> GuestEvent {
        let mut take = |words: core::ops::RangeInclusive<usize>| {
            for index in words {
                self.words[index] = page.word(index);
            }
        };
        take(STATE);
        if extended {
            take(EXTENDED);
        }
        self.enter(surround())
    }

    /// Gives the monitor the groups of `wanted` and the exit reason.
    pub fn store(&mut self, _pool: &Pool, page: &SharedPage, exit_reason: u32, wanted: Mtd) {
        for index in STATE {
            let group = GROUPS.iter().find(|(_, words)| words.contains(&index));
            if group.is_none_or(|(group, _)| wanted.contains(*group)) {
                page.set_word(index, self.words[index]);
            }
        }
        page.write_u32(EXIT_REASON, exit_reason);
    }

    /// Gives the extended words.
    pub fn store_extended(&self, _pool: &Pool, page: &SharedPage, _reason: u32) {
        for index in EXTENDED {
            page.set_word(index, self.words[index]);
        }
    }

    /// Runs the next script; a poked guest comes back at once. The FPU changes hands both ways.
    pub fn enter(&mut self, env: GuestEnv<'_>) -> GuestEvent {
        fpu_save(env.monitor);
        let event = if fpu_restore(env.fpu).is_ok() {
            let event = self.script(&env);
            fpu_save(env.fpu);
            event
        } else {
            GuestEvent::Exit(abi::exit::INVALID_STATE)
        };
        let _ = fpu_restore(env.monitor);
        event
    }

    fn script(&mut self, env: &GuestEnv<'_>) -> GuestEvent {
        with(|state| state.record(Deed::EnterGuest { tag: env.tag, flush: env.flush_tag }));
        self.custody.enter();
        if env.pending_poke {
            return GuestEvent::Exit(POKED);
        }
        if let Some(vector) = with(|state| state.take_interrupt()) {
            return GuestEvent::Interrupt(vector.into());
        }
        run_guest(&mut self.words).unwrap_or(GuestEvent::Exit(HLT))
    }
}
