//! Memory: pages to frames, host and guest.

use std::collections::BTreeMap;

use abi::Crd;
use abi::args::{PdCtrl, Revoke};
use abi::cap::MEM_RWX;
use abi::crd::ItemMeta;
use logic::page_table::{EptFormat, lookup};
use proptest::prelude::*;

use super::{DOMAINS, Model, flags, landing};

/// First page and number of pages of the window in which all of it happens: six large pages.
const WINDOW: (u64, u64) = (0x8000, 0xc00);

#[derive(Clone, Debug)]
enum Move {
    Delegate { from: usize, to: usize, send: Crd, window: Crd, meta: ItemMeta },
    Revoke { pd: usize, crd: Crd, own: bool },
}

/// Ranges inside the window, small and large.
fn crd() -> impl Strategy<Value = Crd> {
    let order = prop_oneof![3 => 0..4_u8, 2 => 4..9_u8, 2 => 9..11_u8];
    (0..WINDOW.1, order, prop_oneof![3 => Just(MEM_RWX), 1 => 0..8_u8]).prop_map(
        |(page, order, permissions)| {
            // A range of two large pages must not reach beyond the window.
            let page = page.min(WINDOW.1 - (1 << order)) & !((1 << order) - 1);
            Crd::memory(WINDOW.0 + page, order, permissions)
        },
    )
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let pd = || 0..DOMAINS.len();
    let delegate = (pd(), pd(), crd(), crd(), flags(), any::<u16>(), any::<bool>());
    let delegate = delegate.prop_map(|(from, to, send, window, meta, hotspot, shifted)| {
        let meta = meta.at(hotspot.into());
        let from = if meta.contains(ItemMeta::FROM_KERNEL) { 0 } else { from };
        // Half of what comes from the kernel ends in or begins behind the kernel's own frames.
        let base = if from == 0 && meta.contains(ItemMeta::FROM_KERNEL) && shifted {
            send.base() + 0x7c00
        } else {
            send.base()
        };
        let send = Crd::memory(base & !((1 << send.order()) - 1), send.order(), send.perms());
        Move::Delegate { from, to, send, window, meta }
    });
    let revoke = (pd(), crd(), any::<bool>());
    let revoke = revoke.prop_map(|(pd, crd, own)| Move::Revoke { pd, crd, own });
    prop::collection::vec(prop_oneof![4 => delegate, 1 => revoke], 1..40)
}

/// What a page shows: a frame and what may be done.
type Pages = BTreeMap<u64, (u64, u8)>;

#[derive(Default)]
struct Reference {
    host: [Pages; DOMAINS.len()],
    guest: [Pages; DOMAINS.len()],
}

impl Reference {
    fn apply(&mut self, model: &Model, one: &Move) {
        match *one {
            Move::Delegate { from, to, send, window, meta } => {
                let Some((source, destination, order, permissions)) =
                    landing(send, window, meta.hotspot())
                else {
                    return;
                };
                for page in 0..1 << order {
                    let shown = if meta.contains(ItemMeta::FROM_KERNEL) {
                        physical(model, source + page)
                    } else {
                        self.host[from].get(&(source + page)).copied()
                    };
                    // Whatever is mapped can be read (abi.md 2.2); without any right nothing is mapped.
                    let shown = shown.map(|(frame, rights)| (frame, rights & permissions));
                    let shown = shown.filter(|(_, rights)| *rights != 0);
                    let shown = shown.map(|(frame, rights)| (frame, rights | 1));
                    if !meta.contains(ItemMeta::NO_HOST) {
                        set(&mut self.host[to], destination + page, shown);
                    }
                    if meta.contains(ItemMeta::GUEST) {
                        set(&mut self.guest[to], destination + page, shown);
                    }
                }
            }
            // Never recursive, and always all of it.
            Move::Revoke { pd, crd, .. } => {
                for page in crd.base()..crd.base() + (1 << crd.order()) {
                    self.host[pd].remove(&page);
                    self.guest[pd].remove(&page);
                }
            }
        }
    }
}

fn set(pages: &mut Pages, page: u64, shown: Option<(u64, u8)>) {
    match shown {
        Some(shown) => pages.insert(page, shown),
        None => pages.remove(&page),
    };
}

/// What the kernel gives of a frame: nothing of its own but the HIP, for reading.
fn physical(model: &Model, frame: u64) -> Option<(u64, u8)> {
    let world = &model.world;
    if frame == world.kernel.hip.0 {
        return Some((frame, 1));
    }
    let (first, count) = world.pool.range();
    (!(first.0..first.0 + count).contains(&frame)).then_some((frame, MEM_RWX))
}

/// The domain's host and guest tables say what the reference says.
fn same(model: &Model, reference: &Reference, pd: usize) -> Result<(), TestCaseError> {
    let memory = &model.pds[pd].memory;
    let guest = memory.has_guest_root().then(|| memory.guest_root().unwrap());
    for page in WINDOW.0..WINDOW.0 + WINDOW.1 {
        let shown = memory.lookup(page).map(|found| (found.frame.0, found.rights.bits()));
        prop_assert_eq!(shown, reference.host[pd].get(&page).copied(), "host {} {:#x}", pd, page);
        let shown = guest.and_then(|root| lookup::<EptFormat>(model.world.pool, root, page));
        let shown = shown.map(|found| (found.frame.0, found.rights.bits()));
        prop_assert_eq!(shown, reference.guest[pd].get(&page).copied(), "guest {} {:#x}", pd, page);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn memory_against_a_model(moves in moves()) {
        let model = Model::new();
        let mut reference = Reference::default();
        for one in &moves {
            let (words, touched) = match *one {
                Move::Delegate { from, to, send, window, meta } => {
                    let (source, destination) = (DOMAINS[from], DOMAINS[to]);
                    (PdCtrl::Delegate { source, destination, crd: send, meta, window }.encode(), to)
                }
                Move::Revoke { pd, crd, own } => {
                    (Revoke { own, remote: true, crd, pd: DOMAINS[pd] }.encode(), pd)
                }
            };
            let back = model.world.must(words);
            if let Move::Delegate { send, window, meta, .. } = *one {
                let told = landing(send, window, meta.hotspot())
                    .map_or(Crd::NULL, |(_, base, order, perms)| Crd::memory(base, order, perms));
                prop_assert_eq!(back.rdx, told.0);
            }
            reference.apply(&model, one);
            same(&model, &reference, touched)?;
        }
        for pd in 0..DOMAINS.len() {
            same(&model, &reference, pd)?;
        }
    }
}
