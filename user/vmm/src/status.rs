//! What a monitor tells of itself in one page: how often its guest left for which reason, and its threads.
//!
//! ```text
//! word 0..128    exits by reason (slot)          word 511  the question that the threads below answer
//! word 128..392  threads, four words each: kind, state, priority and processor; slice; time used; 0
//! word 392..508  ticks that the monitor took for exits by reason, for the slots below 116
//! ```
//! The monitor writes, the root task reads, and believes nothing that could harm it.
use abi::exit::{ENTRY_FAILED, ExitReason, INVALID_STATE, POKED};
use core::sync::atomic::{AtomicU64, Ordering};

/// Slots for reasons.
pub const SLOTS: usize = 128;
/// Most threads: two, and one for each virtual processor.
pub const THREADS: usize = 2 + crate::control::VCPUS;
/// Slots whose time is known too: all that a processor has reasons for.
pub const TIMED: usize = 116;
const TICKS_WORD: usize = SLOTS + THREADS * WORDS;
/// The word with the question that was answered last.
pub const ANSWER_WORD: usize = 511;
const WORDS: usize = 4;
const OTHER: usize = SLOTS - 1;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keys, output and orders.
    Streams,
    /// The guest's end.
    Watcher,
    /// A virtual processor.
    Processor,
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits: for something to do, and as a processor in HLT or held.
    Waits,
    /// It runs, or is ready to.
    Runs,
}

/// A thread of a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// What it is for.
    pub kind: Kind,
    /// What it does.
    pub state: State,
    /// Its priority.
    pub priority: u8,
    /// The machine's processor it runs on.
    pub cpu: u16,
    /// Its time slice in microseconds.
    pub slice_us: u32,
    /// Time it has used, in microseconds.
    pub time_us: u64,
}

/// The slot of a reason word.
#[inline]
pub fn slot(reason: u32) -> usize {
    match reason {
        POKED => OTHER - 1,
        ENTRY_FAILED => OTHER - 2,
        INVALID_STATE => OTHER - 3,
        known if known < 120 => known as usize,
        _ => OTHER,
    }
}

/// The reason of a slot; nothing for the slot of all others.
pub fn reason(slot: usize) -> Option<ExitReason> {
    let word = match OTHER.checked_sub(slot)? {
        0 => return None,
        1 => POKED,
        2 => ENTRY_FAILED,
        3 => INVALID_STATE,
        _ => slot as u32,
    };
    Some(ExitReason::from_word(word))
}

/// Counts an exit. One thread at a time.
#[inline]
pub fn count(page: &[AtomicU64], reason: u32) {
    if let Some(word) = page.get(slot(reason)) {
        word.store(word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// All counts.
pub fn counts(page: &[AtomicU64]) -> [u64; SLOTS] {
    let mut counts = [0; SLOTS];
    for (count, word) in counts.iter_mut().zip(page) {
        *count = word.load(Ordering::Relaxed);
    }
    counts
}

/// Adds the ticks from an exit's arrival to the next entry. One thread at a time.
#[inline]
pub fn spent(page: &[AtomicU64], reason: u32, ticks: u64) {
    let slot = slot(reason);
    if slot < TIMED
        && let Some(word) = page.get(TICKS_WORD + slot)
    {
        word.store(word.load(Ordering::Relaxed).wrapping_add(ticks), Ordering::Relaxed);
    }
}

/// All times, in ticks; 0 for slots without.
pub fn times(page: &[AtomicU64]) -> [u64; SLOTS] {
    let mut times = [0; SLOTS];
    for (time, word) in times.iter_mut().zip(page.iter().skip(TICKS_WORD)).take(TIMED) {
        *time = word.load(Ordering::Relaxed);
    }
    times
}

/// Writes a thread at its place.
pub fn put(page: &[AtomicU64], index: usize, thread: &Thread) {
    let kind = match thread.kind {
        Kind::Streams => 1,
        Kind::Watcher => 2,
        Kind::Processor => 3,
    };
    let state = u64::from(thread.state == State::Runs);
    let (priority, cpu) = (u64::from(thread.priority), u64::from(thread.cpu));
    let head = kind | state << 8 | priority << 16 | cpu << 24;
    let at = SLOTS + index * WORDS;
    for (offset, value) in [head, thread.slice_us.into(), thread.time_us].into_iter().enumerate() {
        if let Some(word) = page.get(at + offset).filter(|_| index < THREADS) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// The threads that the page has.
pub fn threads(page: &[AtomicU64]) -> impl Iterator<Item = Thread> {
    let word = |at: usize| page.get(at).map_or(0, |word| word.load(Ordering::Relaxed));
    (0..THREADS).filter_map(move |index| {
        let at = SLOTS + index * WORDS;
        let head = word(at);
        let kind = match head & 0xff {
            1 => Kind::Streams,
            2 => Kind::Watcher,
            3 => Kind::Processor,
            _ => return None,
        };
        let state = if head >> 8 & 1 != 0 { State::Runs } else { State::Waits };
        Some(Thread {
            kind,
            state,
            priority: (head >> 16) as u8,
            cpu: (head >> 24) as u16,
            slice_us: word(at + 1) as u32,
            time_us: word(at + 2),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<AtomicU64> {
        (0..512).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn threads_arrive_as_they_were_told() {
        let page = page();
        assert_eq!(threads(&page).count(), 0);
        let mut thread = Thread {
            kind: Kind::Processor,
            state: State::Runs,
            priority: 9,
            cpu: 300,
            slice_us: 30_000,
            time_us: u64::MAX,
        };
        for index in 0..THREADS {
            thread.time_us = index as u64;
            put(&page, index, &thread);
        }
        assert_eq!(threads(&page).count(), THREADS);
        assert_eq!(threads(&page).last(), Some(thread));
        // One too many changes nothing.
        put(&page, THREADS, &Thread { time_us: 7, ..thread });
        assert_eq!(threads(&page).last(), Some(thread));
        assert_eq!(page[ANSWER_WORD].load(Ordering::Relaxed), 0);
        assert_eq!(times(&page), [0; SLOTS]);
    }

    #[test]
    fn every_reason_has_a_slot_of_its_own() {
        let page = page();
        let words = (0..120).chain([POKED, ENTRY_FAILED, INVALID_STATE, 121, u32::MAX]);
        for word in words {
            count(&page, word);
            let name = reason(slot(word));
            assert_eq!(name.is_none(), slot(word) == OTHER, "{word:#x}");
            assert!(name.is_none_or(|name| name.word() == word), "{word:#x}");
        }
        let counts = counts(&page);
        assert_eq!((counts[10], counts[OTHER], counts.iter().sum::<u64>()), (1, 2, 125));
        assert_eq!(reason(SLOTS), None);
    }

    #[test]
    fn times_add_up_beside_threads_and_the_answer() {
        let page = page();
        for word in (0..120).chain([POKED, u32::MAX]) {
            spent(&page, word, 7);
            spent(&page, word, 3);
        }
        let times = times(&page);
        assert!(times[..TIMED].iter().all(|time| *time == 10));
        assert_eq!(times.iter().sum::<u64>(), 10 * TIMED as u64);
        assert_eq!(threads(&page).count(), 0);
        assert_eq!(page[ANSWER_WORD].load(Ordering::Relaxed), 0);
    }
}
