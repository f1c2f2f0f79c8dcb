//! The parser against blobs written step by step; each message is tested where files have lines, in xtask.
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
        let mut blob: Vec<u8> = header.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
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
    let manifest = parse(&example("linux", 256 << 20, "")).unwrap();
    let guest = &manifest.guests[0];
    assert_eq!((guest.name.as_str(), guest.vcpus.count, guest.memory), ("linux", 2, 256 << 20));
    assert_eq!((guest.high_memory, guest.all_memory()), (0, 256 << 20));
    assert!(guest.autostart && !guest.stop_on_unclaimed);
    let Image::Linux { kernel, initrd, command_line } = &guest.image else { panic!() };
    assert_eq!(
        (kernel.as_str(), initrd, command_line.as_str()),
        ("kernel", &None, "console=ttyS0")
    );
}

#[test]
fn refusals_name_the_path() {
    let refusal = |blob: Vec<u8>| parse(&blob).unwrap_err().to_string();
    assert!(refusal(example("Li.nux", 256 << 20, "")).starts_with("/guests/Li.nux: a name"));
    assert!(refusal(example("a", 1, "")).starts_with("/guests/a/aspace/ram@0: size"));
    assert!(refusal(example("a", 32 << 20, "autostrat")).contains("unknown property autostrat"));
    assert!(refusal(vec![1, 2, 3]).starts_with("/: no device tree"));
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
