//! `cargo xtask rebreak`: puts each known failure back and demands that its test notices.
//!
//! A patch of `tests/rebreak` begins with one line, `WHAT IT BREAKS; fails: PACKAGE TARGET TEST`, and is applied to a copy of the
//! checkout. It must apply, the copy must compile, and exactly that one test must run and fail.

use crate::check::Tally;
use crate::desk;
use crate::tools;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is copied: everything a host test needs.
const COPIED: &[&str] = &["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"];

/// A failure that can be put back.
struct Rebreak {
    name: String,
    patch: PathBuf,
    what: String,
    /// Package, then the words that name the test binary, then the test.
    test: Vec<String>,
}

/// Runs those whose name contains `part`; fails when a test did not notice.
pub fn rebreak(part: Option<&str>) -> Result<()> {
    let tally = all(part)?;
    println!("{} failures noticed, {} not", tally.passed, tally.failed);
    if tally.failed > 0 || tally.passed == 0 {
        bail!("{} failures would go unnoticed", tally.failed);
    }
    Ok(())
}

/// The same, counted.
pub fn all(part: Option<&str>) -> Result<Tally> {
    let folder = desk::out_dir("rebreak")?;
    let tree = folder.join("tree");
    let list = list()?;
    copy(&tree)?;
    let mut tally = Tally::default();
    for one in list.iter().filter(|one| part.is_none_or(|part| one.name.contains(part))) {
        let result = one.try_on(&tree, &folder);
        if result.is_ok() {
            eprintln!("    ok  rebreak {}: {} is noticed", one.name, one.what);
        }
        tally.note(&format!("rebreak {}", one.name), &result);
    }
    Ok(tally)
}

fn list() -> Result<Vec<Rebreak>> {
    let folder = desk::root().join("tests/rebreak");
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
        let patch = entry?.path();
        if patch.extension().is_some_and(|end| end == "patch") {
            all.push(Rebreak::read(&patch)?);
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Brings the copy of the checkout up to date; what is the same stays, so that little is compiled again.
fn copy(tree: &Path) -> Result<()> {
    let [program, words @ ..] = COPIED else { bail!("no command") };
    let files = tools::output(Command::new(program).args(words).current_dir(desk::root()))?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let from = desk::root().join(file);
        let Ok(content) = fs::read(&from) else { continue };
        let to = tree.join(file);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        desk::write_if_changed(&to, &content)?;
    }
    Ok(())
}

impl Rebreak {
    fn read(patch: &Path) -> Result<Self> {
        let text = fs::read_to_string(patch).with_context(|| format!("{}", patch.display()))?;
        let name = patch.file_stem().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let first = text.lines().next().unwrap_or_default();
        let Some((what, test)) = first.split_once("; fails: ") else {
            bail!("{name}: the first line is not `WHAT IT BREAKS; fails: PACKAGE TARGET TEST`");
        };
        let test = test.split_whitespace().map(str::to_string).collect();
        Ok(Self { name, patch: patch.to_path_buf(), what: what.to_string(), test })
    }

    fn try_on(&self, tree: &Path, folder: &Path) -> Result<()> {
        self.apply(tree, &[]).context("the patch does not apply any more")?;
        let noticed = self.run_test(tree, &folder.join("target"));
        self.apply(tree, &["--reverse"])?;
        noticed
    }

    fn apply(&self, tree: &Path, words: &[&str]) -> Result<()> {
        let mut command = Command::new("git");
        // The copy lies in a checkout, but is none.
        command.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree));
        command.args(["apply", "-C1"]).args(words).arg(&self.patch).current_dir(tree);
        tools::output(&mut command).map(|_| ())
    }

    fn run_test(&self, tree: &Path, target: &Path) -> Result<()> {
        let [package, kind @ .., test] = self.test.as_slice() else { bail!("it names no test") };
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.args(["test", "--quiet", "--package", package]).args(kind).arg(test);
        command.args(["--", "--exact"]).current_dir(tree).env("CARGO_TARGET_DIR", target);
        command.env_remove("CARGO_MANIFEST_DIR");
        let done = command.stdin(Stdio::null()).output().context("cannot start cargo test")?;
        let said = String::from_utf8_lossy(&done.stdout);
        if said.contains("test result: FAILED. 0 passed; 1 failed") {
            return Ok(());
        }
        if said.contains("test result: ok. 1 passed") {
            bail!("{test} did not notice");
        }
        bail!("{test} did not run:\n{said}{}", String::from_utf8_lossy(&done.stderr))
    }
}
