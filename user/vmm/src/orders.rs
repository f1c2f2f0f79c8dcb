//! What the root task tells a monitor of its guest's virtual devices: one page of words.
//!
//! ```text
//! word 0   how many devices
//! then 16 words each: kind, address, line, name (2), and 11 words of its kind
//! ```
use alloc::vec::Vec;
/// Bytes that a disk's changes take.
pub use devices::virtio::overlay::store_size;

/// Most devices of a guest: one for each free pin of the I/O APIC.
pub const DEVICES: usize = 8;
/// Most ports that a port of a switch reaches.
pub const PEERS: usize = 7;
/// Longest name.
pub const NAME: usize = 15;
const WORDS: usize = 16;

/// One device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Guest-physical address of its registers.
    pub address: u64,
    /// Its pin of the I/O APIC.
    pub line: u8,
    /// Its name, padded with zeros.
    pub name: [u8; NAME + 1],
    /// What it is.
    pub what: What,
}

/// What a device is, with the places of what it needs in the monitor's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A virtio disk.
    Disk(Backing),
    /// An ATA disk at the ports of a PC's first channel; its address and line are those.
    Ata(Backing),
    /// A console.
    Console,
    /// A network device in a switch.
    Net {
        /// Its address, in the low six bytes.
        mac: u64,
        /// Where its rings lie: for each peer one to it, then one from it.
        rings: u64,
        /// Selectors to wake peers by, one after the other.
        wakes: u64,
        /// The other ports' addresses.
        peers: Peers,
    },
}

/// What is behind a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Where the image lies (read only).
    pub image: u64,
    /// Its bytes.
    pub size: u64,
    /// Where changed blocks go; zeros at first.
    pub store: u64,
    /// Bytes of that.
    pub store_size: u64,
}

/// The other ports of a switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    count: usize,
    macs: [u64; PEERS],
}

impl Peers {
    /// At most [`PEERS`] of them.
    pub fn new(macs: impl Iterator<Item = u64>) -> Self {
        let mut peers = Self::default();
        for (slot, mac) in peers.macs.iter_mut().zip(macs) {
            *slot = mac;
            peers.count += 1;
        }
        peers
    }

    /// Their addresses.
    pub fn macs(&self) -> &[u64] {
        self.macs.get(..self.count).unwrap_or_default()
    }
}

impl Backing {
    fn words(&self) -> [u64; 11] {
        [self.image, self.size, self.store, self.store_size, 0, 0, 0, 0, 0, 0, 0]
    }
}

impl Order {
    /// The name as text.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        core::str::from_utf8(self.name.get(..end).unwrap_or_default()).unwrap_or("?")
    }

    fn words(&self) -> [u64; WORDS] {
        let (kind, rest) = match self.what {
            What::Disk(backing) => (1, backing.words()),
            What::Ata(backing) => (4, backing.words()),
            What::Console => (3, [0; 11]),
            What::Net { mac, rings, wakes, peers } => {
                let [a, b, c, d, e, f, g] = peers.macs;
                (2, [mac, rings, wakes, peers.count as u64, a, b, c, d, e, f, g])
            }
        };
        let name = u128::from_le_bytes(self.name);
        let head = [kind, self.address, self.line.into(), name as u64, (name >> 64) as u64];
        let mut words = [0; WORDS];
        words.iter_mut().zip(head.into_iter().chain(rest)).for_each(|(to, from)| *to = from);
        words
    }

    fn from_words(words: &[u64; WORDS]) -> Option<Self> {
        let [kind, address, line, low, high, w0, w1, w2, w3, macs @ ..] = *words;
        let backing = Backing { image: w0, size: w1, store: w2, store_size: w3 };
        let what = match kind {
            1 => What::Disk(backing),
            4 => What::Ata(backing),
            2 => {
                let count = usize::try_from(w3).ok()?.min(PEERS);
                let peers = Peers::new(macs.into_iter().take(count));
                What::Net { mac: w0, rings: w1, wakes: w2, peers }
            }
            3 => What::Console,
            _ => return None,
        };
        let name = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
        Some(Self { address, line: u8::try_from(line).ok()?, name, what })
    }
}

/// The words of the page; more than [`DEVICES`] are left out.
pub fn encode(orders: &[Order]) -> [u64; 512] {
    let mut page = [0; 512];
    let count = orders.len().min(DEVICES);
    let words = orders.iter().take(DEVICES).flat_map(Order::words);
    let all = [count as u64].into_iter().chain(words);
    page.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    page
}

/// From the words of the page; what is no order is left out.
pub fn decode(page: &[u64; 512]) -> Vec<Order> {
    let [count, rest @ ..] = page;
    let (orders, _) = rest.as_chunks::<WORDS>();
    let count = usize::try_from(*count).unwrap_or(0).min(DEVICES);
    orders.iter().take(count).filter_map(Order::from_words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_as_they_were_sent() {
        let mut name = [0; NAME + 1];
        name[..4].copy_from_slice(b"disk");
        let backing = Backing { image: 1 << 40, size: 512, store: 3, store_size: 4 };
        let (disk, ata) = (What::Disk(backing), What::Ata(backing));
        let peers = Peers::new([5, 6].into_iter());
        let net = What::Net { mac: 0x0200_0000_0001, rings: 7, wakes: 48, peers };
        let orders = [
            Order { address: 0xfed0_0000, line: 16, name, what: disk },
            Order { address: 0xfed0_1000, line: 17, name, what: net },
            Order { address: 0xfed0_2000, line: 18, name, what: What::Console },
            Order { address: 0x1f0, line: 14, name, what: ata },
        ];
        let back = decode(&encode(&orders));
        assert_eq!(back, orders);
        assert_eq!(back[0].name(), "disk");
        assert_eq!(peers.macs(), [5, 6]);
        assert_eq!(Peers::new(0..20).macs().len(), PEERS);
    }

    #[test]
    fn nonsense_is_left_out() {
        assert_eq!(decode(&[0; 512]), []);
        assert_eq!(decode(&[u64::MAX; 512]), []);
        let mut page = encode(&[]);
        page[0] = 3;
        assert_eq!(decode(&page), []);
    }
}
