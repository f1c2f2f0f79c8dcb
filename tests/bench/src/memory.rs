//! Pages: to another domain, to this one, to guests.

use crate::setup::{ALL, Bench, PD, drop_own, give, take};
use crate::sheet::{FEW, ROUNDS, measure, pair, worked};
use abi::cap::MEM_RW;
use abi::crd::ItemMeta;
use abi::{Crd, PAGE_BITS, Status};
use rt::memory::reserve;
use rt::probe;
use rt::stub::syscall;

/// Order of a large page.
const LARGE: u8 = 9;

/// The family.
pub fn run(bench: &Bench) -> Result<(), Status> {
    let free = reserve(512, 0, LARGE)? >> PAGE_BITS;
    let there = |order| take(bench.other, Crd::memory(free, order, ALL));
    let page = Crd::memory(bench.pages, 0, MEM_RW);
    let to_other = |crd| give(bench.other, crd, ItemMeta::DELEGATE, free);
    pair(ROUNDS, ("delegate_1_page", to_other(page)), ("revoke_1_page", there(0)));
    let all = Crd::memory(bench.pages, LARGE, MEM_RW);
    pair(FEW, ("delegate_512_pages", to_other(all)), ("revoke_512_pages", there(LARGE)));
    let large = Crd::memory(bench.large, LARGE, MEM_RW);
    pair(ROUNDS, ("delegate_2m_superpage", to_other(large)), ("revoke_2m_superpage", there(LARGE)));
    let guest = ItemMeta::GUEST | ItemMeta::NO_HOST;
    pair(
        ROUNDS,
        ("delegate_1_page_guest", give(PD, page, guest, free)),
        ("unmap_1_page_guest", give(PD, Crd::memory(bench.pages, 0, 0), guest, free)),
    );
    // The revoke finds the page in this processor's TLB.
    let (map, unmap) =
        (give(PD, page, ItemMeta::DELEGATE, free), drop_own(Crd::memory(free, 0, ALL)));
    let touch = || probe::write(free << PAGE_BITS, 1).is_some();
    measure(
        "delegate_1_page_self",
        ROUNDS,
        || true,
        || syscall(map),
        |out| worked(out) & touch() & worked(syscall(unmap)),
    );
    measure(
        "revoke_1_page_self_tlbflush",
        ROUNDS,
        || worked(syscall(map)) & touch(),
        || syscall(unmap),
        worked,
    );
    Ok(())
}
