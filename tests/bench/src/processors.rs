//! Two processors: a semaphore's up on one wakes a thread on the other, which was idle.

use crate::semaphores::{down, up};
use crate::setup::{Bench, semaphore};
use crate::sheet::{ROUNDS, measure, report, worked};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::instructions::{pause, rdtsc};
use rt::stub::syscall;
use rt::{Status, thread};

/// Ticks in which a thread surely gets to sleep.
const SETTLE: u64 = 20_000;

/// When the other thread last woke.
static WOKEN: AtomicU64 = AtomicU64::new(0);

/// The family.
pub fn run(bench: &Bench) -> Result<(), Status> {
    let cpus = bench.boot.hip.cpus();
    let there = cpus.map(|cpu| cpu.number).find(|cpu| *cpu != bench.cpu).ok_or(Status::BadCpu)?;
    one_way(there)?;
    let (go, back) = (semaphore()?, semaphore()?);
    crate::semaphores::echo(there, 1, go, back)?;
    let (up, down) = (up(go), down(back, 0));
    let round = || [syscall(up), syscall(down)];
    round();
    measure("cross_cpu_wakeup_roundtrip", ROUNDS, settle, round, |[up, down]| {
        worked(up) & worked(down)
    });
    let take_back = |out| worked(out) & worked(syscall(down));
    measure("cross_cpu_sm_up_syscall", ROUNDS, settle, || syscall(up), take_back);
    Ok(())
}

/// From before the up to the first instruction of the woken thread.
fn one_way(there: u16) -> Result<(), Status> {
    let go = semaphore()?;
    let (up, down) = (up(go), down(go, 0));
    thread::spawn(there, 1, move || {
        loop {
            let out = syscall(down);
            let now = rdtsc();
            if !worked(out) {
                break;
            }
            WOKEN.store(now, Ordering::Release);
        }
    })?;
    let mut times = Vec::with_capacity(ROUNDS);
    let mut failed = 0;
    for round in 0..=ROUNDS {
        settle();
        WOKEN.store(0, Ordering::Relaxed);
        let start = rdtsc();
        failed += u32::from(!worked(syscall(up)));
        let woken = loop {
            match WOKEN.load(Ordering::Acquire) {
                0 => pause(),
                time => break time,
            }
        };
        // The first includes the thread's start.
        if round != 0 {
            times.push(woken.saturating_sub(start));
        }
    }
    report("cross_cpu_wakeup_oneway", &mut times, failed);
    Ok(())
}

/// Waits until the other processor has nothing to do.
fn settle() -> bool {
    let end = rdtsc() + SETTLE;
    while rdtsc() < end {
        pause();
    }
    true
}
