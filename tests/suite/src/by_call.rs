//! One check for each call, by the call's name: the answers that no other family has asked for.
//!
//! A domain whose limit is 0 gets `OOM` from whatever it is charged for.

use crate::world::{EC, NOTHING, PD, World, thread_args};
use abi::args::{CreateEc, CreatePt, CreateSc, CreateVcpu, MachineCtrl, VcpuRunExt};
use abi::cap::MEM_RW;
use abi::crd::ItemMeta;
use abi::hip::{FLAG_IOMMU, FLAG_SVM, FLAG_VMX};
use abi::log as told;
use abi::{Call, PAGE_BITS, TypedItem};
use alloc::boxed::Box;
use rt::portal::Servant;
use rt::stub::syscall;
use rt::{Crd, Mtd, Selector, Status, calls, selectors};

/// The refusals.
const CAP: Result<(), Status> = Err(Status::BadCap);
/// As above.
const PAR: Result<(), Status> = Err(Status::BadPar);
/// As above.
const OOM: Result<(), Status> = Err(Status::Oom);

/// A check of one call; the domain is a poor one.
type Check = fn(&mut World, Selector);

/// Every call has its check here (a test in `xtask` sees to it).
const CHECKS: &[(&str, Check)] = &[
    ("call", call),
    ("reply", reply),
    ("create_pd", create_pd),
    ("create_ec", create_ec),
    ("create_sc", create_sc),
    ("create_pt", create_pt),
    ("create_sm", create_sm),
    ("revoke", revoke),
    ("pd_ctrl", pd_ctrl),
    ("ec_ctrl", ec_ctrl),
    ("sc_ctrl", sc_ctrl),
    ("pt_ctrl", pt_ctrl),
    ("sm_ctrl", sm_ctrl),
    ("assign_pci", assign_pci),
    ("machine_ctrl", machine_ctrl),
    ("create_kp", create_kp),
    ("kp_ctrl", kp_ctrl),
    ("irq_ctrl", irq_ctrl),
    ("create_vcpu", create_vcpu),
    ("vcpu_ctrl", vcpu_ctrl),
    ("vcpu_run_ext", vcpu_run_ext),
    ("quota_give", quota_give),
    ("quota_read", quota_read),
    ("trust_group", trust_group),
    ("statistics", statistics),
    ("log", log),
];

/// The family. Poverty is an invention of this kernel; others get the rest.
pub fn run(world: &mut World) {
    let ours = world.boot.hip.ours().is_some();
    for (name, check) in CHECKS {
        let domain = selectors::allocate();
        let made = calls::create_pd(domain, PD, Crd::NULL);
        let limited = if ours { calls::quota_give(domain, 0) } else { Ok(()) };
        if (made, limited) != (Ok(()), Ok(())) {
            world.tally.equal(name, (made, limited), (Ok(()), Ok(())));
            continue;
        }
        check(world, domain);
        world.tally.equal(name, calls::revoke(Crd::objects(domain, 0, 0x1f)), Ok(()));
    }
}

fn call(world: &mut World, _: Selector) {
    let portal = Servant::new(world.boot.cpu, Box::new(|_, _| ()))
        .and_then(|servant| servant.new_portal(Mtd::NONE, 0))
        .unwrap_or(NOTHING);
    world.tally.equal("call a portal", calls::call(portal), Ok(()));
    world.tally.equal("call nothing", calls::call(NOTHING), CAP);
}

fn reply(world: &mut World, _: Selector) {
    let wrong = |_: u64, utcb: &mut rt::Utcb| {
        let [status, ..] = syscall([Call::Reply.word(0, NOTHING), 0, 0, 0, 0]);
        utcb.set_message(&[status & 0xff]);
    };
    let portal = Servant::new(world.boot.cpu, Box::new(wrong))
        .and_then(|servant| servant.new_portal(Mtd::NONE, 0))
        .unwrap_or(NOTHING);
    let called = calls::call(portal);
    let answer = rt::Utcb::current().map(|utcb| utcb.word(0));
    let want = (Ok(()), Some(Status::BadCap as u64));
    world.tally.equal("reply that waits for nothing", (called, answer), want);
}

fn create_pd(world: &mut World, poor: Selector) {
    let new = selectors::allocate();
    world.tally.ours("create_pd out of nothing", calls::create_pd(new, poor, Crd::NULL), OOM);
    world.tally.ours("create_pd made nothing", crate::world::perms(new), 0);
}

fn create_ec(world: &mut World, poor: Selector) {
    let args = CreateEc { pd: poor, ..thread_args(selectors::allocate(), world.boot.cpu) };
    world.tally.ours("create_ec out of nothing", calls::create_ec(&args), OOM);
    world.tally.equal("create_ec", calls::create_ec(&CreateEc { pd: PD, ..args }), Ok(()));
}

fn create_sc(world: &mut World, poor: Selector) {
    let ec = world.idle_thread();
    let sel = selectors::allocate();
    let args = CreateSc { sel, owner: poor, ec, priority: 1, quantum_us: 1000 };
    world.tally.ours("create_sc out of nothing", calls::create_sc(&args), OOM);
}

fn create_pt(world: &mut World, poor: Selector) {
    let ec = world.idle_ec();
    let args =
        CreatePt { sel: selectors::allocate(), owner: poor, ec, mtd: Mtd::NONE, entry: 0x1000 };
    world.tally.ours("create_pt out of nothing", calls::create_pt(&args), OOM);
    world.tally.equal("create_pt", calls::create_pt(&CreatePt { owner: PD, ..args }), Ok(()));
}

fn create_sm(world: &mut World, poor: Selector) {
    let sel = selectors::allocate();
    world.tally.ours("create_sm out of nothing", calls::create_sm(sel, poor, 0), OOM);
    world.tally.equal("create_sm", calls::create_sm(sel, PD, 0), Ok(()));
}

fn create_kp(world: &mut World, poor: Selector) {
    let sel = selectors::allocate();
    world.tally.ours("create_kp out of nothing", calls::create_kp(sel, poor), OOM);
    world.tally.equal("create_kp", calls::create_kp(sel, PD), Ok(()));
}

fn create_vcpu(world: &mut World, poor: Selector) {
    let pages = [(); 3].map(|()| selectors::allocate());
    for page in pages {
        world.tally.equal("create_kp for it", calls::create_kp(page, PD), Ok(()));
    }
    let [state, vlapic, fpu] = pages;
    // Its selector is one of its domain's.
    let args = CreateVcpu { sel: 40, cpu: world.boot.cpu, parent: poor, state, vlapic, fpu };
    let guests = world.boot.hip.flags() & (FLAG_VMX | FLAG_SVM) != 0;
    let want = if guests { OOM } else { Err(Status::BadFtr) };
    world.tally.ours("create_vcpu out of nothing", calls::create_vcpu(&args), want);
    let nowhere = CreateVcpu { cpu: 200, ..args };
    let got = calls::create_vcpu(&nowhere);
    world.tally.equal("create_vcpu nowhere", got, Err(Status::BadCpu));
}

/// A large page of which only a part is taken back must be split, and that takes a table.
fn revoke(world: &mut World, _: Selector) {
    const ORDER: u8 = 9;
    let pages = 1u64 << ORDER;
    let target = 0x5000_0000 >> PAGE_BITS;
    let domain = selectors::allocate();
    let large = (world.heap.0 >> PAGE_BITS).next_multiple_of(pages);
    let item = TypedItem::delegate(Crd::memory(large, ORDER, MEM_RW), 0);
    let give = |_| calls::delegate(PD, domain, item, Crd::memory(target, ORDER, 0x1f)).map(|_| ());
    let made = calls::create_pd(domain, PD, Crd::NULL).and_then(give);
    world.tally.equal("revoke: a large page to a domain", made, Ok(()));
    let some = Crd::memory(target + 1, 0, 0x1f);
    if world.boot.hip.ours().is_some() {
        let limited = calls::quota_give(domain, 0);
        world.tally.equal("revoke: a limit", limited, Ok(()));
        world.tally.equal("revoke a part of it", calls::revoke_from(domain, some), OOM);
        let limited = calls::quota_give(domain, u64::MAX);
        world.tally.equal("revoke: no limit", limited, Ok(()));
    }
    world.tally.equal("revoke it for good", calls::revoke_from(domain, some), Ok(()));
    let _ = calls::revoke(Crd::objects(domain, 0, 0x1f));
}

fn pd_ctrl(world: &mut World, poor: Selector) {
    let page = world.page() >> PAGE_BITS;
    let item = TypedItem::delegate(Crd::memory(page, 0, MEM_RW), 0);
    let window = Crd::memory(0x5000_0000 >> PAGE_BITS, 0, 0x1f);
    let given = calls::delegate(PD, poor, item, window).map(|_| ());
    world.tally.ours("pd_ctrl: memory for one who has no room", given, OOM);
}

fn ec_ctrl(world: &mut World, _: Selector) {
    let idle = world.idle_thread();
    world.tally.equal("ec_ctrl of a thread without time", calls::recall(idle), Ok(()));
    world.tally.equal("ec_ctrl of nothing", calls::recall(NOTHING), CAP);
    let [status, ..] = syscall([Call::EcCtrl.word(1, EC), 0, 0, 0, 0]);
    world.tally.equal("ec_ctrl without a meaning", status, Status::BadPar as u64);
}

fn sc_ctrl(world: &mut World, _: Selector) {
    let ec = world.idle_thread();
    world.tally.equal("sc_ctrl of a thread", calls::sc_time_us(ec).map(|_| ()), CAP);
    let sc = calls::sc_time_us(abi::cap::ROOT_SC).map(|_| ());
    world.tally.equal("sc_ctrl", sc, Ok(()));
}

fn pt_ctrl(world: &mut World, _: Selector) {
    let sm = world.semaphore();
    world.tally.equal("pt_ctrl of a semaphore", calls::set_portal_id(sm, 1), CAP);
}

fn sm_ctrl(world: &mut World, _: Selector) {
    let sm = world.semaphore();
    world.tally.equal("sm_ctrl: up", calls::sm_up(sm), Ok(()));
    world.tally.equal("sm_ctrl: down", calls::sm_down(sm, 0), Ok(()));
    world.tally.equal("sm_ctrl: too late", calls::sm_down(sm, 1), Err(Status::Timeout));
}

fn assign_pci(world: &mut World, domain: Selector) {
    let got = calls::assign_pci(domain, 0x5000_0000, 0);
    world.tally.equal("assign_pci of nothing", got, Err(Status::BadDev));
    // Its table may be there; as long as nothing drives it the flag says so.
    let in_use = world.boot.hip.flags() & FLAG_IOMMU != 0;
    world.tally.ours("assign_pci: no IOMMU is in use", in_use, false);
}

fn machine_ctrl(world: &mut World, _: Selector) {
    let update = MachineCtrl::UpdateMicrocode { size: 2048, physical: 0 };
    let got = calls::machine_ctrl(update).map(|_| ());
    world.tally.equal("machine_ctrl: microcode that is none", got, Ok(()));
}

fn kp_ctrl(world: &mut World, poor: Selector) {
    let page = selectors::allocate();
    world.tally.equal("kp_ctrl: a page", calls::create_kp(page, PD), Ok(()));
    let got = calls::map_kp(page, poor, 0x5000_0000);
    world.tally.ours("kp_ctrl: map where no room is", got, OOM);
    world.tally.ours("kp_ctrl: it was not mapped", calls::unmap_kp(page), PAR);
}

fn irq_ctrl(world: &mut World, _: Selector) {
    let [status, ..] = syscall([Call::IrqCtrl.word(9, 0), 0, 0, 0, 0]);
    world.tally.equal("irq_ctrl without a meaning", status, Status::BadPar as u64);
}

fn vcpu_ctrl(world: &mut World, _: Selector) {
    let item = TypedItem { crd: Crd::objects(PD, 0, 0x1f), meta: ItemMeta::DELEGATE };
    let copy = selectors::allocate();
    let _ = calls::delegate(PD, PD, item, Crd::objects(copy, 0, 0x1f));
    world.tally.equal("vcpu_ctrl of a domain", calls::poke_vcpu(copy), CAP);
}

fn vcpu_run_ext(world: &mut World, _: Selector) {
    let order = VcpuRunExt {
        vcpu: NOTHING,
        load: Mtd::NONE,
        tell: Mtd::NONE,
        load_extended: false,
        tell_extended: false,
        reserved: 0,
    };
    world.tally.ours("run_ext of nothing", calls::run_vcpu_ext(&order), CAP);
    let wrong = VcpuRunExt { reserved: 1, ..order };
    world.tally.ours("run_ext with a wrong flag", calls::run_vcpu_ext(&wrong), PAR);
}

fn quota_give(world: &mut World, poor: Selector) {
    if world.boot.hip.ours().is_some() {
        world.tally.equal("quota_give to nothing", calls::quota_give(NOTHING, 0), CAP);
        world.tally.equal("quota_give to the root", calls::quota_give(PD, 1 << 20), PAR);
        world.tally.equal("quota_give", calls::quota_give(poor, 1 << 20), Ok(()));
        let got = calls::quota_read(poor).map(|(_, limit)| limit);
        world.tally.equal("quota_give is read", got, Ok(1 << 20));
    }
}

fn quota_read(world: &mut World, poor: Selector) {
    if world.boot.hip.ours().is_some() {
        let got = calls::quota_read(NOTHING).map(|_| ());
        world.tally.equal("quota_read of nothing", got, CAP);
        let got = calls::quota_read(poor).map(|(_, limit)| limit);
        world.tally.equal("quota_read of a poor one", got, Ok(0));
    }
}

fn statistics(world: &mut World, _: Selector) {
    if world.boot.hip.ours().is_none() {
        return;
    }
    let cpu = world.boot.cpu;
    let read = |cpu, counter| calls::statistics(cpu, counter);
    let tally = &mut world.tally;
    tally.holds("statistics: free memory", read(cpu, told::FREE_FRAMES).is_ok_and(|n| n > 0));
    tally.equal("statistics of no processor", read(300, 0), Err(Status::BadCpu));
    tally.equal("statistics without a meaning", read(cpu, 1000), Err(Status::BadPar));
    let words = abi::args::Statistics { cpu: cpu.into(), counter: 0 }.encode();
    let asked = humble(world, words);
    world.tally.equal("statistics for everyone", asked, Some(Status::BadCap as u64));
}

/// An interrupt that nobody owns is dropped, counted, and told.
fn log(world: &mut World, _: Selector) {
    if world.boot.hip.ours().is_none() {
        return;
    }
    let cpu = world.boot.cpu;
    let count = || calls::statistics(cpu, told::UNOWNED_INTERRUPTS);
    let from = calls::statistics(cpu, told::LOG_RECORDS).unwrap_or(0);
    let before = count();
    world.tally.equal("log: a stray interrupt", crate::interrupts::stray(world), Ok(()));
    world.tally.equal("log: it is counted", count(), before.map(|count| count + 1));
    let out = calls::log_read(from);
    let utcb = rt::Utcb::current();
    let words = utcb.map_or([0; told::RECORD_WORDS], |u| core::array::from_fn(|i| u.word(i)));
    let told::LogRecord { number, code, cpu: where_, detail, .. } =
        told::LogRecord::from_words(words);
    let tally = &mut world.tally;
    tally.equal("log: one record", out.map(|o| (o.rsi, o.rdx, o.rax)), Ok((from + 1, 1, 0)));
    let want = (from, told::UNOWNED, cpu, u32::from(crate::interrupts::STRAY) + 32);
    tally.equal("log: it says what came", (number, code, where_, detail), want);
    let [status, ..] = syscall([Call::Log.word(2, 0), 0, 0, 0, 0]);
    tally.equal("log without a meaning", status, Status::BadPar as u64);
    let asked = humble(world, abi::args::Log::Claim.encode());
    world.tally.equal("log for everyone", asked, Some(Status::BadCap as u64));
}

/// What a domain with no rights over the machine is answered.
fn humble(world: &World, words: abi::args::Words) -> Option<u64> {
    let ask = move |_: u64, utcb: &mut rt::Utcb| {
        let [status, ..] = syscall(words);
        utcb.set_message(&[status & 0xff]);
    };
    let (pd, portal) = crate::domain::child(world, Box::new(ask))?;
    let called = calls::call(portal);
    let status = rt::Utcb::current().map(|utcb| utcb.word(0));
    let _ = calls::revoke(Crd::objects(pd, 0, 0x1f));
    called.ok().and(status)
}

fn trust_group(world: &mut World, other: Selector) {
    let sm = world.semaphore();
    world.tally.ours("trust_group of nothing", calls::trust_group(NOTHING, 1), CAP);
    world.tally.ours("trust_group of a semaphore", calls::trust_group(sm, 1), CAP);
    world.tally.ours("trust_group", calls::trust_group(other, 1), Ok(()));
}
