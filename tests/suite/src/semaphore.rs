//! Semaphores: counting, waiting, giving up, ending.

use crate::world::{EC, NOTHING, PD, World, soon};
use abi::cap::{SM_DOWN, SM_UP};
use alloc::vec::Vec;
use rt::instructions::rdtsc;
use rt::stub::syscall;
use rt::sync::{Mutex, Semaphore, sleep_us};
use rt::{Crd, Selector, Status, calls, thread};

/// The order in which waiters woke.
static WOKEN: Mutex<Vec<(u8, Result<(), Status>)>> = Mutex::new(Vec::new());

/// The family.
pub fn run(world: &mut World) {
    counting(world);
    deadlines(world);
    waiting(world);
    ending(world);
}

fn counting(world: &mut World) {
    let sm = world.semaphore();
    let (only_up, only_down) = (world.reduced(sm, SM_UP), world.reduced(sm, SM_DOWN));
    let tally = &mut world.tally;
    let past = 1;
    tally.equal("up of nothing", calls::sm_up(NOTHING), Err(Status::BadCap));
    tally.equal("up of a thread", calls::sm_up(EC), Err(Status::BadCap));
    tally.equal("down of nothing", calls::sm_down(NOTHING, past), Err(Status::BadCap));
    tally.equal("up without permission", calls::sm_up(only_down), Err(Status::BadCap));
    tally.equal("down without permission", calls::sm_down(only_up, past), Err(Status::BadCap));
    tally.equal("up", calls::sm_up(only_up), Ok(()));
    tally.equal("down takes it", calls::sm_down(only_down, 0), Ok(()));
    tally.equal("then there is none", calls::sm_down(sm, past), Err(Status::Timeout));
    for _ in 0..3 {
        let _ = calls::sm_up(sm);
    }
    tally.equal("down takes one of three", calls::sm_down(sm, past), Ok(()));
    tally.equal("down-zero takes the rest", calls::sm_down_all(sm, past), Ok(()));
    tally.equal("and leaves none", calls::sm_down(sm, past), Err(Status::Timeout));
    let full = rt::selectors::allocate();
    let _ = calls::create_sm(full, PD, 2);
    tally.equal("initial count", calls::sm_down(full, past), Ok(()));
    tally.equal("initial count of two", calls::sm_down(full, past), Ok(()));
    tally.equal("not of three", calls::sm_down(full, past), Err(Status::Timeout));
    let most = rt::selectors::allocate();
    let _ = calls::create_sm(most, PD, u64::MAX);
    tally.equal("count of 64 bits", calls::sm_down(most, past), Ok(()));
}

fn deadlines(world: &mut World) {
    let sm = world.semaphore();
    let khz = world.boot.hip.tsc_khz();
    let tally = &mut world.tally;
    let deadline = soon();
    tally.equal("deadline passes", calls::sm_down(sm, deadline), Err(Status::Timeout));
    let now = rdtsc();
    tally.holds("not before it", now >= deadline);
    tally.holds("not long after it", now < deadline + 1000 * u64::from(khz));
    // All 64 bits of RDX count, so RSI may stay 0.
    let deadline = soon();
    let [rdi, ..] = syscall([12 | 1 << 8 | sm << 12, 0, deadline, 0, 0]);
    tally.equal("deadline in rdx alone", rdi, Status::Timeout as u64);
    tally.holds("not before that one", rdtsc() >= deadline);
    let _ = calls::sm_up(sm);
    tally.equal("count goes before deadline", calls::sm_down(sm, 1), Ok(()));
}

/// A thread that waits and notes when it woke.
fn waiter(world: &World, number: u8, sm: Selector, deadline: u64) {
    let _ = thread::spawn(world.boot.cpu, 2, move || {
        let result = calls::sm_down(sm, deadline);
        WOKEN.lock().push((number, result));
    });
}

/// Who woke since the last time.
fn woken() -> Vec<(u8, Result<(), Status>)> {
    core::mem::take(&mut *WOKEN.lock())
}

fn waiting(world: &mut World) {
    let sm = world.semaphore();
    for number in 1..=3 {
        waiter(world, number, sm, 0);
    }
    let tally = &mut world.tally;
    tally.equal("waiters wait", woken(), [].to_vec());
    let _ = calls::sm_up(sm);
    tally.equal("first come first served", woken(), [(1, Ok(()))].to_vec());
    let _ = calls::sm_up(sm);
    let _ = calls::sm_up(sm);
    tally.equal("second and third", woken(), [(2, Ok(())), (3, Ok(()))].to_vec());
    tally.equal("released waiters leave no count", calls::sm_down(sm, 1), Err(Status::Timeout));
    let deadline = soon();
    waiter(world, 4, sm, deadline);
    waiter(world, 5, sm, 0);
    let tally = &mut world.tally;
    rt::sync::sleep_until(deadline);
    sleep_us(20_000);
    tally.equal("a waiter gives up", woken(), [(4, Err(Status::Timeout))].to_vec());
    let _ = calls::sm_up(sm);
    tally.equal("the next is served", woken(), [(5, Ok(()))].to_vec());
}

fn ending(world: &mut World) {
    let sm = world.semaphore();
    waiter(world, 6, sm, 0);
    waiter(world, 7, sm, rt::sync::after_us(60_000_000));
    let _ = calls::revoke(Crd::objects(sm, 0, 0x1f));
    let tally = &mut world.tally;
    tally.equal("a revoked semaphore is gone", calls::sm_up(sm), Err(Status::BadCap));
    let mut seen = Vec::new();
    for _ in 0..200 {
        sleep_us(10_000);
        seen.append(&mut woken());
        if seen.len() == 2 {
            break;
        }
    }
    seen.sort_by_key(|(number, _)| *number);
    let first = seen.iter().find(|(number, _)| *number == 6).map(|(_, result)| *result);
    tally.equal("its waiter is told", first, Some(Err(Status::BadCap)));
    let second = seen.iter().find(|(number, _)| *number == 7).map(|(_, result)| *result);
    tally.ours("so is one with a deadline", second, Some(Err(Status::BadCap)));
    let own = Semaphore::new(0).map(|own| own.down_until(1));
    tally.equal("others are not touched", own, Ok(Err(Status::Timeout)));
}
