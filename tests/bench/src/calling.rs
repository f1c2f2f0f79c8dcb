//! Entry alone, call and reply, exceptions.

use crate::setup::{ALL, Bench, PD, drop_own};
use crate::sheet::{FEW, ROUNDS, call, measure, worked};
use abi::args::{CallPortal, PtCtrl, Words};
use abi::cap::SM_UP;
use abi::utcb::offset;
use abi::{Crd, Mtd, Selector, Status, TypedItem};
use rt::bare::{empty_reply_entry, reply_entry, skip_entry, undefined};
use rt::stub::syscall;
use rt::{Utcb, probe, selectors};

/// A number no call has.
const NO_CALL: u64 = 255;
/// Vector of the exception that UD2 raises; the first thread's event base is 0.
const UNDEFINED: Selector = 6;

/// The family.
pub fn run(bench: &Bench) -> Result<(), Status> {
    // Its answer is BAD_HYP.
    measure(
        "null_syscall",
        ROUNDS,
        || true,
        || syscall([NO_CALL, 0, 0, 0, 0]),
        |[status, ..]| status == Status::BadHyp as u64,
    );
    let (_, same) = bench.servant(PD, reply_entry(), Mtd::NONE)?;
    call("pt_ctrl", PtCtrl { pt: same, id: 1 }.encode());
    let (_, cross) = bench.servant(bench.other, reply_entry(), Mtd::NONE)?;
    messages(["call_same_pd_0w", "call_same_pd_8w", "call_same_pd_64w"], same)?;
    messages(["call_cross_pd_0w", "call_cross_pd_8w", "call_cross_pd_64w"], cross)?;
    first_calls(bench)?;
    typed_item(bench)?;
    bench.servant_at(PD, skip_entry(), Mtd::RIP_LEN, UNDEFINED)?;
    measure("exception_ud_roundtrip", ROUNDS, || true, undefined, |()| true);
    Ok(())
}

/// What calls a portal.
fn to(portal: Selector) -> Words {
    CallPortal { portal, nonblocking: false }.encode()
}

/// Messages of 0, 8 and 64 words, which come back as they went.
fn messages(rows: [&str; 3], portal: Selector) -> Result<(), Status> {
    let mut page = Utcb::current().ok_or(Status::BadHyp)?;
    for (row, words) in rows.iter().zip([0, 8, 64]) {
        page.set_items(words, 0);
        call(row, to(portal));
    }
    Ok(())
}

/// The first call to a servant, each to another one.
fn first_calls(bench: &Bench) -> Result<(), Status> {
    Utcb::current().ok_or(Status::BadHyp)?.set_items(0, 0);
    let mut portals = alloc::vec::Vec::with_capacity(FEW);
    for _ in 0..FEW {
        portals.push(to(bench.servant(bench.other, reply_entry(), Mtd::NONE)?.1));
    }
    let mut next = portals.iter();
    let words = core::cell::Cell::new([NO_CALL, 0, 0, 0, 0]);
    measure(
        "call_cross_pd_0w_first",
        FEW,
        || next.next().map(|portal| words.set(*portal)).is_some(),
        || syscall(words.get()),
        worked,
    );
    Ok(())
}

/// A message that delegates one capability to a servant of this domain.
fn typed_item(bench: &Bench) -> Result<(), Status> {
    let (utcb, portal) = bench.servant(PD, empty_reply_entry(), Mtd::NONE)?;
    let (object, copy) = (crate::setup::semaphore()?, selectors::allocate());
    let window = Crd::objects(copy, 0, ALL);
    probe::write(utcb + offset::DELEGATE_WINDOW as u64, window.0).ok_or(Status::BadHyp)?;
    let item = TypedItem::delegate(Crd::objects(object, 0, SM_UP), 0);
    let (words, undo) = (to(portal), drop_own(window));
    measure(
        "call_same_pd_1_typed_obj",
        ROUNDS,
        || {
            let page = Utcb::current();
            page.map(|mut page| {
                page.set_items(0, 0);
                page.push_typed(item);
            })
            .is_some()
        },
        || syscall(words),
        |out| {
            let arrived = rt::calls::lookup(window).is_ok_and(|crd| crd.perms() == SM_UP);
            worked(out) & arrived & worked(syscall(undo))
        },
    );
    Utcb::current().ok_or(Status::BadHyp)?.set_items(0, 0);
    Ok(())
}
