//! A guest's regions besides RAM: its monitor and the guest get them, each with its own rights.
use crate::cell::Maker;
use crate::loader::{self, Space, refused};
use abi::cap::{MEM_R, MEM_RW, MEM_X};
use abi::{PAGE_SIZE, Selector};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use manifest::{Access, Guest, Manifest, Region, What};
use root::taken::Taken;
use rt::memory::Window;
use vmm::control::BESIDES;
use vmm::regions::{self, Order};

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
                What::Rom { module } => (self.rom(module, region, taken)?, MEM_R, MEM_R | MEM_X),
                What::Shared { name, access } => {
                    let piece = self.shares.enter(name, &guest.name, loader::scrub)?;
                    let rights = match access {
                        Access::Read => MEM_R,
                        Access::ReadWrite => MEM_RW,
                    };
                    (alloc::vec![piece], rights, rights)
                }
            };
            let mut done = 0;
            for (physical, bytes) in pieces {
                loader::give(pd, physical, bytes, place + done, mine, Space::Host)?;
                loader::give(pd, physical, bytes, region.range.start + done, its, Space::Guest)?;
                done += bytes;
            }
            let (address, size) = (region.range.start, region.size());
            if done != size || place + size > BESIDES.end {
                return Err(format!("{}: {done} bytes for a region of {size}", region.node));
            }
            orders.push(Order { address, size, place, write: mine == MEM_RW });
            place += size;
        }
        Ok(regions::encode(&orders))
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
