//! What the root task tells a monitor of its guest's regions besides RAM and of its ports: one page of words.
//!
//! ```text
//! word 0   how many regions, word 1 how many ranges of ports
//! then 4 words for each region: guest-physical address, bytes, place in the monitor's memory (0 for none), 1 if it may be
//! written; then a word for each range of ports: the first, 16 bits higher the last
//! ```
use alloc::vec::Vec;

/// Most regions.
pub const REGIONS: usize = 8;
const WORDS: usize = 4;

/// One region, whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Where the monitor sees it; 0 if it does not.
    pub place: u64,
    /// The guest may write it.
    pub write: bool,
}

/// Ports of the machine that the guest has: the first and the last of a range.
pub type Ports = (u16, u16);

/// The words of the page; more than [`REGIONS`] regions, or ranges of ports, are left out.
pub fn encode(orders: &[Order], ports: &[Ports]) -> [u64; 512] {
    let mut page = [0; 512];
    let (orders, _) = orders.split_at(orders.len().min(REGIONS));
    let (ports, _) = ports.split_at(ports.len().min(REGIONS));
    let region = |order: &Order| [order.address, order.size, order.place, order.write.into()];
    let range = |(first, last): &Ports| u64::from(*first) | u64::from(*last) << 16;
    let counts = [orders.len() as u64, ports.len() as u64];
    let regions = orders.iter().flat_map(region);
    let all = counts.into_iter().chain(regions).chain(ports.iter().map(range));
    page.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    page
}

/// From the words of the page.
pub fn decode(page: &[u64; 512]) -> (Vec<Order>, Vec<Ports>) {
    let [regions, ports, rest @ ..] = page;
    let count = |word: &u64| usize::try_from(*word).unwrap_or(0).min(REGIONS);
    let (orders, rest) = rest.split_at(count(regions) * WORDS);
    let (orders, _) = orders.as_chunks::<WORDS>();
    let range = |word: &u64| (*word as u16, (*word >> 16) as u16);
    let ports = rest.iter().take(count(ports)).map(range).collect();
    let order = |[address, size, place, write]: &[u64; WORDS]| Order {
        address: *address,
        size: *size,
        place: *place,
        write: *write != 0,
    };
    (orders.iter().map(order).collect(), ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_as_they_were_sent() {
        let one = Order { address: 0xd000_0000, size: 4096, place: 7 << 12, write: true };
        let orders = [one, Order { place: 0, write: false, ..one }];
        let ports = [(0x402, 0x402), (0, u16::MAX)];
        let (regions, ranges) = decode(&encode(&orders, &ports));
        assert_eq!((regions.as_slice(), ranges.as_slice()), (&orders[..], &ports[..]));
        for page in [encode(&[one; REGIONS + 1], &[(1, 2); REGIONS + 1]), [u64::MAX; 512]] {
            let (regions, ranges) = decode(&page);
            assert_eq!((regions.len(), ranges.len()), (REGIONS, REGIONS));
        }
        assert_eq!(decode(&[0; 512]), (Vec::new(), Vec::new()));
    }
}
