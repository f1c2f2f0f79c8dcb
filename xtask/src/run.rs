//! `cargo xtask run`: boots a machine and plays a script against it, or connects the terminal.

use crate::desk;
use crate::engine::{self, Offers};
use crate::image;
use crate::recipe::{BootArgs, Plan};
use crate::terminal::{self, Left};
use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args};
use driver::emulator::{BOCHS_CPU, BOCHS_QUANTUM, Boot, Emulator, Engine, Machine, QEMU_CPU};
use driver::serial::{Failure, Serial, Step, unescape};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How long KVM has until the kernel's banner must be there, when nobody asked for KVM by name.
const KVM_PATIENCE: Duration = Duration::from_secs(20);
/// The first word of the kernel's banner.
const BANNER: &str = "ematite";

/// Options of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Who plays the machine: auto, bochs, qemu or kvm
    #[arg(long, default_value = "auto", value_name = "ENGINE")]
    pub engine: String,
    /// What is booted.
    #[command(flatten)]
    pub boot: BootArgs,
    /// Memory of the machine in MiB; default: 1024, or more if the guests want it
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u32>,
    /// No terminal: wait until the serial log has TEXT; repeatable, in order with --send
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub expect: Vec<String>,
    /// Type TEXT and Enter after the previous --expect; \xNN is the byte NN; repeatable
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub send: Vec<String>,
    /// Fail after this time; default: never
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Where the serial log goes; default: target/hematite/run/serial.log
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// QEMU loads the ELF32 and the modules itself; no GRUB is involved
    #[arg(long)]
    pub direct: bool,
    /// Boot this image as it is
    #[arg(long, value_name = "FILE", conflicts_with = "direct")]
    pub iso: Option<PathBuf>,
    /// Processor model in Bochs, see `bochs --help cpu`
    #[arg(long, default_value = BOCHS_CPU, value_name = "MODEL")]
    pub bochs_cpu: String,
    /// Processor model in QEMU, such as max,-svm
    #[arg(long, default_value = QEMU_CPU, value_name = "MODEL")]
    pub qemu_cpu: String,
    /// One more argument for QEMU; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_arg: Vec<String>,
    /// QEMU's clock counts instructions: the same in every run
    #[arg(long)]
    pub deterministic: bool,
}

/// Sets a flag when the user or the system asks us to end.
pub fn interruptible() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in
        [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
    {
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot catch signals")?;
    }
    Ok(flag)
}

/// The `--expect` and `--send` options in the order in which they were given.
pub fn script(matches: &ArgMatches) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for option in ["expect", "send"] {
        let places = matches.indices_of(option).into_iter().flatten();
        let texts = matches.get_many::<String>(option).into_iter().flatten();
        for (place, text) in places.zip(texts) {
            let step = match option {
                "expect" => Step::Expect(text.clone()),
                _ => Step::Send(unescape(text)?),
            };
            steps.push((place, step));
        }
    }
    steps.sort_by_key(|(place, _)| *place);
    Ok(steps.into_iter().map(|(_, step)| step).collect())
}

/// Boots the machine.
pub fn run(args: &RunArgs, steps: &[Step]) -> Result<()> {
    let asked = engine::parse(&args.engine)?;
    let offers = Offers::here();
    let (engine, why) = match asked {
        Some(engine) => (engine, "asked for".to_string()),
        None => offers.choose()?,
    };
    let dir = desk::out_dir("run")?;
    let log = args.log.clone().unwrap_or_else(|| dir.join("serial.log"));
    let interrupted = interruptible()?;
    let (boot, guests_mib) = boot(args, engine, &offers, &dir)?;
    let mut machine = Machine {
        engine,
        cpus: args.boot.cpus,
        memory_mib: args.memory.map_or_else(|| default_memory(guests_mib), Ok)?,
        boot,
        bochs_cpu: args.bochs_cpu.clone(),
        bochs_quantum: BOCHS_QUANTUM,
        qemu_cpu: args.qemu_cpu.clone(),
        qemu_args: args.qemu_arg.clone(),
        deterministic: args.deterministic,
        dir,
    };
    eprintln!(
        "  boot  {} ({why}), {} CPUs, {} MiB",
        engine.word(),
        machine.cpus,
        machine.memory_mib
    );
    let mut serial = start(&machine, &log)?;
    if asked.is_none() && engine == Engine::Kvm {
        let banner = [Step::Expect(BANNER.to_string())];
        if serial.play(&banner, Some(KVM_PATIENCE), &interrupted)?.is_err() {
            drop(serial);
            eprintln!("  note  no sign of life under KVM; trying QEMU without it");
            machine.engine = Engine::Qemu;
            serial = start(&machine, &log)?;
        }
    }
    if !steps.is_empty() {
        return scripted(&mut serial, steps, args.timeout.map(Duration::from_secs), &interrupted);
    }
    if let Some(seconds) = args.timeout {
        bail!("--timeout {seconds}: needs an --expect to wait for");
    }
    if terminal::present() {
        eprintln!("  keys  Ctrl-] switches between the guest and the prompt, Ctrl-\\ leaves");
    }
    let left = terminal::converse(&mut serial, &interrupted)?;
    let end = match left {
        Left::ByKey => "left",
        Left::MachineEnded => "the machine has ended",
    };
    eprintln!("\n   end  {end}; serial log: {}", serial.log_path().display());
    Ok(())
}

fn start(machine: &Machine, log: &Path) -> Result<Serial> {
    Serial::new(Emulator::start(machine)?, log, true)
}

/// What the machine boots, and how much memory its guests want.
fn boot(args: &RunArgs, engine: Engine, offers: &Offers, dir: &Path) -> Result<(Boot, u64)> {
    if let Some(iso) = &args.iso {
        return Ok((Boot::Iso(desk::given(iso, "--iso")?), u64::from(args.boot.guest_memory)));
    }
    let Plan { recipe, guests_mib } = args.boot.plan_for(args.memory)?;
    let direct = engine != Engine::Bochs && (args.direct || !offers.grub);
    if direct {
        if !args.direct {
            eprintln!("  note  no GRUB tools here: QEMU loads the kernel itself");
        }
        return Ok((recipe.direct(&dir.join("modules"))?, guests_mib));
    }
    if args.direct {
        bail!("--direct: Bochs has no loader of its own");
    }
    if !image::grub_ready() {
        bail!(
            "Bochs boots from a CD image: GRUB's tools are needed, `cargo xtask setup` installs them"
        );
    }
    let iso = dir.join("run.iso");
    recipe.iso(&iso)?;
    Ok((Boot::Iso(iso), guests_mib))
}

/// 1024 MiB, or what the guests take with room for kernel, modules and root task.
fn default_memory(guests_mib: u64) -> Result<u32> {
    Ok(u32::try_from((guests_mib + guests_mib / 8 + 512).max(1024))?)
}

fn scripted(
    serial: &mut Serial,
    steps: &[Step],
    timeout: Option<Duration>,
    interrupted: &AtomicBool,
) -> Result<()> {
    let result = serial.play(steps, timeout, interrupted)?;
    println!();
    match result {
        Ok(()) => {
            eprintln!("    ok  everything expected has come; log: {}", serial.log_path().display());
            Ok(())
        }
        Err(failure) => bail!("{}", report(serial, &failure)),
    }
}

/// A failed run in full: what failed, the last lines, where the logs are.
pub fn report(serial: &Serial, failure: &Failure) -> String {
    let lines = serial.last_lines(20);
    let shown: Vec<_> = lines.iter().map(|line| format!("    | {line}")).collect();
    format!(
        "{failure}\nlast serial lines:\n{}\nfull serial log: {}\nemulator's log: {}",
        if shown.is_empty() { "    (none)".to_string() } else { shown.join("\n") },
        serial.log_path().display(),
        serial.emulator_log().display(),
    )
}
