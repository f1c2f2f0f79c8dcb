//! Whether a machine has what a manifest wants: processors, memory, boot modules.
use crate::{Guest, Manifest, Model, Refusal, What, regions};
use alloc::format;
use alloc::string::String;
use devices::virtio::overlay::store_size;

const PAGE: u64 = 4096;

/// What a manifest is compared with; what is not known is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Processors.
    pub cpus: Option<u64>,
    /// Bytes of memory that guests can have.
    pub memory: Option<u64>,
}

/// How large the boot module of a name is; `None` if there is none, or nothing is known of it.
pub type Size<'a> = &'a dyn Fn(&str) -> Option<u64>;

impl Manifest {
    /// Whether a machine can run all guests that start by themselves, and each of the others alone: their RAM, what may
    /// differ from the modules of their disks, and all shared memory.
    ///
    /// # Errors
    /// The first guest that is too much.
    pub fn fits(&self, machine: Machine, size: Size<'_>) -> Result<(), Refusal> {
        machine.cpus.map_or(Ok(()), |cpus| self.host.fits(cpus))?;
        let mut left = machine.memory.unwrap_or(u64::MAX);
        for (name, bytes) in regions::shares(&self.guests) {
            left = left.checked_sub(bytes).ok_or_else(|| self.share_refused(name, bytes, left))?;
        }
        for guest in &self.guests {
            let path = format!("/guests/{}", guest.name);
            if let Some(cpus) = machine.cpus.filter(|cpus| *cpus < 64)
                && guest.vcpus.cpus >> cpus != 0
            {
                let cpu = guest.vcpus.cpus.ilog2();
                let why = format!("cpus names CPU {cpu}; the machine has {cpus}");
                return Err(Refusal::new(&format!("{path}/vcpus"), "cpus", why));
            }
            let memory = guest.all_memory();
            let rest = left.checked_sub(memory).ok_or_else(|| {
                let why = format!(
                    "size: {} MiB, and the machine has {} MiB left",
                    memory >> 20,
                    left >> 20
                );
                Refusal::new(&format!("{path}/aspace/ram@0"), "size", why)
            })?;
            let rest = changes(guest, rest, size)?;
            if guest.autostart {
                left = rest;
            }
        }
        Ok(())
    }

    fn share_refused(&self, share: &str, bytes: u64, left: u64) -> Refusal {
        let mut all = self
            .guests
            .iter()
            .flat_map(|guest| guest.regions.iter().map(|region| (guest.name.as_str(), region)));
        let found = all
            .find(|(_, region)| matches!(&region.what, What::Shared { name, .. } if name == share));
        let path = found.map_or_else(String::new, |(guest, region)| {
            format!("/guests/{guest}/aspace/{}", region.node)
        });
        let why = format!("size: {} KiB, and the machine has {} KiB left", bytes >> 10, left >> 10);
        Refusal::new(&path, "size", why)
    }

    /// Whether each image, disk and ROM is the name of a module that is there, and fits where it goes.
    ///
    /// # Errors
    /// The first that is missing, or has the wrong size.
    pub fn has_modules(&self, size: Size<'_>) -> Result<(), Refusal> {
        for guest in &self.guests {
            let missing = |name: &str| format!("there is no module {name}: --module FILE:{name}");
            let space = |node: &str| format!("/guests/{}/aspace/{node}", guest.name);
            for (node, name) in guest.disks() {
                if size(name).is_none() {
                    return Err(Refusal::new(&space(node), "module", missing(name)));
                }
            }
            for region in &guest.regions {
                let What::Rom { module } = &region.what else { continue };
                let path = space(&region.node);
                let bytes =
                    size(module).ok_or_else(|| Refusal::new(&path, "module", missing(module)))?;
                let whole = bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
                if whole != region.size() {
                    let size = region.size();
                    let why = format!(
                        "size is {size:#x}, but {module} has {bytes} bytes, {whole:#x} in whole pages"
                    );
                    return Err(Refusal::new(&path, "size", why));
                }
            }
            let path = format!("/guests/{}/image", guest.name);
            let mut bytes = 0_u64;
            for (property, name) in guest.image.modules() {
                let size =
                    size(name).ok_or_else(|| Refusal::new(&path, property, missing(name)))?;
                bytes = bytes.saturating_add(size);
            }
            if bytes >= guest.memory {
                let memory = guest.memory >> 20;
                let why = format!("{bytes} bytes of images do not fit the guest's {memory} MiB");
                return Err(Refusal::new(&path, "kernel", why));
            }
        }
        Ok(())
    }
}

/// What is left of the memory after the changes of a guest's disks.
fn changes(guest: &Guest, mut left: u64, size: Size<'_>) -> Result<u64, Refusal> {
    for device in &guest.devices {
        let (Model::Block { module, changes } | Model::Ata { module, changes }) = &device.model
        else {
            continue;
        };
        let Some(image) = size(module) else { continue };
        let bytes = store_size(image, changes.unwrap_or(u64::MAX)).unwrap_or(u64::MAX);
        left = left.checked_sub(bytes).ok_or_else(|| {
            let path = format!("/guests/{}/aspace/{}", guest.name, device.node);
            let property = if changes.is_some() { "changes" } else { "module" };
            let (wants, left) = (bytes >> 10, left >> 10);
            let why = format!(
                "changes of {module}: up to {wants} KiB, and the machine has {left} KiB left"
            );
            Refusal::new(&path, property, why)
        })?;
    }
    Ok(left)
}
