//! Finds a compiler for the bare-metal programs.
//!
//! The order: the pinned toolchain with its target installed; the target fetched by rustup; then
//! Debian's `rustc-web`, which builds `core` and `alloc` from Debian's own source package.

use crate::desk;
use crate::tools;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What the bare-metal programs are built for.
pub const TARGET: &str = "x86_64-unknown-none";

/// Debian's packages for the third way.
pub const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Debian's compiler must be at least this new: 1.85 brought edition 2024.
const OLDEST_MINOR: u32 = 85;

/// How long rustup may try to fetch the target.
const FETCH_LIMIT: Duration = Duration::from_secs(20);

/// A way to compile for [`TARGET`].
#[derive(Debug)]
pub enum Toolchain {
    /// The pinned toolchain has the target.
    Pinned,
    /// Debian's compiler, with the linker to use.
    Debian(PathBuf),
}

impl Toolchain {
    /// Finds one, fetching the target if that is quick.
    ///
    /// # Errors
    /// When there is none; the message says how to get one.
    pub fn find() -> Result<Self> {
        if let Some(here) = Self::here() {
            return Ok(here);
        }
        if fetch_target() {
            return Ok(Self::Pinned);
        }
        bail!(
            "no compiler for {TARGET}: `rustup target add {TARGET}` did not work, and Debian's {} \
             are not installed; `cargo xtask setup` installs them",
            DEBIAN_PACKAGES.join(" ")
        )
    }

    /// The one this machine has already; fetches nothing.
    pub fn here() -> Option<Self> {
        if pinned_has_target() {
            return Some(Self::Pinned);
        }
        debian_linker().map(Self::Debian)
    }

    /// One line for the doctor.
    pub fn describe(&self) -> String {
        match self {
            Self::Pinned => format!("pinned toolchain with target {TARGET}"),
            Self::Debian(linker) => {
                let version = tools::first_line("/usr/bin/rustc", &["--version"]);
                let version = version.unwrap_or_default();
                format!("Debian's {version}, core built from source, linker {}", linker.display())
            }
        }
    }

    /// A cargo command with these compiler flags whose files go to `target/SUBDIR`.
    pub fn cargo(&self, verb: &str, subdir: &str, flags: &[String]) -> Command {
        let target_dir = desk::root().join("target").join(subdir);
        let mut flags = flags.to_vec();
        let mut command = match self {
            Self::Pinned => Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into())),
            Self::Debian(linker) => {
                flags.push(format!("-Clinker={}", linker.display()));
                let mut command = Command::new("/usr/bin/cargo");
                command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc");
                // The host build's rustup and cargo settings must not reach another toolchain.
                for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTDOC", "RUSTC_WRAPPER"] {
                    command.env_remove(name);
                }
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") {
                command.env_remove(name);
            }
        }
        command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.env("RUSTFLAGS", flags.join(" ")).current_dir(desk::root()).arg(verb);
        if let Self::Debian(_) = self {
            command.args([
                "-Zbuild-std=core,alloc,compiler_builtins",
                "-Zbuild-std-features=compiler-builtins-mem",
            ]);
        }
        command.args(["--target", TARGET, "--target-dir"]).arg(target_dir);
        command
    }

    /// Whether its linker can optimise what the compiler left undone: LLVM reads the bitcode of
    /// its own major version and of older ones.
    pub fn linker_optimises(&self) -> bool {
        let Self::Debian(linker) = self else {
            return true;
        };
        let compiler = tools::output(Command::new("/usr/bin/rustc").arg("-vV")).unwrap_or_default();
        let mut linker = Command::new(linker);
        let linker =
            tools::output(linker.args(["-flavor", "gnu", "--version"])).unwrap_or_default();
        let written = compiler.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        let read = linker.split_whitespace().skip_while(|word| *word != "LLD").nth(1);
        matches!((written.and_then(major), read.and_then(major)), (Some(w), Some(r)) if w <= r)
    }

    /// Whether it can run clippy.
    pub fn has_clippy(&self) -> bool {
        matches!(self, Self::Pinned)
    }
}

fn sysroot() -> Option<PathBuf> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "sysroot"]).current_dir(desk::root());
    tools::output(&mut rustc).ok().map(|text| PathBuf::from(text.trim()))
}

fn pinned_has_target() -> bool {
    sysroot().is_some_and(|root| root.join("lib/rustlib").join(TARGET).is_dir())
}

/// Asks rustup for the target, for a short time.
pub fn fetch_target() -> bool {
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]).current_dir(desk::root());
    tools::succeeds_within(&mut rustup, FETCH_LIMIT) && pinned_has_target()
}

/// Debian's compiler is there and new enough: the linker to use with it.
fn debian_linker() -> Option<PathBuf> {
    let version = tools::first_line("/usr/bin/rustc", &["--version"])?;
    if minor(&version)? < OLDEST_MINOR
        || !Path::new("/usr/bin/cargo").is_file()
        || !Path::new("/usr/lib/rustlib/src/rust/library").is_dir()
    {
        return None;
    }
    let ours = sysroot().map(|r| r.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld"));
    ours.into_iter().chain([PathBuf::from("/usr/bin/ld.lld")]).find(|linker| linker.is_file())
}

/// `rustc 1.96.0 (...)` gives 96.
fn minor(version: &str) -> Option<u32> {
    version.split_whitespace().nth(1)?.split('.').nth(1)?.parse().ok()
}

/// `22.1.8` gives 22.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{major, minor};

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(major("22.1.8"), Some(22));
        assert_eq!(major("14.0.6"), Some(14));
        assert_eq!(major("git"), None);
    }

    #[test]
    fn the_minor_version_is_read() {
        assert_eq!(minor("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some(96));
        assert_eq!(minor("rustc 1.63.0"), Some(63));
        assert_eq!(minor("nonsense"), None);
    }
}
