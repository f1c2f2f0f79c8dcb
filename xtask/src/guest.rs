//! Gets the default Linux guest from Debian's archive: the stock cloud kernel and busybox.
//!
//! `apt-get download` verifies what it fetches by the archive's signatures. Packages are cached
//! outside the checkout; nothing is installed.

use crate::cpio::Archive;
use crate::desk;
use crate::progress::Step;
use crate::tools;
use anyhow::{Context, Result, bail};
use driver::process::on_path;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A package this project was tested with.
struct Tested {
    /// What depends on the current version, or is it.
    meta: &'static str,
    /// The package itself.
    name: &'static str,
    /// Its version.
    version: &'static str,
    /// Where the wanted file lies in it; `*` stands for anything.
    file: &'static str,
}

const KERNEL: Tested = Tested {
    meta: "linux-image-cloud-amd64",
    name: "linux-image-6.1.0-56-cloud-amd64",
    version: "6.1.192-2",
    file: "./boot/vmlinuz-*",
};

const BUSYBOX: Tested = Tested {
    meta: "busybox-static",
    name: "busybox-static",
    version: "1:1.35.0-4+deb12u1+b1",
    file: "./bin/busybox",
};

const MEMTEST: Tested = Tested {
    meta: "memtest86+",
    name: "memtest86+",
    version: "6.10-4",
    file: "./boot/memtest86+x64.bin",
};

/// Where an image of the gallery comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Built from this folder's package.
    Program(&'static str),
    /// A file in `guests/files`.
    File,
    /// Debian's memory tester.
    Memtest,
}

/// The images that manifests may name without a `--module`, besides `kernel` and `initrd`.
const GALLERY: &[(&str, Source)] = &[
    ("multiboot.elf32", Source::Program("multiboot")),
    ("multiboot.elf64", Source::Program("multiboot")),
    ("small.bin", Source::Program("small")),
    ("note.txt", Source::File),
    ("memtest.bin", Source::Memtest),
];

/// Where the image of this name comes from, if it is one of ours.
pub fn source(name: &str) -> Option<Source> {
    GALLERY.iter().find(|(known, _)| *known == name).map(|(_, source)| *source)
}

/// The file of an image of ours; what is built is expected to be there.
///
/// # Errors
/// When it is neither there nor can be fetched.
pub fn image(name: &str, source: Source) -> Result<PathBuf> {
    let path = match source {
        Source::Program(_) => desk::out()?.join(name),
        Source::File => desk::root().join("guests/files").join(name),
        Source::Memtest => return fetch(&MEMTEST).context("the memory tester"),
    };
    if !path.is_file() {
        bail!("{}: run `cargo xtask build`", path.display());
    }
    Ok(path)
}

/// Bytes of an image that manifests may name without a `--module`; 0 for what is not built or fetched yet.
pub fn size(name: &str) -> u64 {
    let path = match source(name) {
        Some(Source::Program(_)) => desk::out().ok().map(|out| out.join(name)),
        Some(Source::File) => Some(desk::root().join("guests/files").join(name)),
        Some(Source::Memtest) | None => None,
    };
    path.and_then(|path| fs::metadata(path).ok()).map_or(0, |data| data.len())
}

/// The kernel's modules for virtio devices, in the order in which they are loaded; the default guest loads
/// them when there is such a device.
const DRIVERS: &[(&str, &str)] = &[
    ("virtio_ring.ko", "drivers/virtio"),
    ("virtio.ko", "drivers/virtio"),
    ("virtio_mmio.ko", "drivers/virtio"),
    ("virtio_blk.ko", "drivers/block"),
    ("failover.ko", "net/core"),
    ("net_failover.ko", "drivers/net"),
    ("virtio_net.ko", "drivers/net"),
    ("virtio_console.ko", "drivers/char"),
];
/// Bytes of the default disk.
pub const DISK: u64 = 8 << 20;

/// The busybox programs that get a name of their own in the guest.
const APPLETS: &str = "ash cat chmod clear cp cut date dd df dmesg du echo env false find free grep \
    halt head hexdump hostname id insmod ip kill killall less ln ls lsmod md5sum mkdir mknod more mount mv nproc od \
    ping poweroff printf ps pwd reboot reset rm rmdir sed seq setsid sh sha256sum sleep sort stty \
    sync tail tar taskset tee test time top touch true tty umount uname uptime vi watch wc which \
    xargs yes";

/// The default guest's files.
pub struct Linux {
    /// A bzImage.
    pub kernel: PathBuf,
    /// A gzip-compressed initramfs.
    pub initrd: PathBuf,
}

/// The default guest, fetched if it is not in the cache.
pub fn default_guest() -> Result<Linux> {
    let kernel = fetch(&KERNEL).context("the default guest's kernel")?;
    Ok(Linux { kernel, initrd: default_initrd()? })
}

/// The initramfs of our own making: busybox and the files in `guests/linux`.
pub fn default_initrd() -> Result<PathBuf> {
    let busybox = fetch(&BUSYBOX).context("the default guest's programs")?;
    let ours = |name: &str| {
        let path = desk::root().join("guests/linux").join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let mut drivers = Vec::new();
    for (number, (name, folder)) in DRIVERS.iter().enumerate() {
        let file = fetch_file(&KERNEL, &format!("./lib/modules/*/kernel/{folder}/{name}"), name)
            .context("the default guest's drivers")?;
        drivers.push((format!("lib/modules/{number}-{name}"), fs::read(file)?));
    }
    let archive = initramfs(
        &fs::read(&busybox)?,
        &ours("init")?,
        &ours("shrc")?,
        &ours("check-disk")?,
        &drivers,
    );
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&archive)?;
    let path = desk::out()?.join("initramfs.gz");
    desk::write_if_changed(&path, &gzip.finish()?)?;
    Ok(path)
}

/// The default disk: a sector that says what it is, then zeros.
pub fn default_disk() -> Result<PathBuf> {
    let mut bytes = b"A disk of Hematite.\n".to_vec();
    bytes.resize(usize::try_from(DISK)?, 0);
    let path = desk::out()?.join("disk.img");
    desk::write_if_changed(&path, &bytes)?;
    Ok(path)
}

fn initramfs(
    busybox: &[u8],
    init: &[u8],
    shell: &[u8],
    check_disk: &[u8],
    drivers: &[(String, Vec<u8>)],
) -> Vec<u8> {
    let mut archive = Archive::default();
    for name in ["bin", "dev", "etc", "lib", "lib/modules", "proc", "root", "sys", "tmp"] {
        archive.directory(name);
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/ttyS0", 4, 64);
    archive.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/shrc", 0o644, shell);
    archive.file("init", 0o755, init);
    archive.file("bin/busybox", 0o755, busybox);
    archive.file("bin/check-disk", 0o755, check_disk);
    for (name, bytes) in drivers {
        archive.file(name, 0o644, bytes);
    }
    for name in APPLETS.split_whitespace() {
        archive.symlink(&format!("bin/{name}"), "busybox");
    }
    archive.finish()
}

/// A module of the default guest's kernel: its name without `.ko`, its folder below `kernel/`.
pub fn driver(name: &str, folder: &str) -> Result<PathBuf> {
    let file = format!("{name}.ko");
    fetch_file(&KERNEL, &format!("./lib/modules/*/kernel/{folder}/{file}"), &file)
}

/// The default guest's programs, all in one file.
pub fn busybox() -> Result<PathBuf> {
    fetch(&BUSYBOX)
}

/// Another file of a package, `wanted` in it, from the cache or the archive; `name` tells it from others.
fn fetch_file(tested: &Tested, wanted: &str, name: &str) -> Result<PathBuf> {
    let main = fetch(tested)?;
    let path = main.with_extension(name);
    if path.is_file() {
        return Ok(path);
    }
    // Beside it lies the package, unless somebody tidied up.
    let package = main.with_extension("");
    let stem = package.file_name().and_then(|stem| stem.to_str()).unwrap_or_default();
    let (package, version) = stem.split_once('_').context("a cached file without a version")?;
    let (cache, version) = (desk::cache()?, version.replace("%3a", ":"));
    if !package_file(&cache, package, &version).is_file() {
        download(&cache, package, &version)?;
    }
    extract_to(&cache, package, &version, wanted, &path)?;
    Ok(path)
}

/// The wanted file of a package, from the cache or the archive.
fn fetch(tested: &Tested) -> Result<PathBuf> {
    let cache = desk::cache()?;
    let recorded = extracted(&cache, tested.name, tested.version);
    if recorded.is_file() {
        return Ok(recorded);
    }
    // A newer one taken earlier, because the archive no longer had the recorded one.
    let current = cache.join(format!("{}.current", tested.meta));
    if let Ok(text) = fs::read_to_string(&current)
        && let Some((name, version)) = text.trim().split_once('=')
        && extracted(&cache, name, version).is_file()
    {
        eprintln!("  note  {}: tested with {}, using {text}", tested.meta, tested.version);
        return Ok(extracted(&cache, name, version));
    }
    for (program, package) in [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("tar", "tar")] {
        if !on_path(program) {
            bail!(
                "{program} ({package}) is needed to fetch {} from Debian's archive; elsewhere give \
                 a guest of your own with --kernel FILE --initrd FILE",
                tested.meta
            );
        }
    }
    let step = Step::new(format!("fetch {}", tested.meta));
    let (name, version) = match download(&cache, tested.name, tested.version) {
        Ok(()) => (tested.name.to_string(), tested.version.to_string()),
        Err(gone) => {
            let (name, version) = candidate(tested.meta).with_context(|| {
                format!("{}={} cannot be fetched ({gone:#})", tested.name, tested.version)
            })?;
            download(&cache, &name, &version)?;
            fs::write(&current, format!("{name}={version}"))?;
            eprintln!(
                "  note  tested with {}={}, which the archive no longer has; taking {name}={version}",
                tested.name, tested.version
            );
            (name, version)
        }
    };
    let file = extract(&cache, &name, &version, tested.file)?;
    step.finish(&format!("{name} {version}, verified by apt"));
    Ok(file)
}

fn extracted(cache: &Path, name: &str, version: &str) -> PathBuf {
    cache.join(format!("{name}_{}.extracted", version.replace(':', "%3a")))
}

/// The package file as apt names it.
fn package_file(cache: &Path, name: &str, version: &str) -> PathBuf {
    cache.join(format!("{name}_{}_amd64.deb", version.replace(':', "%3a")))
}

fn download(cache: &Path, name: &str, version: &str) -> Result<()> {
    let mut apt = Command::new("apt-get");
    apt.args(["download", "-q", &format!("{name}={version}")]).current_dir(cache);
    tools::output(&mut apt)?;
    let file = package_file(cache, name, version);
    if !file.is_file() {
        bail!("apt-get left no {}", file.display());
    }
    Ok(())
}

/// The package and version that Debian would install for `meta` now.
fn candidate(meta: &str) -> Result<(String, String)> {
    let text = tools::output(Command::new("apt-cache").args(["depends", meta]))?;
    let name = depends(&text).unwrap_or_else(|| meta.to_string());
    let policy = tools::output(Command::new("apt-cache").args(["policy", &name]))?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .with_context(|| format!("apt knows no {name}; is its package list up to date?"))?;
    Ok((name, version.to_string()))
}

/// The kernel image that a meta-package depends on.
fn depends(text: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    lines.map(str::trim).find(|name| name.starts_with("linux-image-")).map(ToString::to_string)
}

/// Takes one file out of a package, beside it in the cache.
fn extract(cache: &Path, name: &str, version: &str, wanted: &str) -> Result<PathBuf> {
    let path = extracted(cache, name, version);
    extract_to(cache, name, version, wanted, &path)?;
    Ok(path)
}

/// Takes one file out of a package.
fn extract_to(cache: &Path, name: &str, version: &str, wanted: &str, path: &Path) -> Result<()> {
    let package = package_file(cache, name, version);
    let mut unpack = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let stream = unpack.stdout.take().context("no pipe from dpkg-deb")?;
    let done = Command::new("tar")
        .args(["-x", "-O", "--wildcards", wanted])
        .stdin(stream)
        .output()
        .context("cannot start tar")?;
    let status = unpack.wait()?;
    if !done.status.success() || !status.success() || done.stdout.is_empty() {
        bail!("{} has no {wanted}", package.display());
    }
    // Written beside and renamed: a broken run leaves nothing that looks whole.
    let partial = path.with_extension("partial");
    fs::write(&partial, &done.stdout)?;
    fs::rename(&partial, path)?;
    Ok(())
}

/// The first bytes of a bzImage say that it is one (Linux `Documentation/arch/x86/boot.rst`).
pub fn check_bzimage(path: &Path) -> Result<()> {
    let file = fs::read(path).with_context(|| format!("guest kernel {}", path.display()))?;
    bzimage(&file).with_context(|| format!("guest kernel {}", path.display()))
}

/// The same for a file's bytes.
pub fn bzimage(file: &[u8]) -> Result<()> {
    let byte = |at: usize| file.get(at).copied().context("truncated: no Linux boot header");
    if file.get(0x202..0x206) != Some(b"HdrS") {
        bail!("not a bzImage: no HdrS at 0x202");
    }
    let version = u16::from_le_bytes([byte(0x206)?, byte(0x207)?]);
    if version < 0x20c {
        bail!("boot protocol {}.{:02}; 2.12 is needed", version >> 8, version & 0xff);
    }
    let sectors = match byte(0x1f1)? {
        0 => 4,
        count => usize::from(count),
    };
    // syssize counts 16-byte paragraphs of the part after the set-up sectors.
    let size = [byte(0x1f4)?, byte(0x1f5)?, byte(0x1f6)?, byte(0x1f7)?];
    let needed = (sectors + 1) * 512 + usize::try_from(u32::from_le_bytes(size))? * 16;
    // The file may have only a part of the last paragraph.
    if file.len() + 16 <= needed {
        bail!("truncated: {} of {needed} bytes", file.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_the_gallery_are_built_and_files_are_there() {
        for (name, source) in GALLERY {
            match source {
                Source::Program(package) => {
                    let found = crate::build::PROGRAMS.iter().find(|p| p.package == *package);
                    let stem = |file: &str| file.split('.').next().map(ToString::to_string);
                    assert_eq!(found.map(|p| stem(p.file)), Some(stem(name)), "{name}");
                }
                Source::File => assert!(image(name, *source).is_ok(), "{name}"),
                Source::Memtest => {}
            }
        }
    }

    #[test]
    fn the_meta_package_names_the_kernel() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(depends(text).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(depends("busybox-static\n"), None);
    }

    fn header(version: u16, total: usize) -> Vec<u8> {
        let mut file = vec![0; total];
        file[0x1f1] = 1;
        file[0x1f4..0x1f8].copy_from_slice(&64_u32.to_le_bytes());
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&version.to_le_bytes());
        file
    }

    #[test]
    fn a_truncated_kernel_is_refused() {
        assert!(bzimage(&header(0x20f, 2048)).is_ok());
        assert!(bzimage(&header(0x20f, 2033)).is_ok());
        let error = bzimage(&header(0x20f, 2032)).unwrap_err().to_string();
        assert!(error.contains("truncated: 2032 of 2048"), "{error}");
        assert!(bzimage(b"MZ").is_err());
        assert!(bzimage(&header(0x205, 2048)).is_err());
    }

    #[test]
    fn the_initramfs_has_init_and_a_shell() {
        let archive =
            initramfs(b"ELF", b"#!", b"cd", b"#!", &[("lib/a.ko".into(), b"ko".to_vec())]);
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("init\0") && text.contains("bin/sh\0"));
        assert!(text.contains("lib/a.ko\0"));
    }
}
