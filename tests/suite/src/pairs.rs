//! Every pair of call and status that a program can meet was met.
//!
//! `rt` notes each answer that the suite's programs got. The table says which answers a call can give at all
//! (docs/spec: the refusals of its page); what it can give and nobody saw fails.

use crate::world::World;
use abi::Status::{
    self, Abort, BadCap, BadCpu, BadDev, BadFtr, BadPar, Busy, Oom, Success, Timeout,
};
use abi::hip::{FLAG_SVM, FLAG_VMX};
use abi::{Call, hip::HipView};
use rt::pairs;

/// What a machine must have for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Nothing.
    Nothing,
    /// Another processor.
    TwoCpus,
    /// Guests.
    Guests,
    /// Guests and another processor.
    GuestsTwoCpus,
    /// No guests.
    NoGuests,
    /// This kernel, not every one of API version 10.
    Ours,
    /// This kernel and guests.
    OursGuests,
    /// This kernel, guests and another processor.
    OursGuestsTwoCpus,
}

impl Needs {
    /// Whether this machine and kernel have it.
    fn met(self, hip: &HipView<'_>) -> bool {
        let guests = hip.flags() & (FLAG_VMX | FLAG_SVM) != 0;
        let two = hip.cpus().count() > 1;
        let ours = hip.ours().is_some();
        match self {
            Self::Nothing => true,
            Self::TwoCpus => two,
            Self::Guests => guests,
            Self::GuestsTwoCpus => guests && two,
            Self::NoGuests => !guests && ours,
            Self::Ours => ours,
            Self::OursGuests => ours && guests,
            Self::OursGuestsTwoCpus => ours && guests && two,
        }
    }
}

use Needs::{
    Guests, GuestsTwoCpus, NoGuests, Nothing, Ours, OursGuests, OursGuestsTwoCpus, TwoCpus,
};

/// The answers of each call that need nothing, and those that need something. A status that stands nowhere here
/// cannot come, because no page of docs/spec names it for the call, or for the reason in [`NEVER`].
const TABLE: &[(Call, &[Status], &[(Status, Needs)])] = &[
    (Call::Call, &[Success, Timeout, Abort, BadCap], &[(BadCpu, TwoCpus)]),
    (Call::Reply, &[], &[(BadCap, Ours)]),
    (Call::CreatePd, &[Success, BadCap], &[(Oom, Ours)]),
    (Call::CreateEc, &[Success, BadCap, BadPar, BadCpu], &[(Oom, Ours)]),
    (Call::CreateSc, &[Success, BadCap, BadPar], &[(Oom, Ours)]),
    (Call::CreatePt, &[Success, BadCap], &[(Oom, Ours)]),
    (Call::CreateSm, &[Success, BadCap], &[(Oom, Ours)]),
    (Call::Revoke, &[Success, BadCap], &[(BadPar, Ours), (Oom, Ours)]),
    (Call::PdCtrl, &[Success, BadCap, BadPar], &[(Oom, Ours)]),
    (Call::EcCtrl, &[Success, BadCap, BadPar], &[]),
    (Call::ScCtrl, &[Success, BadCap], &[]),
    (Call::PtCtrl, &[Success, BadCap], &[]),
    (Call::SmCtrl, &[Success, Timeout, BadCap], &[]),
    (Call::AssignPci, &[BadCap, BadDev], &[]),
    (Call::MachineCtrl, &[Success, BadCap, BadPar], &[]),
    (Call::CreateKp, &[Success, BadCap], &[(Oom, Ours)]),
    (Call::KpCtrl, &[Success, BadCap, BadPar], &[(Oom, Ours)]),
    (Call::IrqCtrl, &[Success, BadCap, BadPar, BadCpu, BadDev], &[]),
    (
        Call::CreateVcpu,
        &[BadCap, BadCpu],
        &[(Success, Guests), (Oom, OursGuests), (BadFtr, NoGuests)],
    ),
    (
        Call::VcpuCtrl,
        &[BadCap, BadPar],
        &[(Success, Guests), (Busy, Guests), (BadCpu, GuestsTwoCpus)],
    ),
    (Call::QuotaGive, &[], &[(Success, Ours), (BadCap, Ours), (BadPar, Ours)]),
    (Call::QuotaRead, &[], &[(Success, Ours), (BadCap, Ours)]),
    (
        Call::VcpuRunExt,
        &[],
        &[
            (Success, OursGuests),
            (BadCap, Ours),
            (BadPar, Ours),
            (Busy, OursGuests),
            (BadCpu, OursGuestsTwoCpus),
        ],
    ),
    (Call::Statistics, &[], &[(Success, Ours), (BadCap, Ours), (BadCpu, Ours), (BadPar, Ours)]),
    (Call::Log, &[], &[(Success, Ours), (BadCap, Ours), (BadPar, Ours)]),
];

/// Answers that a page names and that cannot be seen here, and why.
const NEVER: &[(Call, Status, &str)] = &[
    (Call::Reply, Success, "a reply that is done does not return"),
    (Call::AssignPci, Success, "there is no IOMMU driver"),
    (Call::MachineCtrl, Oom, "who may load microcode has no limit here"),
];

/// Prints the table and fails for each answer that can come and did not.
pub fn run(world: &mut World) {
    let (mut met, mut missed, mut elsewhere) = (0, 0, 0);
    rt::println!("suite: pairs of call and status: + seen, ! missed, . not on this machine");
    for (call, always, sometimes) in TABLE {
        rt::print!("suite: {call:?}:");
        let always = always.iter().map(|status| (*status, Nothing));
        for (status, needs) in always.chain(sometimes.iter().copied()) {
            let mark = if pairs::seen(*call, status) {
                met += 1;
                '+'
            } else if needs.met(&world.boot.hip) {
                missed += 1;
                '!'
            } else {
                elsewhere += 1;
                '.'
            };
            rt::print!(" {mark}{status}");
        }
        rt::println!();
    }
    for (call, status, why) in NEVER {
        rt::println!("suite: {call:?} never answers {status}: {why}");
    }
    rt::println!("suite: {met} pairs seen, {missed} missed, {elsewhere} not on this machine");
    let strange = stray(world);
    let tally = &mut world.tally;
    tally.holds("a number that is no call", pairs::unknown_refused());
    tally.equal("answers that no page names", strange, 0);
    tally.equal("missed", missed, 0);
}

/// Answers that were seen and stand in no row.
fn stray(world: &World) -> u32 {
    let mut strange = 0;
    for (call, always, sometimes) in TABLE {
        for number in 0..=10 {
            let Some(status) = Status::from_u8(number) else { continue };
            let named = always.contains(&status)
                || sometimes.iter().any(|(known, _)| *known == status)
                // An older kernel does not know our calls.
                || (status == Status::BadHyp && world.boot.hip.ours().is_none());
            if !named && pairs::seen(*call, status) {
                rt::println!("suite: {call:?} answered {status}, which no page names");
                strange += 1;
            }
        }
    }
    strange
}
