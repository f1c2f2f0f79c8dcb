//! Kernel memory: running out is an answer, and what dies comes back.

use crate::world::{NOTHING, PD, World, thread_args};
use abi::args::{CreateEc, CreatePt, CreateSc};
use rt::sync::sleep_us;
use rt::{Crd, Mtd, Selector, Status, calls, selectors};

/// log2 of the selectors that are filled with semaphores.
const ORDER: u8 = 19;
/// How often objects of every kind are made and revoked.
const CYCLES: u32 = 300;

/// The family. It is about this kernel's promises, and would end others.
pub fn run(world: &mut World) {
    if world.boot.hip.ours().is_none() {
        return;
    }
    // One round first: tables of our own that later rounds use again.
    let first = lives(world);
    let before = used();
    let second = lives(world);
    let after = used();
    rt::println!(
        "suite: {before:?} bytes charged before, {after:?} after {CYCLES} lives of each kind"
    );
    let tally = &mut world.tally;
    tally.equal("lives of each kind", (first, second), (Ok(()), Ok(())));
    tally.equal("leave nothing behind", after, before);
    let block = selectors::allocate_block(ORDER);
    let (first, end) = fill(block);
    tally.equal("memory runs out", end, Err(Status::Oom));
    tally.equal("for a domain too", calls::create_pd(NOTHING, PD, Crd::NULL), Err(Status::Oom));
    tally.equal("what is there works", calls::sm_up(block), Ok(()));
    tally.equal("and goes", empty(block), Ok(()));
    tally.equal("all of it", crate::world::perms(block), 0);
    let (second, _) = fill(block);
    let _ = empty(block);
    rt::println!("suite: semaphores until memory ran out: {first}, then {second}");
    tally.holds("as much as before", second + second / 100 >= first);
}

/// Bytes of kernel memory charged to the suite's domain.
fn used() -> Result<u64, Status> {
    calls::quota_read(PD).map(|(used, _)| used)
}

/// Many lives, and time for the kernel to bury them.
fn lives(world: &World) -> Result<(), Status> {
    let result = (0..CYCLES).try_for_each(|_| cycle(world));
    sleep_us(500_000);
    result
}

/// Makes semaphores until something is in the way: how many, and what.
fn fill(block: Selector) -> (u64, Result<(), Status>) {
    for number in 0..1 << ORDER {
        let made = calls::create_sm(block + number, PD, 0);
        if made.is_err() {
            return (number, made);
        }
    }
    (1 << ORDER, Ok(()))
}

/// Takes them back, and gives the kernel time to notice.
fn empty(block: Selector) -> Result<(), Status> {
    let done = calls::revoke(Crd::objects(block, ORDER, 0x1f));
    sleep_us(200_000);
    done
}

/// One life of each kind of object.
fn cycle(world: &World) -> Result<(), Status> {
    let base = selectors::allocate_block(3);
    let result = live(world, base);
    calls::revoke(Crd::objects(base, 3, 0x1f))?;
    selectors::free_block(base, 3);
    result
}

/// Makes a domain, a servant with a portal, a thread with time, a semaphore and a page in it.
fn live(world: &World, base: Selector) -> Result<(), Status> {
    let cpu = world.boot.cpu;
    calls::create_pd(base, PD, Crd::NULL)?;
    let utcb = 0x5000_0000;
    let args = CreateEc { pd: base, utcb, ..thread_args(base + 1, cpu) };
    calls::create_ec(&CreateEc { global: false, ..args })?;
    calls::create_pt(&CreatePt {
        sel: base + 2,
        owner: base,
        ec: base + 1,
        mtd: Mtd::NONE,
        entry: 0,
    })?;
    calls::create_ec(&CreateEc { sel: base + 3, utcb: utcb + 4096, ..args })?;
    let (owner, ec) = (base, base + 3);
    calls::create_sc(&CreateSc { sel: base + 4, owner, ec, priority: 1, quantum_us: 1000 })?;
    calls::create_sm(base + 5, base, 0)?;
    calls::create_kp(base + 6, base)?;
    calls::map_kp(base + 6, base, utcb + 2 * 4096)
}
