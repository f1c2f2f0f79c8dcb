//! A guest's regions besides RAM: its monitor and the guest get them, each with its own rights; ports its monitor alone.
use crate::cell::Maker;
use crate::loader::{self, Space, refused};
use abi::cap::{MEM_R, MEM_RW, MEM_X};
use abi::hip::MemoryKind;
use abi::{PAGE_SIZE, Selector};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use manifest::{Access, Guest, Manifest, Owned, Ports, Region, Space as Where, What};
use root::power;
use root::taken::Taken;
use rt::instructions::{inl, outl};
use rt::memory::Window;
use vmm::control::BESIDES;
use vmm::regions::{self, Order};

/// PCI configuration mechanism 1: the address, then the data port (PCI Local Bus 3.0, 3.2.2.3.2).
const PCI_ADDRESS: u16 = 0xcf8;
/// VGA's memory, where the kernel may write its log.
const SCREEN: core::ops::Range<u64> = 0xa_0000..0xc_0000;
/// The kind of reserved memory in a memory map.
const RESERVED: u32 = 2;

fn rights(access: Access) -> u8 {
    match access {
        Access::Read => MEM_R,
        Access::ReadWrite => MEM_RW,
    }
}

/// Pages that a region consists of: physical address and bytes of each piece, in order.
type Pieces = Vec<(u64, u64)>;

impl Maker<'_> {
    /// Takes the memory that guests share.
    ///
    /// # Errors
    /// A sentence.
    pub fn share(&mut self, manifest: &Manifest) -> Result<(), String> {
        for (name, bytes) in manifest::shares(&manifest.guests) {
            let (physical, window) =
                loader::fresh(self.pool, bytes).map_err(|why| format!("shared {name}: {why}"))?;
            window.close().map_err(refused)?;
            self.shares.add(name, physical, bytes);
        }
        Ok(())
    }

    /// Gives a new domain the guest's regions: the words of the order for its monitor.
    ///
    /// # Errors
    /// A sentence.
    pub fn regions(
        &mut self,
        guest: &Guest,
        pd: Selector,
        taken: &mut Taken,
    ) -> Result<[u64; 512], String> {
        let mut orders = Vec::new();
        let mut place = BESIDES.start;
        for region in &guest.regions {
            let (pieces, mine, its) = match &region.what {
                What::HostMemory { host, access, .. } => {
                    (alloc::vec![(*host, region.size())], 0, rights(*access))
                }
                What::Rom { module } => (self.rom(module, region, taken)?, MEM_R, MEM_R | MEM_X),
                What::Shared { name, access } => {
                    let piece = self.shares.enter(name, &guest.name, loader::scrub)?;
                    let rights = rights(*access);
                    (alloc::vec![piece], rights, rights)
                }
            };
            let mut done = 0;
            for (physical, bytes) in pieces {
                // A device's registers are the guest's alone: its monitor does not see them.
                if mine != 0 {
                    loader::give(pd, physical, bytes, place + done, mine, Space::Host)?;
                }
                loader::give(pd, physical, bytes, region.range.start + done, its, Space::Guest)?;
                done += bytes;
            }
            let (address, size) = (region.range.start, region.size());
            if done != size || place + size > BESIDES.end {
                return Err(format!("{}: {done} bytes for a region of {size}", region.node));
            }
            let seen = if mine == 0 { 0 } else { place };
            orders.push(Order { address, size, place: seen, write: mine == MEM_RW });
            place += size;
        }
        for Ports { first, last, .. } in &guest.ports {
            loader::give_ports(pd, *first, *last)?;
        }
        let ports: Vec<_> = guest.ports.iter().map(|ports| (ports.first, ports.last)).collect();
        Ok(regions::encode(&orders, &ports))
    }

    /// Refuses a manifest that gives a guest what is somebody else's, and says of what is dangerous that it is.
    ///
    /// # Errors
    /// A sentence with the node's path.
    pub fn pass(&self, manifest: &Manifest) -> Result<(), String> {
        if manifest.passes_anything() {
            let owned = self.owned().map_err(|why| {
                format!("manifest: no guest may have memory or ports of the machine: {why}")
            })?;
            manifest.may_have(&owned).map_err(|refusal| format!("manifest: {refusal}"))?;
            manifest.unprotected().for_each(|line| rt::println!("root: {line}"));
        }
        Ok(())
    }

    /// What of the machine no guest may have, or only if the manifest says that it reaches all memory.
    ///
    /// # Errors
    /// The machine's ACPI tables cannot be read: nobody knows which ports rule its power.
    pub fn owned(&self) -> Result<Vec<Owned>, String> {
        let of =
            |space, range, whose: &str| Owned { space, range, whose: whose.into(), dma: false };
        let memory = |range| of(Where::Memory, range, "");
        let mut all: Vec<Owned> = Vec::new();
        for range in self.boot.hip.memory() {
            let whose = match range.kind {
                MemoryKind::Ram => "RAM",
                MemoryKind::Hypervisor => "the kernel's",
                MemoryKind::Module => "a boot module",
                // What firmware reserves may be a device; its tables are not (ACPI 6.5, table 15.1).
                MemoryKind::Other(RESERVED) => continue,
                MemoryKind::Other(_) => "the firmware's",
            };
            let end = range.addr.saturating_add(range.size);
            all.push(Owned { whose: whose.into(), ..memory(range.addr..end) });
        }
        all.push(Owned { whose: "the screen's".into(), ..memory(SCREEN) });
        let power = power::tables(&self.boot)?;
        for range in &power.configuration {
            all.push(Owned { whose: "PCI configuration's".into(), ..memory(range.clone()) });
        }
        for port in power.ports() {
            let range = u64::from(port)..u64::from(port) + 4;
            all.push(of(Where::Ports, range, "the power management's"));
        }
        if rt::memory::delegate_ports(PCI_ADDRESS, 3).is_ok() {
            let mut read = |address: u32| {
                outl(PCI_ADDRESS, 1 << 31 | address);
                inl(PCI_ADDRESS + 4)
            };
            all.extend(root::pci::owned(&mut read));
        }
        Ok(all)
    }

    /// A module's whole pages where they lie; of its last one, if it is not whole, a copy with zeros behind it.
    fn rom(&mut self, module: &str, region: &Region, taken: &mut Taken) -> Result<Pieces, String> {
        let (physical, bytes) = {
            let module = self.module(module)?;
            (module.address, module.size)
        };
        if !physical.is_multiple_of(PAGE_SIZE) {
            return Err(format!("boot module {module} does not start on a page"));
        }
        let whole = bytes & !(PAGE_SIZE - 1);
        let mut pieces = Pieces::new();
        if whole > 0 {
            pieces.push((physical, whole));
        }
        if whole < bytes {
            let (copy, window) = loader::fresh(self.pool, PAGE_SIZE)?;
            taken.add(copy, PAGE_SIZE);
            let tail = Window::physical(physical + whole, bytes - whole, MEM_R).map_err(refused)?;
            let bytes = tail.bytes().ok_or_else(|| format!("{}: no bytes", region.node))?;
            let copied = window.copy_in(0, bytes);
            tail.close().map_err(refused)?;
            window.close().map_err(refused)?;
            copied.ok_or_else(|| format!("{}: a window is short", region.node))?;
            pieces.push((copy, PAGE_SIZE));
        }
        Ok(pieces)
    }
}
