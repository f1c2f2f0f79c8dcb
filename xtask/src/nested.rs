//! `cargo xtask nested`: Hematite as a guest of Linux KVM, with guests of its own.
//!
//! Three floors: an emulator runs Debian's cloud kernel with its KVM module; in that kernel's initrd
//! are QEMU, as the package has it, and Hematite; on top runs the guest of `guests/small`. KVM judges
//! our VMCB and VMCS by rules of its own. In QEMU the processor has SVM, in Bochs VMX.

use crate::build;
use crate::cpio::Archive;
use crate::desk;
use crate::guest;
use crate::image;
use crate::progress::Step;
use crate::run;
use crate::test;
use crate::tools;
use anyhow::{Context, Result, bail};
use clap::Args;
use driver::emulator::{BOCHS_CPU, BOCHS_QUANTUM, Boot, Emulator, Engine, Machine, QEMU_CPU};
use driver::serial::{Serial, Step as Line};
use driver::stories::{Load, Story, all};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Until the first floor's prompt.
const FLOOR_PATIENCE: Duration = Duration::from_secs(1800);
/// How much longer a story may take two floors up.
const SLOWER: u32 = 10;
/// The first floor's prompt.
const PROMPT: &str = "floor1# ";
/// What QEMU's monitor answers to: Ctrl-A, then x ends it.
const END_QEMU: [u8; 2] = [0x01, b'x'];
/// The program of the second floor's machine.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// Firmware that it wants: where the packages put it.
const FIRMWARE: &[&str] = &[
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/multiboot_dma.bin",
    "/usr/share/qemu/multiboot.bin",
];
/// What the second floor sees of the processor. QEMU 7.2 in the role of the first machine does not
/// intercept XSETBV, so that KVM does not know of it and undoes it; and it takes a task register for unfit
/// for the I/O bitmap after KVM has touched it, hence no `vapic` below, which makes KVM do so.
const CPU: &str = "host,-xsave";
/// KVM's modules in the order in which they are loaded. Only one vendor's finds its processor.
const DRIVERS: &[(&str, &str)] = &[
    ("irqbypass", "virt/lib"),
    ("kvm", "arch/x86/kvm"),
    ("kvm-amd", "arch/x86/kvm"),
    ("kvm-intel", "arch/x86/kvm"),
];
/// The first floor's first program.
const INIT: &str = "#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for m in irqbypass kvm kvm-amd kvm-intel; do $b insmod /drivers/$m.ko 2>/dev/null; done
$b mount -t tracefs tracefs /sys/kernel/tracing
echo 1 >/sys/kernel/tracing/events/kvm/kvm_nested_vmenter_failed/enable
case $($b cat /sys/module/kvm_amd/parameters/nested /sys/module/kvm_intel/parameters/nested 2>/dev/null) in
1 | Y) echo nested virtualization: on ;;
*) echo nested virtualization: off ;;
esac
export PATH=/bin PS1='floor1# '
while :; do $b setsid $b sh -c 'exec /bin/busybox sh -i </dev/ttyS0 >/dev/ttyS0 2>&1'; done
";

/// Asks the first floor which rule of KVM's a refused entry broke.
const REFUSALS: &str = "busybox grep vmenter_failed /sys/kernel/tracing/trace";

/// Options of `nested`.
#[derive(Args, Clone, Debug)]
pub struct NestedArgs {
    /// Only stories whose name contains this; default: all of the small guest, and a boot without one
    pub name: Option<String>,
    /// qemu: KVM on SVM; bochs: KVM on VMX
    #[arg(long, default_value = "qemu", value_name = "ENGINE")]
    pub engine: String,
}

/// Brings up the first floor, tells every story on the second, shows a table.
pub fn nested(args: &NestedArgs) -> Result<()> {
    let engine = match args.engine.as_str() {
        "qemu" => Engine::Qemu,
        "bochs" => Engine::Bochs,
        other => bail!("--engine {other}: nested runs in qemu (KVM on SVM) or bochs (KVM on VMX)"),
    };
    let stories = stories(args.name.as_deref(), engine)?;
    build::build(&[])?;
    let interrupted = run::interruptible()?;
    let dir = desk::out_dir("nested")?;
    let step = Step::new("the first floor's initrd");
    let initrd = first_floor(&dir, &stories)?;
    step.finish(&format!("{} MiB", fs::metadata(&initrd)?.len() >> 20));
    let mut serial = Serial::new(
        Emulator::start(&machine(engine, &dir, &initrd)?)?,
        &dir.join("serial.log"),
        false,
    )?;
    let step = Step::new(format!("Linux with KVM in {}", engine.word()));
    let floor = [
        Line::Refuse("Kernel panic".to_string()),
        Line::Refuse("nested virtualization: off".to_string()),
        Line::Expect("nested virtualization: on".to_string()),
        Line::Expect(PROMPT.to_string()),
    ];
    if let Err(failure) = serial.play(&floor, Some(FLOOR_PATIENCE), &interrupted)? {
        bail!("{}", run::report(&serial, &failure));
    }
    step.finish("its prompt");
    let mut failures = Vec::new();
    for story in &stories {
        let begun = Instant::now();
        let step = Step::new(story.name);
        let result = tell(&mut serial, story, &interrupted)?;
        step.leave();
        let word = if result.is_none() { "ok" } else { "FAILED" };
        println!("{:>6}  {:<24} {:>7.1} s", word, story.name, begun.elapsed().as_secs_f64());
        failures.extend(result.map(|why| format!("{}: {why}", story.name)));
    }
    println!(
        "{} passed, {} failed; serial log: {}",
        stories.len() - failures.len(),
        failures.len(),
        serial.log_path().display()
    );
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

/// The stories told: in QEMU's variant, which fits the second floor's machine on either processor.
fn stories(name: Option<&str>, engine: Engine) -> Result<Vec<&'static Story>> {
    let fits = |story: &&Story| {
        let load = matches!(story.load, Load::Root | Load::Small(_) | Load::Program("suite"));
        let plain = story.cpu_model.is_empty() && story.qemu_args.is_empty() && story.load_at == 0;
        // Nothing in Bochs ends a guest that spins with interrupts off below KVM (docs/testing.md).
        let ends = engine != Engine::Bochs || story.load != Load::Small("spin");
        story.engine == Engine::Qemu && story.cpus <= 2 && plain && load && ends
    };
    let usual = |story: &&Story| story.name.starts_with("small_");
    let wanted = |story: &&Story| name.map_or(usual(story), |part| story.name.contains(part));
    let found: Vec<_> = all().filter(fits).filter(wanted).collect();
    if found.is_empty() {
        bail!("no story '{}' for a nested machine", name.unwrap_or_default());
    }
    Ok(found)
}

/// One story on the second floor; the reason if it failed. Afterwards the prompt is back.
fn tell(
    serial: &mut Serial,
    story: &Story,
    interrupted: &std::sync::atomic::AtomicBool,
) -> Result<Option<String>> {
    let mut lines = vec![
        Line::Refuse("stopped: the processor refuses".to_string()),
        Line::Send(format!("/run {}", story.name).into_bytes()),
    ];
    lines.extend(story.steps());
    let patience = story.timeout() * SLOWER;
    let told = serial.play(&lines, Some(patience), interrupted)?;
    let why = told.err().map(|failure| run::report(serial, &failure));
    let mut end = vec![Line::Send(END_QEMU.to_vec()), Line::Expect(PROMPT.to_string())];
    if why.is_some() {
        end.extend([Line::Send(REFUSALS.into()), Line::Expect(PROMPT.to_string())]);
    }
    if let Err(failure) = serial.play(&end, Some(patience), interrupted)? {
        bail!("{}\nQEMU on the first floor does not end: {failure}", why.unwrap_or_default());
    }
    let refused: Vec<_> = serial.last_lines(20);
    let refused = refused.iter().filter(|line| line.contains("vmenter_failed:"));
    let refused: String = refused.map(|line| format!("\n    KVM | {}", line.trim())).collect();
    Ok(why.map(|why| why + &refused))
}

/// The machine that the first floor runs on.
fn machine(engine: Engine, dir: &Path, initrd: &Path) -> Result<Machine> {
    let kernel = guest::default_guest()?.kernel;
    let cmdline = "console=ttyS0 mitigations=off quiet".to_string();
    let boot = if engine == Engine::Bochs {
        let iso = dir.join("nested.iso");
        image::linux_iso(&iso, &kernel, initrd, &cmdline)?;
        Boot::Iso(iso)
    } else {
        Boot::Direct {
            kernel,
            dir: dir.to_path_buf(),
            modules: vec!["initrd".to_string()],
            cmdline,
        }
    };
    Ok(Machine {
        engine,
        cpus: 1,
        memory_mib: 2048,
        boot,
        bochs_cpu: BOCHS_CPU.to_string(),
        bochs_quantum: BOCHS_QUANTUM,
        qemu_cpu: QEMU_CPU.to_string(),
        qemu_args: Vec::new(),
        // The small guest compares clocks.
        deterministic: engine == Engine::Qemu,
        dir: dir.to_path_buf(),
    })
}

/// The first floor's files: busybox, KVM's modules, QEMU with its libraries, and for each story a
/// folder with what QEMU's loader takes.
fn first_floor(dir: &Path, stories: &[&Story]) -> Result<PathBuf> {
    tools::need(QEMU, "qemu-system-x86")?;
    let mut archive = Archive::default();
    let mut folders = BTreeSet::new();
    let mut place = |archive: &mut Archive, path: &str, mode: u32, bytes: &[u8]| {
        let path = path.trim_start_matches('/');
        let parts: Vec<_> = path.split('/').collect();
        for depth in 1..parts.len() {
            let folder = parts.get(..depth).unwrap_or_default().join("/");
            if folders.insert(folder.clone()) {
                archive.directory(&folder);
            }
        }
        archive.file(path, mode, bytes);
    };
    for name in ["dev", "proc", "sys", "tmp"] {
        archive.directory(name);
    }
    archive.device("dev/console", 5, 1);
    place(&mut archive, "init", 0o755, INIT.as_bytes());
    place(&mut archive, "bin/busybox", 0o755, &fs::read(guest::busybox()?)?);
    for (name, folder) in DRIVERS {
        let bytes = fs::read(guest::driver(name, folder)?)?;
        place(&mut archive, &format!("drivers/{name}.ko"), 0o644, &bytes);
    }
    for path in libraries(QEMU)?.iter().map(String::as_str).chain([QEMU]) {
        place(&mut archive, path, 0o755, &fs::read(path)?);
    }
    for path in FIRMWARE {
        let bytes = fs::read(path).with_context(|| format!("QEMU's firmware {path}"))?;
        let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        place(&mut archive, &format!("firmware/{name}"), 0o644, &bytes);
    }
    let mut script = String::from("#!/bin/busybox sh\ncd /stories/$1 || exit 1\ncase $1 in\n");
    let mut there = BTreeSet::new();
    let kernel = desk::out()?.join(build::ELF32);
    place(&mut archive, "modules/kernel.elf32", 0o644, &fs::read(kernel)?);
    archive.directory("stories");
    for story in stories {
        let recipe = test::recipe(story)?;
        let mut words = Vec::new();
        for module in &recipe.modules {
            let bytes = fs::read(&module.file)?;
            // Most stories share root task and monitor: one copy, named by its content's file.
            let path = module.file.to_string_lossy().replace('/', "_");
            if there.insert(path.clone()) {
                place(&mut archive, &format!("modules/{path}"), 0o644, &bytes);
            }
            let folder = format!("stories/{}", story.name);
            if there.insert(folder.clone()) {
                archive.directory(&folder);
            }
            archive.symlink(&format!("{folder}/{}", module.name), &format!("/modules/{path}"));
            words.push(format!("{} {}", module.name, module.args).trim_end().replace(',', ",,"));
        }
        script += &format!(
            "{}) exec {QEMU} -accel kvm -cpu {CPU} -smp {} -m {} -L /firmware -nodefaults -vga none \
             -display none -no-reboot -global kvm-apic.vapic=off -serial mon:stdio -kernel /modules/kernel.elf32 -append '{}' -initrd '{}' ;;\n",
            story.name,
            story.cpus,
            story.memory_mib.min(1024),
            recipe.cmdline,
            words.join(",")
        );
    }
    script += "esac\n";
    place(&mut archive, "run", 0o755, script.as_bytes());
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&archive.finish())?;
    let path = dir.join("initrd");
    fs::write(&path, gzip.finish()?)?;
    Ok(path)
}

/// The shared libraries a program is linked with, and its loader.
fn libraries(program: &str) -> Result<Vec<String>> {
    let text = tools::output(Command::new("ldd").arg(program))?;
    Ok(listed(&text))
}

/// `libz.so.1 => /lib/libz.so.1 (0x7f)` and `/lib64/ld-linux-x86-64.so.2 (0x7f)`.
fn listed(text: &str) -> Vec<String> {
    let path = |line: &str| {
        let path = line.split("=>").last()?.split_whitespace().next()?;
        path.starts_with('/').then(|| path.to_string())
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibz.so.1 => /lib/x/libz.so.1 (0x2)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x3)\n\tlibq.so => not found\n";
        assert_eq!(listed(text), ["/lib/x/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn small_guests_are_told_unless_another_is_named() {
        let usual = stories(None, Engine::Qemu).unwrap();
        assert!(usual.len() > 3 && usual.iter().all(|story| story.name.starts_with("small_")));
        assert_eq!(stories(Some("suite_qemu_1"), Engine::Qemu).unwrap().len(), 1);
        assert!(stories(Some("linux_bochs"), Engine::Qemu).is_err());
        assert_eq!(stories(None, Engine::Bochs).unwrap().len() + 1, usual.len());
    }
}
