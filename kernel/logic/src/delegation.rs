//! The arithmetic of delegation: which window of the sender lands where at the receiver
//! (abi.md 6.2).
//!
//! It looks at no capability; holes, permissions of single items and address limits come later.

use abi::crd::{Crd, CrdKind};

use crate::addr::units;

/// A range that moves from one space to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Memory, ports or objects; never null.
    pub kind: CrdKind,
    /// First unit at the sender; aligned to the order.
    pub source: u64,
    /// First unit at the receiver; aligned to the order.
    pub destination: u64,
    /// log2 of the units.
    pub order: u8,
    /// The item's permissions as far as the window admits them; nothing only for memory, where
    /// it means "unmap".
    pub perms: u8,
}

impl Transfer {
    /// The descriptor that the receiver is told.
    #[must_use]
    pub const fn result(&self) -> Crd {
        Crd::new(self.kind, self.destination, self.order, self.perms)
    }
}

/// What the item `send` with its `hotspot` moves through the window `receive`; `None` when the
/// kinds differ, no permission is left, or windows of ports do not meet.
#[must_use]
#[inline]
pub const fn window(send: Crd, receive: Crd, hotspot: u64) -> Option<Transfer> {
    let kind = send.kind();
    let perms = send.perms() & receive.perms();
    let (source, destination, order) = match (kind, receive.kind()) {
        (CrdKind::Port, CrdKind::Port) => match ports(send, receive) {
            Some((base, order)) => (base, base, order),
            None => return None,
        },
        (CrdKind::Memory, CrdKind::Memory) | (CrdKind::Object, CrdKind::Object) => {
            by_hotspot(send, receive, hotspot)
        }
        _ => return None,
    };
    if perms == 0 && !matches!(kind, CrdKind::Memory) {
        return None;
    }
    Some(Transfer { kind, source, destination, order, perms })
}

/// The smaller window, placed in the larger one where the hotspot points.
const fn by_hotspot(send: Crd, receive: Crd, hotspot: u64) -> (u64, u64, u8) {
    let (small, large) = (units(send.order()) - 1, units(receive.order()) - 1);
    let (source, destination) = (send.base() & !small, receive.base() & !large);
    if small < large {
        (source, destination | hotspot & large & !small, send.order())
    } else {
        (source | hotspot & small & !large, destination, receive.order())
    }
}

/// The smaller window, if it lies in the larger one: ports keep their numbers.
const fn ports(send: Crd, receive: Crd) -> Option<(u64, u8)> {
    let (inner, outer) =
        if send.order() < receive.order() { (send, receive) } else { (receive, send) };
    let (small, large) = (units(inner.order()) - 1, units(outer.order()) - 1);
    if inner.base() & !large == outer.base() & !large {
        Some((inner.base() & !small, inner.order()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn memory(base: u64, order: u8) -> Crd {
        Crd::memory(base, order, 7)
    }

    #[test]
    fn the_hotspot_picks_a_place_in_the_larger_window() {
        let transfer = window(memory(0x123, 0), memory(0, 31), 0x7777).unwrap();
        assert_eq!((transfer.source, transfer.destination, transfer.order), (0x123, 0x7777, 0));
        let transfer = window(memory(0x1234, 12), memory(0x50, 4), 0x5678).unwrap();
        assert_eq!((transfer.source, transfer.destination, transfer.order), (0x1670, 0x50, 4));
        let transfer = window(memory(0x1234, 4), memory(0x9999, 4), 0xffff).unwrap();
        assert_eq!((transfer.source, transfer.destination, transfer.order), (0x1230, 0x9990, 4));
    }

    #[test]
    fn hotspot_bits_above_the_window_are_dropped() {
        let high = 0x7_0000_1234;
        let transfer = window(memory(0, 0), Crd::ALL_MEMORY, high).unwrap();
        assert_eq!(transfer.destination, high & 0x7fff_ffff);
    }

    #[test]
    fn kinds_and_permissions_must_meet() {
        let object = Crd::objects(1, 0, 1);
        assert_eq!(window(object, memory(0, 31), 0), None);
        assert_eq!(window(object, Crd::objects(0, 26, 2), 0), None);
        assert_eq!(window(Crd::NULL, Crd::NULL, 0), None);
        let unmap = window(Crd::memory(5, 0, 0), Crd::ALL_MEMORY, 9).unwrap();
        assert_eq!((unmap.perms, unmap.destination), (0, 9));
    }

    #[test]
    fn ports_are_never_renamed() {
        let com1 = Crd::ports(0x3f8, 3, 1);
        let transfer = window(com1, Crd::ALL_PORTS, 0x1000).unwrap();
        assert_eq!((transfer.source, transfer.destination, transfer.order), (0x3f8, 0x3f8, 3));
        let transfer = window(Crd::ports(0, 16, 1), Crd::ports(0x3f9, 0, 1), 0).unwrap();
        assert_eq!((transfer.source, transfer.order), (0x3f9, 0));
        assert_eq!(window(com1, Crd::ports(0x2f8, 3, 1), 0), None);
    }

    proptest! {
        /// Both ends are aligned and lie in their windows; the order is the smaller one.
        #[test]
        fn transfers_stay_in_their_windows(send: u64, receive: u64, hotspot: u64) {
            let (send, receive) = (Crd(send), Crd(receive));
            let Some(transfer) = window(send, receive, hotspot >> 12) else { return Ok(()) };
            prop_assert_eq!(transfer.order, send.order().min(receive.order()));
            for (window, base) in [(send, transfer.source), (receive, transfer.destination)] {
                prop_assert_eq!(base & (units(transfer.order) - 1), 0);
                prop_assert_eq!(base >> window.order(), window.base() >> window.order());
                prop_assert_eq!(transfer.perms & !window.perms(), 0);
            }
        }

        /// The formula of abi.md 6.2 for ports, where the windows overlap.
        #[test]
        fn overlapping_ports_follow_the_formula(base: u16, orders: (u8, u8), extra: (u64, u64)) {
            let orders = (orders.0 % 17, orders.1 % 17);
            let inside = |order: u8, extra: u64| {
                u64::from(base) & !(units(order) - 1) | extra & (units(order) - 1)
            };
            let send = Crd::ports(inside(orders.0, extra.0), orders.0, 1);
            let receive = Crd::ports(inside(orders.1, extra.1), orders.1, 1);
            let transfer = window(send, receive, 77).unwrap();
            let down = |crd: Crd| crd.base() & !(units(crd.order()) - 1);
            prop_assert_eq!(transfer.source, down(send) | down(receive));
            prop_assert_eq!(transfer.destination, transfer.source);
        }
    }
}
