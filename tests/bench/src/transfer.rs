//! Capabilities and ports: to another domain and back.

use crate::setup::{ALL, Bench, give, semaphore, take};
use crate::sheet::{ROUNDS, measure, pair, worked};
use abi::args::Revoke;
use abi::cap::PORT_ACCESS;
use abi::crd::ItemMeta;
use abi::{Crd, Status};
use rt::stub::syscall;

/// Where the other domain gets the capability.
const SLOT: u64 = 0x100;
/// A port that nobody uses.
const PORT: u64 = 0x80;

/// The family.
pub fn run(bench: &Bench) -> Result<(), Status> {
    let object = Crd::objects(semaphore()?, 0, ALL);
    let to_other = give(bench.other, object, ItemMeta::DELEGATE, SLOT);
    let back = take(bench.other, Crd::objects(SLOT, 0, ALL));
    pair(ROUNDS, ("delegate_1_obj", to_other), ("revoke_1_obj_in_receiver", back));
    let children = Revoke { own: false, remote: false, crd: object, pd: 0 }.encode();
    measure(
        "revoke_1_obj_child_from_sender",
        ROUNDS,
        || worked(syscall(to_other)),
        || syscall(children),
        worked,
    );
    rt::memory::delegate_ports(PORT as u16, 0)?;
    let port = Crd::ports(PORT, 0, PORT_ACCESS);
    pair(
        ROUNDS,
        ("delegate_1_port", give(bench.other, port, ItemMeta::DELEGATE, PORT)),
        ("revoke_1_port", take(bench.other, Crd::ports(PORT, 0, ALL))),
    );
    Ok(())
}
