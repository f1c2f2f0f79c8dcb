//! Another domain: a servant of ours that runs with less.

use crate::world::{EC, NOTHING, PD, World};
use abi::cap::{MEM_RW, MEM_RWX, SM_UP};
use abi::crd::ItemMeta;
use abi::{PAGE_BITS, TypedItem};
use alloc::boxed::Box;
use rt::memory::blocks;
use rt::portal::{Handler, Servant};
use rt::probe::{self, Fault};
use rt::stub::syscall;
use rt::{Crd, Mtd, Selector, Status, Utcb, calls, selectors};

/// Where the child finds its own domain.
const OWN: Selector = PD;

/// What the child shall do: the first message word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Order {
    /// Execute a system call: the five words that follow.
    Syscall = 0,
    /// Touch a port.
    Port = 1,
}

/// The family.
pub fn run(world: &mut World) {
    let Some((pd, portal)) = child(world, Box::new(obey)) else {
        world.tally.holds("a child domain", false);
        return;
    };
    authority(world, portal);
    memory(world, pd, portal);
    death(world, portal);
}

/// A domain with our memory and nothing else, and a portal into it.
pub fn child(world: &World, handler: Handler) -> Option<(Selector, Selector)> {
    let pd = selectors::allocate();
    calls::create_pd(pd, PD, Crd::NULL).ok()?;
    share(pd, rt::start::image())?;
    share(pd, world.heap)?;
    let item = TypedItem::delegate(Crd::objects(pd, 0, 0x1f), 0);
    calls::delegate(PD, pd, item, Crd::objects(OWN, 0, 0x1f)).ok()?;
    let servant = Servant::in_domain(pd, world.boot.cpu, 0, handler).ok()?;
    Some((pd, servant.new_portal(Mtd::NONE, 0).ok()?))
}

/// Gives a range of our memory to the child at the same addresses.
fn share(pd: Selector, (from, to): (u64, u64)) -> Option<()> {
    let first = from >> PAGE_BITS;
    for (done, order) in blocks(first, first, (to - from) >> PAGE_BITS) {
        let item = TypedItem::delegate(Crd::memory(first + done, order, MEM_RWX), 0);
        calls::delegate(PD, pd, item, Crd::memory(first + done, order, 0x1f)).ok()?;
    }
    Some(())
}

/// The child's servant.
fn obey(_: u64, utcb: &mut Utcb) {
    if utcb.word(0) == Order::Port as u64 {
        let _ = probe::fault(Fault::PortIn);
    }
    let answer = syscall(core::array::from_fn(|index| utcb.word(1 + index)));
    utcb.set_message(&answer);
}

/// Lets the child execute a system call; its status.
fn ask(portal: Selector, words: [u64; 5]) -> Result<u64, Status> {
    let mut utcb = Utcb::current().ok_or(Status::BadHyp)?;
    let [a, b, c, d, e] = words;
    utcb.set_message(&[Order::Syscall as u64, a, b, c, d, e]);
    calls::call(portal)?;
    Ok(utcb.word(0) & 0xff)
}

fn authority(world: &mut World, portal: Selector) {
    let sm = world.semaphore();
    let tally = &mut world.tally;
    let (cap, ok) = (Ok(Status::BadCap as u64), Ok(0));
    tally.equal("a call into another domain", ask(portal, [14, 0, 0, 0, 0]), Ok(3));
    tally.equal("it has no thread at 33", ask(portal, [9 | EC << 12, 0, 0, 0, 0]), cap);
    tally.equal("our semaphore means nothing there", ask(portal, [12 | sm << 12, 0, 0, 0, 0]), cap);
    tally.equal("no interrupts", ask(portal, [18, 0, 0, 0, 0]), cap);
    tally.equal("before sub-operation", ask(portal, [18 | 9 << 8, 0, 0, 0, 0]), cap);
    tally.equal("no machine calls", ask(portal, [15 | 2 << 8, 0, 0, 0, 0]), cap);
    tally.equal("no registers", ask(portal, [8 | 3 << 8 | 0x277 << 12, 0, 0, 0, 0]), cap);
    tally.equal("it may make objects", ask(portal, [6 | 40 << 12, OWN, 1, 0, 0]), ok);
    tally.equal("and use them", ask(portal, [12 | 1 << 8 | 40 << 12, 0, 1, 0, 0]), ok);
    let item = TypedItem::delegate(Crd::objects(sm, 0, SM_UP), 0);
    let _ = calls::delegate(PD, OWN, item, Crd::NULL);
}

fn memory(world: &mut World, pd: Selector, portal: Selector) {
    let (Ok(theirs), Ok(ours)) = (rt::memory::reserve_page(), rt::memory::reserve_page()) else {
        return;
    };
    let sm = world.semaphore();
    let page = world.page();
    let _ = probe::write(page, 0x77);
    let tally = &mut world.tally;
    let fetch = || {
        let item = TypedItem::delegate(Crd::memory(theirs >> PAGE_BITS, 0, MEM_RW), 0);
        let _ = calls::delegate(pd, PD, item, Crd::memory(ours >> PAGE_BITS, 0, 0x1f));
        probe::read(ours)
    };
    let item = TypedItem::delegate(Crd::memory(page >> PAGE_BITS, 0, MEM_RW), 0);
    let _ = calls::delegate(PD, pd, item, Crd::memory(theirs >> PAGE_BITS, 0, 0x1f));
    tally.equal("what it has can be fetched", fetch(), Some(0x77));
    // It asks for physical memory: its own hole is the source instead.
    let meta = (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL).0;
    let crd = Crd::memory(0x100, 0, MEM_RW).0;
    let window = Crd::memory(theirs >> PAGE_BITS, 0, 0x1f).0;
    let got = ask(portal, [8 | 2 << 8 | OWN << 12, OWN, crd, meta, window]);
    tally.equal("it is not the root", got, Ok(0));
    tally.equal("and gets no physical memory", fetch(), None);
    let item = TypedItem::delegate(Crd::objects(sm, 0, SM_UP), 0);
    let _ = calls::delegate(PD, pd, item, Crd::objects(41, 0, 0x1f));
    tally.equal("a gift works", ask(portal, [12 | 41 << 12, 0, 0, 0, 0]), Ok(0));
    tally.equal("on our side too", calls::sm_down(sm, 1), Ok(()));
    let down = ask(portal, [12 | 1 << 8 | 41 << 12, 0, 1, 0, 0]);
    tally.equal("as far as it goes", down, Ok(Status::BadCap as u64));
    let _ = calls::revoke_children(Crd::objects(sm, 0, 0x1f));
    let up = ask(portal, [12 | 41 << 12, 0, 0, 0, 0]);
    tally.equal("until it is taken back", up, Ok(Status::BadCap as u64));
}

fn death(world: &mut World, portal: Selector) {
    let Some(mut utcb) = Utcb::current() else { return };
    utcb.set_message(&[Order::Port as u64]);
    let status = calls::call(portal);
    world.tally.equal("a port it lacks is its end", status, Err(Status::Abort));
    let status = ask(portal, [NOTHING, 0, 0, 0, 0]);
    world.tally.equal("and it stays dead", status, Err(Status::Timeout));
}
