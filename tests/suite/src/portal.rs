//! Control calls on portals, threads and scheduling contexts.

use crate::world::{EC, NOTHING, PD, World};
use abi::cap::{EC_PT, EC_SC, PT_CALL, ROOT_SC};
use rt::instructions::rdtsc;
use rt::stub::syscall;
use rt::{Status, calls};

/// What a refused call answers.
const CAP: Result<(), Status> = Err(Status::BadCap);

/// The family.
pub fn run(world: &mut World) {
    let sm = world.semaphore();
    let servant = rt::portal::Servant::new(world.boot.cpu, alloc::boxed::Box::new(|_, _| ()));
    let portal =
        servant.and_then(|servant| servant.new_portal(rt::Mtd::NONE, 1)).unwrap_or(NOTHING);
    let callable = world.reduced(portal, PT_CALL);
    let uncontrolled = world.reduced(EC, EC_SC | EC_PT);
    let tally = &mut world.tally;
    tally.equal("pt_ctrl of nothing", calls::set_portal_id(NOTHING, 1), CAP);
    tally.equal("pt_ctrl of a semaphore", calls::set_portal_id(sm, 1), CAP);
    tally.equal("pt_ctrl without permission", calls::set_portal_id(callable, 1), CAP);
    tally.equal("pt_ctrl", calls::set_portal_id(portal, u64::MAX), Ok(()));
    for sub in 1..4u64 {
        let [rdi, ..] = syscall([9 | sub << 8 | NOTHING << 12, 0, 0, 0, 0]);
        tally.equal("ec_ctrl sub-operation before capability", rdi, Status::BadPar as u64);
    }
    tally.equal("recall of nothing", calls::recall(NOTHING), CAP);
    tally.equal("recall of a domain", calls::recall(PD), CAP);
    tally.equal("recall without permission", calls::recall(uncontrolled), CAP);
    tally.equal("sc_ctrl of nothing", calls::sc_time_us(NOTHING), Err(Status::BadCap));
    tally.equal("sc_ctrl of a thread", calls::sc_time_us(EC), Err(Status::BadCap));
    let before = time();
    let end = rt::sync::after_us(30_000);
    while rdtsc() < end {}
    rt::sync::sleep_us(1000);
    let after = time();
    tally.holds("time passes for a busy thread", after.0 >= before.0 + 20_000);
    tally.holds("and not faster than it should", after.0 < before.0 + 3_000_000);
    tally.equal("rsi is the upper half of rdx", after.1, after.0 >> 32);
}

/// The suite's time: (RDX, RSI).
fn time() -> (u64, u64) {
    let [_, rsi, rdx, ..] = syscall([10 | ROOT_SC << 12, 0, 0, 0, 0]);
    (rdx, rsi)
}
