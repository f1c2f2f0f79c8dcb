//! Between trust groups and before another domain's guest, nothing is left for speculation (design.md 7).

use abi::args::{CallPortal, CreateKp, CreatePd, CreateVcpu, PdCtrl, Reply, VcpuCtrl, Words};
use abi::cap::ROOT_PD;
use abi::crd::ItemMeta;
use abi::{Call, Crd, Mtd, Status};
use arch::{Deed, GuestVendor, Isolate, Machine};

use crate::world::{World, create_sm, syscall};

const FRAMES: usize = 4096;
const CHILD: u64 = 70;

/// What matters here of what the kernel did to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Space,
    Forget(Isolate),
    Program,
    Guest,
}

/// The deeds since the last time, in order.
fn done() -> Vec<Done> {
    let short = |(_, deed)| match deed {
        Deed::LoadSpace { .. } => Some(Done::Space),
        Deed::Isolate(border) => Some(Done::Forget(border)),
        Deed::Run => Some(Done::Program),
        Deed::EnterGuest { .. } => Some(Done::Guest),
        _ => None,
    };
    Machine::take_deeds().into_iter().filter_map(short).collect()
}

fn group(pd: u64, group: u64) -> Words {
    [Call::TrustGroup.word(0, pd), group, 0, 0, 0]
}

fn child(world: &World) {
    let child = CreatePd { sel: CHILD, passthrough: false, parent: ROOT_PD, crd: Crd::NULL };
    world.must(child.encode());
}

#[test]
fn a_domain_of_another_group_finds_nothing() {
    use Done::{Forget, Program, Space};
    let world = World::new(1, FRAMES);
    child(&world);
    world.serve((CHILD, 50, 51), 0, (Mtd::NONE, 0x60_0000), |thread, _| {
        syscall(thread, Reply { semaphore: 0 }.encode())
    });
    let call = CallPortal { portal: 51, nonblocking: false }.encode();
    world.must(call);
    let count = |done: &[Done]| done.iter().filter(|one| matches!(one, Forget(_))).count();
    done();
    world.must(call);
    assert_eq!(count(&done()), 0, "one group, nothing to hide");
    world.must(group(CHILD, 7));
    done();
    world.must(call);
    let done = done();
    // There and back; each time after the space is loaded and before the program runs.
    assert_eq!(count(&done), 2, "{done:?}");
    let border = [Space, Forget(Isolate::Domain), Program];
    assert_eq!(done.windows(3).filter(|three| *three == border).count(), 2, "{done:?}");
}

#[test]
fn the_root_domain_alone_says_who_trusts_whom() {
    let world = World::new(1, FRAMES);
    world.must(create_sm(80, 0));
    child(&world);
    assert_eq!(world.status(group(80, 1)), Status::BadCap);
    assert_eq!(world.status(group(81, 1)), Status::BadCap);
    world.must(group(CHILD, 1));
    let pd = world.object::<objects::Pd>(CHILD).unwrap();
    assert_eq!(pd.trust_group(), 1);
    let grandchild = CreatePd { sel: 71, passthrough: false, parent: CHILD, crd: Crd::NULL };
    world.must(grandchild.encode());
    assert_eq!(world.object::<objects::Pd>(71).unwrap().trust_group(), 1, "its creator's");
}

#[test]
fn a_guest_of_another_domain_finds_nothing() {
    let world = World::new(1, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    child(&world);
    for kp in 81..=86 {
        world.must(CreateKp { sel: kp, owner: ROOT_PD }.encode());
    }
    let first = CreateVcpu { sel: 90, cpu: 0, parent: ROOT_PD, state: 81, vlapic: 82, fpu: 83 };
    let second = CreateVcpu { sel: 91, parent: CHILD, state: 84, vlapic: 85, fpu: 86, ..first };
    world.must(first.encode());
    world.must(second.encode());
    let give = PdCtrl::Delegate {
        source: CHILD,
        destination: ROOT_PD,
        crd: Crd::objects(91, 0, 0x1f),
        meta: ItemMeta::DELEGATE.at(91),
        window: Crd::objects(91, 0, 0x1f),
    };
    world.must(give.encode());
    let run = |vcpu| world.must(VcpuCtrl::Run { vcpu, mtd: Mtd::NONE }.encode());
    let entries = || done().into_iter().filter(|done| !matches!(done, Done::Space | Done::Program));
    run(90);
    done();
    run(90);
    assert!(entries().eq([Done::Guest]), "the same guest again");
    for vcpu in [91, 90] {
        run(vcpu);
        assert!(entries().eq([Done::Forget(Isolate::Guest), Done::Guest]), "{vcpu}");
    }
}
