//! The switches between guests: memory for their rings, which lasts as long as the machine runs.
//!
//! A switch is one ring of frames for each ordered pair of its ports. Monitors come and go; a new one
//! forgets what lies in the rings to it ([`vmm::frames`]).
use crate::loader::{self, refused};
use abi::Selector;
use alloc::string::String;
use alloc::vec::Vec;
use manifest::{Guest, Model};
use root::pool::Pool;
use vmm::frames::RING;

/// A network device of a guest.
struct Port {
    guest: String,
    /// Its place among the guest's devices.
    device: usize,
    switch: String,
    mac: [u8; 6],
    /// Wakes the guest's monitor.
    wake: Selector,
}

/// Another port of a port's switch.
pub struct Peer {
    /// Its address, the first byte lowest.
    pub mac: u64,
    /// Physical address of the ring to it.
    pub to: u64,
    /// Physical address of the ring from it.
    pub from: u64,
    /// Wakes its monitor.
    pub wake: Selector,
}

/// All switches.
#[derive(Default)]
pub struct Switches {
    ports: Vec<Port>,
    /// From port, to port, physical address.
    rings: Vec<(usize, usize, u64)>,
}

impl Switches {
    /// Plugs a guest's network devices in; `wake` wakes its monitor.
    ///
    /// # Errors
    /// A sentence.
    pub fn plug(&mut self, guest: &Guest, wake: Selector, pool: &mut Pool) -> Result<(), String> {
        for (device, of) in guest.devices.iter().enumerate() {
            let Model::Net { switch, mac } = &of.model else { continue };
            let new = self.ports.len();
            let same = |(_, port): &(usize, &Port)| port.switch == *switch;
            let others: Vec<usize> =
                self.ports.iter().enumerate().filter(same).map(|(at, _)| at).collect();
            for other in others {
                for (from, to) in [(new, other), (other, new)] {
                    let (physical, window) = loader::fresh(pool, RING)?;
                    window.close().map_err(refused)?;
                    self.rings.push((from, to, physical));
                }
            }
            let (guest, switch, mac) = (guest.name.clone(), switch.clone(), *mac);
            self.ports.push(Port { guest, device, switch, mac, wake });
        }
        Ok(())
    }

    /// The other ports of the switch of a guest's device.
    pub fn peers(&self, guest: &str, device: usize) -> impl Iterator<Item = Peer> {
        let is_it = |port: &Port| port.guest == guest && port.device == device;
        let me = self.ports.iter().position(is_it).unwrap_or(usize::MAX);
        self.ports.iter().enumerate().filter_map(move |(other, port)| {
            let ring = |ends| {
                let mut rings = self.rings.iter();
                rings.find(|(from, to, _)| (*from, *to) == ends).map(|(_, _, at)| *at)
            };
            let (to, from) = (ring((me, other))?, ring((other, me))?);
            Some(Peer { mac: word(port.mac), to, from, wake: port.wake })
        })
    }
}

/// An Ethernet address as a word, the first byte lowest.
pub fn word(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}
