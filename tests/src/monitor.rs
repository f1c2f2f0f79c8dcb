//! Talks to QEMU's monitor: the machine seen and touched from outside.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// What the monitor says when it is ready for a command.
const PROMPT: &[u8] = b"(qemu) ";
/// How long QEMU may take to open the socket.
const OPENS_WITHIN: Duration = Duration::from_secs(20);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives the monitor behind the socket at `path` these commands, one line each; what it answers to the last one,
/// without echo and prompt.
///
/// # Errors
/// When nobody is behind the socket, or an answer does not end within a minute.
pub fn ask(path: &Path, commands: &str) -> Result<String> {
    let mut stream = connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    until_prompt(&mut stream)?;
    let mut said = Vec::new();
    for command in commands.lines() {
        stream.write_all(format!("{command}\n").as_bytes())?;
        said = until_prompt(&mut stream)?;
    }
    // The first line is the echo, full of cursor movements.
    let text = String::from_utf8_lossy(&said).replace('\r', "");
    Ok(text.split_once('\n').map_or_else(String::new, |(_, answer)| answer.to_string()))
}

/// QEMU opens the socket a little after it was started.
fn connect(path: &Path) -> Result<UnixStream> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if begun.elapsed() < OPENS_WITHIN => thread::sleep(Duration::from_millis(50)),
            Err(error) => {
                return Err(error).with_context(|| format!("no monitor at {}", path.display()));
            }
        }
    }
}

/// Everything up to the next prompt.
fn until_prompt(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let mut said = Vec::new();
    let mut buffer = [0; 65536];
    while !said.ends_with(PROMPT) {
        let count = stream.read(&mut buffer).context("QEMU's monitor does not answer")?;
        let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else {
            bail!("QEMU's monitor has gone");
        };
        said.extend_from_slice(part);
    }
    said.truncate(said.len() - PROMPT.len());
    Ok(said)
}

/// The bytes in an answer to `xp /NUMBERbx ADDRESS`: `0000b8000: 0x48 0x07 ...`.
#[must_use]
pub fn bytes(answer: &str) -> Vec<u8> {
    let lines = answer.lines().filter_map(|line| line.split_once(": "));
    let words = lines.flat_map(|(_, words)| words.split_whitespace());
    words.filter_map(|word| u8::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect()
}

/// What stands on a VGA text screen of 80 columns, given its memory: a character and an attribute each.
#[must_use]
pub fn screen(memory: &[u8]) -> String {
    let rows = memory.chunks(160).map(|row| {
        let text: String = row.iter().step_by(2).map(|byte| char::from(*byte)).collect();
        text.trim_end().to_string()
    });
    rows.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_read_from_a_dump() {
        let dump = "00000000000b8000: 0x48 0x07 0x69 0x07\n00000000000b8004: 0x21 0x07\n";
        assert_eq!(screen(&bytes(dump)), "Hi!");
        assert_eq!(bytes("Cannot access memory"), []);
    }
}
