//! The memory of one life of a guest, and its way back to the pool.
//!
//! A range goes back only when nobody else can reach it and it is full of zeros. What cannot be made
//! so is kept out of the pool for good, and counted: memory that is lost is better than memory that
//! two guests share.
use crate::pool::Pool;
use alloc::string::String;
use alloc::vec::Vec;

/// Physical ranges of one life.
#[derive(Debug, Default)]
pub struct Taken {
    ranges: Vec<(u64, u64)>,
}

/// What did not come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Bytes that stay out of the pool.
    pub bytes: u64,
    /// Why, as a sentence.
    pub why: String,
}

impl Taken {
    /// Remembers a range that the pool has given: its first byte and its size, page aligned.
    pub fn add(&mut self, physical: u64, size: u64) {
        self.ranges.push((physical, size));
    }

    /// Bytes of all ranges.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(_, size)| size).sum()
    }

    /// Gives all ranges back after `scrub` has cleaned each of them. `unreachable` says whether the
    /// guest's domain has lost them all; while it has not, none is touched.
    ///
    /// # Errors
    /// How many bytes are kept out of the pool, and why.
    pub fn give_back(
        &mut self,
        pool: &mut Pool,
        unreachable: Result<(), String>,
        mut scrub: impl FnMut(u64, u64) -> Result<(), String>,
    ) -> Result<(), Kept> {
        let mut kept = Kept { bytes: 0, why: String::new() };
        for (physical, size) in self.ranges.drain(..) {
            match unreachable.clone().and_then(|()| scrub(physical, size)) {
                Ok(()) => pool.give(physical, size),
                Err(why) => {
                    pool.lose(size);
                    kept = Kept { bytes: kept.bytes + size, why };
                }
            }
        }
        if kept.bytes == 0 { Ok(()) } else { Err(kept) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::hip::{Memory, MemoryKind};

    const SIZE: u64 = 1 << 20;

    /// A pool of 16 MiB, three ranges of it taken.
    fn life() -> (Pool, Taken, u64) {
        let ram = Memory { kind: MemoryKind::Ram, addr: 1 << 20, size: 16 << 20, aux: 0 };
        let mut pool = Pool::new([ram].into_iter());
        let all = pool.bytes();
        let mut taken = Taken::default();
        for _ in 0..3 {
            taken.add(pool.take(SIZE, SIZE).unwrap(), SIZE);
        }
        assert_eq!(pool.bytes(), all - 3 * SIZE);
        (pool, taken, all)
    }

    #[test]
    fn what_nobody_reaches_and_is_clean_goes_back() {
        let (mut pool, mut taken, all) = life();
        assert_eq!(taken.bytes(), 3 * SIZE);
        let mut scrubbed = 0;
        let done = taken.give_back(&mut pool, Ok(()), |_, size| {
            scrubbed += size;
            Ok(())
        });
        assert_eq!((done, scrubbed), (Ok(()), 3 * SIZE));
        assert_eq!((pool.bytes(), pool.lost()), (all, 0));
        // A second time there is nothing to give.
        assert_eq!(taken.give_back(&mut pool, Ok(()), |_, _| Ok(())), Ok(()));
        assert_eq!(pool.bytes(), all);
    }

    #[test]
    fn after_a_failed_revoke_nothing_goes_back() {
        let (mut pool, mut taken, all) = life();
        let refused = || Err("the kernel answers OOM".into());
        let done = taken.give_back(&mut pool, refused(), |_, _| panic!("others may use it"));
        assert_eq!(done, Err(Kept { bytes: 3 * SIZE, why: "the kernel answers OOM".into() }));
        assert_eq!((pool.bytes(), pool.lost()), (all - 3 * SIZE, 3 * SIZE));
    }

    #[test]
    fn a_range_that_cannot_be_cleaned_stays_out_alone() {
        let (mut pool, mut taken, all) = life();
        let mut round = 0;
        let done = taken.give_back(&mut pool, Ok(()), |_, _| {
            round += 1;
            if round == 2 { Err("memory is not writable".into()) } else { Ok(()) }
        });
        assert_eq!(done, Err(Kept { bytes: SIZE, why: "memory is not writable".into() }));
        assert_eq!((pool.bytes(), pool.lost()), (all - SIZE, SIZE));
    }
}
