//! `cargo xtask test`: checks, host tests, then the emulator suites, two side by side.

use crate::build;
use crate::c_hello;
use crate::check::{self, Tally};
use crate::desk;
use crate::guest;
use crate::image::{Module, Recipe};
use crate::manifest::{self, Guest};
use crate::progress::Step;
use crate::rebreak;
use crate::recipe::{BootArgs, REFERENCE};
use crate::run;
use anyhow::{Context, Result, bail};
use clap::Args;
use driver::emulator::{BOCHS_CPU, BOCHS_QUANTUM, Boot, Emulator, Engine, Machine, QEMU_CPU};
use driver::serial::Serial;
use driver::stories::{Load, Loader, Story, Tier, all};
use driver::warnings;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Emulators at a time.
const SIDE_BY_SIDE: usize = 2;
/// Where Debian's package `ovmf` puts UEFI firmware for QEMU.
const UEFI_FIRMWARE: &str = "/usr/share/ovmf/OVMF.fd";
/// Slowest tests named at the end.
const SLOWEST: usize = 8;

/// Lines of a guest's log shown before the rest is only counted.
const FINDINGS: usize = 12;

/// Options of `test`.
#[derive(Args, Clone, Debug)]
pub struct TestArgs {
    /// Only tests whose name contains this
    pub name: Option<String>,
    /// The long tier too: cycles, matrix, soak
    #[arg(long)]
    pub long: bool,
    /// List the emulator suites and end
    #[arg(long)]
    pub list: bool,
}

/// A test that took time.
struct Timed {
    name: String,
    took: Duration,
}

/// Runs everything; fails when a test failed.
pub fn test(args: &TestArgs) -> Result<()> {
    if args.list {
        for story in all() {
            println!("{:<24} {:?} {} CPUs {:?}", story.name, story.engine, story.cpus, story.tier);
        }
        return Ok(());
    }
    let interrupted = run::interruptible()?;
    let wanted = |name: &str| args.name.as_ref().is_none_or(|part| name.contains(part.as_str()));
    let mut timed = Vec::new();
    let mut tally = check::all(wanted)?;
    // A name that only a story or a check has needs no compilation of all host tests.
    let named = args.name.is_some();
    let known = |story: &Story| wanted(story.name);
    let is_rebreak = named && wanted("rebreak");
    let is_long = LONG_HOST.iter().any(|one| wanted(one.name));
    let elsewhere = is_rebreak || is_long || all().any(known);
    if !named || (tally == Tally::default() && !elsewhere) {
        let begun = Instant::now();
        tally.add(host_tests(args.name.as_deref())?);
        timed.push(Timed { name: "host tests".to_string(), took: begun.elapsed() });
    }
    if is_rebreak || (!named && args.long) {
        tally.add(rebreak::all(None)?);
    }
    for one in LONG_HOST.iter().filter(|one| wanted(one.name) && (named || args.long)) {
        let begun = Instant::now();
        tally.add(long_host_test(one)?);
        timed.push(Timed { name: one.name.to_string(), took: begun.elapsed() });
    }
    let stories: Vec<_> = all()
        .filter(|story| wanted(story.name))
        .filter(|story| named || args.long || story.tier == Tier::Quick)
        .collect();
    if !stories.is_empty() {
        build::build(&[])?;
        let results = tell(&stories, &interrupted);
        for (name, took, result) in results {
            if result.is_ok() {
                tally.passed += 1;
            } else {
                tally.failed += 1;
            }
            timed.push(Timed { name, took });
        }
    }
    if tally == Tally::default() {
        bail!("no test has '{}' in its name", args.name.as_deref().unwrap_or_default());
    }
    summary(&mut timed, tally)
}

fn summary(timed: &mut [Timed], tally: Tally) -> Result<()> {
    timed.sort_by_key(|one| std::cmp::Reverse(one.took));
    if !timed.is_empty() {
        println!("\nslowest:");
    }
    for one in timed.iter().take(SLOWEST) {
        println!("{:>8.1} s  {}", one.took.as_secs_f64(), one.name);
    }
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("{} tests failed", tally.failed);
    }
    Ok(())
}

/// All host tests. Plain `cargo test`: one tool fewer than nextest, and documentation examples run too.
fn host_tests(name: Option<&str>) -> Result<Tally> {
    let (tally, _) = cargo_test("host tests", |command| {
        command.arg("--no-fail-fast").args(name);
    })?;
    Ok(tally)
}

/// Host tests that take minutes or a build of their own.
struct LongHost {
    name: &'static str,
    arguments: &'static [&'static str],
    /// What the compiler is told beyond the usual.
    rustflags: Option<&'static str>,
}

const LONG_HOST: [LongHost; 2] = [
    LongHost {
        name: "loom",
        arguments: &["-p", "sync", "--release", "--target-dir", "target/loom", "loom"],
        rustflags: Some("--cfg loom"),
    },
    LongHost {
        name: "ten_million",
        arguments: &[
            "-p",
            "syscalls",
            "--test",
            "fake",
            "ten_million",
            "--",
            "--ignored",
            "--nocapture",
        ],
        rustflags: None,
    },
];

/// What they say is shown: it is their result.
fn long_host_test(one: &LongHost) -> Result<Tally> {
    let (tally, said) = cargo_test(one.name, |command| {
        command.args(one.arguments);
        if let Some(flags) = one.rustflags {
            command.env("RUSTFLAGS", flags);
        }
    })?;
    print!("{said}");
    Ok(tally)
}

/// Runs `cargo test` with what `choose` adds; counted from what each test binary says, and that itself.
fn cargo_test(name: &str, choose: impl FnOnce(&mut Command)) -> Result<(Tally, String)> {
    let step = Step::new(name);
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(["test", "--quiet"]).current_dir(desk::root());
    choose(&mut command);
    let done = command.stdin(Stdio::null()).output().context("cannot start cargo test")?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let mut tally = counts(&said);
    if !done.status.success() {
        eprintln!("{said}{}", String::from_utf8_lossy(&done.stderr));
        // A crate that does not compile has no tests to count.
        tally.failed = tally.failed.max(1);
        return Ok((tally, String::new()));
    }
    step.finish(&format!("{} passed", tally.passed));
    Ok((tally, said))
}

/// Adds up `test result: ok. 3 passed; 0 failed; ...` lines.
fn counts(said: &str) -> Tally {
    let mut tally = Tally::default();
    for line in said.lines().filter(|line| line.trim_start().starts_with("test result:")) {
        let number = |word: &str| {
            let mut parts = line.split([';', '.']).map(str::trim);
            let part = parts.find_map(|part| part.strip_suffix(word));
            part.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        tally.add(Tally { passed: number("passed"), failed: number("failed") });
    }
    tally
}

/// Tells the stories, some side by side; one line for each as it ends.
fn tell(stories: &[&Story], interrupted: &AtomicBool) -> Vec<(String, Duration, Result<()>)> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE.min(stories.len()) {
            scope.spawn(|| {
                while let Some(story) = stories.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let result = tell_one(story, interrupted);
                    let took = begun.elapsed();
                    match &result {
                        Ok(()) => eprintln!("    ok  {} ({:.1} s)", story.name, took.as_secs_f64()),
                        Err(error) => {
                            eprintln!(
                                "FAILED  {} ({:.1} s): {error:#}",
                                story.name,
                                took.as_secs_f64()
                            );
                        }
                    }
                    if let Ok(mut results) = results.lock() {
                        results.push((story.name.to_string(), took, result));
                    }
                }
            });
        }
    });
    results.into_inner().unwrap_or_default()
}

/// Tells one story to its end.
pub fn tell_one(story: &Story, interrupted: &AtomicBool) -> Result<()> {
    if [Load::Program(c_hello::NAME), Load::RootOption(c_hello::NAME)].contains(&story.load)
        && let Err(why) = c_hello::compiler()
    {
        eprintln!("  skip  {}: {why}", story.name);
        return Ok(());
    }
    let dir = desk::out_dir(&format!("tests/{}", story.name))?;
    let recipe = recipe(story)?;
    recipe.check()?;
    let boot = match story.loader {
        Loader::Direct => recipe.direct(&dir.join("modules"))?,
        Loader::Grub | Loader::Grub1 | Loader::Efi => {
            let iso = dir.join(format!("{}.iso", story.name));
            recipe.iso_quietly(&iso)?;
            Boot::Iso(iso)
        }
    };
    let model = |usual: &str| match story.cpu_model {
        "" => usual.to_string(),
        other => other.to_string(),
    };
    let root = desk::root().display().to_string();
    let mut qemu_args: Vec<_> =
        story.qemu_args.iter().map(|arg| arg.replace("@ROOT", &root)).collect();
    if story.loader == Loader::Efi {
        let firmware = Path::new(UEFI_FIRMWARE);
        if !firmware.is_file() {
            bail!("no UEFI firmware at {UEFI_FIRMWARE}: `cargo xtask setup`, or install ovmf");
        }
        qemu_args.extend(["-bios".to_string(), UEFI_FIRMWARE.to_string()]);
    }
    let machine = Machine {
        engine: story.engine,
        cpus: story.cpus,
        memory_mib: story.memory_mib,
        boot,
        bochs_cpu: model(BOCHS_CPU),
        bochs_quantum: BOCHS_QUANTUM,
        qemu_cpu: model(QEMU_CPU),
        qemu_args,
        deterministic: story.deterministic,
        dir: dir.clone(),
    };
    let mut serial = Serial::new(Emulator::start(&machine)?, &dir.join("serial.log"), false)?;
    if let Err(failure) = serial.play(&story.steps(), Some(story.timeout()), interrupted)? {
        bail!("{}", run::report(&serial, &failure));
    }
    if story.load == Load::Linux {
        let found = warnings::findings(serial.said(), warnings::ALLOWED);
        if !found.is_empty() {
            let more = found.len().saturating_sub(FINDINGS);
            let shown = found.iter().take(FINDINGS).map(String::as_str).collect::<Vec<_>>();
            bail!(
                "the guest's log:\n    {}\n    and {more} more; full log: {}",
                shown.join("\n    "),
                serial.log_path().display()
            );
        }
    }
    Ok(())
}

/// What a story's machine boots.
pub fn recipe(story: &Story) -> Result<Recipe> {
    let out = desk::out()?;
    let built = |name: &str| Module::new(name, out.join(format!("{name}.elf")));
    let mut modules = match story.load {
        Load::Program(name) => vec![Module::new("root", built(name).file)],
        Load::LongProgram(name) => {
            vec![Module::new("root", built(name).file), Module::new("long", built(name).file)]
        }
        Load::RootOption(name) => {
            let options = BootArgs {
                cpus: story.cpus,
                root: Some(built(name).file),
                cmdline: "serial".to_string(),
                no_build: true,
                ..BootArgs::default()
            };
            return Ok(options.plan()?.recipe);
        }
        Load::Gallery(path) => {
            let options = BootArgs {
                cpus: story.cpus,
                manifest: Some(desk::root().join(path)),
                cmdline: "serial".to_string(),
                no_build: true,
                ..BootArgs::default()
            };
            return Ok(options.plan()?.recipe);
        }
        Load::Root => vec![built("root"), built("vmm")],
        Load::Small(words) => {
            let cmdline = words.to_string();
            let guest = Guest { cpus: story.cpus, memory_mib: 16, initrd: false, cmdline };
            vec![
                built("root"),
                built("vmm"),
                Module::new("manifest", guest.compile_as(story.name)?),
                Module::new("kernel", out.join("small.bin")),
            ]
        }
        Load::Smalls { monitor, manifest } => {
            vec![
                built("root"),
                Module::new("vmm", built(monitor).file),
                Module::new("manifest", manifest::compile(&desk::root().join(manifest))?),
                Module::new("kernel", out.join("small.bin")),
            ]
        }
        Load::Manifest(path) => {
            let linux = guest::default_guest()?;
            vec![
                built("root"),
                built("vmm"),
                Module::new("manifest", manifest::compile(&desk::root().join(path))?),
                Module::new("kernel", linux.kernel),
                Module::new("initrd", linux.initrd),
                Module::new("disk", guest::default_disk()?),
            ]
        }
        Load::Linux => {
            let linux = guest::default_guest()?;
            let cmdline = REFERENCE.to_string();
            let guest = Guest { cpus: story.cpus, memory_mib: 256, initrd: true, cmdline };
            vec![
                built("root"),
                built("vmm"),
                Module::new("manifest", guest.compile_as(story.name)?),
                Module::new("kernel", linux.kernel),
                Module::new("initrd", linux.initrd),
            ]
        }
    };
    // Our root task asks it how the machine sleeps.
    if modules.iter().any(|module| module.name == "vmm") {
        modules.push(built("aml"));
    }
    if let Some(absent) = modules.iter().find(|module| !module.file.is_file()) {
        bail!("{}: not built", absent.file.display());
    }
    debug_assert!(story.engine != Engine::Bochs || story.loader == Loader::Grub);
    let mut recipe = Recipe::new(story.words, modules)?;
    recipe.multiboot1 = story.loader == Loader::Grub1;
    recipe.load_at = story.load_at;
    Ok(recipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_are_added_up() {
        let said = "\nrunning 3 tests\n...\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; \
            0 filtered out; finished in 0.01s\n\ntest result: FAILED. 10 passed; 2 failed; 0 ignored; \
            0 measured; 0 filtered out; finished in 1.20s\n";
        assert_eq!(counts(said), Tally { passed: 13, failed: 2 });
        assert_eq!(counts("nothing"), Tally::default());
    }
}
