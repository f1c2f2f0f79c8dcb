//! Builds the bare-metal programs and leaves them in `target/hematite`.

use crate::bzimage;
use crate::c_hello;
use crate::desk;
use crate::elf;
use crate::progress::Step;
use crate::toolchain::{TARGET, Toolchain};
use crate::tools;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// How a program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// At the top of the address space, by `linker.ld` through its build script.
    Kernel,
    /// As user code, by `user/rt/user.ld`.
    User,
    /// As a guest, by its own script through its build script; turned into a bzImage.
    Guest,
    /// As a guest for multiboot, by its own script; turned into an ELF32, and left as ELF64 beside it.
    Multiboot,
}

/// A bare-metal program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The cargo package, whose binary has the same name.
    pub package: &'static str,
    /// Its folder.
    pub folder: &'static str,
    /// How it is linked.
    pub link: Link,
    /// Its file in `target/hematite`.
    pub file: &'static str,
    /// Its features, as cargo takes them; a program without any is what users run.
    pub features: &'static str,
}

/// Everything that runs on the machine. A program whose folder is not a member of the workspace
/// (yet) is left out.
pub const PROGRAMS: &[Program] = &[
    program("kernel", "kernel", Link::Kernel, "hematite.elf64"),
    program("root", "user/root", Link::User, "root.elf"),
    program("vmm", "user/vmm", Link::User, "vmm.elf"),
    program("aml", "user/aml", Link::User, "aml.elf"),
    Program { features: "crash", ..program("vmm", "user/vmm", Link::User, "vmm-crash.elf") },
    program("hello", "tests/hello", Link::User, "hello.elf"),
    program("suite", "tests/suite", Link::User, "suite.elf"),
    program("sleeper", "tests/sleeper", Link::User, "sleeper.elf"),
    program("bench", "tests/bench", Link::User, "bench.elf"),
    program("victim", "tests/victim", Link::User, "victim.elf"),
    program("guests", "guests", Link::User, "guests.elf"),
    program("multiboot", "guests/multiboot", Link::Multiboot, "multiboot.elf32"),
    program("small", "guests/small", Link::Guest, "small.bin"),
];

const fn program(
    package: &'static str,
    folder: &'static str,
    link: Link,
    file: &'static str,
) -> Program {
    Program { package, folder, link, file, features: "" }
}

/// The kernel as multiboot 1 wants it.
pub const ELF32: &str = "hematite.elf32";

impl Program {
    /// The folder under `target/` for programs linked this way.
    fn subdir(link: Link) -> &'static str {
        match link {
            // The same flags and profile as the kernel's, so that core is built once for all.
            Link::Kernel | Link::Guest | Link::Multiboot => "metal-kernel",
            Link::User => "metal-user",
        }
    }

    /// The compiler flags: the target is position independent by default, and nothing here is.
    fn flags(self, toolchain: &Toolchain) -> Vec<String> {
        let mut flags = vec!["-Crelocation-model=static".to_string()];
        flags.push(match self.link {
            // Addresses that a sign-extended 32-bit number holds: the last 2 GiB, or the first.
            Link::Kernel | Link::Guest | Link::Multiboot => "-Ccode-model=kernel".to_string(),
            Link::User => "-Ccode-model=small".to_string(),
        });
        let script = desk::root().join("user/rt/user.ld");
        if self.link == Link::User && script.is_file() {
            flags.push(format!("-Clink-arg=-T{}", script.display()));
        }
        // Back traces need frame pointers; paths of one machine have no place in an image.
        flags.push("-Cforce-frame-pointers=yes".to_string());
        // No vector registers are used: looking for loops that could use them is lost time.
        flags.extend(["-Cno-vectorize-loops".to_string(), "-Cno-vectorize-slp".to_string()]);
        flags.push(format!("--remap-path-prefix={}=", desk::root().display()));
        if self.link != Link::User && toolchain.linker_optimises() {
            flags.extend(linker_flags());
        }
        flags
    }

    /// Whether this checkout has it.
    pub fn exists(self) -> Result<bool> {
        let manifest = desk::root().join("Cargo.toml");
        let text = fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))?;
        Ok(text.lines().any(|line| line.trim() == format!("\"{}\",", self.folder)))
    }

    /// The profile of `Cargo.toml` it is built by.
    fn profile(self) -> &'static str {
        match self.link {
            Link::Kernel | Link::Guest | Link::Multiboot => "kernel",
            Link::User => "release",
        }
    }

    /// A cargo command for it.
    pub fn cargo(self, toolchain: &Toolchain, verb: &str) -> Command {
        let mut command = toolchain.cargo(verb, Self::subdir(self.link), &self.flags(toolchain));
        command.args(["--profile", self.profile(), "--package", self.package]);
        if self.link != Link::User && !toolchain.linker_optimises() {
            command.args(["--config", "profile.kernel.lto=\"thin\""]);
        }
        if !self.features.is_empty() {
            command.args(["--features", self.features]);
        }
        command
    }

    /// Where cargo leaves it.
    pub fn built(self) -> PathBuf {
        let target = desk::root().join("target").join(Self::subdir(self.link));
        target.join(TARGET).join(self.profile()).join(self.package)
    }

    /// The ELF file with all there is to know of it: what `build` leaves, or makes a bzImage of.
    pub fn elf(self) -> Result<PathBuf> {
        match self.link {
            Link::Kernel | Link::User => self.path(),
            Link::Guest | Link::Multiboot => Ok(self.built()),
        }
    }

    /// Where `build` leaves it.
    pub fn path(self) -> Result<PathBuf> {
        Ok(desk::out()?.join(self.file))
    }
}

/// Flags that leave the optimisation across crates to the linker, which keeps the parts that a
/// change does not reach (`target/thinlto`): a build after a change takes a third less time.
fn linker_flags() -> Vec<String> {
    let mut words = vec!["--lto-O3".to_string(), "--thinlto-jobs=2".to_string()];
    words.push(format!("--thinlto-cache-dir={}", desk::root().join("target/thinlto").display()));
    words.extend(["-mllvm", "-vectorize-loops=false"].map(String::from));
    words.extend(["-mllvm", "-vectorize-slp=false"].map(String::from));
    let mut flags: Vec<_> = words.iter().map(|word| format!("-Clink-arg={word}")).collect();
    flags.push("-Clinker-plugin-lto".to_string());
    flags
}

/// Builds all programs this checkout has, or only the packages named.
pub fn build(only: &[&str]) -> Result<()> {
    if let Some(unknown) = only.iter().find(|name| !PROGRAMS.iter().any(|p| p.package == **name)) {
        let all: Vec<_> = PROGRAMS.iter().map(|program| program.package).collect();
        bail!("no bare-metal program '{unknown}'; there are {}", all.join(", "));
    }
    let toolchain = Toolchain::find()?;
    let mut wanted = Vec::new();
    for program in PROGRAMS {
        if (only.is_empty() || only.contains(&program.package)) && program.exists()? {
            wanted.push(*program);
        }
    }
    if wanted.is_empty() {
        bail!("no bare-metal program is a member of the workspace");
    }
    // Two target folders, so two cargos do not wait for each other; the kernel's last step has
    // one thread.
    let (user, kernel): (Vec<_>, Vec<_>) = wanted.iter().partition(|p| p.link == Link::User);
    let build_all = |programs: Vec<Program>| -> Result<()> {
        programs.into_iter().try_for_each(|program| build_one(program, &toolchain))
    };
    std::thread::scope(|scope| {
        let user = scope.spawn(|| build_all(user));
        let kernel = build_all(kernel);
        let user = user.join().unwrap_or_else(|_| bail!("the thread that builds panicked"));
        match (kernel, user) {
            (Err(kernel), Err(user)) => bail!("{kernel:#}\n{user:#}"),
            (kernel, user) => kernel.and(user),
        }
    })?;
    if only.is_empty() {
        c_hello::build()?;
    }
    Ok(())
}

/// The kernel that measures how long it keeps interrupts off.
pub const STRETCH: &str = "hematite-stretch.elf64";

/// Builds it.
pub fn measuring_kernel() -> Result<()> {
    let kernel = PROGRAMS.iter().find(|program| program.link == Link::Kernel);
    let kernel = kernel.context("no kernel among the programs")?;
    let step = Step::new("build the kernel that measures");
    let mut command = kernel.cargo(&Toolchain::find()?, "build");
    command.args(["--bin", kernel.package, "--features", "stretch"]);
    tools::watched(&mut command, &step)?;
    let path = kernel.built();
    let file = fs::read(&path).with_context(|| format!("cargo left no {}", path.display()))?;
    desk::write_if_changed(&desk::out()?.join(STRETCH), &file)?;
    step.finish(&format!("target/hematite/{STRETCH}"));
    Ok(())
}

fn build_one(program: Program, toolchain: &Toolchain) -> Result<()> {
    let step = Step::new(format!("build {} {}", program.package, program.features).trim_end());
    let mut command = program.cargo(toolchain, "build");
    command.args(["--bin", program.package]);
    tools::watched(&mut command, &step)?;
    let path = program.built();
    let file = fs::read(&path).with_context(|| format!("cargo left no {}", path.display()))?;
    let file = match program.link {
        Link::Guest => bzimage::wrap(&file).context("the guest makes no bzImage")?,
        Link::Multiboot => {
            desk::write_if_changed(&program.path()?.with_extension("elf64"), &file)?;
            elf::to_elf32(&file).context("the guest does not fit an ELF32")?
        }
        Link::Kernel | Link::User => file,
    };
    desk::write_if_changed(&program.path()?, &file)?;
    if program.link == Link::Kernel {
        let wrapped = elf::to_elf32(&file).context("the kernel does not fit an ELF32")?;
        desk::write_if_changed(&desk::out()?.join(ELF32), &wrapped)?;
    }
    step.finish(&format!("target/hematite/{}", program.file));
    Ok(())
}
