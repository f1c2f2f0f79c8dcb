//! Random system calls from domains that have nothing to lose.
//!
//! Each child has our memory and its own domain, and calls at random until it
//! has done enough or destroyed itself. Whatever it did, we go on.

use crate::domain::child;
use crate::world::{PD, World};
use abi::utcb::offset;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::stub::syscall;
use rt::{Crd, Status, Utcb, calls};

/// Children.
const CHILDREN: u64 = 40;
/// Calls that each tries.
const CALLS: u64 = 1000;

/// Calls made by all of them.
static MADE: AtomicU64 = AtomicU64::new(0);

/// The family.
pub fn run(world: &mut World) {
    let mut survived = 0;
    let mut strange = 0;
    for seed in 1..=CHILDREN {
        let handler = Box::new(move |_: u64, utcb: &mut Utcb| storm(seed, utcb));
        let Some((pd, portal)) = child(world, handler) else {
            world.tally.equal("a child", seed, 0);
            return;
        };
        match calls::call(portal) {
            Ok(()) => survived += 1,
            Err(Status::Abort) => {}
            Err(_) => strange += 1,
        }
        let _ = calls::revoke(Crd::objects(pd, 0, 0x1f));
        let _ = calls::revoke(Crd::objects(portal, 0, 0x1f));
    }
    let made = MADE.load(Ordering::Relaxed);
    rt::println!("suite: {made} random calls, {survived} of {CHILDREN} children survived");
    world.tally.holds("many calls were made", made > CHILDREN * 20);
    world.tally.equal("children end as they should", strange, 0);
    let sm = world.semaphore();
    world.tally.equal("the kernel goes on", calls::sm_up(sm), Ok(()));
}

/// The next number of a sequence (xorshift64*).
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// An argument: the domain itself, a selector near it, a descriptor of something small, an address, or anything.
fn argument(state: &mut u64) -> u64 {
    let word = next(state);
    match next(state) % 5 {
        0 => PD,
        1 => word % 16 + 24,
        2 => Crd::objects(word % 40, (word >> 8) as u8 % 8, (word >> 16) as u8).0,
        3 => 0x5000_0000 + (word % 256) * 4096 + (word >> 20) % 8,
        _ => word,
    }
}

/// Makes random calls. `reply` would end the storm, and a `down` without a deadline our wait for
/// it: the one is left out, the other gets a deadline that has passed.
fn storm(seed: u64, utcb: &mut Utcb) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for _ in 0..CALLS {
        let number = match next(&mut state) % 27 {
            1 => 21,
            number @ 0..=20 => number,
            number => 64 + number - 21,
        };
        let flags = next(&mut state) & 0xf;
        let value = argument(&mut state) & 0xf_ffff_ffff_ffff;
        let mut words: [u64; 5] = core::array::from_fn(|_| argument(&mut state));
        words[0] = number | flags << 8 | value << 12;
        if number == 12 {
            (words[1], words[2]) = (0, 1);
        }
        utcb.set(offset::ITEMS, next(&mut state) & 0x3_01ff);
        MADE.fetch_add(1, Ordering::Relaxed);
        let _ = syscall(words);
    }
    utcb.set_items(0, 0);
}
