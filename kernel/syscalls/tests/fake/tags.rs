//! Address-space tags: translations are kept where they hold, and dropped wherever they may be stale, with and without PCID.

use std::collections::BTreeMap;

use abi::args::{CallPortal, PdCtrl, Reply, Revoke, Words};
use abi::cap::ROOT_PD;
use abi::crd::ItemMeta;
use abi::{Crd, Mtd, Status};
use arch::{Deed, Machine};
use logic::Frame;
use objects::Pd;

use crate::world::{World, create_pd, give, status_of, syscall};

const FRAMES: usize = 4096;
/// The root program's page that children get.
const PAGE: u64 = 0x1000;
/// Domains with a servant on each CPU.
const CHILDREN: u64 = 4;
const CHILD: u64 = 70;

/// Portal of a child's servant on a CPU.
const fn portal(child: u64, cpu: u64) -> u64 {
    0x400 + child * 8 + cpu * 2 + 1
}

const fn call(child: u64, cpu: u64) -> Words {
    CallPortal { portal: portal(child, cpu), nonblocking: false }.encode()
}

const fn child(number: u64) -> u64 {
    if number == 0 { ROOT_PD } else { CHILD + number }
}

/// Gives the page to a domain (the root program: to itself) at page 0x5000.
const fn map(number: u64) -> Words {
    let crd = Crd::memory(PAGE, 0, 3);
    let window = Crd::memory(0x5000, 0, 3);
    let meta = ItemMeta::DELEGATE.at(0x5000);
    PdCtrl::Delegate { source: ROOT_PD, destination: child(number), crd, meta, window }.encode()
}

/// Takes it away again.
const fn unmap(number: u64) -> Words {
    let crd = Crd::memory(0x5000, 0, 0);
    Revoke { own: true, remote: true, crd, pd: child(number) }.encode()
}

fn world(cpus: usize) -> World {
    let world = World::new(cpus, FRAMES);
    world.must(give(Crd::memory(0x400, 0, 3), ROOT_PD, PAGE, ItemMeta(0)));
    for number in 0..CHILDREN {
        if number > 0 {
            world.must(create_pd(child(number)));
        }
        for cpu in 0..cpus as u64 {
            let at = portal(number, cpu);
            let entry = 0x600_0000 + at * 0x1000;
            world.serve(
                (child(number), at - 1, at),
                cpu as u16,
                (Mtd::NONE, entry),
                |thread, _| syscall(thread, Reply { semaphore: 0 }.encode()),
            );
        }
    }
    world
}

/// Whether each space that was loaded since the last look kept its translations.
fn loads() -> Vec<bool> {
    let kept = |(_, deed)| match deed {
        Deed::LoadSpace { tag: None, flush: true, .. } => Some(false),
        Deed::LoadSpace { tag: Some(_), flush, .. } => Some(!flush),
        Deed::LoadSpace { .. } => panic!("kept without a tag"),
        _ => None,
    };
    Machine::take_deeds().into_iter().filter_map(kept).collect()
}

#[test]
fn a_space_keeps_its_translations_until_they_change() {
    for pcid in [true, false] {
        let world = world(1);
        Machine::set_pcid(pcid);
        world.must(call(1, 0));
        let _ = loads();
        world.must(call(1, 0));
        assert_eq!(loads(), [pcid, pcid], "there and back");
        world.must(map(1));
        world.must(call(1, 0));
        assert_eq!(loads(), [pcid, pcid], "a new page has no old translation");
        world.must(unmap(1));
        world.must(call(1, 0));
        assert_eq!(loads(), [false, pcid], "the page is gone");
        world.must(call(1, 0));
        assert_eq!(loads(), [pcid, pcid]);
        world.must(map(0));
        world.must(unmap(0));
        world.must(call(1, 0));
        let back = loads();
        assert_eq!(back, [pcid, false], "the own space has another stamp now");
    }
}

/// What CPUs hold: under each tag, which table as of which change, and which tag each uses.
#[derive(Default)]
struct Held {
    under: BTreeMap<(usize, u16), (Frame, u64)>,
    uses: BTreeMap<usize, (Frame, u16)>,
    kept: usize,
}

impl Held {
    /// Follows what the CPUs did while the tables were as `versions` says.
    fn follow(&mut self, versions: &BTreeMap<Frame, u64>) {
        let version = |root| versions.get(&root).copied().unwrap_or(0);
        for (cpu, deed) in Machine::take_deeds() {
            match deed {
                Deed::LoadSpace { root, tag, flush } => {
                    let tag = tag.unwrap_or(0);
                    self.uses.insert(cpu, (root, tag));
                    if flush {
                        self.under.insert((cpu, tag), (root, version(root)));
                    } else {
                        self.kept += 1;
                    }
                }
                Deed::FlushSpace(None) => {
                    if let Some((root, tag)) = self.uses.get(&cpu) {
                        self.under.insert((cpu, *tag), (*root, version(*root)));
                    }
                }
                _ => {}
            }
        }
        for (cpu, (root, tag)) in &self.uses {
            let held = self.under.get(&(*cpu, *tag));
            assert_eq!(held, Some(&(*root, version(*root))), "CPU {cpu} uses what is stale");
        }
    }
}

/// Many calls and changes on two CPUs: nobody ever runs with a translation that was taken away.
#[test]
fn nobody_uses_stale_translations() {
    for pcid in [true, false] {
        let world = world(2);
        let other = world.other();
        Machine::set_pcid(pcid);
        let root = |number| world.object::<Pd>(child(number)).unwrap().memory.root();
        let (mut held, mut versions) = (Held::default(), BTreeMap::new());
        // Everybody comes by once, so that what is loaded is known.
        let mut seed = 5_u64;
        for round in 0..3000_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = (seed >> 40) % CHILDREN;
            match (seed >> 60) % 8 {
                _ if round < 2 => {
                    world.must(call(1, 0));
                    other.order(call(1, 1));
                }
                0 => drop(world.must(map(number))),
                1 => {
                    let mapped = world.object::<Pd>(child(number)).unwrap().memory.lookup(0x5000);
                    if mapped.is_some() {
                        held.follow(&versions);
                        *versions.entry(root(number)).or_default() += 1;
                    }
                    world.must(unmap(number));
                }
                2..5 => drop(world.must(call(number, 0))),
                _ => other.order(call(number, 1)),
            }
            world.steps(3);
            if let Some(back) = other.result() {
                assert_eq!(status_of(&back), Status::Success);
            }
            held.follow(&versions);
        }
        assert_eq!(held.kept > 500, pcid, "{} were kept", held.kept);
    }
}
