//! Machine calls, registers of the processor, devices: what is refused.

use crate::world::{NOTHING, PD, World};
use abi::args::MachineCtrl;
use rt::stub::syscall;
use rt::{Crd, Status, calls};

/// Registers nobody may read.
const DENIED: [u32; 11] =
    [0x1b, 0x10, 0x3b, 0x174, 0x480, 0x491, 0x6e0, 0x800, 0xc000_0080, 0xc000_0101, 0xc000_0103];
/// Registers nobody may write, besides.
const DENIED_WRITES: [u32; 5] = [0x3a, 0x200, 0x26f, 0x277, 0x2ff];

/// The family.
pub fn run(world: &mut World) {
    let tally = &mut world.tally;
    for sub in 2..4u64 {
        let [rdi, ..] = syscall([15 | sub << 8, 0, 0, 0, 0]);
        tally.equal("no such machine operation", rdi, Status::BadPar as u64);
    }
    for (a, b) in [(8, 0), (0, 8), (255, 255)] {
        let got = calls::machine_ctrl(MachineCtrl::Suspend { slp_typ_a: a, slp_typ_b: b });
        tally.equal("no such sleep state", got, Err(Status::BadPar));
    }
    let [rdi, vector, ..] = syscall(MachineCtrl::Suspend { slp_typ_a: 8, slp_typ_b: 0 }.encode());
    tally.equal("no such sleep state", rdi, Status::BadPar as u64);
    tally.holds(
        "the waking vector is told all the same",
        vector != 0 && vector < 0xa_0000 && vector.is_multiple_of(4096),
    );
    for msr in DENIED {
        tally.equal("register that is not read", calls::read_msr(msr), Err(Status::BadPar));
        tally.equal("register that is not written", calls::write_msr(msr, 0), Err(Status::BadPar));
    }
    for msr in DENIED_WRITES {
        tally.equal("register that is only read", calls::write_msr(msr, 0), Err(Status::BadPar));
    }
    let [rdi, rsi, ..] = syscall([8 | 3 << 8 | 0x10 << 12, 77, 0, 0, 0]);
    tally.equal("a denied read gives 0", (rdi, rsi), (Status::BadPar as u64, 0));
    tally.holds("page attributes are read", calls::read_msr(0x277).is_ok());
    let access = |crd| calls::map_access_page(crd);
    let par = Err(Status::BadPar);
    tally.equal("access page is memory", access(Crd::objects(0, 0, 3)), par);
    tally.equal("access page is read-write", access(Crd::memory(0xfee00, 0, 7)), par);
    tally.equal("access page is one page", access(Crd::memory(0xfee00, 1, 3)), par);
    tally.equal("device for nobody", calls::assign_pci(NOTHING, 0, 0), Err(Status::BadCap));
    tally.equal("device that is not", calls::assign_pci(PD, 0, 0), Err(Status::BadDev));
}
