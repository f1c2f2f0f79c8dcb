//! Which status which call has answered: for the conformance suite, which must have seen them all.

use abi::{Call, Status, call};
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// For each call number, a bit for each status it answered.
static SEEN: [AtomicU16; 256] = [const { AtomicU16::new(0) }; 256];

/// Notes an answer: RDI before and after a call.
pub fn note(before: u64, after: u64) {
    let seen = &SEEN[usize::from(call::number(before))];
    if let Some(status) = Status::from_word(after) {
        let bit = 1u16 << (status as u8);
        if seen.load(Relaxed) & bit == 0 {
            seen.fetch_or(bit, Relaxed);
        }
    }
}

/// Whether a call has answered with a status since the program began.
#[must_use]
pub fn seen(call: Call, status: Status) -> bool {
    SEEN[usize::from(call as u8)].load(Relaxed) & 1 << (status as u8) != 0
}

/// Whether a number that is no call has been answered with `BAD_HYP`.
#[must_use]
pub fn unknown_refused() -> bool {
    let bit = 1u16 << (Status::BadHyp as u8);
    let mut numbers = (0u64..).zip(&SEEN);
    numbers.any(|(n, seen)| Call::from_word(n).is_err() && seen.load(Relaxed) & bit != 0)
}
