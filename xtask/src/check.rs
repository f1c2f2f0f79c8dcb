//! The static part of the tests: format, lints, doors, lists and images.

use crate::build::{self, PROGRAMS};
use crate::call_names;
use crate::desk;
use crate::header;
use crate::image_check;
use crate::layers;
use crate::no_panic;
use crate::progress::Step;
use crate::sources::{self, Source};
use crate::stack_depth;
use crate::toolchain::Toolchain;
use crate::tools;
use anyhow::{Context, Result, bail};
use std::process::Command;

/// A check over the source text.
type TextRule = fn(&[Source]) -> Vec<String>;

const TEXT_RULES: &[(&str, TextRule)] = &[
    ("unsafe_list", sources::unsafe_list),
    ("file_length", sources::long_files),
    ("kernel_panics", sources::panics),
    ("lint_allowances", sources::wide_allowances),
    ("machine_paths", sources::machine_paths),
    ("syscalls_without_arch", sources::syscalls_name_arch),
    ("design_crates", sources::design_crates),
    ("call_names", call_names::findings),
];

/// How many passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
}

impl Tally {
    /// Counts one and prints its line.
    pub fn note(&mut self, name: &str, result: &Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                eprintln!("FAILED  {name}: {error:#}");
            }
        }
    }

    /// Adds another one's counts.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// `cargo xtask check`.
pub fn check() -> Result<()> {
    let tally = all(|_| true)?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("{} checks failed", tally.failed);
    }
    Ok(())
}

/// Runs the checks whose name is wanted.
pub fn all(wanted: impl Fn(&str) -> bool) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut run = |name: &str, check: &dyn Fn() -> Result<Vec<String>>| {
        if wanted(name) {
            let step = Step::new(format!("check {name}"));
            let result = check().and_then(|found| verdict(&found));
            match result {
                Ok(()) => step.finish(""),
                Err(_) => step.leave(),
            }
            tally.note(name, &result);
        }
    };
    let sources = sources::all()?;
    for (name, rule) in TEXT_RULES {
        run(name, &|| Ok(rule(&sources)));
    }
    run("room_doors", &layers::findings);
    run("c_header", &header::findings);
    run("format", &format);
    run("lints_host", &|| {
        let lints = ["clippy", "--all-targets", "--quiet", "--", "-D", "warnings"];
        tools::output(&mut cargo(&lints)).map(|_| Vec::new())
    });
    run("lints_metal", &lints_metal);
    run("images", &|| {
        build::build(&[])?;
        image_check::findings()
    });
    run("no_panic", &|| {
        build::build(&["kernel"])?;
        no_panic::findings()
    });
    run("stack_depth", &|| {
        build::build(&["kernel"])?;
        stack_depth::findings()
    });
    Ok(tally)
}

fn verdict(found: &[String]) -> Result<()> {
    match found {
        [] => Ok(()),
        some => bail!("\n    {}", some.join("\n    ")),
    }
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(args).current_dir(desk::root());
    command
}

/// Files that `cargo fmt` would change.
fn format() -> Result<Vec<String>> {
    let done = cargo(&["fmt", "--all", "--", "--check", "-l"]).output().context("cargo fmt")?;
    let said = String::from_utf8_lossy(&done.stdout);
    let root = format!("{}/", desk::root().display());
    let files = said.lines().map(|file| file.strip_prefix(&root).unwrap_or(file));
    let files: Vec<_> = files.map(|file| format!("{file}: `cargo fmt` changes it")).collect();
    if files.is_empty() && !done.status.success() {
        bail!("cargo fmt failed:\n{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(files)
}

/// Lints of the bare-metal programs; Debian's compiler comes without clippy, then there are none.
fn lints_metal() -> Result<Vec<String>> {
    let toolchain = Toolchain::find()?;
    if !toolchain.has_clippy() {
        eprintln!(
            "  note  lints_metal: this compiler has no clippy; the build's own warnings count"
        );
        return Ok(Vec::new());
    }
    for program in PROGRAMS {
        if program.exists()? {
            let mut command = program.cargo(&toolchain, "clippy");
            tools::output(command.args(["--quiet", "--", "-D", "warnings"]))?;
        }
    }
    Ok(Vec::new())
}
