//! Real regions of an `aspace` besides its RAM: ROM, memory that guests share, memory of the machine.
use crate::devices::{ADDRESSES, is_name};
use crate::fields::{number, only, text};
use crate::passed::{self, Dma};
use crate::{Guest, Refusal, module};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use dtoolkit::Node;
use dtoolkit::fdt::FdtNode;

/// Most regions of a guest besides its RAM.
pub const REGIONS: usize = 8;
/// Largest region besides RAM, in bytes.
pub const LARGEST: u64 = 256 << 20;
/// Guest-physical addresses of the board: I/O APIC, virtual devices, local APICs and interrupt messages.
const BOARD: Range<u64> = 0xfec0_0000..0xfef0_0000;
/// Regions lie in this range: above what every PC has at the bottom, below what every processor can address.
const PLACES: Range<u64> = 1 << 20..1 << 36;
const PAGE: u64 = 4096;
const _: () = assert!(BOARD.start <= ADDRESSES.start && ADDRESSES.end <= BOARD.end);

/// A real region besides RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its node's name.
    pub node: String,
    /// Where the guest sees it, whole pages.
    pub range: Range<u64>,
    /// What it is.
    pub what: What,
}

/// The kinds of regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The bytes of a boot module, which fills the region up to its last page.
    Rom {
        /// The boot module.
        module: String,
    },
    /// Memory that the guests which name it share.
    Shared {
        /// Its name.
        name: String,
        /// What this guest may do.
        access: Access,
    },
    /// Memory of the machine at an address, as a device's.
    HostMemory {
        /// The physical address of its first byte.
        host: u64,
        /// What this guest may do.
        access: Access,
        /// What stands behind it.
        dma: Dma,
    },
}

/// What a guest may do to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    ReadWrite,
}

impl Region {
    /// Bytes of it.
    pub fn size(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The names of the nodes of an `aspace` that are such regions.
pub fn names<'a>(space: &FdtNode<'a>) -> Vec<&'a str> {
    let says = |node: &FdtNode, name, word: &str| matches!(text(node, "", name), Ok(Some(value)) if value == word);
    let is_region = |node: &FdtNode| says(node, "type", "real") && !says(node, "kind", "ram");
    space.children().filter(is_region).map(|node| node.name()).collect()
}

/// The regions of an `aspace` whose RAM has so many bytes from address 0, and from 4 GiB on.
pub fn regions(
    space: &FdtNode,
    path: &str,
    (low, high): (u64, u64),
) -> Result<Vec<Region>, Refusal> {
    let mut all: Vec<Region> = Vec::new();
    for name in names(space).into_iter().filter(|name| !crate::RAM.contains(name)) {
        let Some(node) = space.child(name).filter(|node| !passed::is_ports(node)) else { continue };
        let path = format!("{path}/{name}");
        if all.len() == REGIONS {
            let why = format!("more than {REGIONS} regions besides RAM");
            return Err(Refusal::new(&path, "", why));
        }
        let region = region(&node, &path)?;
        let board = [(0..low, "ram@0"), (1 << 32..(1 << 32) + high, crate::RAM[1])];
        let board = board.into_iter().chain([(BOARD, "the board's devices")]);
        let others = all.iter().map(|other| (other.range.clone(), other.node.as_str()));
        if let Some((_, what)) = board.chain(others).find(|(range, _)| meet(range, &region.range)) {
            let Range { start, end } = region.range;
            let why = format!("guest-address {start:#x} to {end:#x} overlaps {what}");
            return Err(Refusal::new(&path, "guest-address", why));
        }
        if let What::Shared { name, .. } = &region.what
            && all.iter().any(|other| is_share(other, name))
        {
            let why = format!("a second region of the shared memory {name}");
            return Err(Refusal::new(&path, "shared", why));
        }
        all.push(region);
    }
    Ok(all)
}

/// Whether two ranges have something in common.
fn meet(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn is_share(region: &Region, wanted: &str) -> bool {
    matches!(&region.what, What::Shared { name, .. } if name == wanted)
}

fn region(node: &FdtNode, path: &str) -> Result<Region, Refusal> {
    let name = node.name();
    if !is_name(name.split('@').next().unwrap_or_default()) {
        return Err(Refusal::new(path, "", "a name is 1 to 15 of 0-9 A-Z a-z _ -"));
    }
    let missing = |name: &str| Refusal::new(path, "", format!("{name} is missing"));
    let kind = text(node, path, "kind")?.ok_or_else(|| missing("kind"))?;
    let own: &[&str] = match kind.as_str() {
        "rom" => &["module"],
        "shared" => &["shared", "access"],
        "host-memory" => &["host-address", "access", "dma"],
        other => {
            let why =
                format!("kind is \"{other}\", not ram, rom, shared, host-memory or host-ports");
            return Err(Refusal::new(path, "kind", why));
        }
    };
    only(node, path, &[&["type", "kind", "guest-address", "size"], own].concat(), &[])?;
    let range = place(node, path)?;
    let what = match kind.as_str() {
        "rom" => {
            What::Rom { module: module(node, path, "module")?.ok_or_else(|| missing("module"))? }
        }
        "host-memory" => What::HostMemory {
            host: passed::host_address(node, path, range.end - range.start)?,
            access: access(node, path)?,
            dma: passed::dma(node, path)?,
        },
        _ => {
            let name = text(node, path, "shared")?.ok_or_else(|| missing("shared"))?;
            if !is_name(&name) {
                let why = format!("shared is \"{name}\"; a name is 1 to 15 of 0-9 A-Z a-z _ -");
                return Err(Refusal::new(path, "shared", why));
            }
            What::Shared { name, access: access(node, path)? }
        }
    };
    Ok(Region { node: name.to_string(), range, what })
}

/// Where the guest sees a region: `guest-address` and `size`.
fn place(node: &FdtNode, path: &str) -> Result<Range<u64>, Refusal> {
    let missing = |name: &str| Refusal::new(path, "", format!("{name} is missing"));
    let start = number(node, path, "guest-address", 2)?.ok_or_else(|| missing("guest-address"))?;
    let size = number(node, path, "size", 2)?.ok_or_else(|| missing("size"))?;
    if !(PAGE..=LARGEST).contains(&size) || !size.is_multiple_of(PAGE) {
        let why = format!("size {size:#x} is not a multiple of 4 KiB, 4 KiB to 256 MiB");
        return Err(Refusal::new(path, "size", why));
    }
    let range = start..start.saturating_add(size);
    let inside = PLACES.contains(&start) && range.end <= PLACES.end;
    if !inside || !start.is_multiple_of(PAGE) {
        let why = format!("guest-address {start:#x} is not a page from 1 MiB to 64 GiB");
        return Err(Refusal::new(path, "guest-address", why));
    }
    if let Some((_, unit)) = node.name().split_once('@')
        && u64::from_str_radix(unit, 16) != Ok(start)
    {
        let why = format!("the node's name says {unit}, its guest-address {start:x}");
        return Err(Refusal::new(path, "guest-address", why));
    }
    Ok(range)
}

fn access(node: &FdtNode, path: &str) -> Result<Access, Refusal> {
    match text(node, path, "access")?.as_deref() {
        Some("read-only") => Ok(Access::Read),
        Some("read-write") => Ok(Access::ReadWrite),
        Some(other) => {
            let why = format!("access is \"{other}\", not read-only or read-write");
            Err(Refusal::new(path, "access", why))
        }
        None => Err(Refusal::new(path, "", "access is missing")),
    }
}

/// The shared memory of all guests: name and bytes, each once.
pub fn shares(guests: &[Guest]) -> impl Iterator<Item = (&str, u64)> {
    let all = || guests.iter().flat_map(|guest| &guest.regions);
    all().enumerate().filter_map(move |(at, region)| match &region.what {
        What::Shared { name, .. } => {
            let known = all().take(at).any(|other| is_share(other, name));
            (!known).then_some((name.as_str(), region.size()))
        }
        What::Rom { .. } | What::HostMemory { .. } => None,
    })
}

/// Refuses shared memory that only one guest names, and that two guests give different sizes.
pub fn check_shares(guests: &[Guest]) -> Result<(), Refusal> {
    for (at, guest) in guests.iter().enumerate() {
        for region in &guest.regions {
            let What::Shared { name, .. } = &region.what else { continue };
            let path = format!("/guests/{}/aspace/{}", guest.name, region.node);
            let other = |(index, guest): &(usize, &Guest)| {
                *index != at && guest.regions.iter().any(|other| is_share(other, name))
            };
            let Some((_, other)) = guests.iter().enumerate().find(other) else {
                let why = format!("no other guest names the shared memory {name}");
                return Err(Refusal::new(&path, "shared", why));
            };
            let size = other.regions.iter().find(|other| is_share(other, name)).map(Region::size);
            if let Some(size) = size.filter(|size| *size != region.size()) {
                let (mine, whose) = (region.size(), &other.name);
                let why = format!("size is {mine:#x}, but {size:#x} for {whose}, who shares it");
                return Err(Refusal::new(&path, "size", why));
            }
        }
    }
    Ok(())
}
