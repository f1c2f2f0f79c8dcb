//! Guest exits: a guest in real mode that executes CPUID and touches memory it does not have.

use crate::latency::report;
use crate::setup::{Bench, PD, give};
use crate::sheet::{ROUNDS, call, measure, worked};
use abi::args::{VcpuCtrl, Words};
use abi::cap::MEM_RWX;
use abi::crd::ItemMeta;
use abi::exit::ExitReason;
use abi::hip::{FLAG_SVM, FLAG_VMX};
use abi::utcb::{Segment, StatePage};
use abi::{Crd, Mtd, PAGE_BITS, Status};
use alloc::vec::Vec;
use core::cell::RefCell;
use rt::instructions::rdtsc;
use rt::probe;
use rt::stub::syscall;
use rt::vcpu::Vcpu;

/// Every group a run takes but QUAL, which is for exits only.
const FULL: Mtd = Mtd(0x01df_ffff & !Mtd::QUAL.0);
/// The groups of the smallest run: RIP.
const RIP: Mtd = Mtd::RIP_LEN;

/// The guest's instructions.
const CODE: [u8; 8] = [
    0x0f, 0xa2, // cpuid
    0xa1, 0x00, 0x20, // mov ax, [0x2000]
    0x0f, 0xa2, // cpuid
    0xf4, // hlt
];
/// Where they begin in guest memory.
const START: u64 = 0x100;
/// Where the guest touches the page that is not there.
const TOUCH: u64 = START + 2;
/// The number of that page.
const ABSENT: u64 = 2;

/// The family.
pub fn run(bench: &Bench) -> Result<(), Status> {
    if bench.boot.hip.flags() & (FLAG_VMX | FLAG_SVM) == 0 {
        return Err(Status::BadFtr);
    }
    let code = bench.pages << PAGE_BITS;
    probe::write(code + START, u64::from_le_bytes(CODE)).ok_or(Status::BadHyp)?;
    let guest = ItemMeta::GUEST | ItemMeta::NO_HOST;
    let page = |number, perms, at| give(PD, Crd::memory(bench.pages + number, 0, perms), guest, at);
    if !worked(syscall(page(0, MEM_RWX, 0))) {
        return Err(Status::Oom);
    }
    let mut vcpu = Vcpu::new(bench.cpu)?;
    let sel = vcpu.selector();
    real_mode(vcpu.state());
    if vcpu.run(FULL)? != ExitReason::Cpuid {
        return Err(Status::Abort);
    }
    let vcpu = RefCell::new(vcpu);
    let enter = |mtd| VcpuCtrl::Run { vcpu: sel, mtd }.encode();
    let at = |rip| {
        vcpu.borrow_mut().state().rip = rip;
        true
    };
    let exited = |out: Words, want: ExitReason| {
        worked(out) && ExitReason::from_word(vcpu.borrow_mut().state().exit_reason) == want
    };
    for (row, mtd) in [
        ("vcpu_cpuid_roundtrip_mtd_rip", RIP),
        ("vcpu_cpuid_roundtrip_mtd_rip_acdb", RIP | Mtd::ACDB),
        ("vcpu_cpuid_roundtrip_mtd_full", FULL),
    ] {
        let words = enter(mtd);
        let cpuid = |out| exited(out, ExitReason::Cpuid);
        measure(row, ROUNDS, || at(START), || syscall(words), cpuid);
    }
    let words = enter(RIP);
    let violation = |out| exited(out, ExitReason::EptViolation);
    measure("vcpu_run_to_ept_violation", ROUNDS, || at(TOUCH), || syscall(words), violation);
    let (map, unmap) = (page(1, MEM_RWX, ABSENT), page(1, 0, ABSENT));
    measure(
        "vcpu_ept_fixup_map_and_resume",
        ROUNDS,
        || at(TOUCH) & violation(syscall(words)),
        || [syscall(map), syscall(words)],
        |[map, run]| worked(map) & exited(run, ExitReason::Cpuid) & worked(syscall(unmap)),
    );
    call("vcpu_poke_not_running", VcpuCtrl::Poke { vcpu: sel }.encode());
    Ok(())
}

/// What an interrupt leads to: CPUID, at its own place in guest memory.
const HANDLER: u64 = 0x200;
/// The interrupt that is injected.
const INJECTED: u32 = 0x20;
/// Says that there is one (Intel SDM vol. 3, 25.8.3); an external interrupt has type 0.
const INJECT: u32 = 1 << 31 | INJECTED;
/// The groups of a run that injects.
const INJECTION: Mtd = Mtd(RIP.0 | Mtd::RSP.0 | Mtd::RFLAGS.0 | Mtd::INJ.0);

/// Latency: from the run call with an interrupt to the return from its handler's first instruction, which exits.
pub fn injection(bench: &Bench) -> Result<(), Status> {
    let memory = bench.pages << PAGE_BITS;
    probe::write(memory + HANDLER, u64::from_le_bytes(CODE)).ok_or(Status::BadHyp)?;
    probe::write(memory + 4 * u64::from(INJECTED), HANDLER).ok_or(Status::BadHyp)?;
    let mut vcpu = Vcpu::new(bench.cpu)?;
    real_mode(vcpu.state());
    if vcpu.run(FULL)? != ExitReason::Cpuid {
        return Err(Status::Abort);
    }
    let words = VcpuCtrl::Run { vcpu: vcpu.selector(), mtd: INJECTION }.encode();
    let mut times = Vec::with_capacity(ROUNDS);
    let mut failed = 0;
    for _ in 0..ROUNDS {
        let state = vcpu.state();
        (state.rip, state.rsp, state.rflags) = (START, 0x1000, 0x202);
        (state.intr_info, state.intr_error) = (INJECT, 0);
        let start = rdtsc();
        let out = syscall(words);
        times.push(rdtsc() - start);
        let state = vcpu.state();
        let exited = ExitReason::from_word(state.exit_reason) == ExitReason::Cpuid;
        failed += u32::from(!(worked(out) && exited && state.rip == HANDLER));
    }
    report("guest_injection", &mut times, failed);
    Ok(())
}

/// The state of a processor in real mode at the first instruction.
fn real_mode(state: &mut StatePage) {
    let data = Segment { selector: 0, ar: 0x93, limit: 0xffff, base: 0 };
    for segment in [&mut state.es, &mut state.ss, &mut state.ds, &mut state.fs, &mut state.gs] {
        *segment = data;
    }
    state.cs = Segment { ar: 0x9b, ..data };
    state.ldtr = Segment { ar: 0x82, ..data };
    state.tr = Segment { ar: 0x8b, ..data };
    state.gdtr = Segment { limit: 0xffff, ..Segment::ZERO };
    state.idtr = Segment { limit: 0xffff, ..Segment::ZERO };
    state.rip = START;
    state.rsp = 0x1000;
    state.rflags = 2;
    state.cr0 = 0x10;
    state.xcr0 = 1;
    state.dr7 = 0x400;
    state.pat = 0x0007_0406_0007_0406;
    state.tsc_timeout = u64::MAX;
}
