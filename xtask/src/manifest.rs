//! Writes the default guest's manifest and compiles manifests with `dtc`.
//!
//! The shape is defined in `docs/manifest.md`; the root task reads the compiled blob.

use crate::desk;
use crate::tools;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the root's `compatible` says.
const VERSION: &str = "hematite,manifest-v1";

/// The default guest as the options of `run` describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Whether there is an initrd.
    pub initrd: bool,
    /// The guest kernel's command line.
    pub cmdline: String,
}

impl Guest {
    /// Refuses what the manifest cannot say.
    pub fn check(&self) -> Result<()> {
        if !(1..=64).contains(&self.cpus) {
            bail!("--cpus {}: a guest has 1 to 64", self.cpus);
        }
        if !(16..=3072).contains(&self.memory_mib) || !self.memory_mib.is_multiple_of(2) {
            bail!("--guest-memory {}: 16 to 3072 MiB, an even number", self.memory_mib);
        }
        if self.cmdline.len() > 2047 || self.cmdline.contains(|c: char| c.is_control()) {
            bail!("--append: at most 2047 characters, no control characters");
        }
        Ok(())
    }

    /// Its manifest as device tree source.
    pub fn dts(&self) -> String {
        let bytes = u64::from(self.memory_mib) << 20;
        let initrd = if self.initrd { "\n                initrd = \"initrd\";" } else { "" };
        format!(
            r#"/dts-v1/;
/ {{
    compatible = "hematite,manifest-v1";
    host {{ }};
    guests {{
        linux {{
            autostart;
            vcpus {{ count = <{cpus}>; }};
            aspace {{
                ram@0 {{
                    type = "real";
                    kind = "ram";
                    guest-address = <0x0 0x0>;
                    size = <{high:#x} {low:#x}>;
                }};
            }};
            image {{
                type = "linux";
                kernel = "kernel";{initrd}
                cmdline = "{cmdline}";
            }};
        }};
    }};
}};
"#,
            cpus = self.cpus,
            high = bytes >> 32,
            low = bytes & 0xffff_ffff,
            cmdline = self.cmdline.replace('\\', "\\\\").replace('"', "\\\""),
        )
    }

    /// Writes and compiles it; the blob's path.
    pub fn compile(&self) -> Result<PathBuf> {
        self.compile_as("linux")
    }

    /// The same under another file name, for machines side by side.
    pub fn compile_as(&self, name: &str) -> Result<PathBuf> {
        self.check()?;
        let source = desk::out()?.join(name).with_extension("dts");
        desk::write_if_changed(&source, self.dts().as_bytes())?;
        compile(&source)
    }
}

/// Compiles device tree source; the blob's path in `target/hematite`.
///
/// # Errors
/// With `dtc`'s words: file, line and column, reason.
pub fn compile(source: &Path) -> Result<PathBuf> {
    tools::need("dtc", "device-tree-compiler")?;
    let name = source.file_stem().context("a manifest needs a file name")?;
    let blob = desk::out()?.join(name).with_extension("dtb");
    // Unit addresses here are guest addresses, without `reg` properties.
    let mut dtc = Command::new("dtc");
    dtc.args(["-q", "-I", "dts", "-O", "dtb", "-W", "no-unit_address_vs_reg", "-o"]);
    dtc.arg(&blob).arg(source);
    let done = dtc.output().context("cannot start dtc")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        // The first line has file, line, column and reason; what follows is about dtc.
        let first = said.lines().next().unwrap_or("dtc failed without a word");
        bail!("manifest: {}", first.trim_start_matches("Error: "));
    }
    Ok(blob)
}

/// What a guest of a manifest wants of the image and the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wants {
    /// The guest's name.
    pub name: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The module to load.
    pub kernel: Option<String>,
    /// Its initrd.
    pub initrd: Option<String>,
}

/// Reads from a compiled manifest what its guests want.
///
/// # Errors
/// When it is no manifest of version 1; the message names the node.
pub fn wants(blob: &Path) -> Result<Vec<Wants>> {
    let file = std::fs::read(blob).with_context(|| format!("cannot read {}", blob.display()))?;
    read_wants(&file)
}

fn read_wants(file: &[u8]) -> Result<Vec<Wants>> {
    let Ok(tree) = fdt::Fdt::new(file) else { bail!("not a device tree blob") };
    let top = tree.find_node("/").context("no root node")?;
    let kind = top.property("compatible").and_then(|property| property.as_str());
    if kind.map(|text| text.trim_end_matches('\0')) != Some(VERSION) {
        bail!("/: compatible must be \"{VERSION}\"");
    }
    let Some(guests) = tree.find_node("/guests") else { bail!("/guests: missing") };
    let mut all = Vec::new();
    for guest in guests.children() {
        let path = format!("/guests/{}", guest.name);
        let child = |name: &str| {
            let found = guest.children().find(|node| node.name == name);
            found.with_context(|| format!("{path}/{name}: missing"))
        };
        let text = |name: &str| -> Result<Option<String>> {
            let property = child("image")?.property(name).and_then(|property| property.as_str());
            Ok(property.map(|text| text.trim_end_matches('\0').to_string()))
        };
        let mut bytes = 0_u64;
        for ram in child("aspace")?.children().filter(|node| node.name.starts_with("ram")) {
            let size = ram.property("size").and_then(|property| property.value.try_into().ok());
            let Some(size) = size else {
                bail!("{path}/aspace/{}: size must be two cells", ram.name)
            };
            bytes = bytes.saturating_add(u64::from_be_bytes(size));
        }
        let name = guest.name.to_string();
        let kernel = text("kernel")?;
        if kernel.is_none() {
            bail!("{path}/image: kernel is missing");
        }
        all.push(Wants { name, memory_mib: bytes >> 20, kernel, initrd: text("initrd")? });
    }
    if all.is_empty() {
        bail!("/guests: no guest");
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        let cmdline = "console=ttyS0 a=\"b\\c\"".to_string();
        Guest { cpus: 2, memory_mib: 256, initrd: true, cmdline }
    }

    #[test]
    fn the_default_manifest_says_what_was_asked() {
        let text = guest().dts();
        for part in [
            "compatible = \"hematite,manifest-v1\"",
            "count = <2>",
            "size = <0x0 0x10000000>",
            "initrd = \"initrd\"",
            "a=\\\"b\\\\c\\\"",
        ] {
            assert!(text.contains(part), "{part}");
        }
        assert!(!Guest { initrd: false, ..guest() }.dts().contains("initrd"));
    }

    #[test]
    fn what_a_guest_cannot_be_is_refused() {
        assert!(guest().check().is_ok());
        assert!(Guest { cpus: 0, ..guest() }.check().is_err());
        assert!(Guest { memory_mib: 15, ..guest() }.check().is_err());
        assert!(Guest { memory_mib: 4096, ..guest() }.check().is_err());
        assert!(Guest { cmdline: "a\nb".to_string(), ..guest() }.check().is_err());
    }
}
