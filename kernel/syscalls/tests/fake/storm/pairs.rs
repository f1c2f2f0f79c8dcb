//! Which answers each call can give on the fake machine, and why it cannot give the others.

use abi::Call;
use abi::Status::{
    self, Abort, BadCap, BadCpu, BadDev, BadFtr, BadHyp, BadPar, Busy, Oom, Success, Timeout,
};

/// A call's number and its answers; number 255 stands for all that are no calls.
pub const REACHABLE: &[(u8, &[Status])] = &[
    (Call::Call as u8, &[Success, Timeout, Abort, BadCap, BadCpu]),
    (Call::Reply as u8, &[Success, BadCap]),
    (Call::CreatePd as u8, &[Success, BadCap, Oom]),
    (Call::CreateEc as u8, &[Success, BadCap, BadPar, BadCpu, Oom]),
    (Call::CreateSc as u8, &[Success, BadCap, BadPar, Oom]),
    (Call::CreatePt as u8, &[Success, BadCap, Oom]),
    (Call::CreateSm as u8, &[Success, BadCap, Oom]),
    (Call::Revoke as u8, &[Success, BadCap, BadPar, Oom]),
    (Call::PdCtrl as u8, &[Success, BadCap, BadPar, Oom]),
    (Call::EcCtrl as u8, &[Success, BadCap, BadPar]),
    (Call::ScCtrl as u8, &[Success, BadCap]),
    (Call::PtCtrl as u8, &[Success, BadCap]),
    (Call::SmCtrl as u8, &[Success, Timeout, BadCap]),
    (Call::AssignPci as u8, &[BadCap, BadDev]),
    (Call::MachineCtrl as u8, &[Success, BadCap, BadPar]),
    (Call::CreateKp as u8, &[Success, BadCap, Oom]),
    (Call::KpCtrl as u8, &[Success, BadCap, BadPar, Oom]),
    (Call::IrqCtrl as u8, &[Success, BadCap, BadPar, BadCpu, BadDev]),
    (Call::CreateVcpu as u8, &[Success, BadCap, BadCpu, BadFtr, Oom]),
    (Call::VcpuCtrl as u8, &[Success, BadCap, BadPar, BadCpu, Busy]),
    (Call::QuotaGive as u8, &[Success, BadCap, BadPar]),
    (Call::QuotaRead as u8, &[Success, BadCap]),
    (255, &[BadHyp]),
];

/// Answers that abi.md names and the storm cannot get, with the reason.
pub const UNREACHABLE: &[(u8, Status, &str)] = &[
    (Call::SmCtrl as u8, Abort, "only a thread that lost one of two times while it waited on it"),
    (Call::AssignPci as u8, Success, "there is no IOMMU driver"),
    (Call::MachineCtrl as u8, Oom, "who may load microcode has no limit here"),
    (Call::VcpuCtrl as u8, Oom, "the guest's root table is made with the virtual CPU"),
];

/// Calls whose answers other tests cover: their numbers are refused or have no part in the storm.
pub const ELSEWHERE: &[u8] = &[
    Call::VcpuRunExt as u8,
    Call::GuestSpace as u8,
    Call::Statistics as u8,
    Call::Log as u8,
    Call::TrustGroup as u8,
];
