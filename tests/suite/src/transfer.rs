//! Objects and ports: delegation, translation, typed items in messages.

use crate::world::{EC, NOTHING, PD, World, held, perms};
use abi::TypedItem;
use abi::cap::{SM_ALL, SM_DOWN, SM_UP};
use abi::crd::ItemMeta;
use alloc::boxed::Box;
use rt::instructions::inb;
use rt::portal::{Handler, Servant};
use rt::sync::Mutex;
use rt::{Crd, Mtd, Selector, Status, Utcb, calls, selectors};

/// What a servant received.
static RECEIVED: Mutex<Option<TypedItem>> = Mutex::new(None);

/// The family.
pub fn run(world: &mut World) {
    objects(world);
    ports(world);
    translation(world);
    messages(world);
}

/// Delegates one selector.
fn give(from: Selector, to: Selector, mask: u8) -> Result<Crd, Status> {
    let item = TypedItem::delegate(Crd::objects(from, 0, mask), 0);
    calls::delegate(PD, PD, item, Crd::objects(to, 0, 0x1f)).map(|item| item.crd)
}

fn objects(world: &mut World) {
    let (sm, other) = (world.semaphore(), world.semaphore());
    let tally = &mut world.tally;
    let new = selectors::allocate();
    tally.equal("object", give(sm, new, 0x1f), Ok(Crd::objects(new, 0, 0x1f)));
    tally.equal("with its permissions", perms(new), SM_ALL);
    let less = selectors::allocate();
    tally.equal("object with less", give(sm, less, SM_UP), Ok(Crd::objects(less, 0, SM_UP)));
    tally.equal("has less", perms(less), SM_UP);
    let lesser = selectors::allocate();
    let _ = give(less, lesser, SM_DOWN);
    tally.equal("nothing is left of less", perms(lesser), 0);
    tally.equal("object without permissions", give(sm, lesser, 0), Ok(Crd::NULL));
    tally.equal("onto a taken selector", give(other, less, 0x1f).is_ok(), true);
    tally.ours("says that nothing came", give(other, less, 0x1f), Ok(Crd::NULL));
    tally.equal("the old one stays", perms(less), SM_UP);
    let hole = give(NOTHING, lesser, 0x1f);
    tally.equal("from a hole", (hole.is_ok(), perms(lesser)), (true, 0));
    // A range with holes: what is there keeps its place.
    let (from, to) = (selectors::allocate_block(3), selectors::allocate_block(3));
    let _ = (calls::create_sm(from + 1, PD, 0), calls::create_sm(from + 6, PD, 0));
    let item = TypedItem::delegate(Crd::objects(from, 3, 0x1f), 0);
    let got = calls::delegate(PD, PD, item, Crd::objects(to, 3, 0x1f)).map(|item| item.crd);
    tally.equal("range", got, Ok(Crd::objects(to, 3, 0x1f)));
    let here: u64 = (0..8).filter(|i| !held(to + i).is_null()).map(|i| 1 << i).sum();
    tally.equal("keeps places", here, 1 << 1 | 1 << 6);
    let _ = calls::sm_up(to + 6);
    tally.equal("and objects", calls::sm_down(from + 6, 1), Ok(()));
}

fn ports(world: &mut World) {
    let port = |base, order| {
        let item = TypedItem {
            crd: Crd::ports(base, order, 0x1f),
            meta: ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL,
        };
        calls::delegate(PD, PD, item, Crd::ALL_PORTS).map(|item| item.crd)
    };
    let tally = &mut world.tally;
    tally.equal("ports", port(0x60, 3), Ok(Crd::ports(0x60, 3, 0x1f)));
    tally.holds("give access", inb(0x64) != 0xff || inb(0x61) != 0xff);
    let item = TypedItem {
        crd: Crd::ports(0x20, 1, 0x1f),
        meta: ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL,
    };
    let got = calls::delegate(PD, PD, item, Crd::ports(0x40, 1, 0x1f)).map(|item| item.crd);
    tally.ours("windows that do not overlap", got, Ok(Crd::NULL));
    tally.equal("gone after revoke", calls::revoke(Crd::ports(0x60, 3, 0x1f)), Ok(()));
    let found = calls::lookup(Crd::ports(0x60, 0, 0x1f));
    tally.equal("nothing there", found, Ok(Crd::NULL));
    let (_, events) =
        world.events(crate::world::Answer::Recover, || rt::probe::fault(rt::probe::Fault::PortIn));
    world.tally.equal("a port we lack faults", events.len(), 1);
    let tally = &mut world.tally;
    tally.equal("port of the probe", port(0x70, 1), Ok(Crd::ports(0x70, 1, 0x1f)));
    let (_, events) =
        world.events(crate::world::Answer::Recover, || rt::probe::fault(rt::probe::Fault::PortIn));
    world.tally.equal("a port we have does not", events.len(), 0);
    let _ = calls::revoke(Crd::ports(0x70, 1, 0x1f));
    let (_, events) =
        world.events(crate::world::Answer::Recover, || rt::probe::fault(rt::probe::Fault::PortIn));
    world.tally.equal("a revoked port faults at once", events.len(), 1);
}

fn translation(world: &mut World) {
    let sm = world.semaphore();
    let child = world.reduced(sm, SM_UP);
    let tally = &mut world.tally;
    let translate = |sel| {
        let item = TypedItem::translate(Crd::objects(sel, 0, 0x1f));
        calls::delegate(PD, PD, item, Crd::ALL_OBJECTS).map(|item| item.crd)
    };
    tally.equal("a child names its parent", translate(child), Ok(Crd::objects(sm, 0, SM_UP)));
    tally.equal("a root names itself", translate(EC), Ok(Crd::objects(EC, 0, 0x1f)));
    tally.equal("a hole names nothing", translate(NOTHING), Ok(Crd::NULL));
    let item = TypedItem::translate(Crd::objects(child, 0, 0x1f));
    let outside = calls::delegate(PD, PD, item, Crd::objects(0, 0, 0x1f)).map(|item| item.crd);
    tally.equal("outside the window", outside, Ok(Crd::NULL));
    let both =
        TypedItem { crd: Crd::objects(NOTHING, 0, 0x1f), meta: ItemMeta::TRANSLATE_ELSE_DELEGATE };
    let window = Crd::objects(selectors::allocate(), 0, 0x1f);
    let flags = calls::delegate(PD, PD, both, window).map(|item| item.meta.0);
    tally.equal("falling back is marked", flags, Ok(3));
}

fn messages(world: &mut World) {
    let keep: Handler = Box::new(|_, utcb| {
        *RECEIVED.lock() = (utcb.typed_count() == 1).then(|| utcb.typed(0));
        utcb.set_items(0, 0);
    });
    let Ok(servant) = Servant::new(world.boot.cpu, keep) else { return };
    let portal = servant.new_portal(Mtd::NONE, 0).unwrap_or(NOTHING);
    let target = selectors::allocate_block(2);
    servant.set_windows(Crd::NULL, Crd::objects(target, 2, 0x1f));
    let sm = world.semaphore();
    let tally = &mut world.tally;
    let Some(mut utcb) = Utcb::current() else { return };
    let mut send = |item: TypedItem| {
        utcb.set_items(0, 0);
        utcb.push_typed(item);
        let status = calls::call(portal);
        utcb.set_items(0, 0);
        (status, RECEIVED.lock().take())
    };
    let item = TypedItem::delegate(Crd::objects(sm, 0, SM_UP), 2);
    let want = TypedItem { crd: Crd::objects(target + 2, 0, SM_UP), meta: ItemMeta(1) };
    tally.equal("item in a message", send(item), (Ok(()), Some(want)));
    tally.equal("has arrived", perms(target + 2), SM_UP);
    tally.equal("works", calls::sm_up(target + 2), Ok(()));
    let wrong = TypedItem::delegate(Crd::ports(0x70, 0, 1), 0);
    let (status, got) = send(wrong);
    let got = got.map(|item| item.crd);
    tally.equal("item of another kind", (status, got), (Ok(()), Some(Crd::NULL)));
    // And back: the answer delegates into the caller's window.
    let back: Handler = Box::new(move |_, utcb| {
        utcb.set_items(0, 0);
        utcb.push_typed(TypedItem::delegate(Crd::objects(sm, 0, SM_DOWN), 0));
    });
    let portal = Servant::new(world.boot.cpu, back)
        .and_then(|servant| servant.new_portal(Mtd::NONE, 0))
        .unwrap_or(NOTHING);
    let place = selectors::allocate();
    let Some(mut utcb) = Utcb::current() else { return };
    utcb.set_message(&[]);
    utcb.set_windows(Crd::NULL, Crd::objects(place, 0, 0x1f));
    let status = calls::call(portal);
    let want = TypedItem { crd: Crd::objects(place, 0, SM_DOWN), meta: ItemMeta(1) };
    world.tally.equal("item in an answer", (status, utcb.typed(0)), (Ok(()), want));
    world.tally.equal("is the caller's", perms(place), SM_DOWN);
    utcb.set_windows(Crd::NULL, Crd::NULL);
    utcb.set_items(0, 0);
}
