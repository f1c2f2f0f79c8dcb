//! A fixed ring of trace records, readable by a debugger while and after the kernel runs.
//!
//! It formats nothing and waits for nobody: any processor may write at any time, also inside an
//! NMI, and the oldest records are overwritten.
//!
//! ```text
//!   next: 7                           a record, four words:
//!   [ 5 ][ 6 ][ 7 ][ 4 ]              sequence number from 1 on (0: being written)
//!                 ^ number 3 was here time stamp counter
//!                   and is lost       code (15:0), processor (31:16), detail (63:32)
//!                                     value
//! ```

use core::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 4;

/// One event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// When: the time stamp counter.
    pub tsc: u64,
    /// What happened; the writers agree on the numbers.
    pub code: u16,
    /// On which processor.
    pub cpu: u16,
    /// More about it.
    pub detail: u32,
    /// Most about it.
    pub value: u64,
}

/// The last `N` records. `N` should be a power of two.
#[derive(Debug)]
pub struct Ring<const N: usize> {
    next: AtomicU64,
    records: [[AtomicU64; WORDS]; N],
}

impl<const N: usize> Ring<N> {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            records: [const { [const { AtomicU64::new(0) }; WORDS] }; N],
        }
    }

    /// Writes a record over the oldest one.
    pub fn record(&self, record: Record) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Some([sequence, tsc, what, value]) = self.slot(number) else { return };
        sequence.store(0, Ordering::Relaxed);
        tsc.store(record.tsc, Ordering::Release);
        let low = u64::from(record.code) | u64::from(record.cpu) << 16;
        what.store(low | u64::from(record.detail) << 32, Ordering::Release);
        value.store(record.value, Ordering::Release);
        sequence.store(number + 1, Ordering::Release);
    }

    /// The number that the next record will have; the first ever has 0.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Record `number`, unless it is overwritten, being written, or not there yet.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<Record> {
        let [sequence, tsc, what, value] = self.slot(number)?;
        let expected = number.checked_add(1)?;
        if sequence.load(Ordering::Acquire) != expected {
            return None;
        }
        let [tsc, what, value] = [tsc, what, value].map(|word| word.load(Ordering::Acquire));
        let record = Record {
            tsc,
            code: what as u16,
            cpu: (what >> 16) as u16,
            detail: (what >> 32) as u32,
            value,
        };
        (sequence.load(Ordering::Relaxed) == expected).then_some(record)
    }

    fn slot(&self, number: u64) -> Option<&[AtomicU64; WORDS]> {
        self.records.get(number.checked_rem(N as u64)? as usize)
    }
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(number: u64) -> Record {
        Record { tsc: number, code: number as u16, cpu: 3, detail: !0, value: !number }
    }

    #[test]
    fn a_ring_without_room_keeps_nothing() {
        let ring = Ring::<0>::new();
        ring.record(record(1));
        assert_eq!(ring.get(0), None);
    }

    #[test]
    fn readers_never_see_halves_of_records() {
        let ring = Ring::<4>::new();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..20_000).for_each(|number| ring.record(record(number))));
            while !writer.is_finished() {
                let number = ring.next().saturating_sub(2);
                assert!(ring.get(number).is_none_or(|found| found == record(number)));
            }
        });
    }

    proptest! {
        #[test]
        fn the_last_records_are_there(count in 0..40_u64) {
            let ring = Ring::<8>::new();
            (0..count).for_each(|number| ring.record(record(number)));
            for number in 0..50 {
                let is_there = number < count && number + 8 >= count;
                prop_assert_eq!(ring.get(number), is_there.then(|| record(number)));
            }
            prop_assert_eq!(ring.get(u64::MAX), None);
        }
    }
}
