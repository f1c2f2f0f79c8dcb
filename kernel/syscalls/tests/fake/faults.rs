//! Memory runs out at every place where it can: each allocation of each call fails once.

use abi::args::{
    CallPortal, CreateEc, CreateKp, CreatePd, CreatePt, CreateSc, CreateVcpu, KpCtrl, MachineCtrl,
    PdCtrl, Reply, Revoke, Words,
};
use abi::cap::ROOT_PD;
use abi::crd::ItemMeta;
use abi::utcb::{items, offset};
use abi::{Crd, Mtd, Status, TypedItem};
use arch::{GuestVendor, Machine};
use objects::Pd;
use sync::Site;
use sync::door::Faults;

use crate::world::{World, create_sm, local, status_of, syscall};

const FRAMES: usize = 400;
const CHILD: u64 = 70;
/// Selectors whose tables do not exist yet.
const FAR: u64 = 0x123_4567;
const SERVANT_CODE: u64 = 0x60_0000;

/// What a refusal must leave as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Picture {
    free: usize,
    /// Frames in use by what they are used for.
    uses: Vec<(Site, usize)>,
    /// Bytes charged to the root domain and to the child.
    charged: [u64; 2],
    /// Selector, permissions and depth of all that the two have.
    has: Vec<(u64, u8, u64)>,
    /// What the two see at some pages.
    sees: Vec<Option<(u64, u8)>>,
}

fn picture(world: &World) -> Picture {
    let free = world.free_frames();
    let uses = Site::ALL.map(|site| (site, world.pool.frames_of(site))).to_vec();
    let child = world.object::<Pd>(CHILD).unwrap();
    let pds = [&world.root.pd, &child];
    let mut has = Vec::new();
    let mut sees = Vec::new();
    for pd in pds {
        let mut at = 0;
        while let Some((first, count)) = pd.objects.next_page(at) {
            for selector in first..first + count {
                let permissions = world.permissions(pd, selector);
                if permissions != 0 {
                    let depth = pd.objects.slot(selector).unwrap().depth();
                    has.push((selector, permissions, depth));
                }
            }
            at = first + count;
        }
        for page in [0x1000, 0x2000, 0x9000, 0x20_0000, 0x7_7777_7777] {
            sees.push(pd.memory.lookup(page).map(|found| (found.frame.0, found.rights.bits())));
        }
    }
    Picture { free, uses, charged: pds.map(|pd| pd.account.state().0), has, sees }
}

fn delegate(to: u64, crd: Crd, at: u64, flags: ItemMeta) -> Words {
    let meta = (ItemMeta::DELEGATE | flags).at(at);
    let window = Crd::new(crd.kind(), at, crd.order(), 0x1f);
    PdCtrl::Delegate { source: ROOT_PD, destination: to, crd, meta, window }.encode()
}

/// A machine with a child, one object of each kind, and a servant in the child behind portal 51.
fn world() -> World {
    let world = World::new(2, FRAMES);
    Machine::set_vendor(GuestVendor::Vmx);
    let child = CreatePd { sel: CHILD, passthrough: false, parent: ROOT_PD, crd: Crd::NULL };
    world.must(child.encode());
    world.must(create_sm(80, 0));
    for kp in [81, 82, 83] {
        world.must(CreateKp { sel: kp, owner: ROOT_PD }.encode());
    }
    world.must(local(85, ROOT_PD).encode());
    world.must(CreateEc { global: true, ..local(87, ROOT_PD) }.encode());
    let kernel = ItemMeta::FROM_KERNEL;
    world.must(delegate(ROOT_PD, Crd::memory(0x2000, 9, 7), 0x2000, kernel));
    world.must(delegate(ROOT_PD, Crd::ports(0x60, 3, 1), 0x60, kernel));
    world.serve((CHILD, 50, 51), 0, (Mtd::NONE, SERVANT_CODE), |thread, utcb| {
        utcb.set_word(0, 0);
        syscall(thread, Reply { semaphore: 0 }.encode())
    });
    // The fake makes memory outside the kernel's when it is first looked at.
    (1..3).for_each(|frame| arch::with_physical(logic::Frame(frame), &mut |_| {}));
    let window = Crd::objects(FAR & !0xfff, 12, 0x1f);
    world.utcb(50).write_u64(offset::DELEGATE_WINDOW, window.0);
    world
}

/// A call that needs memory.
struct Case {
    name: &'static str,
    words: Words,
    /// Whole slots or pages may be done before a refusal.
    is_restartable: bool,
}

fn cases() -> Vec<Case> {
    let bounded = |name, words| Case { name, words, is_restartable: false };
    let steps = |name, words| Case { name, words, is_restartable: true };
    let pd = |crd| CreatePd { sel: FAR, passthrough: false, parent: CHILD, crd }.encode();
    let thread = CreateEc { global: true, utcb: 0x7777_7777_7000, ..local(FAR, CHILD) };
    let vcpu = CreateVcpu { sel: FAR, cpu: 1, parent: CHILD, state: 81, vlapic: 82, fpu: 83 };
    let both = ItemMeta::GUEST;
    let access = PdCtrl::MapAccessPage { crd: Crd::memory(0xfee00, 0, 3) };
    let split = Revoke { own: true, remote: false, crd: Crd::memory(0x2010, 0, 0), pd: 0 };
    let fixed = Crd::memory(0x2010, 0, 7);
    let microcode = MachineCtrl::UpdateMicrocode { size: 0x2000, physical: 0x1000 };
    vec![
        bounded("create_pd", pd(Crd::NULL)),
        bounded("create_pd with objects", pd(Crd::objects(64, 6, 0x1f))),
        bounded("create_ec", thread.encode()),
        bounded("create_ec here", CreateEc { utcb_in_caller: true, ..thread }.encode()),
        bounded("create_ec there", CreateEc { cpu: 1, utcb: 0, ..thread }.encode()),
        bounded(
            "create_sc",
            CreateSc { sel: FAR, owner: CHILD, ec: 87, priority: 1, quantum_us: 1 }.encode(),
        ),
        bounded(
            "create_pt",
            CreatePt { sel: FAR, owner: CHILD, ec: 85, mtd: Mtd::NONE, entry: 0 }.encode(),
        ),
        bounded("create_sm", create_sm(FAR, 0)),
        bounded("create_kp", CreateKp { sel: FAR, owner: CHILD }.encode()),
        bounded("create_vcpu", vcpu.encode()),
        bounded("kp_ctrl", KpCtrl::Map { kp: 81, pd: CHILD, address: 0x7777_7777_7000 }.encode()),
        bounded("map_access_page", access.encode()),
        bounded("load microcode", microcode.encode()),
        steps("delegate objects", delegate(CHILD, Crd::objects(64, 6, 0x1f), FAR & !63, both)),
        steps("delegate memory", delegate(CHILD, Crd::memory(0x2000, 2, 7), 0x20_0000, both)),
        steps("delegate over a large page", delegate(ROOT_PD, fixed, 0x2044, ItemMeta(0))),
        steps("delegate ports", delegate(CHILD, Crd::ports(0x60, 3, 1), 0x60, both)),
        steps("revoke a part of a large page", split.encode()),
        steps("call with items", CallPortal { portal: 51, nonblocking: false }.encode()),
    ]
}

/// The items of the last case; every call finds them.
fn fill_message(world: &World) {
    let mine = world.utcb(33);
    mine.set_word(0, items(0, 2));
    for (number, base) in [80, 85].into_iter().enumerate() {
        let item = TypedItem::delegate(Crd::objects(base, 0, 0x1f), base << 6);
        let [crd, meta] = item.words();
        let at = offset::TYPED - 16 * number;
        mine.write_u64(at, crd);
        mine.write_u64(at + 8, meta);
    }
}

/// From every allocation of every call on there is no memory: the answer is `OOM`, nothing has changed, and the same call succeeds
/// when it is made again.
#[test]
fn every_allocation_can_fail() {
    let mut failed = Vec::new();
    let mut reached = Vec::new();
    for Case { name, words, is_restartable } in cases() {
        let control = world();
        fill_message(&control);
        let before = Site::ALL.map(Faults::reached);
        control.must(words);
        reached.extend(Site::ALL.iter().filter(|site| {
            Faults::reached(**site) > before.get(**site as usize).copied().unwrap_or(0)
        }));
        let expected = picture(&control);
        let mut faults = 0;
        loop {
            let world = world();
            fill_message(&world);
            let before = picture(&world);
            // For good: a call that finds no memory waits for what is about to be freed and tries again.
            Faults::fail_from(faults + 1);
            let status = world.status(words);
            let site = Faults::failed();
            Faults::fail(0);
            let Some(site) = site else {
                assert_eq!(status, Status::Success, "{name} without a fault");
                break;
            };
            faults += 1;
            failed.push(site);
            let what = format!("{name}: allocation {faults}, for {site:?}");
            if name == "call with items" {
                // The message arrives; the item that found no memory is null.
                assert_eq!(status, Status::Success, "{what}");
                let got = world.utcb(50).read_u64(offset::TYPED);
                assert!(got == 0 || world.utcb(50).read_u64(offset::TYPED - 16) == 0, "{what}");
            } else {
                assert_eq!(status, Status::Oom, "{what}");
            }
            if !is_restartable {
                assert_eq!(picture(&world), before, "{what}: something stayed behind");
            }
            fill_message(&world);
            assert_eq!(world.status(words), Status::Success, "{what}, then again");
            let after = picture(&world);
            assert_eq!(after, expected, "{what}, then again");
        }
        assert!(faults > 0, "{name} takes no memory");
        println!("{name}: {faults} allocations");
    }
    let never: Vec<_> =
        Site::ALL.into_iter().filter(|s| reached.contains(s) && !failed.contains(s)).collect();
    assert!(never.is_empty(), "reached and never failed: {never:?}");
    let unreached: Vec<_> = Site::ALL.into_iter().filter(|s| !reached.contains(s)).collect();
    assert_eq!(unreached, [Site::Boot, Site::IrqTable], "no case covers these");
}

/// What died and is not free yet is waited for, once, before a call is refused (design: grace periods end).
#[test]
fn a_call_short_of_memory_waits_for_pending_frees() {
    let world = World::new(2, FRAMES);
    let spinner = world.spawn((0x300, 0x320), 1, 0x70_0000, 1, &[]);
    let child = CreatePd { sel: CHILD, passthrough: false, parent: ROOT_PD, crd: Crd::NULL };
    world.must(child.encode());
    let thread = create_ec_at(85);
    let revoke =
        Revoke { own: true, remote: false, crd: Crd::objects(85, 0, 0x1f), pd: 0 }.encode();
    world.must(thread);
    let pd = world.object::<Pd>(CHILD).unwrap();
    let (used, _) = pd.account.state();
    world.must([abi::Call::QuotaGive.word(0, CHILD), used, 0, 0, 0]);
    assert_eq!(world.status(create_ec_at(86)), Status::Oom, "nothing is about to be freed");
    // CPU 1 runs a program: it has looked away when it was stepped.
    spinner.spin();
    world.rouse(0x300);
    world.must(revoke);
    world.settle();
    world.must(thread);
    world.terminal.order(revoke);
    world.terminal.order(thread);
    (0..100).for_each(|_| world.step(0));
    let first = world.terminal.result().map(|back| status_of(&back));
    assert_eq!((first, world.terminal.is_inside()), (Some(Status::Success), true), "it waits");
    assert!(world.terminal.result().is_none());
    assert!(Machine::is_pending(1, arch::vector::RESCHEDULE), "CPU 1 is asked to look away");
    world.steps(20);
    let second = world.terminal.result().map(|back| status_of(&back));
    assert_eq!(second, Some(Status::Success), "what died has made room");
    assert_eq!(pd.account.state().0, used);
    assert_eq!(world.status(create_ec_at(86)), Status::Oom, "and not for more");
}

fn create_ec_at(sel: u64) -> Words {
    local(sel, CHILD).encode()
}
