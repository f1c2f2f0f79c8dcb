//! The system call convention: numbers, registers, flags.

use crate::world::{NOTHING, PD, World};
use rt::probe::{Registers, syscall_with};
use rt::stub::syscall;
use rt::{Crd, Status, calls, selectors};

/// A value that no kernel leaves in a register by accident.
const MARK: u64 = 0x5a5a_0000_1234_0000;

/// The family.
pub fn run(world: &mut World) {
    let tally = &mut world.tally;
    for number in [14u64, 21, 63, 200, 255] {
        let [rdi, ..] = syscall([number | NOTHING << 12, 1, 2, 3, 4]);
        tally.equal("unknown number", rdi, Status::BadHyp as u64);
    }
    let mut registers = Registers {
        words: [12 | NOTHING << 12, MARK + 1, MARK + 2, MARK + 3, MARK + 4],
        kept: core::array::from_fn(|i| MARK + 16 + i as u64),
        flags: 0x202 | 0x4_0cd5,
        ..Registers::default()
    };
    let before = registers;
    syscall_with(&mut registers);
    let [rdi, rsi, rdx, rax, r8] = registers.words;
    tally.equal("status fills rdi", rdi, Status::BadCap as u64);
    tally.equal(
        "rsi rdx rax r8 are kept",
        [rsi, rdx, rax, r8],
        [before.words[1], before.words[2], before.words[3], before.words[4]],
    );
    tally.equal("other registers are kept", registers.kept, before.kept);
    tally.equal("rsp is kept", registers.rsp_distance, 0);
    tally.equal("rcx is the return address", registers.rcx_distance, 0);
    tally.equal("rflags is 0x202", registers.flags, 0x202);
    tally.ours("r11 is rflags", registers.r11, 0x202);
    // Bits 11:8 have no name in create_sm, nor R8 and RAX.
    let sel = selectors::allocate();
    let [rdi, ..] = syscall([6 | 0xf << 8 | sel << 12, PD, 0, MARK, MARK]);
    tally.equal("bits without a name are ignored", rdi, 0);
    tally.ours("selectors do not wrap", calls::sm_up(sel + (1 << 26)), Err(Status::BadCap));
    tally.equal("lookup of nothing", calls::lookup(Crd::objects(NOTHING, 0, 0x1f)), Ok(Crd::NULL));
    tally.equal("lookup of memory", calls::lookup(Crd::memory(0x400, 0, 0x1f)), Ok(Crd::NULL));
    let found = calls::lookup(Crd::objects(sel, 3, 0));
    tally.equal("lookup gives the node", found, Ok(Crd::objects(sel, 0, 3)));
    tally.equal("lookup of a port we have", port(0x3f8).map(|crd| crd.perms()), Ok(1));
    tally.equal("lookup of a port we lack", port(0x70), Ok(Crd::NULL));
}

/// What the suite has at a port.
fn port(number: u64) -> Result<Crd, Status> {
    calls::lookup(Crd::ports(number, 0, 0x1f))
}
