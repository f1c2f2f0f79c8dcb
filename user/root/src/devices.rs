//! A guest's virtual devices: what the monitor gets for them, and the order that says where it lies.
use crate::cell::Maker;
use crate::loader::{self, Space, give_object};
use crate::switches::word;
use abi::cap::{MEM_R, MEM_RW, SM_UP};
use abi::{PAGE_SIZE, Selector};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use manifest::{Guest, Model};
use root::taken::Taken;
use vmm::control::{BACKING, SEL_PEERS};
use vmm::frames::RING;
use vmm::orders::{self, Backing, NAME, Order, Peers, What, store_size};

/// Where the next thing goes in the monitor's memory.
struct Room {
    next: u64,
}

impl Room {
    fn take(&mut self, bytes: u64) -> Result<u64, String> {
        let at = self.next;
        let end = bytes.checked_next_multiple_of(PAGE_SIZE).and_then(|size| at.checked_add(size));
        self.next = end.filter(|end| *end <= BACKING.end).ok_or("the disks are too large")?;
        Ok(at)
    }
}

impl Maker<'_> {
    /// Bytes that the guest's disks take in its monitor, for whose page tables it needs memory.
    pub fn disk_bytes(&self, guest: &Guest) -> u64 {
        let sizes = guest.devices.iter().filter_map(|device| match &device.model {
            Model::Block { module, changes } | Model::Ata { module, changes } => {
                let image = self.module(module).ok()?.size;
                let store = store_size(image, changes.unwrap_or(u64::MAX))?;
                Some(image.saturating_add(store))
            }
            Model::Net { .. } | Model::Console => None,
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// Gives a new monitor's domain what its devices need: the words of the order.
    ///
    /// # Errors
    /// A sentence.
    pub fn devices(
        &mut self,
        guest: &Guest,
        pd: Selector,
        taken: &mut Taken,
    ) -> Result<[u64; 512], String> {
        let mut room = Room { next: BACKING.start };
        let (mut wakes, mut all) = (SEL_PEERS, Vec::new());
        for (index, device) in guest.devices.iter().enumerate() {
            let what = match &device.model {
                Model::Block { module, changes } => {
                    What::Disk(self.disk(module, *changes, pd, &mut room, taken)?)
                }
                Model::Ata { module, changes } => {
                    What::Ata(self.disk(module, *changes, pd, &mut room, taken)?)
                }
                Model::Console => What::Console,
                Model::Net { mac, .. } => {
                    let peers: Vec<_> = self.switches.peers(&guest.name, index).collect();
                    let rings = room.take(2 * RING * peers.len() as u64)?;
                    let mut at = rings;
                    for (number, peer) in (0..).zip(&peers) {
                        for physical in [peer.to, peer.from] {
                            loader::give(pd, physical, RING, at, MEM_RW, Space::Host)?;
                            at += RING;
                        }
                        give_object(pd, peer.wake, wakes + number, SM_UP)?;
                    }
                    let macs = Peers::new(peers.iter().map(|peer| peer.mac));
                    let net = What::Net { mac: word(*mac), rings, wakes, peers: macs };
                    wakes += peers.len() as u64;
                    net
                }
            };
            let mut name = [0; NAME + 1];
            name.iter_mut().take(NAME).zip(device.name().bytes()).for_each(|(to, from)| *to = from);
            let (address, line) = (device.address, device.interrupt);
            all.push(Order { address, line, name, what });
        }
        Ok(orders::encode(&all))
    }

    /// A disk: the module where it lies, read only, and memory for what will differ from it.
    fn disk(
        &mut self,
        module: &str,
        changes: Option<u64>,
        pd: Selector,
        room: &mut Room,
        taken: &mut Taken,
    ) -> Result<Backing, String> {
        let (physical, size) = {
            let module = self.module(module)?;
            (module.address, module.size)
        };
        if !physical.is_multiple_of(PAGE_SIZE) {
            return Err(format!("boot module {module} does not start on a page"));
        }
        let image = room.take(size)?;
        loader::give(pd, physical, size, image, MEM_R, Space::Host)?;
        let store_size =
            store_size(size, changes.unwrap_or(u64::MAX)).ok_or("a disk is too large")?;
        let store = room.take(store_size)?;
        let mut done = 0;
        while done < store_size {
            let (physical, bytes) = self
                .pool
                .take_some(store_size - done, PAGE_SIZE)
                .ok_or(format!("the machine has no {store_size} bytes for changes of {module}"))?;
            taken.add(physical, bytes);
            loader::scrub(physical, bytes).map_err(|why| format!("{module}: {why}"))?;
            loader::give(pd, physical, bytes, store + done, MEM_RW, Space::Host)?;
            done += bytes;
        }
        Ok(Backing { image, size, store, store_size })
    }
}
