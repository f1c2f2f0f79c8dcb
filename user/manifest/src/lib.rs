//! The manifest: which guests there are and what each gets.
//!
//! Two readers judge it by the same rules: xtask before anything boots, and the root task, because the blob
//! comes to it from a boot loader. `docs/manifest.md` is the specification; everything it does not list is
//! refused, so that a spelling mistake is never silent and nothing is accepted without effect.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod devices;
mod fields;
mod fits;
mod passed;
mod regions;
mod settings;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
pub use devices::{ADDRESSES, ATA, Device, INTERRUPTS, Model, PORTS};
use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};
use fields::{flag, number, only, text, texts, within};
pub use fits::Machine;
pub use passed::{Dma, Owned, Ports, Space};
pub use regions::{Access, LARGEST, REGIONS, Region, What, shares};
pub use settings::{Host, STOP_MS, Vmm};

/// What `compatible` of the root node says.
pub const VERSION: &str = "hematite,manifest-v1";
/// Most modules of a multiboot guest.
pub const MODULES: usize = 8;
/// Most virtual processors of a guest.
pub const VCPUS: u64 = 64;
/// Priorities that virtual processors may have: below those of the monitors' own threads.
pub const PRIORITIES: core::ops::RangeInclusive<u64> = 1..=9;
/// Time slices that virtual processors may have, in microseconds.
pub const SLICES_US: core::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// How long a guest may be silent before it is reported, in seconds.
pub const SILENT_S: core::ops::RangeInclusive<u64> = 1..=86_400;

/// How large a region of RAM may be, in bytes and in words.
struct Limits {
    bytes: core::ops::RangeInclusive<u64>,
    words: &'static str,
}

/// Of the RAM from address 0: below the PCI hole.
const MEMORY: Limits = Limits { bytes: 16 << 20..=3 << 30, words: "16 MiB to 3 GiB" };
/// Of the RAM above the hole: what a monitor has addresses for.
const HIGH_MEMORY: Limits = Limits { bytes: 2 << 20..=28 << 30, words: "2 MiB to 28 GiB" };
/// The nodes of the RAM: from address 0, and above the hole.
const RAM: [&str; 2] = ["ram@0", "ram@100000000"];

/// A judged manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// About the machine.
    pub host: Host,
    /// About monitors and console.
    pub vmm: Vmm,
    /// The guests, in the order of the file.
    pub guests: Vec<Guest>,
}

/// What a guest is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Started at boot.
    pub autostart: bool,
    /// Stopped when it touches what nobody claims.
    pub stop_on_unclaimed: bool,
    /// After so many seconds without a byte on its serial line it is reported, in [`SILENT_S`]; 0 for never.
    pub silent_s: u32,
    /// Its processors.
    pub vcpus: Vcpus,
    /// Bytes of RAM from address 0.
    pub memory: u64,
    /// Bytes of RAM above the PCI hole, from 4 GiB on.
    pub high_memory: u64,
    /// Its virtual devices besides those of the board.
    pub devices: Vec<Device>,
    /// Its real regions besides RAM.
    pub regions: Vec<Region>,
    /// Ports of the machine that it has.
    pub ports: Vec<Ports>,
    /// What is started in it.
    pub image: Image,
}

impl Guest {
    /// Bytes of RAM, wherever they are.
    pub fn all_memory(&self) -> u64 {
        self.memory.saturating_add(self.high_memory)
    }
}

/// A guest's virtual processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpus {
    /// How many, 1 to [`VCPUS`].
    pub count: u32,
    /// Processors of the machine they run on, bit by bit, in turn; 0 for all.
    pub cpus: u64,
    /// Those processors are for this guest alone, one for each virtual processor.
    pub dedicated: bool,
    /// Their threads' priority, in [`PRIORITIES`].
    pub priority: u8,
    /// Their threads' time slice in microseconds, in [`SLICES_US`].
    pub slice_us: u32,
}

/// How a guest starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A bzImage.
    Linux {
        /// Boot module of the kernel.
        kernel: String,
        /// Boot module of the initrd.
        initrd: Option<String>,
        /// Command line.
        command_line: String,
    },
    /// A kernel with a multiboot header, version 1.
    Multiboot {
        /// Boot module of the kernel.
        kernel: String,
        /// Boot modules that it finds in its information, at most [`MODULES`]; the name of each is its string.
        modules: Vec<String>,
        /// Command line.
        command_line: String,
    },
    /// Raw bytes.
    Flat {
        /// Boot module.
        kernel: String,
        /// Where they go and start.
        address: u64,
    },
}

impl Guest {
    /// The boot modules of its disks, each with the name of its node.
    pub fn disks(&self) -> impl Iterator<Item = (&str, &str)> {
        self.devices.iter().filter_map(|device| match &device.model {
            Model::Block { module, .. } | Model::Ata { module, .. } => {
                Some((device.node.as_str(), module.as_str()))
            }
            Model::Net { .. } | Model::Console => None,
        })
    }

    /// Bytes of its regions besides RAM.
    pub fn region_bytes(&self) -> u64 {
        self.regions.iter().map(Region::size).sum()
    }

    /// The boot modules of its ROMs, each with the name of its node.
    pub fn roms(&self) -> impl Iterator<Item = (&str, &str)> {
        self.regions.iter().filter_map(|region| match &region.what {
            What::Rom { module } => Some((region.node.as_str(), module.as_str())),
            What::Shared { .. } | What::HostMemory { .. } => None,
        })
    }
}

impl Image {
    /// The boot modules it is made of, each with the name of its property.
    pub fn modules(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let (kernel, property, others) = match self {
            Self::Linux { kernel, initrd, .. } => (kernel, "initrd", initrd.as_slice()),
            Self::Multiboot { kernel, modules, .. } => (kernel, "modules", modules.as_slice()),
            Self::Flat { kernel, .. } => (kernel, "", &[][..]),
        };
        let others = others.iter().map(move |name| (property, name.as_str()));
        [("kernel", kernel.as_str())].into_iter().chain(others)
    }
}

/// Why a manifest was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The node's path.
    pub path: String,
    /// The property, or empty.
    pub property: String,
    /// The reason.
    pub why: String,
}

impl Refusal {
    /// About a node, or with a name about a property of it.
    pub fn new(path: &str, property: &str, why: impl Into<String>) -> Self {
        Self { path: path.into(), property: property.into(), why: why.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

/// Judges a blob.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(blob: &[u8]) -> Result<Manifest, Refusal> {
    let tree = Fdt::new(blob)
        .map_err(|error| Refusal::new("/", "", format!("no device tree: {error}")))?;
    let root = tree.root();
    let version = text(&root, "/", "compatible")?;
    let version = version.ok_or_else(|| Refusal::new("/", "", "compatible is missing"))?;
    if version != VERSION {
        let why = format!("compatible is \"{version}\"; this is for \"{VERSION}\"");
        return Err(Refusal::new("/", "compatible", why));
    }
    only(&root, "/", &["compatible"], &["host", "vmm", "guests"])?;
    let (host, vmm) = (settings::host(&root)?, settings::vmm(&root)?);
    let node = child(&root, "", "guests")?;
    let names: Vec<&str> = node.children().map(|node| node.name()).collect();
    only(&node, "/guests", &[], &names)?;
    let guests = node.children().map(|node| guest(&node, &vmm)).collect::<Result<Vec<_>, _>>()?;
    if guests.is_empty() {
        return Err(Refusal::new("/guests", "", "no guest"));
    }
    devices::check_switches(&guests)?;
    regions::check_shares(&guests)?;
    passed::check_passed(&guests)?;
    settings::check(host, &vmm, &guests)?;
    Ok(Manifest { host, vmm, guests })
}

fn child<'a>(node: &FdtNode<'a>, path: &str, name: &str) -> Result<FdtNode<'a>, Refusal> {
    let missing = || Refusal::new(path, "", format!("{name} is missing"));
    node.child(name).ok_or_else(missing)
}

fn guest(node: &FdtNode, vmm: &Vmm) -> Result<Guest, Refusal> {
    let name = node.name().to_string();
    let path = format!("/guests/{name}");
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > 15 || !name.bytes().all(known) {
        return Err(Refusal::new(&path, "", "a name is 1 to 15 of 0-9 A-Z a-z _ -"));
    }
    only(node, &path, &["autostart", "silent-s", "unclaimed"], &["vcpus", "aspace", "image"])?;
    let stop_on_unclaimed = match text(node, &path, "unclaimed")?.as_deref() {
        None | Some("ones") => false,
        Some("stop") => true,
        Some(other) => {
            let why = format!("unclaimed is \"{other}\", not ones or stop");
            return Err(Refusal::new(&path, "unclaimed", why));
        }
    };
    let (space, inside) = (child(node, &path, "aspace")?, format!("{path}/aspace"));
    let (memory, high_memory) = memory(&space, &inside)?;
    Ok(Guest {
        autostart: flag(node, &path, "autostart")?,
        stop_on_unclaimed,
        silent_s: within(node, &path, "silent-s", SILENT_S)?.unwrap_or(vmm.silent_s.into()) as u32,
        vcpus: vcpus(&child(node, &path, "vcpus")?, &format!("{path}/vcpus"))?,
        memory,
        high_memory,
        devices: devices::devices(&space, &inside)?,
        regions: regions::regions(&space, &inside, (memory, high_memory))?,
        ports: passed::ports(&space, &inside)?,
        image: image(&child(node, &path, "image")?, &format!("{path}/image"), memory)?,
        name,
    })
}

fn vcpus(node: &FdtNode, path: &str) -> Result<Vcpus, Refusal> {
    only(node, path, &["count", "cpus", "dedicated", "priority", "slice-us"], &[])?;
    if node.property("count").is_none() {
        return Err(Refusal::new(path, "", "count is missing"));
    }
    let cpus = fields::cpus(node, path)?;
    let count = within(node, path, "count", 1..=VCPUS)?.unwrap_or(1);
    let dedicated = flag(node, path, "dedicated")?;
    if dedicated && u64::from(cpus.count_ones()) != count {
        let why = format!("dedicated: {count} virtual processors on {} in cpus", cpus.count_ones());
        return Err(Refusal::new(path, "dedicated", why));
    }
    // Nobody else is there whose turn it could be.
    let slice = if dedicated { *SLICES_US.end() } else { 10_000 };
    Ok(Vcpus {
        count: count as u32,
        cpus,
        dedicated,
        priority: within(node, path, "priority", PRIORITIES)?.unwrap_or(5) as u8,
        slice_us: within(node, path, "slice-us", SLICES_US)?.unwrap_or(slice) as u32,
    })
}

/// Bytes of RAM from address 0, and from 4 GiB on.
fn memory(space: &FdtNode, path: &str) -> Result<(u64, u64), Refusal> {
    let others = [devices::names(space), regions::names(space)].concat();
    only(space, path, &[], &[&RAM, others.as_slice()].concat())?;
    let [low, high] = RAM;
    let low = ram(&child(space, path, low)?, &format!("{path}/{low}"), 0, MEMORY)?;
    let node = space.child(high);
    let high = node.map(|node| ram(&node, &format!("{path}/{high}"), 1 << 32, HIGH_MEMORY));
    Ok((low, high.transpose()?.unwrap_or(0)))
}

/// Bytes of a region of RAM at an address, within limits: least, most, each also in words.
fn ram(node: &FdtNode, path: &str, address: u64, limits: Limits) -> Result<u64, Refusal> {
    only(node, path, &["type", "kind", "guest-address", "size"], &[])?;
    for (name, wanted) in [("type", "real"), ("kind", "ram")] {
        if text(node, path, name)?.as_deref() != Some(wanted) {
            return Err(Refusal::new(path, name, format!("{name} is not \"{wanted}\"")));
        }
    }
    if number(node, path, "guest-address", 2)? != Some(address) {
        let why = match address {
            0 => "guest-address is not 0".into(),
            _ => format!("guest-address is not {address:#x}"),
        };
        return Err(Refusal::new(path, "guest-address", why));
    }
    let size = number(node, path, "size", 2)?;
    let size = size.ok_or_else(|| Refusal::new(path, "", "size is missing"))?;
    if !limits.bytes.contains(&size) || !size.is_multiple_of(2 << 20) {
        let why = format!("size {size:#x} is not a multiple of 2 MiB, {}", limits.words);
        return Err(Refusal::new(path, "size", why));
    }
    Ok(size)
}

fn image(node: &FdtNode, path: &str, memory: u64) -> Result<Image, Refusal> {
    let missing = |name: &str| Refusal::new(path, "", format!("{name} is missing"));
    let kind = text(node, path, "type")?.ok_or_else(|| missing("type"))?;
    let kernel = module(node, path, "kernel")?;
    let kernel = || kernel.clone().ok_or_else(|| missing("kernel"));
    match kind.as_str() {
        "linux" => {
            only(node, path, &["type", "kernel", "initrd", "cmdline"], &[])?;
            let command_line = command_line(node, path)?;
            Ok(Image::Linux {
                kernel: kernel()?,
                initrd: module(node, path, "initrd")?,
                command_line,
            })
        }
        "multiboot" => {
            only(node, path, &["type", "kernel", "modules", "cmdline"], &[])?;
            Ok(Image::Multiboot {
                kernel: kernel()?,
                modules: module_list(node, path)?,
                command_line: command_line(node, path)?,
            })
        }
        "flat" => {
            only(node, path, &["type", "kernel", "load-address"], &[])?;
            let address = number(node, path, "load-address", 2)?.unwrap_or(0x10_0000);
            if address >= memory {
                let why = format!("load-address {address:#x} lies outside the guest's memory");
                return Err(Refusal::new(path, "load-address", why));
            }
            Ok(Image::Flat { kernel: kernel()?, address })
        }
        other => {
            let why = format!("type is \"{other}\", not linux, multiboot or flat");
            Err(Refusal::new(path, "type", why))
        }
    }
}

fn command_line(node: &FdtNode, path: &str) -> Result<String, Refusal> {
    let line = text(node, path, "cmdline")?.unwrap_or_default();
    if line.len() > 2047 {
        return Err(Refusal::new(path, "cmdline", "cmdline has more than 2047 characters"));
    }
    Ok(line)
}

/// The name of a boot module, if the property is there.
fn module(node: &FdtNode, path: &str, name: &str) -> Result<Option<String>, Refusal> {
    text(node, path, name)?.map(|module| named(path, name, module)).transpose()
}

/// The names of some.
fn module_list(node: &FdtNode, path: &str) -> Result<Vec<String>, Refusal> {
    let names = texts(node, path, "modules")?;
    if names.len() > MODULES {
        let why = format!("modules has {} names; at most {MODULES}", names.len());
        return Err(Refusal::new(path, "modules", why));
    }
    names.into_iter().map(|module| named(path, "modules", module)).collect()
}

/// A name that a boot module can have.
fn named(path: &str, property: &str, module: String) -> Result<String, Refusal> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if module.is_empty() || module.len() > 31 || !module.bytes().all(known) {
        let why =
            format!("{property} is \"{module}\"; a module's name is 1 to 31 of a-z A-Z 0-9 . _ -");
        return Err(Refusal::new(path, property, why));
    }
    Ok(module)
}
