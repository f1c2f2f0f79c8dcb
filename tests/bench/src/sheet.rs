//! Rounds, their times, and the line that tells them.

use abi::args::Words;
use alloc::vec::Vec;
use rt::instructions::rdtsc;
use rt::stub::syscall;

/// Rounds of a row that takes thousands of ticks or less.
pub const ROUNDS: usize = 1000;
/// Rounds of a row that takes more.
pub const FEW: usize = 100;

/// Measures `work`, `rounds` times, between `before` and `after`; each says whether it worked.
/// Nothing is printed meanwhile.
#[inline]
pub fn measure<T>(
    row: &str,
    rounds: usize,
    mut before: impl FnMut() -> bool,
    mut work: impl FnMut() -> T,
    mut after: impl FnMut(T) -> bool,
) {
    let mut times = Vec::with_capacity(rounds);
    let mut failed = 0;
    for _ in 0..rounds {
        let ready = before();
        let start = rdtsc();
        let result = work();
        let end = rdtsc();
        if !after(result) || !ready {
            failed += 1;
        }
        times.push(end - start);
    }
    report(row, &mut times, failed);
}

/// Measures one system call.
pub fn call(row: &str, words: Words) {
    measure(row, ROUNDS, || true, || syscall(words), worked);
}

/// Measures one system call that another undoes, and that other in a row of its own.
pub fn pair(rounds: usize, (row, words): (&str, Words), (undo_row, undo): (&str, Words)) {
    measure(row, rounds, || true, || syscall(words), |out| worked(out) & worked(syscall(undo)));
    measure(undo_row, rounds, || worked(syscall(words)), || syscall(undo), worked);
}

/// Whether a system call answered `SUCCESS`.
pub fn worked(out: Words) -> bool {
    out[0] & 0xff == 0
}

/// Prints a row.
pub fn report(row: &str, times: &mut [u64], failed: u32) {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let minimum = times.first().copied().unwrap_or_default();
    if failed != 0 {
        rt::println!("bench: FAILED {row}: {failed} of {} rounds", times.len());
    }
    rt::println!("bench: {row} {median} {minimum}");
}
