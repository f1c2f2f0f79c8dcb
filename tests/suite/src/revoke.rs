//! Taking back.

use crate::world::{EC, NOTHING, PD, World, perms};
use abi::TypedItem;
use abi::args::Revoke;
use abi::cap::{MEM_RW, SM_ALL, SM_DOWN, SM_UP};
use rt::{Crd, Selector, Status, calls, probe, selectors};

/// The family.
pub fn run(world: &mut World) {
    refusals(world);
    objects(world);
    remote(world);
    memory(world);
}

fn refusals(world: &mut World) {
    let sm = world.semaphore();
    let tally = &mut world.tally;
    tally.equal("null", calls::revoke(Crd::NULL), Ok(()));
    tally.equal("a hole", calls::revoke(Crd::objects(NOTHING, 3, 0x1f)), Ok(()));
    let range = Crd::objects(sm, 0, 0x1f);
    tally.equal("from nothing", calls::revoke_from(NOTHING, range), Err(Status::BadCap));
    tally.equal("from a thread", calls::revoke_from(EC, range), Err(Status::BadCap));
    tally.equal("refused revoke took nothing", perms(sm), SM_ALL);
}

/// A semaphore, its copy and the copy of that.
fn family(world: &World) -> [Selector; 3] {
    let first = world.semaphore();
    let second = world.reduced(first, 0x1f);
    [first, second, world.reduced(second, 0x1f)]
}

fn objects(world: &mut World) {
    let line = family(world);
    let tally = &mut world.tally;
    let state = |line: [Selector; 3]| line.map(perms);
    tally.equal("three generations", state(line), [3, 3, 3]);
    let _ = calls::revoke_children(Crd::objects(line[1], 0, SM_UP));
    tally.equal("a permission of the children", state(line), [3, 3, SM_DOWN]);
    let _ = calls::revoke(Crd::objects(line[1], 0, SM_UP));
    tally.equal("a permission with oneself", state(line), [3, SM_DOWN, SM_DOWN]);
    let _ = calls::revoke_children(Crd::objects(line[0], 0, 0x1f));
    tally.equal("all children", state(line), [3, 0, 0]);
    tally.equal("the parent works", calls::sm_up(line[0]), Ok(()));
    let reuse = calls::create_sm(line[1], PD, 0);
    tally.equal("the selector is free", reuse, Ok(()));
    let line = family(world);
    let tally = &mut world.tally;
    let _ = calls::revoke(Crd::objects(line[0], 0, 0x1f));
    tally.equal("everything", state(line), [0, 0, 0]);
    let block = selectors::allocate_block(3);
    for sel in block..block + 8 {
        let _ = calls::create_sm(sel, PD, 0);
    }
    let _ = calls::revoke(Crd::objects(block + 2, 1, 0x1f));
    let left: u64 = (0..8).filter(|i| perms(block + i) != 0).map(|i| 1 << i).sum();
    tally.equal("a range", left, 0b1111_0011);
}

fn remote(world: &mut World) {
    let sm = world.semaphore();
    let tally = &mut world.tally;
    let pd = selectors::allocate();
    let made = calls::create_pd(pd, PD, Crd::objects(sm, 0, 0x1f));
    tally.equal("a domain with a copy", made, Ok(()));
    let back = selectors::allocate();
    let fetch = || {
        let item = TypedItem::delegate(Crd::objects(0, 0, 0x1f), 0);
        let _ = calls::delegate(pd, PD, item, Crd::objects(back, 0, 0x1f));
        perms(back)
    };
    tally.equal("and a copy of that", fetch(), SM_ALL);
    let taken = calls::revoke_from(pd, Crd::objects(0, 0, 0x1f));
    tally.equal("taken from the domain", taken, Ok(()));
    tally.equal("with its children", perms(back), 0);
    tally.equal("it has none to give", fetch(), 0);
    tally.equal("the original stays", perms(sm), SM_ALL);
    // The end of a domain takes what it gave.
    let item = TypedItem::delegate(Crd::objects(sm, 0, 0x1f), 0);
    let _ = calls::delegate(PD, pd, item, Crd::objects(0, 0, 0x1f));
    tally.equal("once more", fetch(), SM_ALL);
    let _ = calls::revoke(Crd::objects(pd, 0, 0x1f));
    let gone = (0..200).any(|_| {
        rt::sync::sleep_us(10_000);
        perms(back) == 0
    });
    tally.holds("a dead domain's gifts are gone", gone);
}

fn memory(world: &mut World) {
    let page = world.page();
    let Ok(target) = rt::memory::reserve_page() else { return };
    let number = |address: u64| address >> abi::PAGE_BITS;
    let tally = &mut world.tally;
    let item = TypedItem::delegate(Crd::memory(number(page), 0, MEM_RW), 0);
    let _ = calls::delegate(PD, PD, item, Crd::memory(number(target), 0, 0x1f));
    let _ = probe::write(target, 3);
    // Without self and with permissions 0: memory takes no notice of either.
    let crd = Crd::memory(number(page), 0, 0);
    let words = Revoke { own: false, remote: false, crd, pd: 0 }.encode();
    tally.equal("memory", calls::invoke(words).is_ok(), true);
    tally.equal("is unmapped", probe::read(page), None);
    tally.equal("copies stay", probe::read(target), Some(3));
    let item = TypedItem::delegate(Crd::memory(number(target), 0, MEM_RW), 0);
    let _ = calls::delegate(PD, PD, item, Crd::memory(number(page), 0, 0x1f));
    tally.equal("mapped back", probe::read(page), Some(3));
}
