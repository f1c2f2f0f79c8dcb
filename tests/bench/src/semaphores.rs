//! Semaphores: alone, and between two threads of one processor.

use crate::setup::{Bench, semaphore};
use crate::sheet::{ROUNDS, call, measure, worked};
use abi::args::{SmCtrl, Words};
use rt::stub::syscall;
use rt::{Selector, Status, thread};

/// The first thread's priority.
const PRIORITY: u8 = 1;

/// The family.
pub fn run(bench: &Bench) -> Result<(), Status> {
    let sm = semaphore()?;
    call("sm_up_no_waiter", up(sm));
    let other = semaphore()?;
    let up_down = [up(other), down(other, 0)];
    pair_of_one(up_down);
    measure(
        "sm_down_expired_timeout",
        ROUNDS,
        || true,
        || syscall(down(other, 1)),
        |[status, ..]| status == Status::Timeout as u64,
    );
    ping_pong(bench, "sm_pingpong_same_cpu_roundtrip", PRIORITY)?;
    ping_pong(bench, "sm_pingpong_higher_prio_roundtrip", PRIORITY + 1)
}

/// Down with a count, and up and down in one.
fn pair_of_one([up, down]: [Words; 2]) {
    measure("sm_down_available", ROUNDS, || worked(syscall(up)), || syscall(down), worked);
    measure(
        "sm_up_down_uncontended",
        ROUNDS,
        || true,
        || [syscall(up), syscall(down)],
        |[up, down]| worked(up) & worked(down),
    );
}

/// Two threads that wake each other in turn.
fn ping_pong(bench: &Bench, row: &str, priority: u8) -> Result<(), Status> {
    let (there, back) = (semaphore()?, semaphore()?);
    echo(bench.cpu, priority, there, back)?;
    let (up, down) = (up(there), down(back, 0));
    let round = || [syscall(up), syscall(down)];
    // The other thread's first round includes its start.
    round();
    measure(row, ROUNDS, || true, round, |[up, down]| worked(up) & worked(down));
    Ok(())
}

/// Starts a thread that answers each up of `there` with one of `back`.
pub fn echo(cpu: u16, priority: u8, there: Selector, back: Selector) -> Result<(), Status> {
    let (down, up) = (down(there, 0), up(back));
    thread::spawn(cpu, priority, move || while worked(syscall(down)) && worked(syscall(up)) {})?;
    Ok(())
}

/// The call that ups a semaphore.
pub fn up(sm: Selector) -> Words {
    SmCtrl::Up { sm }.encode()
}

/// The call that downs it; a deadline in TSC ticks, 0 for none.
pub fn down(sm: Selector, deadline: u64) -> Words {
    SmCtrl::Down { sm, zero: false, deadline }.encode()
}
