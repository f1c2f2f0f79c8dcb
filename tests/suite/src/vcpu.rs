//! Virtual processors: refusals, first entry, a few exits.

use crate::tally::Tally;
use crate::world::{NOTHING, PD, World};
use abi::TypedItem;
use abi::args::VcpuRunExt;
use abi::cap::MEM_RWX;
use abi::crd::ItemMeta;
use abi::exit::ExitReason;
use abi::hip::{FLAG_SVM, FLAG_VMX};
use core::sync::atomic::{AtomicU64, Ordering};
use rt::memory::{Window, free_ram};
use rt::stub::syscall;
use rt::sync::{Mutex, sleep_us};
use rt::vcpu::{Vcpu, real_mode};
use rt::{Crd, Mtd, Selector, Status, calls, probe, thread};

/// Everything a first entry loads.
const ALL: Mtd = Mtd(0x01df_ffff & !Mtd::QUAL.0);

/// The guest: real mode, at 0x100 of its first page.
const CODE: [u8; 24] = [
    0xb8, 0x34, 0x12, // mov ax, 0x1234
    0x0f, 0xa2, // cpuid
    0xf4, // hlt
    0xe6, 0x80, // out 0x80, al
    0xa1, 0x00, 0x20, // mov ax, [0x2000]
    0x0f, 0x01, 0xc1, // vmcall (vmmcall on AMD)
    0xf3, 0x90, // pause
    0xeb, 0xfc, // jmp back to it
    0, 0, 0, 0, 0, 0,
];

/// Where the guest spins.
const SPIN: u64 = 0x10e;
/// What a guest that spins has in RFLAGS: nothing, so that only the kernel can end it.
const SPIN_RFLAGS: u64 = 2;
/// Where the last byte of VMCALL is, which tells it from VMMCALL.
const VMCALL_END: usize = 13;

/// The family.
pub fn run(world: &mut World) {
    refusals(world);
    if world.boot.hip.flags() & (FLAG_VMX | FLAG_SVM) == 0 {
        world.tally.skip("guest", "no virtualization");
        return;
    }
    guest(world);
    busy(world);
    elsewhere(world);
}

fn refusals(world: &mut World) {
    let sm = world.semaphore();
    let tally = &mut world.tally;
    for sub in 2..4u64 {
        let [rdi, ..] = syscall([20 | sub << 8 | NOTHING << 12, 0, 0, 0, 0]);
        tally.equal("no such sub-operation", rdi, Status::BadPar as u64);
    }
    tally.equal("run of nothing", calls::run_vcpu(NOTHING, ALL), Err(Status::BadCap));
    tally.equal("run of a semaphore", calls::run_vcpu(sm, ALL), Err(Status::BadCap));
    tally.equal("poke of nothing", calls::poke_vcpu(NOTHING), Err(Status::BadCap));
}

fn guest(world: &mut World) {
    let vcpu = Vcpu::new(world.boot.cpu);
    let Ok(mut vcpu) = vcpu else {
        world.tally.equal("vcpu", vcpu.map(|_| ()), Ok(()));
        return;
    };
    let code = free_ram(&world.boot.hip, 4096, 4096)
        .ok_or(Status::Oom)
        .and_then(|frame| Window::physical(frame, 4096, MEM_RWX));
    let Ok(code) = code else {
        world.tally.equal("memory for the guest", code.map(|_| ()), Ok(()));
        return;
    };
    let page = code.address();
    let _ = code.fill(0);
    let mut instructions = CODE;
    if world.boot.hip.flags() & FLAG_SVM != 0 {
        instructions[VMCALL_END] = 0xd9;
    }
    for (index, bytes) in (0u64..).zip(instructions.chunks_exact(8)) {
        let word = bytes.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        let _ = probe::write(page + 0x100 + 8 * index, word);
    }
    let tally = &mut world.tally;
    tally.equal("first entry without state", vcpu.run(Mtd::NONE), Ok(ExitReason::InvalidState));
    let give = |gpa: u64| {
        let item = TypedItem {
            crd: Crd::memory(page >> abi::PAGE_BITS, 0, MEM_RWX),
            meta: ItemMeta::DELEGATE | ItemMeta::GUEST | ItemMeta::NO_HOST,
        };
        calls::delegate(PD, PD, item, Crd::memory(gpa >> abi::PAGE_BITS, 0, 0x1f)).map(|_| ())
    };
    tally.equal("guest memory", give(0), Ok(()));
    tally.equal("not in the host", probe::read(0), None);
    real_mode(vcpu.state(), 0x100);
    let exit = vcpu.run(ALL);
    tally.equal("cpuid exits", exit, Ok(ExitReason::Cpuid));
    tally.equal("at its place", vcpu.state().rip, 0x103);
    tally.equal("with its registers", vcpu.state().rax & 0xffff, 0x1234);
    let step = |vcpu: &mut Vcpu, rip: u64| {
        vcpu.state().rip = rip;
        vcpu.run(Mtd::RIP_LEN | Mtd::STA)
    };
    tally.equal("hlt exits", step(&mut vcpu, 0x105), Ok(ExitReason::Hlt));
    tally.equal("i/o exits", step(&mut vcpu, 0x106), Ok(ExitReason::Io));
    let port = vcpu.state().qual[0] >> 16;
    tally.equal("naming its port", port, 0x80);
    tally.equal("no memory exits", step(&mut vcpu, 0x108), Ok(ExitReason::EptViolation));
    tally.equal("naming its address", vcpu.state().qual[1] & !0xfff, 0x2000);
    tally.equal("memory there", give(0x2000), Ok(()));
    tally.equal("lets it go on", step(&mut vcpu, 0x108), Ok(ExitReason::Vmcall));
    tally.equal("vmcall at its place", vcpu.state().rip, 0x10b);
    if world.boot.hip.ours().is_some() {
        told(tally, &mut vcpu);
    }
    tally.equal("poke", vcpu.poke(), Ok(()));
    tally.equal("a poked one exits", step(&mut vcpu, 0x10e), Ok(ExitReason::Poked));
    vcpu.state().tsc_timeout = 10_000_000;
    (vcpu.state().rip, vcpu.state().rflags) = (0x10e, SPIN_RFLAGS);
    let exit = vcpu.run(Mtd::RIP_LEN | Mtd::RFLAGS | Mtd::STA | Mtd::TSC_TIMEOUT);
    tally.equal("its time runs out", exit, Ok(ExitReason::PreemptionTimer));
}

/// Runs of ours: only what was asked for is told, and the extended words.
fn told(tally: &mut Tally, vcpu: &mut Vcpu) {
    let state = vcpu.state();
    (state.rip, state.rax, state.rcx) = (0x100, 0x7777, 0x5555);
    state.extended.dr = [0x1000, 0x2000, 0x3000, 0x4000];
    state.extended.raw_exit = 0;
    let tell = Mtd::RIP_LEN | Mtd::RFLAGS;
    let exit = vcpu.run_telling(Mtd::RIP_LEN | Mtd::STA, tell, false);
    tally.equal("run_ext exits", exit, Ok(ExitReason::Cpuid));
    let state = vcpu.state();
    let got = (state.rip, state.rax, state.rcx, state.mtd);
    tally.equal("and tells what it was asked", got, (0x103, 0x7777, 0x5555, u64::from(tell.0)));
    tally.equal("no extended words", state.extended.raw_exit, 0);
    state.rip = 0x105;
    let exit = vcpu.run_telling(Mtd::RIP_LEN | Mtd::STA, Mtd::ACDB, true);
    tally.equal("run_ext with extended words exits", exit, Ok(ExitReason::Hlt));
    let state = vcpu.state();
    tally.equal("rip was not told", state.rip, 0x105);
    tally.equal("rax is the guest's", state.rax & 0xffff, 0x1234);
    let dr = state.extended.dr;
    tally.equal("debug registers", dr, [0x1000, 0x2000, 0x3000, 0x4000]);
    tally.holds("raw exit code", matches!(state.extended.raw_exit, 12 | 0x78));
}

/// How the run of a spinning guest ended.
static ENDED: Mutex<Option<Result<ExitReason, Status>>> = Mutex::new(None);

/// The RIP that this exit told.
static STOPPED_AT: AtomicU64 = AtomicU64::new(0);

/// A thread on `cpu` that runs a guest which spins with interrupts off; the selector of the
/// virtual processor. The guest's page is where [`guest`] left it.
pub fn spinning(cpu: u16) -> Result<Selector, Status> {
    let mut vcpu = Vcpu::new(cpu)?;
    let sel = vcpu.selector();
    *ENDED.lock() = None;
    thread::spawn(cpu, 1, move || {
        real_mode(vcpu.state(), 0x100);
        (vcpu.state().rip, vcpu.state().rflags) = (SPIN, SPIN_RFLAGS);
        let ended = vcpu.run(ALL);
        STOPPED_AT.store(vcpu.state().rip, Ordering::Release);
        *ENDED.lock() = Some(ended);
    })?;
    sleep_us(60_000);
    Ok(sel)
}

/// Waits for the end of the run.
pub fn ended() -> Option<Result<ExitReason, Status>> {
    (0..50).find_map(|_| {
        sleep_us(10_000);
        ENDED.lock().take()
    })
}

fn busy(world: &mut World) {
    let vcpu = spinning(world.boot.cpu);
    let tally = &mut world.tally;
    let Ok(vcpu) = vcpu else {
        tally.equal("spinning guest", vcpu.map(|_| ()), Ok(()));
        return;
    };
    tally.holds("it spins", ENDED.lock().is_none());
    tally.equal("run of a running one", calls::run_vcpu(vcpu, Mtd::NONE), Err(Status::Busy));
    tally.ours("run_ext of a running one", calls::run_vcpu_ext(&plain(vcpu)), Err(Status::Busy));
    // Another guest's turn between its last and the poke, and the other is still there: what is told is its own.
    let mut other = Vcpu::new(world.boot.cpu);
    let exit = other.as_mut().map_err(|status| *status).and_then(|other| {
        real_mode(other.state(), 0x100);
        other.run(ALL)
    });
    // Nothing in between gives the spinning guest a turn, not even the line about it.
    let poked = calls::poke_vcpu(vcpu);
    tally.equal("another guest's turn", exit, Ok(ExitReason::Cpuid));
    tally.equal("poke of a preempted one", poked, Ok(()));
    tally.equal("ends its run", ended(), Some(Ok(ExitReason::Poked)));
    let at = STOPPED_AT.load(Ordering::Acquire);
    tally.holds("and tells its own state", (SPIN..SPIN + 4).contains(&at));
    drop(other);
}

fn elsewhere(world: &mut World) {
    let here = world.boot.cpu;
    let Some(there) = world.boot.hip.cpus().map(|cpu| cpu.number).find(|cpu| *cpu != here) else {
        world.tally.skip("another cpu", "one processor");
        return;
    };
    let vcpu = spinning(there);
    let tally = &mut world.tally;
    let Ok(vcpu) = vcpu else {
        tally.equal("spinning guest there", vcpu.map(|_| ()), Ok(()));
        return;
    };
    tally.holds("it spins there", ENDED.lock().is_none());
    tally.equal("run from another cpu", calls::run_vcpu(vcpu, Mtd::NONE), Err(Status::BadCpu));
    let ours = calls::run_vcpu_ext(&plain(vcpu));
    tally.ours("run_ext from another cpu", ours, Err(Status::BadCpu));
    tally.equal("poke from another cpu", calls::poke_vcpu(vcpu), Ok(()));
    tally.equal("ends the run there", ended(), Some(Ok(ExitReason::Poked)));
}

/// A run that loads nothing and is told nothing.
fn plain(vcpu: Selector) -> VcpuRunExt {
    let (load_extended, tell_extended) = (false, false);
    VcpuRunExt { vcpu, load: Mtd::NONE, tell: Mtd::NONE, load_extended, tell_extended, reserved: 0 }
}
