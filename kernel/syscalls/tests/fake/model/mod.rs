//! Who has which memory and which ports, against a plain reference model.
//!
//! Random delegations and revocations by the root program between four domains; after each the model, which is lists
//! and maps without any cleverness, and the tables that the processor reads must say the same.

mod memory;
mod ports;

use abi::args::CreatePd;
use abi::cap::ROOT_PD;
use abi::crd::ItemMeta;
use abi::{Crd, CrdKind, Selector};
use arch::{GuestVendor, Machine};
use objects::Pd;
use proptest::prelude::*;
use sync::Counted;

use crate::world::World;

/// The domains: the root's own and three below it.
const DOMAINS: [Selector; 4] = [ROOT_PD, 70, 71, 72];
const FRAMES: usize = 2048;

/// What the domains are called, and they themselves.
struct Model {
    world: World,
    pds: Vec<Counted<Pd>>,
}

impl Model {
    fn new() -> Self {
        let world = World::new(1, FRAMES);
        Machine::set_vendor(GuestVendor::Vmx);
        for sel in DOMAINS.into_iter().skip(1) {
            let create = CreatePd { sel, passthrough: false, parent: ROOT_PD, crd: Crd::NULL };
            world.must(create.encode());
        }
        let pds = DOMAINS.map(|sel| world.object::<Pd>(sel).unwrap()).into();
        Self { world, pds }
    }
}

/// Where an item lands (abi.md 6.2): first unit of the source, first of the destination, order, permissions.
fn landing(send: Crd, window: Crd, hotspot: u64) -> Option<(u64, u64, u8, u8)> {
    let permissions = send.perms() & window.perms();
    let (s, r) = ((1 << send.order()) - 1, (1 << window.order()) - 1);
    if send.kind() != window.kind() || permissions == 0 && send.kind() != CrdKind::Memory {
        return None;
    }
    if send.kind() == CrdKind::Port {
        let (from, to) = ((send.base(), send.base() | s), (window.base(), window.base() | r));
        let (from, to) = ((from.0 & !s, from.1), (to.0 & !r, to.1));
        let inside =
            |inner: (u64, u64), outer: (u64, u64)| inner.0 >= outer.0 && inner.1 <= outer.1;
        let first = if inside(from, to) {
            from.0
        } else if inside(to, from) {
            to.0
        } else {
            return None;
        };
        return Some((first, first, send.order().min(window.order()), permissions));
    }
    let (source, destination) = (send.base() & !s, window.base() & !r);
    Some(if s < r {
        (source, destination + (hotspot & r & !s), send.order(), permissions)
    } else {
        (source + (hotspot & s & !r), destination, window.order(), permissions)
    })
}

/// The flags of an item: perhaps from the kernel, for host, guest or both.
fn flags() -> impl Strategy<Value = ItemMeta> {
    (any::<bool>(), 0..4_u8).prop_map(|(kernel, tables)| {
        let kernel = if kernel { ItemMeta::FROM_KERNEL } else { ItemMeta(0) };
        let tables = match tables {
            0 => ItemMeta::GUEST | ItemMeta::NO_HOST,
            1 => ItemMeta::GUEST,
            _ => ItemMeta(0),
        };
        ItemMeta::DELEGATE | kernel | tables
    })
}
