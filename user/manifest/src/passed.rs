//! What a guest gets of the machine itself: its memory at an address, ports; and what of the machine nobody may have.
use crate::devices::is_name;
use crate::fields::{number, numbers, only, text};
use crate::{Guest, Manifest, Refusal, What};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use dtoolkit::Node;
use dtoolkit::fdt::FdtNode;

/// Most nodes of ports of a guest.
pub const PORTS: usize = 8;
const PAGE: u64 = 4096;
/// Physical addresses end here at the latest (Intel SDM vol. 3, 4.1.4).
const PHYSICAL_END: u64 = 1 << 52;
/// Where every PC has its I/O APICs, and where writes are interrupts (Intel SDM vol. 3, 10.4.1 and 10.11.1).
const CONTROLLERS: [Range<u64>; 2] = [0xfec0_0000..0xfed0_0000, 0xfee0_0000..0xfef0_0000];
/// Ports that a guest finds on its own board, or that rule the machine: first, last, what.
const BOARD: &[(u16, u16, &str)] = &[
    (0x20, 0x21, "the interrupt controllers'"),
    (0x40, 0x43, "the timer's"),
    (0x60, 0x64, "the keyboard controller's"),
    (0x70, 0x71, "the clock's"),
    (0x80, 0x80, "the board's"),
    (0x92, 0x92, "the reset control's"),
    (0xa0, 0xa1, "the interrupt controllers'"),
    (0xb2, 0xb3, "the firmware's"),
    (0xeb, 0xf1, "the board's"),
    (0x170, 0x177, "a disk controller's"),
    (0x1f0, 0x1f7, "a disk controller's"),
    (0x376, 0x376, "a disk controller's"),
    (0x3b0, 0x3df, "the screen's"),
    (0x3f6, 0x3f6, "a disk controller's"),
    (0x3f8, 0x3ff, "the serial line's"),
    (0x4d0, 0x4d1, "the interrupt controllers'"),
    (0x600, 0x60b, "the power management's"),
    (0xcf8, 0xcff, "PCI configuration's"),
];
/// The DMA controllers' (Intel 82371AB, 3.0): channels, page registers.
const DMA: &[(u16, u16)] = &[(0, 0x1f), (0x81, 0x8f), (0xc0, 0xdf), (0x481, 0x48f)];

/// Whether a device that a guest gets can read and write memory by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dma {
    /// It cannot, says the manifest.
    None,
    /// It can, all memory of the machine, for nobody stands in between; the manifest says so.
    ReachesAllMemory,
}

/// Ports of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Its node's name.
    pub node: String,
    /// The first and the last.
    pub first: u16,
    /// See `first`.
    pub last: u16,
    /// What stands behind them.
    pub dma: Dma,
}

/// The two address spaces of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Memory.
    Memory,
    /// I/O ports.
    Ports,
}

/// Something of the machine that is not simply free for a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Where.
    pub space: Space,
    /// Addresses or port numbers.
    pub range: Range<u64>,
    /// Whose it is, as `RAM` or `the PCI function 00:03.0's`.
    pub whose: String,
    /// A device that can do DMA, which a guest may have if the manifest says so; else nobody may.
    pub dma: bool,
}

/// Whether a node of an `aspace` is for ports.
pub fn is_ports(node: &FdtNode) -> bool {
    matches!(text(node, "", "kind"), Ok(Some(kind)) if kind == "host-ports")
}

/// `dma`, which must be there.
pub fn dma(node: &FdtNode, path: &str) -> Result<Dma, Refusal> {
    match text(node, path, "dma")?.as_deref() {
        Some("none") => Ok(Dma::None),
        Some("reaches-all-memory") => Ok(Dma::ReachesAllMemory),
        Some(other) => {
            let why = format!("dma is \"{other}\", not none or reaches-all-memory");
            Err(Refusal::new(path, "dma", why))
        }
        None => Err(Refusal::new(path, "", "dma is missing")),
    }
}

/// `host-address`: where so many bytes lie in the machine.
pub fn host_address(node: &FdtNode, path: &str, size: u64) -> Result<u64, Refusal> {
    let missing = || Refusal::new(path, "", "host-address is missing");
    let start = number(node, path, "host-address", 2)?.ok_or_else(missing)?;
    let end = start.saturating_add(size);
    if !start.is_multiple_of(PAGE) || end > PHYSICAL_END {
        let why = format!("host-address {start:#x} is not a page below {PHYSICAL_END:#x}");
        return Err(Refusal::new(path, "host-address", why));
    }
    if CONTROLLERS.iter().any(|range| start < range.end && range.start < end) {
        let why = format!("host-address {start:#x} to {end:#x} is the interrupt controllers'");
        return Err(Refusal::new(path, "host-address", why));
    }
    Ok(start)
}

/// The ports of the machine that an `aspace` has.
pub fn ports(space: &FdtNode, path: &str) -> Result<Vec<Ports>, Refusal> {
    let mut all = Vec::new();
    for node in space.children().filter(is_ports) {
        let path = format!("{path}/{}", node.name());
        if all.len() == PORTS {
            return Err(Refusal::new(&path, "", format!("more than {PORTS} nodes of ports")));
        }
        all.push(some_ports(&node, &path)?);
    }
    Ok(all)
}

fn some_ports(node: &FdtNode, path: &str) -> Result<Ports, Refusal> {
    if !is_name(node.name().split('@').next().unwrap_or_default()) {
        return Err(Refusal::new(path, "", "a name is 1 to 15 of 0-9 A-Z a-z _ -"));
    }
    only(node, path, &["type", "kind", "ports", "dma"], &[])?;
    let bad = || {
        Refusal::new(path, "ports", "ports is not the first port and how many, inside 0 to 0xffff")
    };
    let missing = || Refusal::new(path, "", "ports is missing");
    let cells = numbers(node, path, "ports")?.ok_or_else(missing)?;
    let [first, count] = cells.try_into().map_err(|_| bad())?;
    let last = count.checked_sub(1).and_then(|more| first.checked_add(more)).ok_or_else(bad)?;
    let first = u16::try_from(first).map_err(|_| bad())?;
    let last = u16::try_from(last).map_err(|_| bad())?;
    let met = |(from, to): (u16, u16)| first <= to && from <= last;
    if let Some((from, to, whose)) = BOARD.iter().find(|(from, to, _)| met((*from, *to))) {
        let why = format!("ports {first:#x} to {last:#x}: {from:#x} to {to:#x} are {whose}");
        return Err(Refusal::new(path, "ports", why));
    }
    if let Some((_, unit)) = node.name().split_once('@')
        && u16::from_str_radix(unit, 16) != Ok(first)
    {
        let why = format!("the node's name says {unit}, its first port is {first:x}");
        return Err(Refusal::new(path, "ports", why));
    }
    let dma = dma(node, path)?;
    if dma == Dma::None && DMA.iter().any(|range| met(*range)) {
        let whose = "are the DMA controllers'";
        let why = without_iommu(&format!("ports {first:#x} to {last:#x} {whose}"));
        return Err(Refusal::new(path, "dma", why));
    }
    Ok(Ports { node: node.name().to_string(), first, last, dma })
}

/// Why a device that can do DMA is refused.
fn without_iommu(what: &str) -> String {
    format!(
        "{what}, which can do DMA, and there is no IOMMU driver; dma = \"reaches-all-memory\" would allow it"
    )
}

/// What a guest gets of the machine.
struct Passed<'a> {
    path: String,
    property: &'static str,
    space: Space,
    range: Range<u64>,
    dma: Dma,
    guest: &'a str,
}

fn passed(guest: &Guest) -> impl Iterator<Item = Passed<'_>> {
    let path = |node: &str| format!("/guests/{}/aspace/{node}", guest.name);
    let memory = guest.regions.iter().filter_map(move |region| match region.what {
        What::HostMemory { host, dma, .. } => Some(Passed {
            path: path(&region.node),
            property: "host-address",
            space: Space::Memory,
            range: host..host + region.size(),
            dma,
            guest: &guest.name,
        }),
        _ => None,
    });
    let ports = guest.ports.iter().map(move |ports| Passed {
        path: path(&ports.node),
        property: "ports",
        space: Space::Ports,
        range: ports.first.into()..u64::from(ports.last) + 1,
        dma: ports.dma,
        guest: &guest.name,
    });
    memory.chain(ports)
}

impl Passed<'_> {
    fn meets(&self, space: Space, range: &Range<u64>) -> bool {
        self.space == space && self.range.start < range.end && range.start < self.range.end
    }

    /// `host-address 0x1000 to 0x2000`, or with ports.
    fn words(&self) -> String {
        let end = self.range.end - u64::from(self.space == Space::Ports);
        format!("{} {:#x} to {end:#x}", self.property, self.range.start)
    }
}

/// Refuses what two nodes would both get.
pub fn check_passed(guests: &[Guest]) -> Result<(), Refusal> {
    let mut all: Vec<Passed> = Vec::new();
    for one in guests.iter().flat_map(passed) {
        if let Some(other) = all.iter().find(|other| other.meets(one.space, &one.range)) {
            let why = format!("{}: {} has some of it", one.words(), other.path);
            return Err(Refusal::new(&one.path, one.property, why));
        }
        all.push(one);
    }
    Ok(())
}

impl Manifest {
    /// Whether what guests get of the machine is theirs to have: nothing of it is in `owned`, or it is a device that can do
    /// DMA and the manifest says that it reaches all memory.
    ///
    /// # Errors
    /// The first that is somebody else's.
    pub fn may_have(&self, owned: &[Owned]) -> Result<(), Refusal> {
        for one in self.guests.iter().flat_map(passed) {
            for other in owned.iter().filter(|other| one.meets(other.space, &other.range)) {
                let why = format!("{} is {}", one.words(), other.whose);
                if !other.dma {
                    return Err(Refusal::new(&one.path, one.property, why));
                }
                if one.dma == Dma::None {
                    return Err(Refusal::new(&one.path, "dma", without_iommu(&why)));
                }
            }
        }
        Ok(())
    }

    /// A sentence for each device that a guest has and that can reach all memory of the machine.
    pub fn unprotected(&self) -> impl Iterator<Item = String> {
        let all = self.guests.iter().flat_map(passed);
        all.filter(|one| one.dma == Dma::ReachesAllMemory).map(|one| {
            format!(
                "{}: guest {} has a device that can reach all memory of the machine: there is no IOMMU driver",
                one.path, one.guest
            )
        })
    }

    /// Whether a guest gets anything of the machine.
    pub fn passes_anything(&self) -> bool {
        self.guests.iter().any(|guest| passed(guest).next().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Image, Region, Vcpus};

    /// A guest with memory of the machine from 0xfe000000 and ports 0x402 and 0x403.
    fn manifest(dma: Dma) -> Manifest {
        let vcpus = Vcpus { count: 1, cpus: 0, dedicated: false, priority: 5, slice_us: 10_000 };
        let what = What::HostMemory { host: 0xfe00_0000, access: Access::Read, dma };
        let region = Region { node: "timer".into(), range: 0xd000_0000..0xd000_1000, what };
        let ports = Ports { node: "debug".into(), first: 0x402, last: 0x403, dma };
        let image = Image::Flat { kernel: "kernel".into(), address: 0 };
        let guest = Guest {
            name: "one".into(),
            autostart: false,
            stop_on_unclaimed: false,
            silent_s: 0,
            vcpus,
            memory: 16 << 20,
            high_memory: 0,
            devices: Vec::new(),
            regions: alloc::vec![region],
            ports: alloc::vec![ports],
            image,
        };
        let vmm = crate::Vmm { console: None, silent_s: 0, stop_ms: 1000 };
        Manifest { host: crate::Host::default(), vmm, guests: alloc::vec![guest] }
    }

    fn owned(space: Space, range: Range<u64>, whose: &str, dma: bool) -> Owned {
        Owned { space, range, whose: whose.into(), dma }
    }

    #[test]
    fn what_is_somebody_elses_is_refused_by_its_path() {
        let said =
            |one: Owned, dma| manifest(dma).may_have(&[one]).map_err(|refusal| refusal.to_string());
        let ram = || owned(Space::Memory, 0..0xfe00_0001, "RAM", false);
        let words = "/guests/one/aspace/timer: host-address 0xfe000000 to 0xfe001000 is RAM";
        for dma in [Dma::None, Dma::ReachesAllMemory] {
            assert_eq!(said(ram(), dma), Err(words.into()));
        }
        let power = owned(Space::Ports, 0x403..0x407, "the power management's", false);
        let words = "/guests/one/aspace/debug: ports 0x402 to 0x403 is the power management's";
        assert_eq!(said(power, Dma::None), Err(words.into()));
        // The same numbers in the other space, and neighbours.
        for (space, range) in [
            (Space::Memory, 0x402..0x404),
            (Space::Ports, 0x404..0x500),
            (Space::Ports, 0..0x402),
            (Space::Memory, 0xfe00_1000..0xff00_0000),
        ] {
            assert_eq!(said(owned(space, range, "RAM", false), Dma::None), Ok(()));
        }
        assert!(manifest(Dma::None).passes_anything());
    }

    #[test]
    fn a_device_that_can_do_dma_needs_the_words_and_is_named_each_time() {
        let card = || {
            let range = 0xfe00_0000..0xfe02_0000;
            [owned(Space::Memory, range, "the PCI function 00:03.0's", true)]
        };
        let refused = manifest(Dma::None).may_have(&card()).unwrap_err();
        assert_eq!(refused.property, "dma");
        assert_eq!(
            refused.to_string(),
            "/guests/one/aspace/timer: host-address 0xfe000000 to 0xfe001000 is the PCI function 00:03.0's, \
             which can do DMA, and there is no IOMMU driver; dma = \"reaches-all-memory\" would allow it"
        );
        let allowed = manifest(Dma::ReachesAllMemory);
        assert_eq!(allowed.may_have(&card()), Ok(()));
        let lines: Vec<_> = allowed.unprotected().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[0],
            "/guests/one/aspace/timer: guest one has a device that can reach all memory of the machine: \
             there is no IOMMU driver"
        );
        assert_eq!(manifest(Dma::None).unprotected().count(), 0);
    }
}
