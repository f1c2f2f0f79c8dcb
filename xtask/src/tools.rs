//! Runs other programs and turns their failures into messages one can act on.

use crate::progress::Step;
use anyhow::{Context, Result, bail};
use driver::process::{Leashed, on_path};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// A program that must be there, with the package that has it.
pub fn need(program: &str, package: &str) -> Result<()> {
    if on_path(program) {
        return Ok(());
    }
    bail!("{program} is missing (Debian package {package}): `cargo xtask setup` installs it")
}

/// Runs to the end and returns standard output; on failure the error carries what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if !done.status.success() {
        bail!(
            "{} failed ({}):\n{}{}",
            shown(command),
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs to the end, showing the last line of its messages; on failure the error carries them all.
pub fn watched(command: &mut Command, step: &Step) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            step.detail(&line);
            said.push_str(&line);
            said.push('\n');
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} failed ({status}):\n{said}", shown(command));
    }
    Ok(())
}

/// Runs at most `limit`; true if it ended well in that time. Nothing is shown.
pub fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = Leashed::start(command) else { return false };
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if let Some(status) = child.ended() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// The first line a program answers with, if it can be started.
pub fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(ToString::to_string)
}
