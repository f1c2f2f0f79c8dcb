//! Installs what is missing, or prints the command that does.

use crate::progress::Step;
use crate::toolchain::{self, DEBIAN_PACKAGES, Toolchain};
use crate::tools;
use anyhow::{Result, bail};
use driver::process::on_path;
use std::path::Path;
use std::process::Command;

/// A package and how to see that it is there.
struct Package {
    name: &'static str,
    /// A program on PATH or an absolute path.
    proof: &'static str,
    what_for: &'static str,
}

const fn package(name: &'static str, proof: &'static str, what_for: &'static str) -> Package {
    Package { name, proof, what_for }
}

const PACKAGES: &[Package] = &[
    package("qemu-system-x86", "qemu-system-x86_64", "the fast engine"),
    package("bochs", "bochs", "the engine with VMX"),
    package(
        "bochs-term",
        "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so",
        "Bochs without a window",
    ),
    package("bochsbios", "/usr/share/bochs/BIOS-bochs-latest", "Bochs' BIOS"),
    package("vgabios", "/usr/share/bochs/VGABIOS-lgpl-latest", "Bochs' VGA BIOS"),
    package("grub-common", "grub-mkrescue", "boot images"),
    package("grub-pc-bin", "/usr/lib/grub/i386-pc", "boot images for BIOS"),
    package("grub-efi-amd64-bin", "/usr/lib/grub/x86_64-efi", "boot images for UEFI"),
    package("ovmf", "/usr/share/ovmf/OVMF.fd", "UEFI firmware for QEMU"),
    package("xorriso", "xorriso", "boot images"),
    package("mtools", "mformat", "boot images"),
    package("device-tree-compiler", "dtc", "manifests"),
    package("gcc", "cc", "the C test program"),
];

impl Package {
    fn there(&self) -> bool {
        if self.proof.starts_with('/') {
            Path::new(self.proof).exists() || self.installed()
        } else {
            on_path(self.proof)
        }
    }

    /// Asks dpkg: a file may lie elsewhere in another release.
    fn installed(&self) -> bool {
        let mut query = Command::new("dpkg-query");
        query.args(["-W", "-f=${Status}", self.name]);
        tools::output(&mut query).is_ok_and(|status| status.contains("ok installed"))
    }
}

/// Missing packages with what each is for.
pub fn missing() -> Vec<(&'static str, &'static str)> {
    let absent = PACKAGES.iter().filter(|package| !package.there());
    absent.map(|package| (package.name, package.what_for)).collect()
}

/// Installs with apt where it may, else prints the exact command and fails.
pub fn setup() -> Result<()> {
    let mut names: Vec<_> = missing().into_iter().map(|(name, _)| name).collect();
    let compiler = Toolchain::find().is_ok() || toolchain::fetch_target();
    if !compiler {
        names.extend(DEBIAN_PACKAGES);
    }
    if names.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    if !on_path("apt-get") {
        bail!(
            "this is no Debian or Ubuntu: install what these packages have, by other means: {}; \
             or use the Containerfile",
            names.join(" ")
        );
    }
    let Some(prefix) = privilege() else {
        let command = format!(
            "sudo apt-get update && sudo apt-get install --no-install-recommends -y {}",
            names.join(" ")
        );
        bail!("not root, and no password-free sudo. Type this:\n\n    {command}\n");
    };
    apt(&prefix, "apt-get update", &["update", "-q"])?;
    let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
    install.extend(&names);
    apt(&prefix, &format!("install {}", names.join(" ")), &install)?;
    let still = missing();
    if !still.is_empty() {
        bail!("still missing after the installation: {still:?}");
    }
    Toolchain::find().map(|found| println!("compiler: {}", found.describe()))
}

fn apt(prefix: &[&str], what: &str, args: &[&str]) -> Result<()> {
    let step = Step::new(what);
    let mut words = prefix.to_vec();
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    words.extend(args);
    let Some((program, rest)) = words.split_first() else { return Ok(()) };
    tools::watched(Command::new(program).args(rest), &step)?;
    step.finish("");
    Ok(())
}

/// What to put before a command that needs root; `None` when there is no way.
fn privilege() -> Option<Vec<&'static str>> {
    if rustix::process::geteuid().is_root() {
        return Some(Vec::new());
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "true"]);
    (on_path("sudo") && tools::output(&mut sudo).is_ok()).then(|| vec!["sudo", "-n"])
}
