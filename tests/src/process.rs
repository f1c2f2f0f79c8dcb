//! A child process that cannot outlive its owner.
//!
//! Bochs ignores SIGTERM, so everything here is stopped with SIGKILL, sent to the whole process
//! group the child leads.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

/// A running child that leads a process group of its own; dropping it kills the group.
#[derive(Debug)]
pub struct Leashed {
    child: Child,
}

impl Leashed {
    /// Starts `command` as the leader of a new process group.
    ///
    /// # Errors
    /// When the program cannot be started; the message names it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child =
            command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child })
    }

    /// The child itself, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills the group and collects the child.
    pub fn kill(&mut self) {
        if self.ended().is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It may have ended in between; then there is nobody left to kill.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `program ARGS...`, wrapped so that the kernel kills it when the starting thread dies, even when
/// that happens without a chance to clean up. Without util-linux' `setpriv` it is the plain command.
#[must_use]
pub fn mortal(program: &str) -> Command {
    if on_path("setpriv") {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]);
        command
    } else {
        Command::new(program)
    }
}

/// Whether a program of this name can be found through PATH.
#[must_use]
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn dropping_kills_a_child_that_ignores_sigterm() {
        let mut command = mortal("sh");
        command.args(["-c", "trap '' TERM; sleep 60"]);
        let begun = Instant::now();
        let child = Leashed::start(&mut command).unwrap();
        drop(child);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Leashed::start(&mut Command::new("no-such-emulator")).unwrap_err();
        assert!(format!("{error:#}").contains("no-such-emulator"));
    }
}
