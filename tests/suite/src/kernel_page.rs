//! Kernel pages: mapping, unmapping, refusals.

use crate::world::{EC, NOTHING, PD, World};
use abi::cap::{MEM_RW, USER_TOP};
use abi::{PAGE_BITS, TypedItem};
use rt::stub::syscall;
use rt::{Crd, Status, calls, probe, selectors};

/// What refused calls answer.
const CAP: Result<(), Status> = Err(Status::BadCap);
/// As above.
const PAR: Result<(), Status> = Err(Status::BadPar);

/// The family.
pub fn run(world: &mut World) {
    let sm = world.semaphore();
    let page = world.page();
    let tally = &mut world.tally;
    let kp = selectors::allocate();
    tally.equal("kernel page", calls::create_kp(kp, PD), Ok(()));
    let (Ok(place), Ok(other)) = (rt::memory::reserve_page(), rt::memory::reserve_page()) else {
        return;
    };
    for sub in 2..4u64 {
        let [rdi, ..] = syscall([17 | sub << 8 | NOTHING << 12, 0, 0, 0, 0]);
        tally.equal("no such sub-operation", rdi, Status::BadPar as u64);
    }
    tally.equal("map of nothing", calls::map_kp(NOTHING, PD, place), CAP);
    tally.equal("map of a semaphore", calls::map_kp(sm, PD, place), CAP);
    tally.equal("map into nothing", calls::map_kp(kp, NOTHING, place), CAP);
    tally.equal("map into a thread", calls::map_kp(kp, EC, place), CAP);
    tally.equal("capabilities before address", calls::map_kp(kp, NOTHING, 1), CAP);
    tally.equal("map at an odd address", calls::map_kp(kp, PD, place + 8), PAR);
    tally.equal("map above user memory", calls::map_kp(kp, PD, USER_TOP + 4096), PAR);
    tally.ours("map at its end", calls::map_kp(kp, PD, USER_TOP), PAR);
    tally.equal("unmap of nothing", calls::unmap_kp(NOTHING), CAP);
    tally.equal("unmap before map", calls::unmap_kp(kp), PAR);
    tally.equal("refused map mapped nothing", probe::read(place), None);
    tally.equal("map", calls::map_kp(kp, PD, place), Ok(()));
    let zero = (0..512).all(|word| probe::read(place + 8 * word) == Some(0));
    tally.holds("it is zero", zero);
    tally.equal("it is writable", probe::write(place + 4088, 5), Some(()));
    tally.equal("map again", calls::map_kp(kp, PD, other), PAR);
    let item = TypedItem::delegate(Crd::memory(place >> PAGE_BITS, 0, MEM_RW), 0);
    let sent = calls::delegate(PD, PD, item, Crd::memory(other >> PAGE_BITS, 0, 0x1f));
    tally.equal("it is not delegated", (sent.is_ok(), probe::read(other)), (true, None));
    tally.equal("unmap", calls::unmap_kp(kp), Ok(()));
    tally.equal("it is gone", probe::read(place), None);
    tally.equal("unmap again", calls::unmap_kp(kp), PAR);
    tally.equal("map elsewhere", calls::map_kp(kp, PD, other), Ok(()));
    tally.equal("with its contents", probe::read(other + 4088), Some(5));
    let _ = calls::unmap_kp(kp);
    let _ = probe::write(page, 9);
    tally.equal("map over memory", calls::map_kp(kp, PD, page), Ok(()));
    tally.equal("replaces it", probe::read(page + 4088), Some(5));
    let gone = calls::revoke(Crd::objects(kp, 0, 0x1f));
    tally.equal("revoke", (gone, calls::unmap_kp(kp)), (Ok(()), CAP));
    let unmapped = (0..200).any(|_| {
        rt::sync::sleep_us(10_000);
        probe::read(page).is_none()
    });
    tally.holds("a dead kernel page is unmapped", unmapped);
}
