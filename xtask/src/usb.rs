//! Writes an image to a USB stick, after asking.

use crate::progress::Step;
use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Copies `image` onto the whole block device, once the user has typed the device's name.
pub fn write(image: &Path, device: &Path) -> Result<()> {
    let device = fs::canonicalize(device).with_context(|| format!("no {}", device.display()))?;
    if !fs::metadata(&device)?.file_type().is_block_device() {
        bail!("{}: not a block device", device.display());
    }
    let name = device.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.context("a device without a name")?;
    let about = Path::new("/sys/class/block").join(&name);
    if about.join("partition").exists() {
        bail!("{}: a partition; name the whole device", device.display());
    }
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    if let Some(used) = mounted(&mounts, &device.to_string_lossy()) {
        bail!("{used} is mounted: unmount it first");
    }
    let word = |file: &str| fs::read_to_string(about.join(file)).unwrap_or_default();
    let sectors: u64 = word("size").trim().parse().unwrap_or(0);
    let bytes = fs::metadata(image)?.len();
    if sectors * 512 < bytes {
        bail!("{}: {} MiB, the image has {}", device.display(), sectors >> 11, bytes >> 20);
    }
    eprintln!(
        "{}: {} {}, {} MiB{}\nEverything on it will be lost.",
        device.display(),
        word("device/vendor").trim(),
        word("device/model").trim(),
        sectors >> 11,
        if word("removable").trim() == "1" { "" } else { ", NOT a removable device" },
    );
    if !agrees(&name, &mut io::stdin().lock(), &mut io::stderr())? {
        bail!("nothing was written");
    }
    let step = Step::new("write");
    let mut from = File::open(image)?;
    let mut to = OpenOptions::new().write(true).open(&device).context("cannot write to it")?;
    io::copy(&mut from, &mut to).context("the device refuses")?;
    to.sync_all().context("the device refuses")?;
    step.finish(&format!("{} ({} MiB)", device.display(), bytes >> 20));
    Ok(())
}

/// The device or partition of `device` that is mounted, if one is.
fn mounted(mounts: &str, device: &str) -> Option<String> {
    let sources = mounts.lines().filter_map(|line| line.split_whitespace().next());
    sources.filter(|source| source.starts_with(device)).map(ToString::to_string).next()
}

/// Whether the user types `name`.
fn agrees(name: &str, input: &mut impl BufRead, output: &mut impl Write) -> Result<bool> {
    write!(output, "Type {name} to go on: ")?;
    output.flush()?;
    let mut typed = String::new();
    input.read_line(&mut typed)?;
    Ok(typed.trim() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_itself_agrees() {
        let mut asked = Vec::new();
        assert!(agrees("sdb", &mut &b"sdb\n"[..], &mut asked).unwrap());
        assert_eq!(asked, b"Type sdb to go on: ");
        for typed in [&b"yes\n"[..], b"\n", b"", b"sda\n"] {
            assert!(!agrees("sdb", &mut &*typed, &mut Vec::new()).unwrap());
        }
    }

    #[test]
    fn what_is_mounted_is_named() {
        let mounts = "/dev/sda1 / ext4 rw 0 0\n/dev/sdb2 /media vfat rw 0 0\n";
        assert_eq!(mounted(mounts, "/dev/sdb").as_deref(), Some("/dev/sdb2"));
        assert_eq!(mounted(mounts, "/dev/sdc"), None);
    }

    #[test]
    fn files_are_no_devices() {
        let error = write(Path::new("Cargo.toml"), Path::new("Cargo.toml")).unwrap_err();
        assert!(error.to_string().contains("not a block device"));
        assert!(write(Path::new("Cargo.toml"), Path::new("no-such-device")).is_err());
    }
}
