//! What the create calls refuse, in which order, and what a new object has.

use crate::world::{EC, NOTHING, PD, World, perms, thread_args};
use abi::args::{CreateEc, CreatePt, CreateSc, CreateVcpu};
use abi::cap::{EC_ALL, EC_CT, EC_PT, EC_SC, USER_TOP};
use rt::{Crd, Mtd, Selector, Status, calls, selectors};

/// What a call answers when it is refused.
const CAP: Result<(), Status> = Err(Status::BadCap);
/// As above.
const PAR: Result<(), Status> = Err(Status::BadPar);
/// As above.
const CPU: Result<(), Status> = Err(Status::BadCpu);

/// The family.
pub fn run(world: &mut World) {
    domain(world);
    execution(world);
    scheduling(world);
    portal(world);
    semaphore_and_page(world);
    vcpu(world);
}

fn domain(world: &mut World) {
    let sm = world.semaphore();
    let tally = &mut world.tally;
    let new = selectors::allocate();
    tally.equal("pd without parent", calls::create_pd(new, NOTHING, Crd::NULL), CAP);
    tally.equal("pd with a semaphore as parent", calls::create_pd(new, sm, Crd::NULL), CAP);
    tally.equal("pd onto a taken selector", calls::create_pd(EC, PD, Crd::NULL), CAP);
    tally.equal("refused pd left nothing", perms(new), 0);
    tally.equal("pd", calls::create_pd(new, PD, Crd::NULL), Ok(()));
    tally.equal("pd has the parent's permissions", perms(new), 1);
    let with = selectors::allocate();
    let made = calls::create_pd(with, PD, Crd::objects(sm, 0, 0x1f));
    tally.equal("pd with a capability", made, Ok(()));
    // Where it went: selector 0 of the new domain.
    let back = selectors::allocate();
    let item = abi::TypedItem::delegate(Crd::objects(0, 0, 0x1f), 0);
    let got = calls::delegate(with, PD, item, Crd::objects(back, 0, 0x1f)).map(|item| item.crd);
    tally.equal("pd's capability is at selector 0", got, Ok(Crd::objects(back, 0, 0x1f)));
    tally.equal("it is the semaphore", calls::sm_up(back), Ok(()));
    tally.equal("count came through", calls::sm_down(sm, 1), Ok(()));
    let other = selectors::allocate();
    let made = calls::create_pd(other, PD, Crd::memory(0x400, 0, 0x1f));
    tally.equal("pd ignores other kinds", made, Ok(()));
}

fn execution(world: &mut World) {
    let cpu = world.boot.cpu;
    let tally = &mut world.tally;
    let new = selectors::allocate();
    let good = thread_args(new, cpu);
    let make = |args: CreateEc| calls::create_ec(&args);
    tally.equal("ec on no cpu", make(CreateEc { cpu: 0xfff, ..good }), CPU);
    tally.equal("ec cpu before pd", make(CreateEc { cpu: 0xfff, pd: NOTHING, ..good }), CPU);
    tally.equal("ec on a cpu that is not there", make(CreateEc { cpu: 127, ..good }), CPU);
    tally.equal("ec without pd", make(CreateEc { pd: NOTHING, ..good }), CAP);
    tally.equal("ec pd before utcb", make(CreateEc { pd: NOTHING, utcb: USER_TOP, ..good }), CAP);
    tally.equal("ec utcb too high", make(CreateEc { utcb: USER_TOP, ..good }), PAR);
    tally.equal("ec utcb not canonical", make(CreateEc { utcb: 1 << 63, ..good }), PAR);
    tally.equal("ec utcb before selector", make(CreateEc { utcb: USER_TOP, sel: EC, ..good }), PAR);
    tally.equal("ec reserved bit 9", make(CreateEc { reserved: 1, ..good }), PAR);
    tally.equal("ec reserved bit 10", make(CreateEc { reserved: 2, ..good }), PAR);
    tally.equal("ec onto a taken selector", make(CreateEc { sel: PD, ..good }), CAP);
    tally.equal("refused ec left nothing", perms(new), 0);
    tally.equal("global ec", make(good), Ok(()));
    tally.equal("ec permissions", perms(new), EC_ALL);
    let Ok(utcb) = rt::memory::reserve_page() else { return };
    let local = selectors::allocate();
    let made = make(CreateEc { sel: local, global: false, utcb, ..good });
    tally.equal("local ec", made, Ok(()));
    tally.equal("utcb is mapped and zero", rt::probe::read(utcb), Some(0));
    tally.equal("utcb is writable", rt::probe::write(utcb + 0xff8, 9), Some(()));
    tally.equal("utcb keeps what is written", rt::probe::read(utcb + 0xff8), Some(9));
    let (pd, foreign) = (selectors::allocate(), selectors::allocate());
    let Ok(utcb) = rt::memory::reserve_page() else { return };
    let _ = calls::create_pd(pd, PD, Crd::NULL);
    let made = make(CreateEc { sel: foreign, pd, utcb, utcb_in_caller: true, ..good });
    tally.equal("ec of another domain", made, Ok(()));
    tally.equal("its utcb is with the caller", rt::probe::read(utcb), Some(0));
}

fn scheduling(world: &mut World) {
    let (thread, servant, sm) = (world.idle_thread(), world.idle_ec(), world.semaphore());
    let unscheduled = world.reduced(thread, EC_CT | EC_PT);
    let tally = &mut world.tally;
    let new = selectors::allocate();
    let good = CreateSc { sel: new, owner: PD, ec: thread, priority: 1, quantum_us: 1000 };
    let make = |args: CreateSc| calls::create_sc(&args);
    tally.equal("sc without owner", make(CreateSc { owner: NOTHING, ..good }), CAP);
    tally.equal("sc with a semaphore as owner", make(CreateSc { owner: sm, ..good }), CAP);
    tally.equal("sc without ec", make(CreateSc { ec: NOTHING, ..good }), CAP);
    tally.equal("sc for a semaphore", make(CreateSc { ec: sm, ..good }), CAP);
    tally.equal("sc for a servant", make(CreateSc { ec: servant, ..good }), CAP);
    tally.equal("sc without permission", make(CreateSc { ec: unscheduled, ..good }), CAP);
    tally.equal("sc priority 0", make(CreateSc { priority: 0, ..good }), PAR);
    tally.equal("sc priority 128", make(CreateSc { priority: 128, ..good }), PAR);
    tally.equal("sc quantum 0", make(CreateSc { quantum_us: 0, ..good }), PAR);
    tally.equal("sc ec before priority", make(CreateSc { ec: servant, priority: 0, ..good }), CAP);
    tally.equal(
        "sc priority before selector",
        make(CreateSc { priority: 0, sel: PD, ..good }),
        PAR,
    );
    tally.equal("sc onto a taken selector", make(CreateSc { sel: PD, ..good }), CAP);
    tally.equal("refused sc left nothing", perms(new), 0);
    tally.equal("sc", make(good), Ok(()));
    tally.equal("sc permissions", perms(new), 1);
}

fn portal(world: &mut World) {
    let (thread, servant, sm) = (world.idle_thread(), world.idle_ec(), world.semaphore());
    let closed = world.reduced(servant, EC_CT | EC_SC);
    let tally = &mut world.tally;
    let new = selectors::allocate();
    let good = CreatePt { sel: new, owner: PD, ec: servant, mtd: Mtd::NONE, entry: u64::MAX };
    let make = |args: CreatePt| calls::create_pt(&args);
    tally.equal("pt without owner", make(CreatePt { owner: NOTHING, ..good }), CAP);
    tally.equal("pt without ec", make(CreatePt { ec: NOTHING, ..good }), CAP);
    tally.equal("pt for a semaphore", make(CreatePt { ec: sm, ..good }), CAP);
    tally.equal("pt for a thread", make(CreatePt { ec: thread, ..good }), CAP);
    tally.equal("pt without permission", make(CreatePt { ec: closed, ..good }), CAP);
    tally.equal("pt onto a taken selector", make(CreatePt { sel: PD, ..good }), CAP);
    tally.equal("refused pt left nothing", perms(new), 0);
    tally.equal("pt with any entry", make(good), Ok(()));
    tally.equal("pt permissions", perms(new), 3);
}

fn semaphore_and_page(world: &mut World) {
    let tally = &mut world.tally;
    let [sm, kp]: [Selector; 2] = core::array::from_fn(|_| selectors::allocate());
    tally.equal("sm without owner", calls::create_sm(sm, NOTHING, 0), CAP);
    tally.equal("sm with a thread as owner", calls::create_sm(sm, EC, 0), CAP);
    tally.equal("sm onto a taken selector", calls::create_sm(PD, PD, 0), CAP);
    tally.equal("refused sm left nothing", perms(sm), 0);
    tally.equal("sm", calls::create_sm(sm, PD, 0), Ok(()));
    tally.equal("sm permissions", perms(sm), 3);
    tally.equal("kp without owner", calls::create_kp(kp, NOTHING), CAP);
    tally.equal("kp onto a taken selector", calls::create_kp(sm, PD), CAP);
    tally.equal("kp", calls::create_kp(kp, PD), Ok(()));
    tally.equal("kp permissions", perms(kp), 1);
    tally.ours("sm beyond the space", calls::create_sm(1 << 26, PD, 0), CAP);
}

fn vcpu(world: &mut World) {
    let cpu = world.boot.cpu;
    let sm = world.semaphore();
    let tally = &mut world.tally;
    let [state, vlapic, fpu]: [Selector; 3] = core::array::from_fn(|_| {
        let sel = selectors::allocate();
        let _ = calls::create_kp(sel, PD);
        sel
    });
    let new = selectors::allocate();
    let good = CreateVcpu { sel: new, cpu, parent: PD, state, vlapic, fpu };
    let make = |args: CreateVcpu| calls::create_vcpu(&args);
    tally.equal("vcpu on no cpu", make(CreateVcpu { cpu: 0xfff, ..good }), CPU);
    tally.equal(
        "vcpu cpu before pd",
        make(CreateVcpu { cpu: 0xfff, parent: NOTHING, ..good }),
        CPU,
    );
    tally.equal("vcpu without pd", make(CreateVcpu { parent: NOTHING, ..good }), CAP);
    tally.equal("vcpu without state", make(CreateVcpu { state: NOTHING, ..good }), CAP);
    tally.equal("vcpu with a semaphore as state", make(CreateVcpu { state: sm, ..good }), CAP);
    tally.equal("vcpu without vlapic", make(CreateVcpu { vlapic: NOTHING, ..good }), CAP);
    tally.equal("vcpu without fpu", make(CreateVcpu { fpu: NOTHING, ..good }), CAP);
    tally.equal("vcpu onto a taken selector", make(CreateVcpu { sel: PD, ..good }), CAP);
    tally.equal("refused vcpu left nothing", perms(new), 0);
    if world.boot.hip.flags() & (abi::hip::FLAG_VMX | abi::hip::FLAG_SVM) != 0 {
        tally.equal("vcpu", make(good), Ok(()));
        tally.equal("vcpu permissions", perms(new), 1);
    } else {
        tally.skip("vcpu", "no virtualization");
    }
}
