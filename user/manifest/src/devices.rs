//! Virtual devices: the nodes of `aspace` whose type is "virtual".
use crate::fields::{number, only, text};
use crate::{Guest, Refusal, module};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem::discriminant;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

/// Where devices may lie: whole pages from the first address, before the second.
pub const ADDRESSES: core::ops::Range<u64> = 0xfed0_0000..0xfee0_0000;
/// Pins of the I/O APIC that are free for them.
pub const INTERRUPTS: core::ops::RangeInclusive<u64> = 16..=23;
/// Where the ATA disk answers: the first port, and the wire, of a PC's first channel.
pub const ATA: (u64, u8) = (0x1f0, 14);
/// Most ports of a switch.
pub const PORTS: usize = 8;
const PAGE: u64 = 4096;

/// A virtual device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its node's name.
    pub node: String,
    /// Guest-physical address of its registers, in [`ADDRESSES`]; the first port of [`ATA`].
    pub address: u64,
    /// Its pin of the I/O APIC, in [`INTERRUPTS`]; the wire of [`ATA`].
    pub interrupt: u8,
    /// What it is.
    pub model: Model,
}

/// The device models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// A disk over a boot module, which is never changed.
    Block {
        /// The boot module.
        module: String,
        /// How many bytes of it may differ from the module at most; everything if not given.
        changes: Option<u64>,
    },
    /// An ATA disk at the ports of a PC's first channel, otherwise like [`Model::Block`].
    Ata {
        /// The boot module.
        module: String,
        /// How many bytes of it may differ from the module at most; everything if not given.
        changes: Option<u64>,
    },
    /// A console beside the serial port.
    Console,
    /// A network device in a switch.
    Net {
        /// The switch's name.
        switch: String,
        /// Its Ethernet address.
        mac: [u8; 6],
    },
}

impl Device {
    /// Its name: that of its node, without the unit address.
    pub fn name(&self) -> &str {
        self.node.split('@').next().unwrap_or_default()
    }
}

/// The names of the nodes of an `aspace` that are virtual devices.
pub fn names<'a>(space: &FdtNode<'a>) -> Vec<&'a str> {
    let is_device =
        |node: &FdtNode| matches!(text(node, "", "type"), Ok(Some(kind)) if kind == "virtual");
    space.children().filter(is_device).map(|node| node.name()).collect()
}

/// The virtual devices of an `aspace`.
pub fn devices(space: &FdtNode, path: &str) -> Result<Vec<Device>, Refusal> {
    let mut all: Vec<Device> = Vec::new();
    for name in names(space).into_iter().filter(|name| !crate::RAM.contains(name)) {
        // By its whole name: `child` would take disk@1 for disk.
        let Some(node) = space.children().find(|node| node.name() == name) else { continue };
        let path = format!("{path}/{name}");
        let device = device(&node, &path)?;
        let single = match device.model {
            Model::Console => Some("virtio-console"),
            Model::Ata { .. } => Some("ata"),
            Model::Block { .. } | Model::Net { .. } => None,
        };
        let same = |other: &Device| discriminant(&other.model) == discriminant(&device.model);
        if let Some(model) = single.filter(|_| all.iter().any(same)) {
            return Err(Refusal::new(&path, "model", format!("a second {model}")));
        }
        for (property, same) in [
            ("guest-address", all.iter().find(|other| other.address == device.address)),
            ("interrupt", all.iter().find(|other| other.interrupt == device.interrupt)),
        ] {
            if let Some(other) = same {
                let why = format!("{property} is that of {}", other.node);
                return Err(Refusal::new(&path, property, why));
            }
        }
        all.push(device);
    }
    Ok(all)
}

fn device(node: &FdtNode, path: &str) -> Result<Device, Refusal> {
    let name = node.name();
    let plain = name.split('@').next().unwrap_or_default();
    if !is_name(plain) {
        return Err(Refusal::new(path, "", "a name is 1 to 15 of 0-9 A-Z a-z _ -"));
    }
    let missing = |name: &str| Refusal::new(path, "", format!("{name} is missing"));
    let model = text(node, path, "model")?.ok_or_else(|| missing("model"))?;
    let own: &[&str] = match model.as_str() {
        "ata" => return ata(node, path),
        "virtio-block" => &["module", "changes"],
        "virtio-net" => &["switch", "mac"],
        "virtio-console" => &[],
        other => {
            let why = format!(
                "model is \"{other}\", not virtio-block, virtio-net, virtio-console or ata"
            );
            return Err(Refusal::new(path, "model", why));
        }
    };
    let all = [&["type", "model", "guest-address", "interrupt"], own].concat();
    only(node, path, &all, &[])?;
    let address =
        number(node, path, "guest-address", 2)?.ok_or_else(|| missing("guest-address"))?;
    if !ADDRESSES.contains(&address) || !address.is_multiple_of(PAGE) {
        let (first, end) = (ADDRESSES.start, ADDRESSES.end);
        let why = format!("guest-address {address:#x} is not a page from {first:#x} to {end:#x}");
        return Err(Refusal::new(path, "guest-address", why));
    }
    let other = |unit| format!("the node's name says {unit}, its guest-address {address:x}");
    unit(name, address).map_err(|it| Refusal::new(path, "guest-address", other(it)))?;
    let interrupt = number(node, path, "interrupt", 1)?.ok_or_else(|| missing("interrupt"))?;
    if !INTERRUPTS.contains(&interrupt) {
        let (first, last) = (INTERRUPTS.start(), INTERRUPTS.end());
        let why = format!("interrupt is {interrupt}, not {first} to {last}");
        return Err(Refusal::new(path, "interrupt", why));
    }
    let model = match model.as_str() {
        "virtio-net" => net(node, path)?,
        "virtio-console" => Model::Console,
        _ => Model::Block {
            module: module(node, path, "module")?.ok_or_else(|| missing("module"))?,
            changes: number(node, path, "changes", 2)?,
        },
    };
    Ok(Device { node: name.to_string(), address, interrupt: interrupt as u8, model })
}

/// The ATA disk: where it is, nobody can choose.
fn ata(node: &FdtNode, path: &str) -> Result<Device, Refusal> {
    only(node, path, &["type", "model", "module", "changes"], &[])?;
    let (address, interrupt) = ATA;
    let other = |unit| format!("the node's name says {unit}, its ports begin at {address:x}");
    unit(node.name(), address).map_err(|it| Refusal::new(path, "", other(it)))?;
    let missing = || Refusal::new(path, "", "module is missing");
    let model = Model::Ata {
        module: module(node, path, "module")?.ok_or_else(missing)?,
        changes: number(node, path, "changes", 2)?,
    };
    Ok(Device { node: node.name().to_string(), address, interrupt, model })
}

/// The unit address of a node's name, if it is another than this.
fn unit(name: &str, address: u64) -> Result<(), &str> {
    match name.split_once('@') {
        Some((_, unit)) if u64::from_str_radix(unit, 16) != Ok(address) => Err(unit),
        _ => Ok(()),
    }
}

fn net(node: &FdtNode, path: &str) -> Result<Model, Refusal> {
    let missing = |name: &str| Refusal::new(path, "", format!("{name} is missing"));
    let switch = text(node, path, "switch")?.ok_or_else(|| missing("switch"))?;
    if !is_name(&switch) {
        let why = format!("switch is \"{switch}\"; a name is 1 to 15 of 0-9 A-Z a-z _ -");
        return Err(Refusal::new(path, "switch", why));
    }
    let mac = node.property("mac").ok_or_else(|| missing("mac"))?;
    // Six bytes, the group bit of the first clear, not all zero (IEEE 802.3, 3.2.3).
    let mac = <[u8; 6]>::try_from(mac.value()).ok();
    let mac = mac.filter(|mac| mac[0] & 1 == 0 && *mac != [0; 6]).ok_or_else(|| {
        Refusal::new(path, "mac", "mac is not six bytes of one station, as [02 00 00 00 00 01]")
    })?;
    Ok(Model::Net { switch, mac })
}

/// Whether a node or a switch can have this name.
pub fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=15).contains(&name.len()) && name.bytes().all(known)
}

/// Refuses twice the same address in a switch, and more ports than it has.
pub fn check_switches(guests: &[Guest]) -> Result<(), Refusal> {
    let mut ports: Vec<(&str, [u8; 6])> = Vec::new();
    for guest in guests {
        for device in &guest.devices {
            let Model::Net { switch, mac } = &device.model else { continue };
            let path = format!("/guests/{}/aspace/{}", guest.name, device.node);
            if ports.contains(&(switch, *mac)) {
                let why = format!("another port of switch {switch} has this mac");
                return Err(Refusal::new(&path, "mac", why));
            }
            ports.push((switch, *mac));
            if ports.iter().filter(|(name, _)| name == switch).count() > PORTS {
                let why = format!("switch {switch} has more than {PORTS} ports");
                return Err(Refusal::new(&path, "switch", why));
            }
        }
    }
    Ok(())
}
