//! Priorities, quanta, donation.

use crate::world::{NOTHING, World};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::instructions::rdtsc;
use rt::portal::Servant;
use rt::sync::{after_us, sleep_until, sleep_us};
use rt::{Crd, Mtd, calls, thread};

/// How far two busy threads got.
static TURNS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// When busy threads shall stop, as a TSC value.
static UNTIL: AtomicU64 = AtomicU64::new(0);
/// Set by a thread that has run.
static RAN: AtomicBool = AtomicBool::new(false);

/// The family.
pub fn run(world: &mut World) {
    preemption(world);
    round_robin(world);
    donation(world);
    ending(world);
}

/// A thread that counts until the time is over.
fn busy(world: &World, number: usize, priority: u8) -> bool {
    thread::spawn(world.boot.cpu, priority, move || {
        while rdtsc() < UNTIL.load(Ordering::Relaxed) {
            TURNS[number].fetch_add(1, Ordering::Relaxed);
        }
    })
    .is_ok()
}

/// How far the busy threads got since the last time.
fn turns() -> [u64; 2] {
    [TURNS[0].swap(0, Ordering::Relaxed), TURNS[1].swap(0, Ordering::Relaxed)]
}

fn preemption(world: &mut World) {
    RAN.store(false, Ordering::Relaxed);
    let made = thread::spawn(world.boot.cpu, 2, || RAN.store(true, Ordering::Relaxed));
    let tally = &mut world.tally;
    tally.holds("a higher thread runs at once", made.is_ok() && RAN.load(Ordering::Relaxed));
    RAN.store(false, Ordering::Relaxed);
    let made = thread::spawn(world.boot.cpu, 1, || RAN.store(true, Ordering::Relaxed));
    tally.holds("an equal one does not", made.is_ok() && !RAN.load(Ordering::Relaxed));
    sleep_us(1000);
    tally.holds("but it does when we wait", RAN.load(Ordering::Relaxed));
    let end = after_us(40_000);
    UNTIL.store(end, Ordering::Relaxed);
    let _ = turns();
    busy(world, 0, 1);
    busy(world, 1, 3);
    let tally = &mut world.tally;
    // The second never blocks, so nobody below it ran before it ended.
    let low = TURNS[0].load(Ordering::Relaxed);
    tally.holds("a busy high thread starves us", rdtsc() >= end);
    tally.equal("and others below it", low, 0);
}

fn round_robin(world: &mut World) {
    let _ = turns();
    UNTIL.store(after_us(200_000), Ordering::Relaxed);
    busy(world, 0, 1);
    busy(world, 1, 1);
    sleep_until(UNTIL.load(Ordering::Relaxed));
    sleep_us(20_000);
    let [first, second] = turns();
    let tally = &mut world.tally;
    tally.holds("equal threads both run", first > 0 && second > 0);
    tally.holds("about as long", first < 4 * second && second < 4 * first);
}

fn donation(world: &mut World) {
    // The servant works with the caller's priority: an equal to the caller
    // does not run meanwhile, a higher one does.
    let handler = Box::new(|_: u64, utcb: &mut rt::Utcb| {
        let end = after_us(1000);
        while rdtsc() < end {}
        utcb.set_message(&[]);
    });
    let portal = Servant::new(world.boot.cpu, handler)
        .and_then(|servant| servant.new_portal(Mtd::NONE, 0))
        .unwrap_or(NOTHING);
    let before = calls::sc_time_us(abi::cap::ROOT_SC).unwrap_or(0);
    for _ in 0..20 {
        let _ = calls::call(portal);
    }
    sleep_us(1000);
    let after = calls::sc_time_us(abi::cap::ROOT_SC).unwrap_or(0);
    world.tally.holds("a servant's time is its caller's", after - before >= 15_000);
}

fn ending(world: &mut World) {
    let _ = turns();
    UNTIL.store(after_us(500_000), Ordering::Relaxed);
    let made = thread::spawn(world.boot.cpu, 1, || {
        while rdtsc() < UNTIL.load(Ordering::Relaxed) {
            TURNS[0].fetch_add(1, Ordering::Relaxed);
        }
    });
    sleep_us(30_000);
    let ran = turns()[0];
    if let Ok(made) = made {
        let _ = calls::revoke(Crd::objects(made.sc, 0, 0x1f));
    }
    sleep_us(50_000);
    let _ = turns();
    sleep_us(50_000);
    let still = turns()[0];
    world.tally.holds("a thread with time runs", ran > 0);
    world.tally.ours("a thread without time stops", still, 0);
    UNTIL.store(0, Ordering::Relaxed);
}
