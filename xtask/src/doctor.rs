//! Says what this machine offers, what is missing, and which engine will be used and why.

use crate::c_hello;
use crate::engine::Offers;
use crate::setup;
use crate::toolchain::Toolchain;
use crate::tools;
use anyhow::{Result, bail};
use driver::emulator::BOCHS_CPU;
use std::process::{Command, Stdio};

/// Prints the findings; fails when neither building nor running is possible.
pub fn doctor() -> Result<()> {
    let mut ill = Vec::new();
    match Toolchain::here() {
        Some(found) => line("compiler", &found.describe()),
        None => {
            line("compiler", "MISSING: none for the bare-metal programs");
            ill.push("compiler");
        }
    }
    let offers = Offers::here();
    let qemu = tools::first_line("qemu-system-x86_64", &["--version"]);
    line("qemu", &qemu.unwrap_or_else(|| "MISSING".to_string()));
    line("bochs", &bochs());
    line("grub tools", if offers.grub { "there" } else { "MISSING: QEMU's own loader is used" });
    line("kvm", offers.no_kvm.as_deref().unwrap_or("usable: nested virtualization is on"));
    let dtc = tools::first_line("dtc", &["--version"]);
    line("dtc", &dtc.unwrap_or_else(|| "MISSING".to_string()));
    match c_hello::compiler() {
        Ok(found) => line("C compiler", found),
        Err(why) => line("C compiler", &format!("MISSING: {why}; the C test program is skipped")),
    }
    match offers.choose() {
        Ok((engine, why)) => line("engine auto", &format!("{}: {why}", engine.word())),
        Err(error) => {
            line("engine auto", &format!("NONE: {error:#}"));
            ill.push("emulator");
        }
    }
    for (name, what_for) in setup::missing() {
        line("missing", &format!("{name} ({what_for})"));
    }
    if !ill.is_empty() {
        bail!("no {}: `cargo xtask setup` installs what is missing", ill.join(", no "));
    }
    Ok(())
}

fn line(what: &str, found: &str) {
    println!("{what:>12}  {found}");
}

/// Version of Bochs, and whether it can play a processor with VMX.
fn bochs() -> String {
    let Ok(done) = Command::new("bochs").args(["--help", "cpu"]).stdin(Stdio::null()).output()
    else {
        return "MISSING".to_string();
    };
    let mut said = String::from_utf8_lossy(&done.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&done.stderr));
    let version = said.lines().find(|line| line.contains("Emulator")).unwrap_or("Bochs").trim();
    if !said.lines().any(|line| line.trim() == BOCHS_CPU) {
        return format!("{version}: no processor model {BOCHS_CPU}, so no VMX here");
    }
    match vmx_built_in() {
        true => format!("{version}, model {BOCHS_CPU}, VMX built in"),
        false => format!("{version}: built without VMX, it can run no guests"),
    }
}

/// Bochs does not list VMX among its features; a build that has it carries VMX' log messages.
fn vmx_built_in() -> bool {
    const MESSAGE: &[u8] = b"VMENTER FAIL";
    // Debian's `bochs` is a script around `bochs-bin`.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let files = std::env::split_paths(&path)
        .flat_map(|dir| ["bochs", "bochs-bin"].map(|name| dir.join(name)));
    files
        .filter_map(|file| std::fs::read(file).ok())
        .any(|content| content.windows(MESSAGE.len()).any(|part| part == MESSAGE))
}
