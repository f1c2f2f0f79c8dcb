//! Starts a machine in an emulator with its first serial line connected to us.
//!
//! Recipes for QEMU 7.2 and Bochs 2.7 as Debian 12 packages them. It decides nothing about which
//! engine to use and what to boot.

use crate::monitor;
use crate::process::{Leashed, mortal};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Who plays the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Bochs: the reference for VMX, deterministic, slow.
    Bochs,
    /// QEMU's TCG: SVM, fast.
    Qemu,
    /// QEMU on KVM with nested virtualization.
    Kvm,
}

impl Engine {
    /// The word for it on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Bochs => "bochs",
            Self::Qemu => "qemu",
            Self::Kvm => "kvm",
        }
    }
}

/// What the machine starts.
#[derive(Clone, Debug)]
pub enum Boot {
    /// A bootable CD image, through BIOS and GRUB.
    Iso(PathBuf),
    /// QEMU's own multiboot 1 loader; no GRUB needed.
    Direct {
        /// The ELF32 kernel image.
        kernel: PathBuf,
        /// Holds one file per boot module, named as the module is.
        dir: PathBuf,
        /// Modules in order: `NAME ARGS`.
        modules: Vec<String>,
        /// The kernel's command line.
        cmdline: String,
    },
}

/// A machine to start.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Who plays it.
    pub engine: Engine,
    /// Number of processors, at least 1.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What it starts.
    pub boot: Boot,
    /// Bochs' processor model, see `bochs --help cpu`.
    pub bochs_cpu: String,
    /// Instructions that one of several processors in Bochs executes before the next one's turn;
    /// [`BOCHS_QUANTUM`] unless clocks are compared.
    pub bochs_quantum: u32,
    /// QEMU's `-cpu` argument.
    pub qemu_cpu: String,
    /// Further QEMU arguments.
    pub qemu_args: Vec<String>,
    /// QEMU counts instructions as time: identical clocks in repeated runs.
    pub deterministic: bool,
    /// Where the emulator's own files (bochsrc, logs) go; exists already.
    pub dir: PathBuf,
}

/// The processor model used in Bochs unless told otherwise: VMX with EPT, VPID, unrestricted guest.
pub const BOCHS_CPU: &str = "corei7_skylake_x";

/// Linux `O_NOCTTY`: the terminal that is opened does not become ours.
const O_NOCTTY: i32 = 0o400;

/// Bochs' own choice of instructions per turn.
pub const BOCHS_QUANTUM: u32 = 16;

/// The processor model used in QEMU unless told otherwise: everything that TCG can do, SVM too.
pub const QEMU_CPU: &str = "max";

/// The most bytes of a Unix socket's path, less a few.
const SOCKET_PATH: usize = 100;

/// A running emulator; dropping it ends the machine.
#[derive(Debug)]
pub struct Emulator {
    process: Leashed,
    input: Sender<u8>,
    output: Receiver<Vec<u8>>,
    own_log: PathBuf,
    monitor: Option<PathBuf>,
}

impl Emulator {
    /// Starts the machine.
    ///
    /// # Errors
    /// When the emulator is missing, refuses its arguments or does not open its serial line.
    pub fn start(machine: &Machine) -> Result<Self> {
        match machine.engine {
            Engine::Bochs => start_bochs(machine),
            Engine::Qemu | Engine::Kvm => start_qemu(machine),
        }
    }

    /// Queues one byte for the serial line.
    pub fn type_byte(&self, byte: u8) {
        // A machine that has ended takes no more; the reader will notice.
        let _ = self.input.send(byte);
    }

    /// Serial bytes as they arrive; closed when the machine has ended.
    #[must_use]
    pub fn output(&self) -> &Receiver<Vec<u8>> {
        &self.output
    }

    /// The emulator's own messages, for a failure report.
    #[must_use]
    pub fn own_log(&self) -> &Path {
        &self.own_log
    }

    /// Gives QEMU's monitor commands, one line each; the answer to the last ([`monitor::ask`]).
    ///
    /// # Errors
    /// When this emulator has no monitor for us, or it does not answer.
    pub fn ask(&self, commands: &str) -> Result<String> {
        monitor::ask(self.monitor.as_deref().context("this machine has no monitor")?, commands)
    }

    /// Waits for the emulator to end by itself, at most this long.
    pub fn ended_within(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        while self.process.ended().is_none() {
            if begun.elapsed() > limit {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

fn start_qemu(machine: &Machine) -> Result<Emulator> {
    let own_log = machine.dir.join("qemu.log");
    let mut command = mortal("qemu-system-x86_64");
    command.args(["-display", "none", "-no-reboot"]);
    // A story may want a machine without a serial line.
    if !machine.qemu_args.iter().any(|argument| argument == "-serial") {
        command.args(["-serial", "stdio"]);
    }
    let socket = std::path::absolute(machine.dir.join("monitor"))?;
    let monitor = (socket.as_os_str().len() < SOCKET_PATH).then_some(socket);
    match &monitor {
        Some(path) => {
            let _ = fs::remove_file(path);
            command.args(["-monitor", &format!("unix:{},server=on,wait=off", path.display())])
        }
        None => command.args(["-monitor", "none"]),
    };
    command.args(["-m", &machine.memory_mib.to_string(), "-smp", &machine.cpus.to_string()]);
    match (machine.engine, machine.deterministic) {
        (Engine::Kvm, _) => command.args(["-accel", "kvm", "-cpu", "host"]),
        (_, false) => {
            // QEMU 7.2 and SVM with a thread per CPU: now and then a host's page walk right after
            // #VMEXIT found nothing and ended in a triple fault; the cause is not established.
            let svm = !machine.qemu_cpu.contains("-svm");
            let accel = if svm { "tcg,thread=single" } else { "tcg" };
            command.args(["-accel", accel, "-cpu", &machine.qemu_cpu])
        }
        (_, true) => command.args([
            "-accel",
            "tcg,thread=single",
            "-icount",
            "shift=0,sleep=off",
            "-cpu",
            &machine.qemu_cpu,
        ]),
    };
    command.args(&machine.qemu_args);
    match &machine.boot {
        Boot::Iso(iso) => {
            command.args(["-boot", "d", "-cdrom"]).arg(iso);
        }
        Boot::Direct { kernel, dir, modules, cmdline } => {
            let kernel = std::path::absolute(kernel)?;
            command.current_dir(dir).arg("-kernel").arg(kernel).args(["-append", cmdline]);
            // QEMU splits the list at commas; a doubled comma is a plain one.
            let list: Vec<_> = modules.iter().map(|module| module.replace(',', ",,")).collect();
            if !list.is_empty() {
                command.args(["-initrd", &list.join(",")]);
            }
        }
    }
    let log = fs::File::create(&own_log)
        .with_context(|| format!("cannot write {}", own_log.display()))?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut process = Leashed::start(&mut command)
        .context("QEMU is needed for this engine: `cargo xtask setup` installs it")?;
    let stdin = process.child().stdin.take().context("no pipe to QEMU")?;
    let stdout = process.child().stdout.take().context("no pipe from QEMU")?;
    Ok(Emulator { process, input: pump_in(stdin), output: pump_out(stdout), own_log, monitor })
}

fn start_bochs(machine: &Machine) -> Result<Emulator> {
    let Boot::Iso(iso) = &machine.boot else {
        bail!("Bochs boots from a CD image only: the GRUB tools are needed (`cargo xtask setup`)");
    };
    let port = free_port()?;
    let own_log = machine.dir.join("bochs.log");
    let rc = machine.dir.join("bochsrc");
    fs::write(&rc, bochsrc(machine, iso, port, &own_log))
        .with_context(|| format!("cannot write {}", rc.display()))?;
    let debugger = machine.dir.join("bochs.rc");
    fs::write(&debugger, "c\n")?;
    let screen = fs::File::create(machine.dir.join("bochs.screen"))?;
    let mut command = mortal("bochs");
    command.arg("-q").arg("-f").arg(&rc).arg("-rc").arg(&debugger).env("TERM", "xterm");
    command.stdin(Stdio::null()).stderr(screen.try_clone()?).stdout(screen);
    let mut process = Leashed::start(&mut command)
        .context("Bochs is needed for this engine: `cargo xtask setup` installs it")?;
    let stream = connect(&mut process, port, &own_log)?;
    let shown = machine.dir.join("bochs.screen");
    thread::spawn(move || watch_screen(&shown));
    let reader = stream.try_clone()?;
    Ok(Emulator {
        process,
        input: pump_in(stream),
        output: pump_out(reader),
        own_log,
        monitor: None,
    })
}

/// Reads what Bochs shows, and forgets it: its screen is a terminal of its own, and when nobody has
/// read some 70 KB from that, Bochs stands still.
fn watch_screen(log: &Path) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        let said = fs::read(log).unwrap_or_default();
        if let Some(name) = screen_name(&String::from_utf8_lossy(&said)) {
            let terminal = fs::OpenOptions::new().read(true).custom_flags(O_NOCTTY).open(name);
            if let Ok(mut terminal) = terminal {
                // Ends with Bochs, by an error.
                let _ = std::io::copy(&mut terminal, &mut std::io::sink());
            }
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The terminal in `Bochs connected to screen "/dev/pts/3"`.
fn screen_name(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("connected to screen \"")?;
    rest.split_once('"').map(|(name, _)| name)
}

/// Bochs waits for its serial line's other end before it starts the machine.
fn connect(process: &mut Leashed, port: u16, own_log: &Path) -> Result<TcpStream> {
    let begun = Instant::now();
    loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.set_nodelay(true)?;
            return Ok(stream);
        }
        if let Some(status) = process.ended() {
            bail!("Bochs ended before it started ({status}); its log: {}", own_log.display());
        }
        if begun.elapsed() > Duration::from_secs(30) {
            bail!("Bochs opens no serial line; its log: {}", own_log.display());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn bochsrc(machine: &Machine, iso: &Path, port: u16, own_log: &Path) -> String {
    format!(
        "display_library: term\n\
         memory: guest={megs}, host={megs}\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
         cpu: model={model}, count={cpus}:1:1, quantum={quantum}, ips=200000000, reset_on_triple_fault=0\n\
         ata0-master: type=cdrom, path={iso}, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=socket-server, dev=localhost:{port}\n\
         log: {log}\n\
         clock: sync=none\n\
         panic: action=fatal\n",
        megs = machine.memory_mib,
        model = machine.bochs_cpu,
        cpus = machine.cpus,
        quantum = machine.bochs_quantum,
        iso = iso.display(),
        log = own_log.display(),
    )
}

/// A TCP port that nobody listens on right now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("no free TCP port")?.local_addr()?.port())
}

fn pump_in(mut sink: impl Write + Send + 'static) -> Sender<u8> {
    let (sender, bytes) = channel::<u8>();
    thread::spawn(move || {
        for byte in bytes {
            if sink.write_all(&[byte]).and_then(|()| sink.flush()).is_err() {
                break;
            }
        }
    });
    sender
}

fn pump_out(mut source: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, bytes) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count) = source.read(&mut buffer) {
            let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { break };
            if sender.send(part.to_vec()).is_err() {
                break;
            }
        }
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_of_bochs_is_found() {
        let said =
            "00000000000i[      ] debugger\n\nBochs connected to screen \"/dev/pts/3\"\nmore";
        assert_eq!(screen_name(said), Some("/dev/pts/3"));
        assert_eq!(screen_name("Bochs connected to screen \"/dev/p"), None);
        assert_eq!(screen_name(""), None);
    }
}
