//! What the root task tells a monitor of its guest's regions besides RAM: one page of words.
//!
//! ```text
//! word 0   how many regions
//! then 4 words each: guest-physical address, bytes, place in the monitor's memory (0 for none), 1 if it may be written
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

/// The words of the page; more than [`REGIONS`] are left out.
pub fn encode(orders: &[Order]) -> [u64; 512] {
    let mut page = [0; 512];
    let count = orders.len().min(REGIONS);
    let words = |order: &Order| [order.address, order.size, order.place, order.write.into()];
    let all = [count as u64].into_iter().chain(orders.iter().take(REGIONS).flat_map(words));
    page.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    page
}

/// From the words of the page.
pub fn decode(page: &[u64; 512]) -> Vec<Order> {
    let [count, rest @ ..] = page;
    let (orders, _) = rest.as_chunks::<WORDS>();
    let count = usize::try_from(*count).unwrap_or(0).min(REGIONS);
    let order = |[address, size, place, write]: &[u64; WORDS]| Order {
        address: *address,
        size: *size,
        place: *place,
        write: *write != 0,
    };
    orders.iter().take(count).map(order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_as_they_were_sent() {
        let one = Order { address: 0xd000_0000, size: 4096, place: 7 << 12, write: true };
        let orders = [one, Order { place: 0, write: false, ..one }];
        assert_eq!(decode(&encode(&orders)), orders);
        assert_eq!(decode(&encode(&[one; REGIONS + 1])).len(), REGIONS);
        assert_eq!((decode(&[0; 512]).len(), decode(&[u64::MAX; 512]).len()), (0, REGIONS));
    }
}
