//! Ports: a tree of ranges, and what the bitmaps of host and guest allow.

use abi::args::{PdCtrl, Revoke};
use abi::crd::ItemMeta;
use abi::{Crd, ItemKind};
use logic::Frame;
use proptest::prelude::*;

use super::{DOMAINS, Model, flags, landing};

/// Ports in which most of it happens.
const PORTS: std::ops::Range<u64> = 0x3c0..0x440;
/// The permissions that the kernel has (abi.md 5), and the one that the processor knows.
const ALL: u8 = 7;
const ACCESS: u8 = 1;

#[derive(Clone, Debug)]
enum Move {
    Delegate { from: usize, to: usize, send: Crd, window: Crd, meta: ItemMeta },
    Translate { from: usize, to: usize, send: Crd, window: Crd },
    Revoke { pd: usize, crd: Crd, own: bool },
}

fn crd() -> impl Strategy<Value = Crd> {
    let order = prop_oneof![6 => 0..6_u8, 1 => Just(16_u8)];
    (PORTS, order, prop_oneof![2 => Just(0x1f_u8), 1 => 0..8_u8])
        .prop_map(|(port, order, permissions)| Crd::ports(port, order, permissions))
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let pd = || 0..DOMAINS.len();
    // Most windows take everything.
    let window = || prop_oneof![3 => Just(Crd::ports(0, 16, 0x1f)), 1 => crd()];
    let delegate = (pd(), pd(), crd(), window(), flags());
    let delegate = delegate.prop_map(|(from, to, send, window, meta)| {
        let from = if meta.contains(ItemMeta::FROM_KERNEL) { 0 } else { from };
        Move::Delegate { from, to, send, window, meta }
    });
    let translate = (pd(), pd(), crd(), window());
    let translate =
        translate.prop_map(|(from, to, send, window)| Move::Translate { from, to, send, window });
    let revoke = (pd(), crd(), any::<bool>());
    let revoke = revoke.prop_map(|(pd, crd, own)| Move::Revoke { pd, crd, own });
    prop::collection::vec(prop_oneof![4 => delegate, 1 => translate, 2 => revoke], 1..80)
}

/// A range that a domain has (`None`: the kernel), and the node it came from, by number.
#[derive(Clone, Copy, Debug)]
struct Node {
    number: usize,
    parent: usize,
    pd: Option<usize>,
    first: u64,
    end: u64,
    permissions: u8,
    host: bool,
    guest: bool,
}

struct Reference {
    nodes: Vec<Node>,
    made: usize,
}

impl Reference {
    /// The kernel has everything.
    fn new() -> Self {
        let all = Node {
            number: 0,
            parent: 0,
            pd: None,
            first: 0,
            end: 1 << 16,
            permissions: ALL,
            host: false,
            guest: false,
        };
        Self { nodes: vec![all], made: 0 }
    }

    /// The nodes of a domain with a port of the range, lowest first.
    fn overlapping(&self, pd: Option<usize>, first: u64, end: u64) -> Vec<Node> {
        let overlaps = |node: &&Node| node.pd == pd && node.first < end && first < node.end;
        let mut found: Vec<_> = self.nodes.iter().filter(overlaps).copied().collect();
        found.sort_by_key(|node| node.first);
        found
    }

    fn find(&self, pd: usize, port: u64) -> Option<Node> {
        self.overlapping(Some(pd), port, port + 1).first().copied()
    }

    /// The result that the receiver is told.
    fn delegate(&mut self, from: usize, to: usize, send: Crd, window: Crd, meta: ItemMeta) -> Crd {
        let Some((first, _, order, permissions)) = landing(send, window, 0) else {
            return Crd::NULL;
        };
        let from = (!meta.contains(ItemMeta::FROM_KERNEL)).then_some(from);
        let mut given = false;
        for source in self.overlapping(from, first, first + (1 << order)) {
            let (start, end) = (source.first.max(first), source.end.min(first + (1 << order)));
            let permissions = permissions & source.permissions;
            if permissions == 0 || !self.overlapping(Some(to), start, end).is_empty() {
                continue;
            }
            self.made += 1;
            self.nodes.push(Node {
                number: self.made,
                parent: source.number,
                pd: Some(to),
                first: start,
                end,
                permissions,
                host: !meta.contains(ItemMeta::NO_HOST),
                guest: meta.contains(ItemMeta::GUEST),
            });
            given = true;
        }
        if given { Crd::ports(first, order, permissions) } else { Crd::NULL }
    }

    /// Whether a node came from another one, in however many steps.
    fn is_below(&self, node: Node, above: usize) -> bool {
        let mut at = node;
        while at.number != 0 {
            if at.parent == above {
                return true;
            }
            at = *self.nodes.iter().find(|other| other.number == at.parent).expect("a parent");
        }
        false
    }

    fn revoke(&mut self, pd: usize, crd: Crd, own: bool) {
        let first = crd.base() & !((1 << crd.order()) - 1);
        for above in self.overlapping(Some(pd), first, first + (1 << crd.order())) {
            let old = self.nodes.clone();
            let old = Reference { nodes: old, made: self.made };
            for node in &mut self.nodes {
                if own && node.number == above.number || old.is_below(*node, above.number) {
                    node.permissions &= !crd.perms();
                }
            }
        }
        self.nodes.retain(|node| node.permissions != 0);
    }

    fn translate(&self, from: usize, to: usize, send: Crd, window: Crd) -> Crd {
        let Some(source) = self.find(from, send.base()) else { return Crd::NULL };
        let inside = |port: u64| port.wrapping_sub(window.base()) < 1 << window.order();
        let mut at = source;
        while at.number != 0 {
            at = *self.nodes.iter().find(|other| other.number == at.parent).expect("a parent");
            if at.pd == Some(to) {
                let order = (at.end - at.first).ilog2() as u8;
                let base = at.first;
                return if inside(base) {
                    Crd::ports(base, order.min(window.order()), source.permissions)
                } else {
                    Crd::NULL
                };
            }
        }
        if from == to && inside(send.base()) { send } else { Crd::NULL }
    }
}

/// What the processor reads: a set bit forbids.
fn allows(model: &Model, bits: Frame, port: u64) -> bool {
    let page = model.world.pool.page(bits.plus(port / 0x8000));
    page.read_u8((port % 0x8000 / 8) as usize) >> (port % 8) & 1 == 0
}

/// The bitmap of a domain's programs, through the tables that lead to it.
fn host_bitmap(model: &Model, pd: usize) -> Option<Frame> {
    let mut frame = model.pds[pd].memory.root();
    for index in [objects::machine::PORT_ROOT_ENTRY, 0, 0, 0] {
        let entry = model.world.pool.page(frame).word(index);
        frame = Frame((entry & 0xf_ffff_ffff_f000) >> 12);
        if !model.world.pool.contains(frame) {
            return None;
        }
    }
    Some(frame)
}

/// The bitmaps and the kernel's answers to lookups say what the reference says.
fn same(model: &Model, reference: &Reference) -> Result<(), TestCaseError> {
    for pd in 0..DOMAINS.len() {
        let host = host_bitmap(model, pd);
        let guest = Some(model.pds[pd].guest_ports()).filter(|frame| frame.0 != 0);
        for port in PORTS.start - 0x40..PORTS.end + 0x40 {
            let node = reference.find(pd, port);
            let may = |wanted: fn(&Node) -> bool| {
                node.is_some_and(|node| node.permissions & ACCESS != 0 && wanted(&node))
            };
            let allowed = host.is_some_and(|bits| allows(model, bits, port));
            prop_assert_eq!(allowed, may(|node| node.host), "host {} {:#x}: {:?}", pd, port, node);
            let allowed = guest.is_some_and(|bits| allows(model, bits, port));
            prop_assert_eq!(
                allowed,
                may(|node| node.guest),
                "guest {} {:#x}: {:?}",
                pd,
                port,
                node
            );
            let identity = model.pds[pd].identity();
            let found = model.world.kernel.ports.lock().find(identity, port as u32);
            let known = node
                .map(|node| (node.first as u32, (node.end - node.first) as u32, node.permissions));
            prop_assert_eq!(found, known, "lookup {} {:#x}", pd, port);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ports_against_a_model(moves in moves()) {
        let model = Model::new();
        let mut reference = Reference::new();
        for one in &moves {
            let mut expected = None;
            let words = match *one {
                Move::Delegate { from, to, send, window, meta } => {
                    expected = Some(reference.delegate(from, to, send, window, meta));
                    let (source, destination) = (DOMAINS[from], DOMAINS[to]);
                    PdCtrl::Delegate { source, destination, crd: send, meta, window }.encode()
                }
                Move::Translate { from, to, send, window } => {
                    expected = Some(reference.translate(from, to, send, window));
                    let (source, destination) = (DOMAINS[from], DOMAINS[to]);
                    let meta = ItemMeta(ItemKind::Translate as u64);
                    PdCtrl::Delegate { source, destination, crd: send, meta, window }.encode()
                }
                Move::Revoke { pd, crd, own } => {
                    reference.revoke(pd, crd, own);
                    Revoke { own, remote: true, crd, pd: DOMAINS[pd] }.encode()
                }
            };
            let back = model.world.must(words);
            if let Some(crd) = expected {
                prop_assert_eq!(Crd(back.rdx), crd, "{:?}", one);
            }
            same(&model, &reference)?;
        }
    }
}
