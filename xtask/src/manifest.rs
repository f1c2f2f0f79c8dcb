//! Writes the default guest's manifest and compiles manifests with `dtc`.
//!
//! The shape is defined in `docs/manifest.md`; the root task reads the compiled blob.

use crate::desk;
use crate::guest;
use crate::image::Module;
use crate::tools;
use ::manifest::{Machine, Manifest, Refusal};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Compiles and judges device tree source as the root task will: the blob's path, and what it says.
///
/// # Errors
/// With file, line and reason.
pub fn judge(source: &Path, machine: Machine) -> Result<(PathBuf, Manifest)> {
    let blob = compile(source)?;
    let file = fs::read(&blob).with_context(|| format!("cannot read {}", blob.display()))?;
    let judged = ::manifest::parse(&file).map_err(|refusal| refused(source, &refusal))?;
    judged.fits(machine, &|_| None).map_err(|refusal| refused(source, &refusal))?;
    Ok((blob, judged))
}

/// Checks that each image, disk and ROM is the name of a module that will be there, that it fits where it goes, and that
/// the machine has the memory for what will differ from disks.
///
/// # Errors
/// With file, line and reason.
pub fn check_modules(
    source: &Path,
    manifest: &Manifest,
    machine: Machine,
    size: impl Fn(&str) -> Option<u64>,
) -> Result<()> {
    manifest
        .has_modules(&size)
        .and_then(|()| manifest.fits(machine, &size))
        .map_err(|refusal| refused(source, &refusal))
}

/// A refusal with the line of the source where its node or property stands.
fn refused(source: &Path, refusal: &Refusal) -> anyhow::Error {
    let mut dtc = Command::new("dtc");
    dtc.args(["-q", "-T", "-I", "dts", "-O", "dts"]).arg(source);
    let annotated = dtc.output().map(|done| done.stdout).unwrap_or_default();
    let annotated = String::from_utf8_lossy(&annotated);
    let place = place(&annotated, &refusal.path, &refusal.property);
    // Without a place, for dtc may be old, the file alone.
    let place = place.unwrap_or_else(|| source.display().to_string());
    anyhow!("manifest: {place}: {refusal}")
}

/// Where a node or property stands, from source that `dtc -T` wrote: each line ends with a comment that says where it
/// comes from.
fn place(annotated: &str, path: &str, property: &str) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for line in annotated.lines() {
        let Some((code, comment)) = line.trim().rsplit_once("/* ") else { continue };
        let code = code.trim();
        let here =
            |names: &[&str]| names.join("/").trim_start_matches('/') == path.trim_matches('/');
        let found = if code == "};" {
            names.pop();
            false
        } else if let Some(name) = code.strip_suffix(" {").filter(|name| !name.contains('=')) {
            names.push(name.trim_matches('/'));
            property.is_empty() && here(&names)
        } else {
            let name = code.split([' ', '=', ';']).next().unwrap_or_default();
            name == property && here(&names)
        };
        if found {
            let first = comment.split([',', ' ']).next().unwrap_or_default();
            return Some(first.to_string());
        }
    }
    None
}

/// `cargo xtask manifest check FILE`: says what is wrong, or what the guests take.
pub fn check(args: &CheckArgs) -> Result<()> {
    let source = desk::given(&args.file, "manifest check")?;
    let machine = Machine {
        cpus: args.cpus.map(u64::from),
        memory: args.memory.map(|mib| u64::from(mib) << 20),
    };
    let (_, manifest) = judge(&source, machine)?;
    let named: Vec<_> = args.module.iter().map(|m| Module::parse(m)).collect::<Result<_>>()?;
    check_modules(&source, &manifest, machine, |name| {
        match named.iter().find(|m| m.name == name) {
            Some(module) => fs::metadata(&module.file).ok().map(|data| data.len()),
            // The default guest's files and those of the gallery, which `run` and `image` add by themselves.
            None => {
                let known = ["kernel", "initrd"].contains(&name) || guest::source(name).is_some();
                if name == "disk" { Some(guest::DISK) } else { known.then(|| guest::size(name)) }
            }
        }
    })?;
    for guest in &manifest.guests {
        let (vcpus, memory) = (guest.vcpus.count, guest.all_memory() >> 20);
        let starts = if guest.autostart { "starts at boot" } else { "starts from the console" };
        println!("{}: {vcpus} vCPUs, {memory} MiB, {starts}", guest.name);
    }
    Ok(())
}

/// Options of `manifest check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Device tree source
    pub file: PathBuf,
    /// A boot module that will be there; repeatable
    #[arg(long, value_name = "FILE[:name]")]
    pub module: Vec<String>,
    /// Memory that the machine has for guests, in MiB; default: not compared
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u32>,
    /// Processors of the machine; default: not compared
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
}

#[cfg(test)]
mod devices;
#[cfg(test)]
mod fits;
#[cfg(test)]
mod passed;
#[cfg(test)]
mod regions;
#[cfg(test)]
mod settings;
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

    /// One guest, line by line: what the messages below refer to.
    pub(super) const GOOD: &str = r#"/dts-v1/;
/ {
    compatible = "hematite,manifest-v1";
    host { };
    guests {
        one {
            autostart;
            unclaimed = "ones";
            vcpus {
                count = <2>;
                cpus = <0 1>;
                priority = <5>;
                slice-us = <10000>;
            };
            aspace {
                ram@0 {
                    type = "real";
                    kind = "ram";
                    guest-address = <0x0 0x0>;
                    size = <0x0 0x2000000>;
                };
            };
            image {
                type = "linux";
                kernel = "kernel";
                initrd = "initrd";
                cmdline = "a { b";
            };
        };
    };
};
"#;

    /// The end of the region of RAM and of the address space.
    const REGION: &str = "size = <0x0 0x2000000>;\n                };\n            };";

    /// Stands for the line of the initrd, in a guest whose image is for multiboot.
    const MULTIBOOT: &str = "initrd = \"initrd\";";

    /// What is said of the good one with one piece replaced.
    fn judged(number: usize, from: &str, to: &str) -> String {
        judged_text(number, GOOD, from, to)
    }

    /// What is said of a text with one piece replaced, without the folder.
    pub(super) fn judged_text(number: usize, good: &str, from: &str, to: &str) -> String {
        assert!(good.contains(from), "{from}");
        let name = format!("refusal-{number}.dts");
        let source = desk::out().unwrap().join(&name);
        let text = good.replacen(from, to, 1);
        let text = if from == MULTIBOOT { text.replace("linux", "multiboot") } else { text };
        fs::write(&source, text).unwrap();
        let machine = Machine { cpus: Some(2), memory: Some(100 << 20) };
        let result = judge(&source, machine).and_then(|(blob, manifest)| {
            let _ = fs::remove_file(blob);
            check_modules(&source, &manifest, machine, |name| {
                ["kernel", "initrd"].contains(&name).then_some(1 << 20)
            })
        });
        let folder = format!("{}/", desk::out().unwrap().display());
        let said = result.map_or_else(|error| format!("{error:#}"), |()| "fine".to_string());
        let _ = fs::remove_file(source);
        said.replace(&folder, "").replace(&name, "FILE")
    }

    #[test]
    fn each_refusal_names_file_line_and_reason() {
        if !driver::process::on_path("dtc") {
            return;
        }
        let high = |address: &str, size: &str| {
            let one = GOOD.split_once("ram@0 {").unwrap().1.split_once("};").unwrap().0;
            let high = one.replace("<0x0 0x0>", address).replace("<0x0 0x2000000>", size);
            format!(
                "size = <0x0 0x2000000>;\n                }};\nram@100000000 {{{high}}};\n            }};"
            )
        };
        let nine = format!("modules = {};", ["\"kernel\""; 9].join(", "));
        let long = format!("cmdline = \"{}\"", "x".repeat(2048));
        let many = "count = <65>";
        let cases: &[(&str, &str, &str)] = &[
            ("", "", "fine"),
            ("host { };", "host { }", "FILE:5.5-11 syntax error"),
            (
                "manifest-v1",
                "manifest-v2",
                "FILE:3: /: compatible is \"hematite,manifest-v2\"; this is for \"hematite,manifest-v1\"",
            ),
            ("compatible = \"hematite,manifest-v1\";", "", "FILE:2: /: compatible is missing"),
            ("host { };", "host { iommu; };", "FILE:4: /host: unknown property iommu"),
            ("host { };", "hots { };", "FILE:4: /hots: unknown node"),
            ("one {", "o.ne {", "FILE:6: /guests/o.ne: a name is 1 to 15 of 0-9 A-Z a-z _ -"),
            ("autostart;", "autostrat;", "FILE:7: /guests/one: unknown property autostrat"),
            ("autostart;", "autostart = <1>;", "FILE:7: /guests/one: autostart takes no value"),
            (
                "\"ones\"",
                "\"zeros\"",
                "FILE:8: /guests/one: unclaimed is \"zeros\", not ones or stop",
            ),
            ("\"ones\"", "\"ones\", \"stop\"", "FILE:8: /guests/one: unclaimed is not one string"),
            ("autostart;", "silent-s = <60>;", "fine"),
            ("autostart;", "silent-s = <0>;", "FILE:7: /guests/one: silent-s is 0, not 1 to 86400"),
            ("vcpus {", "vpcus {", "FILE:9: /guests/one/vpcus: unknown node"),
            ("count = <2>;", "", "FILE:9: /guests/one/vcpus: count is missing"),
            ("count = <2>", many, "FILE:10: /guests/one/vcpus: count is 65, not 1 to 64"),
            ("count = <2>", "count = <0 2>", "FILE:10: /guests/one/vcpus: count is not 1 cell(s)"),
            (
                "cpus = <0 1>",
                "cpus = <1 1>",
                "FILE:11: /guests/one/vcpus: cpus has 1: each once, 0 to 63",
            ),
            (
                "cpus = <0 1>",
                "cpus = <0 64>",
                "FILE:11: /guests/one/vcpus: cpus has 64: each once, 0 to 63",
            ),
            ("cpus = <0 1>", "cpus", "FILE:11: /guests/one/vcpus: cpus is not one or more cells"),
            (
                "cpus = <0 1>",
                "cpus = <0 2>",
                "FILE:11: /guests/one/vcpus: cpus names CPU 2; the machine has 2",
            ),
            ("cpus = <0 1>;", "cpus = <0 1>; dedicated;", "fine"),
            (
                "cpus = <0 1>;",
                "cpus = <1>; dedicated;",
                "FILE:11: /guests/one/vcpus: dedicated: 2 virtual processors on 1 in cpus",
            ),
            (
                "cpus = <0 1>;",
                "dedicated;",
                "FILE:11: /guests/one/vcpus: dedicated: 2 virtual processors on 0 in cpus",
            ),
            (
                "cpus = <0 1>;",
                "dedicated = <1>;",
                "FILE:11: /guests/one/vcpus: dedicated takes no value",
            ),
            (
                "priority = <5>",
                "priority = <10>",
                "FILE:12: /guests/one/vcpus: priority is 10, not 1 to 9",
            ),
            (
                "slice-us = <10000>",
                "slice-us = <1>",
                "FILE:13: /guests/one/vcpus: slice-us is 1, not 1000 to 1000000",
            ),
            ("\"real\"", "\"virtual\"", "FILE:17: /guests/one/aspace/ram@0: type is not \"real\""),
            ("\"ram\"", "\"rom\"", "FILE:18: /guests/one/aspace/ram@0: kind is not \"ram\""),
            (
                "<0x0 0x0>",
                "<0x0 0x1000>",
                "FILE:19: /guests/one/aspace/ram@0: guest-address is not 0",
            ),
            (
                "0x2000000",
                "0x2001000",
                "FILE:20: /guests/one/aspace/ram@0: size 0x2001000 is not a multiple of 2 MiB, 16 MiB to 3 GiB",
            ),
            (
                "0x2000000",
                "0x200000",
                "FILE:20: /guests/one/aspace/ram@0: size 0x200000 is not a multiple of 2 MiB, 16 MiB to 3 GiB",
            ),
            (
                "0x2000000",
                "0x20000000",
                "FILE:20: /guests/one/aspace/ram@0: size: 512 MiB, and the machine has 100 MiB left",
            ),
            (REGION, &high("<0x1 0x0>", "<0x0 0x200000>"), "fine"),
            (
                REGION,
                &high("<0x1 0x0>", "<0x0 0x5000000>"),
                "FILE:20: /guests/one/aspace/ram@0: size: 112 MiB, and the machine has 100 MiB left",
            ),
            (
                REGION,
                &high("<0x1 0x1000>", "<0x0 0x200000>"),
                "FILE:25: /guests/one/aspace/ram@100000000: guest-address is not 0x100000000",
            ),
            (
                REGION,
                &high("<0x1 0x0>", "<0x0 0x1000>"),
                "FILE:26: /guests/one/aspace/ram@100000000: size 0x1000 is not a multiple of 2 MiB, 2 MiB to 28 GiB",
            ),
            ("ram@0 {", "ram@1 {", "FILE:16: /guests/one/aspace/ram@1: unknown node"),
            ("size = <0x0 0x2000000>;", "", "FILE:16: /guests/one/aspace/ram@0: size is missing"),
            (
                "\"linux\"",
                "\"windows\"",
                "FILE:24: /guests/one/image: type is \"windows\", not linux, multiboot or flat",
            ),
            ("type = \"linux\";", "", "FILE:23: /guests/one/image: type is missing"),
            ("kernel = \"kernel\";", "", "FILE:23: /guests/one/image: kernel is missing"),
            (
                "kernel = \"kernel\"",
                "kernel = \"b/z\"",
                "FILE:25: /guests/one/image: kernel is \"b/z\"; a module's name is 1 to 31 of a-z A-Z 0-9 . _ -",
            ),
            (
                "\"initrd\"",
                "\"disk\"",
                "FILE:26: /guests/one/image: there is no module disk: --module FILE:disk",
            ),
            ("\"linux\"", "\"flat\"", "FILE:26: /guests/one/image: unknown property initrd"),
            ("\"linux\"", "\"multiboot\"", "FILE:26: /guests/one/image: unknown property initrd"),
            (
                "\"linux\";",
                "\"linux\"; modules = \"a\";",
                "FILE:24: /guests/one/image: unknown property modules",
            ),
            (MULTIBOOT, "modules = \"kernel\", \"initrd\";", "fine"),
            (
                MULTIBOOT,
                "modules = \"kernel\", \"a/b\";",
                "FILE:26: /guests/one/image: modules is \"a/b\"; a module's name is 1 to 31 of a-z A-Z 0-9 . _ -",
            ),
            (
                MULTIBOOT,
                "modules = \"kernel\", \"disk\";",
                "FILE:26: /guests/one/image: there is no module disk: --module FILE:disk",
            ),
            (
                MULTIBOOT,
                "modules = [61];",
                "FILE:26: /guests/one/image: modules is not one or more strings",
            ),
            (MULTIBOOT, &nine, "FILE:26: /guests/one/image: modules has 9 names; at most 8"),
            (
                "cmdline = \"a { b\"",
                &long,
                "FILE:27: /guests/one/image: cmdline has more than 2047 characters",
            ),
            (
                "        one {",
                "        one { };\n        one {",
                "FILE:7.13-30.11: ERROR (duplicate_node_names): /guests/one: Duplicate node name",
            ),
        ];
        for (number, (from, to, wanted)) in cases.iter().enumerate() {
            let wanted = if *wanted == "fine" {
                (*wanted).to_string()
            } else {
                format!("manifest: {wanted}")
            };
            assert_eq!(judged(number, from, to), wanted, "{from} -> {to}");
        }
    }

    #[test]
    fn guests_that_start_at_boot_share_the_machine() {
        if !driver::process::on_path("dtc") {
            return;
        }
        let guest =
            GOOD.split_once("        one {").unwrap().1.split_once("\n        };").unwrap().0;
        let two = format!("        two {{{guest}\n        }};\n        one {{");
        let said = judged(900, "        one {", &two.replace("0x2000000", "0x5000000"));
        assert_eq!(
            said,
            "manifest: FILE:44: /guests/one/aspace/ram@0: size: 32 MiB, and the machine has 20 MiB left"
        );
        let later = two.replace("0x2000000", "0x5000000").replace("autostart;", "");
        assert_eq!(judged(901, "        one {", &later), "fine");
    }

    #[test]
    fn images_larger_than_the_guests_memory_are_refused() {
        if !driver::process::on_path("dtc") {
            return;
        }
        let source = desk::out().unwrap().join("refusal-large.dts");
        fs::write(&source, GOOD).unwrap();
        let (_, manifest) = judge(&source, Machine::default()).unwrap();
        let error = check_modules(&source, &manifest, Machine::default(), |_| Some(16 << 20));
        let error = error.unwrap_err();
        let said = "25: /guests/one/image: 33554432 bytes of images do not fit the guest's 32 MiB";
        assert!(error.to_string().ends_with(said), "{error}");
        let _ = fs::remove_file(source);
    }
}
