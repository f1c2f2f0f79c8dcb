//! `cargo xtask bench guest`: what a Linux guest's work costs under Hematite, against the same
//! kernel natively in the same engine.
//!
//! Both sides boot the same kernel and initrd with the same command line; the only program is
//! `guests/bench/init.c`, which prints a row for each piece of work. Ticks are of the time-stamp
//! counter as the measured system sees it: emulated instructions in Bochs, time in QEMU.

use crate::build;
use crate::c_hello;
use crate::cpio::Archive;
use crate::desk;
use crate::guest;
use crate::image;
use crate::progress::Step;
use crate::recipe::{BootArgs, REFERENCE};
use crate::run;
use crate::tools;
use anyhow::{Context, Result, bail};
use clap::Args;
use driver::emulator::{BOCHS_CPU, BOCHS_QUANTUM, Boot, Emulator, Engine, Machine, QEMU_CPU};
use driver::serial::{Serial, Step as Line};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How long one boot with all its work may take.
const PATIENCE: Duration = Duration::from_secs(1800);
/// The machine's memory natively, and the guest's: MiB.
const MEMORY_MIB: u32 = 256;
/// What Hematite's machine has beyond the guest's memory.
const BESIDE_MIB: u32 = 512;
/// Beyond these ratios of `boot` the command fails: (engine, tenths).
const GOALS: [(Engine, u64); 2] = [(Engine::Bochs, 12), (Engine::Qemu, 60)];

/// Options of `bench guest`.
#[derive(Args, Clone, Debug)]
pub struct GuestArgs {
    /// bochs: instructions, the same in every run; qemu: time, on an idle machine
    #[arg(long, default_value = "bochs", value_name = "ENGINE")]
    engine: String,
    /// Processors of the machine and of the guest; with two, interrupts between them are measured
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u32,
    /// Beside the boot only this row: fork_exec, serial_64k or ipi
    #[arg(long, value_name = "ROW", value_parser = ["fork_exec", "serial_64k", "ipi"])]
    only: Option<String>,
    /// Further words of both kernels' command line
    #[arg(long, default_value = "", value_name = "WORDS")]
    append: String,
}

/// Measures both sides, shows them beside each other.
pub fn guest(args: &GuestArgs) -> Result<()> {
    let engine = match args.engine.as_str() {
        "bochs" => Engine::Bochs,
        "qemu" => Engine::Qemu,
        other => bail!("--engine {other}: bochs and qemu can be compared with themselves"),
    };
    if !image::grub_ready() {
        bail!("both sides boot from CD images: GRUB's tools are needed (`cargo xtask setup`)");
    }
    build::build(&["kernel", "root", "vmm", "aml"])?;
    let interrupted = run::interruptible()?;
    let dir = desk::out_dir("bench/guest")?;
    let linux = guest::default_guest()?;
    let kernel = dir.join("kernel");
    let mut file = fs::read(&linux.kernel)?;
    note_first_tick(&mut file).context("Debian's kernel cannot be measured")?;
    fs::write(&kernel, file)?;
    let initrd = initrd(&dir)?;

    let mut append = [REFERENCE, &args.append].join(" ").trim_end().to_string();
    if let Some(row) = &args.only {
        // What stands after the two dashes are arguments of the first program.
        append += &format!(" -- {row}");
    }
    let native = dir.join("native.iso");
    image::linux_iso(&native, &kernel, &initrd, &append)?;
    let boot = BootArgs {
        cpus: args.cpus,
        kernel: Some(kernel),
        initrd: Some(initrd),
        append,
        guest_memory: MEMORY_MIB,
        // With the serial log on: the line is the guest's either way.
        cmdline: "serial".to_string(),
        no_build: true,
        ..BootArgs::default()
    };
    let ours = dir.join("hematite.iso");
    boot.plan()?.recipe.iso_quietly(&ours)?;

    let machine = |name: &str, iso: PathBuf, memory_mib| -> Result<Machine> {
        Ok(Machine {
            engine,
            cpus: args.cpus,
            memory_mib,
            boot: Boot::Iso(iso),
            bochs_cpu: BOCHS_CPU.to_string(),
            bochs_quantum: BOCHS_QUANTUM,
            qemu_cpu: QEMU_CPU.to_string(),
            qemu_args: Vec::new(),
            deterministic: false,
            dir: desk::out_dir(&format!("bench/guest/{name}"))?,
        })
    };
    let native = machine("native", native, MEMORY_MIB)?;
    let ours = machine("hematite", ours, MEMORY_MIB + BESIDE_MIB)?;
    let (native, _) = measure(&native, "natively", false, &interrupted)?;
    let (ours, exits) = measure(&ours, "under Hematite", true, &interrupted)?;
    println!("{}", table(&native, &ours)?);
    println!("exits of the guest, from its first instruction to the end of all rows:");
    exits.iter().for_each(|line| println!("  {line}"));
    judge(engine, &native, &ours)
}

/// A row's name and its ticks.
type Row = (String, u64);

/// Boots one side; its rows, and what `exits` tells.
fn measure(
    machine: &Machine,
    where_: &str,
    hematite: bool,
    interrupted: &AtomicBool,
) -> Result<(Vec<Row>, Vec<String>)> {
    let step = Step::new(format!("Linux {where_} in {}", machine.engine.word()));
    let mut serial =
        Serial::new(Emulator::start(machine)?, &machine.dir.join("serial.log"), false)?;
    let refuse = |text: &str| Line::Refuse(text.to_string());
    let expect = |text: &str| Line::Expect(text.to_string());
    let mut lines = vec![
        refuse("guestbench: FAILED"),
        refuse("Kernel panic"),
        refuse("*** CPU "),
        expect("guestbench: done"),
    ];
    if hematite {
        lines.extend([
            Line::Send(vec![0x1d]),
            expect("> "),
            Line::Send(b"exits linux".to_vec()),
            expect("all  "),
            expect("> "),
        ]);
    }
    if let Err(failure) = serial.play(&lines, Some(PATIENCE), interrupted)? {
        bail!("{}", run::report(&serial, &failure));
    }
    let text = String::from_utf8_lossy(serial.said()).into_owned();
    let rows: Vec<_> = text.lines().filter_map(row).collect();
    step.finish(&format!("{} rows", rows.len()));
    let exits = text.lines().map(str::trim_end).filter(|line| line.contains("/s"));
    Ok((rows, exits.filter(|_| hematite).map(ToString::to_string).collect()))
}

/// `guestbench: ROW TICKS`; the kernel may have written before it in the line.
fn row(line: &str) -> Option<Row> {
    let (_, words) = line.split_once("guestbench: ")?;
    let (name, ticks) = words.trim().split_once(' ')?;
    Some((name.to_string(), ticks.parse().ok()?))
}

/// Both sides beside each other.
fn table(native: &[Row], ours: &[Row]) -> Result<String> {
    use std::fmt::Write as _;
    let mut text = format!("{:<12}{:>16}{:>16}{:>8}\n", "row", "native", "Hematite", "ratio");
    for (name, base) in native {
        let (_, ticks) = ours
            .iter()
            .find(|(other, _)| other == name)
            .with_context(|| format!("the guest printed no row {name}"))?;
        let ratio = *ticks as f64 / (*base).max(1) as f64;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12}{base:>16}{ticks:>16}{ratio:>8.2}");
    }
    Ok(text)
}

/// Whether the boot is as quick as promised.
fn judge(engine: Engine, native: &[Row], ours: &[Row]) -> Result<()> {
    let boot = |rows: &[Row]| {
        let row = rows.iter().find(|(name, _)| name == "boot");
        row.map(|(_, ticks)| *ticks).context("no row `boot`")
    };
    let (base, ticks) = (boot(native)?, boot(ours)?);
    let Some((_, tenths)) = GOALS.into_iter().find(|(goal, _)| *goal == engine) else {
        return Ok(());
    };
    let goal = format!("{}.{} times native", tenths / 10, tenths % 10);
    if ticks.saturating_mul(10) > base.saturating_mul(tenths) {
        bail!("boot takes more than {goal}, which is the goal in {}", engine.word());
    }
    println!("boot: within the goal in {}, {goal}", engine.word());
    Ok(())
}

/// The initrd: one program.
fn initrd(dir: &Path) -> Result<PathBuf> {
    let compiler = c_hello::compiler().map_err(|why| anyhow::anyhow!("bench guest: {why}"))?;
    let program = dir.join("init");
    let mut command = Command::new(compiler);
    command.current_dir(desk::root());
    command.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-masm=intel"]);
    command.args(["-ffreestanding", "-nostdlib", "-static", "-fno-pie", "-no-pie"]);
    command.args(["-fno-stack-protector", "-fcf-protection=none", "-Wl,--build-id=none"]);
    command.args(["guests/bench/init.c", "-o"]).arg(&program);
    tools::output(&mut command)?;
    let mut archive = Archive::default();
    for name in ["dev", "sys"] {
        archive.directory(name);
    }
    archive.device("dev/console", 5, 1);
    archive.file("init", 0o755, &fs::read(&program)?);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&archive.finish())?;
    let path = dir.join("initrd");
    fs::write(&path, gzip.finish()?)?;
    Ok(path)
}

/// Where in the boot parameters (x86 boot protocol, `struct boot_params`) the time goes: bytes that
/// nobody uses, and that Linux shows in `/sys/kernel/boot_params/data`.
const FIRST_TICK: u32 = 0xcd0;
/// The 64-bit entry, from the beginning of the protected-mode code.
const ENTRY_64: usize = 0x200;

/// Makes a bzImage note the time-stamp counter at its first instruction, at both its entries.
///
/// The first instructions of each entry (`cld; cli;` and one more that may stand anywhere) make room
/// for a jump to a copy of them in the unused bytes before the 64-bit entry, behind RDTSC and two
/// stores relative to ESI or RSI, where the boot parameters are. The bytes mean the same in both modes.
fn note_first_tick(file: &mut [u8]) -> Result<()> {
    let sectors = file.get(0x1f1).copied().context("it is empty")?;
    let code = (usize::from(if sectors == 0 { 4 } else { sectors }) + 1) * 512;
    let code = file.get_mut(code..).context("it has no protected-mode code")?;
    let head = code.get(..ENTRY_64 + 16).context("it has no 64-bit entry")?;
    // cld; cli; lea 0x1e8(%esi),%esp and cld; cli; xor %eax,%eax; mov %eax,%ds.
    let entries = [
        (0, &[0xfc, 0xfa, 0x8d, 0xa6, 0xe8, 0x01, 0, 0][..]),
        (ENTRY_64, &[0xfc, 0xfa, 0x31, 0xc0, 0x8e, 0xd8][..]),
    ];
    if entries.iter().any(|(at, begins)| !head.get(*at..).is_some_and(|e| e.starts_with(begins))) {
        bail!("its entries begin with other instructions than those known");
    }
    let free = head.get(..ENTRY_64).and_then(|head| head.iter().rposition(|byte| *byte != 0));
    let mut at = free.unwrap_or(0) + 1;
    for (entry, begins) in entries {
        let mut note = vec![0x0f, 0x31, 0x89, 0x86];
        note.extend(FIRST_TICK.to_le_bytes());
        note.extend([0x89, 0x96]);
        note.extend((FIRST_TICK + 4).to_le_bytes());
        note.extend(begins);
        let back = at + note.len() + 5;
        note.extend(jump(back, entry + begins.len()));
        let place = code.get_mut(at..at + note.len()).filter(|_| at + note.len() <= ENTRY_64);
        place.context("it has no unused bytes before its 64-bit entry")?.copy_from_slice(&note);
        let detour = code.get_mut(entry..entry + 5).context("it has no entry")?;
        detour.copy_from_slice(&jump(entry + 5, at));
        at += note.len();
    }
    Ok(())
}

/// JMP rel32 (Intel SDM vol. 2, JMP) from the instruction that ends at `end`.
fn jump(end: usize, to: usize) -> [u8; 5] {
    let distance = (to as i32).wrapping_sub(end as i32).to_le_bytes();
    let [a, b, c, d] = distance;
    [0xe9, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage() -> Vec<u8> {
        let mut file = vec![0; 512 * 2 + 1024];
        file[0x1f1] = 1;
        let code = 1024;
        file[code..code + 8].copy_from_slice(&[0xfc, 0xfa, 0x8d, 0xa6, 0xe8, 1, 0, 0]);
        file[code + 8] = 0xe8;
        let entry = code + ENTRY_64;
        file[entry..entry + 6].copy_from_slice(&[0xfc, 0xfa, 0x31, 0xc0, 0x8e, 0xd8]);
        file
    }

    #[test]
    fn both_entries_take_the_detour_and_come_back() {
        let mut file = bzimage();
        note_first_tick(&mut file).unwrap();
        let code = &file[1024..];
        for (entry, displaced) in [(0_usize, 8_usize), (ENTRY_64, 6)] {
            let target = |at: usize| {
                assert_eq!(code[at], 0xe9);
                let distance = i32::from_le_bytes(code[at + 1..at + 5].try_into().unwrap());
                (at as i32 + 5 + distance) as usize
            };
            let note = target(entry);
            assert_eq!(code[note..note + 4], [0x0f, 0x31, 0x89, 0x86]);
            assert_eq!(target(note + 14 + displaced), entry + displaced);
            assert_eq!(code[note + 14..note + 16], [0xfc, 0xfa]);
        }
        assert!(note_first_tick(&mut file).is_err(), "not twice");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(note_first_tick(&mut []).is_err());
        assert!(note_first_tick(&mut vec![0; 4096]).is_err());
        let mut full = bzimage();
        full[1024 + 9..1024 + ENTRY_64].fill(0x90);
        assert!(note_first_tick(&mut full).is_err());
        for length in 0..1024 + ENTRY_64 + 15 {
            assert!(note_first_tick(&mut bzimage()[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn rows_and_goal() {
        let said = "[    1.0] x guestbench: boot 1000\r\nguestbench: done\r\n";
        let rows: Vec<_> = said.lines().filter_map(row).collect();
        assert_eq!(rows, [("boot".to_string(), 1000)]);
        let slow = [("boot".to_string(), 1201)];
        assert!(judge(Engine::Bochs, &rows, &slow).is_err());
        assert!(judge(Engine::Qemu, &rows, &slow).is_ok());
        assert!(table(&rows, &[]).is_err());
        assert!(table(&rows, &slow).unwrap().contains("1.20"));
    }
}
