//! Turns the options of `image` and `run` into what the machine boots.

use crate::build;
use crate::desk;
use crate::guest::{self, Source};
use crate::image::{Module, Recipe};
use crate::manifest::{self, Guest};
use ::manifest::Machine;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

/// What is booted.
#[derive(Args, Clone, Debug, Default)]
pub struct BootArgs {
    /// Processors of the machine, and virtual processors of the default guest
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub cpus: u32,
    /// Guests to run, as device tree source (docs/manifest.md); default: one Linux guest
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Boot this root task instead of ours
    #[arg(long, value_name = "ELF")]
    pub root: Option<PathBuf>,
    /// One more boot module; repeatable
    #[arg(long, value_name = "FILE[:name]")]
    pub module: Vec<String>,
    /// Command line of the Hematite kernel
    #[arg(long, default_value = "serial", value_name = "WORDS", allow_hyphen_values = true)]
    pub cmdline: String,
    /// Kernel of the default guest, a bzImage; default: Debian's cloud kernel
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk of the default guest; default: busybox
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Command line of the default guest
    #[arg(long, default_value = REFERENCE, value_name = "WORDS", allow_hyphen_values = true)]
    pub append: String,
    /// Memory of the default guest in MiB
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    pub guest_memory: u32,
    /// Take the programs in target/hematite as they are
    #[arg(long)]
    pub no_build: bool,
}

/// The reference command line: no mitigations, because Bochs' CPUID alone makes the kernel warn
/// about them.
pub const REFERENCE: &str = "console=ttyS0 mitigations=off";

/// A recipe and the memory its guests want, in MiB.
pub struct Plan {
    /// What is booted.
    pub recipe: Recipe,
    /// Memory of all guests.
    pub guests_mib: u64,
}

impl BootArgs {
    /// Builds what is needed and puts the recipe together.
    pub fn plan(&self) -> Result<Plan> {
        self.plan_for(None)
    }

    /// The same for a machine with so much memory, if that is known: guests that want more are refused.
    pub fn plan_for(&self, memory_mib: Option<u32>) -> Result<Plan> {
        // What the user named is checked first: nothing is built for a run that cannot start.
        let named: Vec<_> = self.module.iter().map(|m| Module::parse(m)).collect::<Result<_>>()?;
        let root = self.root.as_deref().map(|path| desk::given(path, "--root")).transpose()?;
        for (path, option) in [(&self.kernel, "--kernel"), (&self.initrd, "--initrd")] {
            if let Some(path) = path {
                desk::given(path, option)?;
            }
        }
        if self.cpus == 0 {
            bail!("--cpus 0: a machine has at least one");
        }
        let guests = self.guests(root.is_some(), &named, memory_mib)?;
        if !self.no_build {
            let programs =
                if root.is_some() { &["kernel"][..] } else { &["kernel", "root", "vmm", "aml"] };
            build::build(programs)?;
        }
        let built = |name: &str| -> Result<PathBuf> {
            let path = desk::out()?.join(name);
            fs::metadata(&path)
                .with_context(|| format!("{}: run `cargo xtask build`", path.display()))?;
            Ok(path)
        };
        let ours = root.is_none();
        let mut modules = vec![Module::new("root", root.map_or_else(|| built("root.elf"), Ok)?)];
        if ours {
            modules.push(Module::new("vmm", built("vmm.elf")?));
        }
        let guests_mib = guests.iter().map(|guests| guests.memory_mib).sum();
        modules.extend(guests.into_iter().flat_map(|guests| guests.modules));
        modules.extend(named);
        if ours {
            modules.push(Module::new("aml", built("aml.elf")?));
        }
        built("hematite.elf64")?;
        let recipe = Recipe::new(&self.cmdline, modules)?;
        recipe.check()?;
        Ok(Plan { recipe, guests_mib })
    }

    /// The manifest and the files it refers to; none when a foreign root task wants none.
    fn guests(
        &self,
        foreign_root: bool,
        named: &[Module],
        memory_mib: Option<u32>,
    ) -> Result<Option<Guests>> {
        if let Some(path) = &self.manifest {
            let source = desk::given(path, "--manifest")?;
            return self.manifest_guests(&source, named, memory_mib).map(Some);
        }
        if foreign_root && self.kernel.is_none() {
            return Ok(None);
        }
        if let Some(memory) = memory_mib
            && self.guest_memory >= memory
        {
            let guest = self.guest_memory;
            bail!("--memory {memory}: the guest alone wants {guest} MiB (--guest-memory)");
        }
        self.default_guest().map(Some)
    }

    fn default_guest(&self) -> Result<Guests> {
        let (kernel, initrd) = self.linux()?;
        let guest = Guest {
            cpus: self.cpus,
            memory_mib: self.guest_memory,
            initrd: initrd.is_some(),
            cmdline: self.append.clone(),
        };
        guest.check()?;
        guest::check_bzimage(&kernel)?;
        check_fits(&kernel, initrd.as_deref(), u64::from(self.guest_memory))?;
        let mut modules = vec![Module::new("manifest", guest.compile()?)];
        modules.push(Module::new("kernel", kernel));
        modules.extend(initrd.map(|file| Module::new("initrd", file)));
        Ok(Guests { modules, memory_mib: u64::from(self.guest_memory) })
    }

    /// Kernel and initrd of the default guest. A kernel of the user's own gets no initrd of ours.
    fn linux(&self) -> Result<(PathBuf, Option<PathBuf>)> {
        let initrd =
            self.initrd.as_deref().map(|path| desk::given(path, "--initrd")).transpose()?;
        if let Some(kernel) = &self.kernel {
            return Ok((desk::given(kernel, "--kernel")?, initrd));
        }
        let linux = guest::default_guest()?;
        Ok((linux.kernel, Some(initrd.unwrap_or(linux.initrd))))
    }

    fn manifest_guests(
        &self,
        source: &Path,
        named: &[Module],
        memory_mib: Option<u32>,
    ) -> Result<Guests> {
        let memory = memory_mib.map(|mib| u64::from(mib) << 20);
        let machine = Machine { cpus: Some(u64::from(self.cpus)), memory };
        let (blob, manifest) = manifest::judge(source, machine)?;
        let mut modules = vec![Module::new("manifest", blob)];
        for guest in &manifest.guests {
            let images = guest.image.modules().map(|(_, name)| name);
            let others = guest.disks().chain(guest.roms()).map(|(_, name)| name);
            for name in images.chain(others) {
                let there = named.iter().chain(&modules).any(|module| module.name == name);
                let file = match name {
                    _ if there => continue,
                    "kernel" => self.linux()?.0,
                    "initrd" => self.linux()?.1.context("--initrd FILE is needed")?,
                    "disk" => guest::default_disk()?,
                    _ => match guest::source(name) {
                        Some(source) => self.gallery(name, source)?,
                        // Refused below, with its line.
                        None => continue,
                    },
                };
                modules.push(Module::new(name, file));
            }
        }
        // What the modules take is not for guests.
        let size = |module: &Module| fs::metadata(&module.file).map_or(0, |data| data.len());
        let taken: u64 = named.iter().chain(&modules).map(size).sum();
        let memory = memory.map(|memory| memory.saturating_sub(taken));
        manifest::check_modules(source, &manifest, Machine { memory, ..machine }, |name| {
            let module = named.iter().chain(&modules).find(|module| module.name == name)?;
            fs::metadata(&module.file).ok().map(|data| data.len())
        })?;
        let memory_mib = manifest.guests.iter().map(|guest| guest.all_memory() >> 20).sum();
        Ok(Guests { modules, memory_mib })
    }

    /// A file of the gallery, built if that is wanted.
    fn gallery(&self, name: &str, source: Source) -> Result<PathBuf> {
        if let (Source::Program(package), false) = (source, self.no_build) {
            build::build(&[package])?;
        }
        guest::image(name, source)
    }
}

/// The manifest and all it refers to.
struct Guests {
    modules: Vec<Module>,
    memory_mib: u64,
}

/// Kernel and initrd must leave a guest some memory.
fn check_fits(kernel: &Path, initrd: Option<&Path>, memory_mib: u64) -> Result<()> {
    let size = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    let limit = memory_mib << 20;
    for (path, what) in [(Some(kernel), "guest kernel"), (initrd, "initrd")] {
        if let Some(path) = path
            && size(path) >= limit
        {
            bail!(
                "{what} {}: {} bytes do not fit the guest's {memory_mib} MiB of memory",
                path.display(),
                size(path)
            );
        }
    }
    if size(kernel) + initrd.map_or(0, size) >= limit {
        bail!("kernel and initrd together do not fit the guest's {memory_mib} MiB of memory");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_that_want_more_than_the_machine_has_are_refused() {
        if !driver::process::on_path("dtc") {
            return;
        }
        let source = desk::out().unwrap().join("too-much.dts");
        let guest = Guest { cpus: 1, memory_mib: 512, initrd: false, cmdline: String::new() };
        fs::write(&source, guest.dts()).unwrap();
        let module = Module::new("kernel", desk::root().join("Cargo.lock"));
        let options = BootArgs { cpus: 1, manifest: Some(source.clone()), ..BootArgs::default() };
        let refused = |mib| {
            let error = options.guests(false, std::slice::from_ref(&module), Some(mib)).err();
            error.map(|error| error.to_string()).unwrap_or_default()
        };
        let said = refused(256);
        let words = "/guests/linux/aspace/ram@0: size: 512 MiB, and the machine has 256 MiB left";
        assert!(said.ends_with(words), "{said}");
        // The modules lie in the same memory.
        assert!(refused(512).ends_with("the machine has 511 MiB left"), "{}", refused(512));
        assert_eq!(refused(513), "");
        let _ = fs::remove_file(source);
    }
}
