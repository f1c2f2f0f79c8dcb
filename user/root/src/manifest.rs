//! The manifest: which guests there are and what each gets.
//!
//! The blob comes from a boot loader, so it is judged here again although xtask has done so.
//! `docs/manifest.md` is the specification; everything it does not list is refused by path.
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// What a guest is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Started at boot.
    pub autostart: bool,
    /// Stopped when it touches what nobody claims.
    pub stop_on_unclaimed: bool,
    /// Virtual processors, 1 to 64.
    pub vcpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// What is started in it.
    pub image: Image,
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
    /// Raw bytes.
    Flat {
        /// Boot module.
        kernel: String,
        /// Where they go and start.
        address: u64,
    },
}

/// Judges a blob.
///
/// # Errors
/// One sentence that begins with the node's path.
pub fn parse(blob: &[u8]) -> Result<Vec<Guest>, String> {
    let tree = Fdt::new(blob).map_err(|error| format!("manifest: no device tree: {error}"))?;
    let root = tree.root();
    only(&root, "/", &["compatible"], &["host", "guests"])?;
    let version = text(&root, "/", "compatible")?;
    if version.as_deref() != Some("hematite,manifest-v1") {
        return Err("/: compatible is not \"hematite,manifest-v1\"".into());
    }
    if let Some(host) = root.child("host") {
        only(&host, "/host", &[], &[])?;
    }
    let guests = root.child("guests").ok_or("/guests: missing")?;
    only_properties(&guests, "/guests", &[])?;
    let guests = guests.children().map(|node| guest(&node)).collect::<Result<Vec<_>, _>>()?;
    if guests.is_empty() {
        return Err("/guests: no guest".into());
    }
    Ok(guests)
}

fn guest(node: &FdtNode) -> Result<Guest, String> {
    let name = node.name().to_string();
    let path = format!("/guests/{name}");
    let letter_first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !letter_first || !rest || name.len() > 15 {
        return Err(format!("{path}: a name is 1 to 15 of a-z 0-9 -, first a letter"));
    }
    only(node, &path, &["autostart", "unclaimed"], &["vcpus", "aspace", "image"])?;
    let unclaimed = text(node, &path, "unclaimed")?;
    let stop_on_unclaimed = match unclaimed.as_deref() {
        None | Some("ones") => false,
        Some("stop") => true,
        Some(other) => return Err(format!("{path}: unclaimed is \"{other}\", not ones or stop")),
    };
    Ok(Guest {
        autostart: node.property("autostart").is_some(),
        stop_on_unclaimed,
        vcpus: vcpus(node, &path)?,
        memory: memory(node, &path)?,
        image: image(node, &path)?,
        name,
    })
}

fn vcpus(guest: &FdtNode, path: &str) -> Result<u32, String> {
    let path = format!("{path}/vcpus");
    let node = guest.child("vcpus").ok_or(format!("{path}: missing"))?;
    only(&node, &path, &["count"], &[])?;
    match number(&node, &path, "count", 1)? {
        Some(count @ 1..=64) => Ok(count as u32),
        Some(count) => Err(format!("{path}: count is {count}, not 1 to 64")),
        None => Err(format!("{path}: count is missing")),
    }
}

fn memory(guest: &FdtNode, path: &str) -> Result<u64, String> {
    let path = format!("{path}/aspace");
    let space = guest.child("aspace").ok_or(format!("{path}: missing"))?;
    only(&space, &path, &[], &["ram@0"])?;
    let path = format!("{path}/ram@0");
    let node = space.child("ram@0").ok_or(format!("{path}: missing"))?;
    only(&node, &path, &["type", "kind", "guest-address", "size"], &[])?;
    for (name, wanted) in [("type", "real"), ("kind", "ram")] {
        if text(&node, &path, name)?.as_deref() != Some(wanted) {
            return Err(format!("{path}: {name} is not \"{wanted}\""));
        }
    }
    if number(&node, &path, "guest-address", 2)? != Some(0) {
        return Err(format!("{path}: guest-address is not 0"));
    }
    let size = number(&node, &path, "size", 2)?.unwrap_or(0);
    if !(16 << 20..=3 << 30).contains(&size) || !size.is_multiple_of(2 << 20) {
        return Err(format!("{path}: size {size:#x} is not a multiple of 2 MiB, 16 MiB to 3 GiB"));
    }
    Ok(size)
}

fn image(guest: &FdtNode, path: &str) -> Result<Image, String> {
    let path = format!("{path}/image");
    let node = guest.child("image").ok_or(format!("{path}: missing"))?;
    let kind = text(&node, &path, "type")?.ok_or(format!("{path}: type is missing"))?;
    let kernel = text(&node, &path, "kernel")?.ok_or(format!("{path}: kernel is missing"))?;
    match kind.as_str() {
        "linux" => {
            only(&node, &path, &["type", "kernel", "initrd", "cmdline"], &[])?;
            let command_line = text(&node, &path, "cmdline")?.unwrap_or_default();
            if command_line.len() > 2047 {
                return Err(format!("{path}: cmdline has more than 2047 characters"));
            }
            Ok(Image::Linux { kernel, initrd: text(&node, &path, "initrd")?, command_line })
        }
        "flat" => {
            only(&node, &path, &["type", "kernel", "load-address"], &[])?;
            let address = number(&node, &path, "load-address", 2)?.unwrap_or(0x10_0000);
            Ok(Image::Flat { kernel, address })
        }
        other => Err(format!("{path}: type is \"{other}\", not linux or flat")),
    }
}

/// A number of so many cells, if the property is there.
fn number(node: &FdtNode, path: &str, name: &str, cells: usize) -> Result<Option<u64>, String> {
    let Some(property) = node.property(name) else { return Ok(None) };
    let value = property.value();
    if value.len() != cells * 4 {
        return Err(format!("{path}: {name} is not {cells} cell(s)"));
    }
    Ok(Some(value.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))))
}

/// A string, if the property is there.
fn text(node: &FdtNode, path: &str, name: &str) -> Result<Option<String>, String> {
    let Some(property) = node.property(name) else { return Ok(None) };
    let bad = || format!("{path}: {name} is not one string");
    let bytes = property.value().strip_suffix(&[0]).ok_or_else(bad)?;
    if bytes.contains(&0) {
        return Err(bad());
    }
    core::str::from_utf8(bytes).map(|text| Some(text.into())).map_err(|_| bad())
}

fn only_properties(node: &FdtNode, path: &str, known: &[&str]) -> Result<(), String> {
    for property in node.properties() {
        if !known.contains(&property.name()) {
            return Err(format!("{path}: unknown property {}", property.name()));
        }
    }
    Ok(())
}

fn only(node: &FdtNode, path: &str, properties: &[&str], children: &[&str]) -> Result<(), String> {
    only_properties(node, path, properties)?;
    for child in node.children() {
        if !children.contains(&child.name()) {
            return Err(format!("{path}: unknown node {}", child.name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device tree blob, written step by step (Devicetree Specification 0.4, chapter 5).
    #[derive(Default)]
    struct Blob {
        body: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Blob {
        fn long(&mut self, value: u32) {
            self.body.extend_from_slice(&value.to_be_bytes());
        }
        fn pad(&mut self) {
            while !self.body.len().is_multiple_of(4) {
                self.body.push(0);
            }
        }
        fn node(mut self, name: &str, inside: impl FnOnce(Self) -> Self) -> Self {
            self.long(1);
            self.body.extend_from_slice(name.as_bytes());
            self.body.push(0);
            self.pad();
            let mut after = inside(self);
            after.long(2);
            after
        }
        fn bytes(mut self, name: &str, value: &[u8]) -> Self {
            self.long(3);
            self.long(value.len() as u32);
            self.long(self.strings.len() as u32);
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            self.body.extend_from_slice(value);
            self.pad();
            self
        }
        fn text(self, name: &str, value: &str) -> Self {
            self.bytes(name, format!("{value}\0").as_bytes())
        }
        fn finish(mut self) -> Vec<u8> {
            self.long(9);
            let structure = 40 + 16;
            let strings = structure + self.body.len();
            let total = strings + self.strings.len();
            let header = [
                0xd00d_feed,
                total as u32,
                structure as u32,
                strings as u32,
                40,
                17,
                16,
                0,
                self.strings.len() as u32,
                self.body.len() as u32,
            ];
            let mut blob: Vec<u8> =
                header.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
            blob.extend_from_slice(&[0; 16]);
            blob.extend_from_slice(&self.body);
            blob.extend_from_slice(&self.strings);
            blob
        }
    }

    fn example(name: &str, size: u64, extra: &str) -> Vec<u8> {
        Blob::default()
            .node("", |root| {
                root.text("compatible", "hematite,manifest-v1").node("guests", |guests| {
                    guests.node(name, |guest| {
                        let guest = guest.bytes("autostart", &[]);
                        let guest = if extra.is_empty() { guest } else { guest.bytes(extra, &[]) };
                        guest
                            .node("vcpus", |vcpus| vcpus.bytes("count", &2u32.to_be_bytes()))
                            .node("aspace", |space| {
                                space.node("ram@0", |ram| {
                                    ram.text("type", "real")
                                        .text("kind", "ram")
                                        .bytes("guest-address", &[0; 8])
                                        .bytes("size", &size.to_be_bytes())
                                })
                            })
                            .node("image", |image| {
                                image
                                    .text("type", "linux")
                                    .text("kernel", "kernel")
                                    .text("cmdline", "console=ttyS0")
                            })
                    })
                })
            })
            .finish()
    }

    #[test]
    fn the_example_is_understood() {
        let guests = parse(&example("linux", 256 << 20, "")).unwrap();
        let guest = &guests[0];
        assert_eq!((guest.name.as_str(), guest.vcpus, guest.memory), ("linux", 2, 256 << 20));
        assert!(guest.autostart && !guest.stop_on_unclaimed);
        let Image::Linux { kernel, initrd, command_line } = &guest.image else { panic!() };
        assert_eq!(
            (kernel.as_str(), initrd, command_line.as_str()),
            ("kernel", &None, "console=ttyS0")
        );
    }

    #[test]
    fn refusals_name_the_path() {
        let refusal = |blob: Vec<u8>| parse(&blob).unwrap_err();
        assert!(refusal(example("Linux", 256 << 20, "")).starts_with("/guests/Linux: a name"));
        assert!(refusal(example("a", 1, "")).starts_with("/guests/a/aspace/ram@0: size"));
        assert!(
            refusal(example("a", 32 << 20, "autostrat")).contains("unknown property autostrat")
        );
        assert!(refusal(vec![1, 2, 3]).starts_with("manifest: no device tree"));
    }

    #[test]
    fn broken_blobs_are_refused_and_never_panic() {
        let good = example("linux", 256 << 20, "");
        let mut seed = 3u64;
        for _ in 0..100_000 {
            let mut blob = good.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (seed >> 33) as usize % blob.len();
                blob[at] = (seed >> 24) as u8;
            }
            let _ = parse(&blob);
        }
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_err());
        }
    }
}
