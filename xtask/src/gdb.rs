//! `cargo xtask gdb`: a machine in QEMU that waits for a debugger, and the debugger.

use crate::build::PROGRAMS;
use crate::desk;
use crate::recipe::BootArgs;
use anyhow::{Context, Result, bail};
use clap::Args;
use driver::emulator::{BOCHS_QUANTUM, Emulator, Engine, Machine, QEMU_CPU};
use driver::process::on_path;
use driver::serial::Serial;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Options of `gdb`.
#[derive(Args, Clone, Debug)]
pub struct GdbArgs {
    /// What is booted.
    #[command(flatten)]
    pub boot: BootArgs,
    /// Start the machine and print how to attach; start no debugger
    #[arg(long)]
    pub wait: bool,
}

/// Starts the machine stopped at its first instruction, then gdb with the kernel's symbols. The
/// serial line goes to `target/hematite/gdb/serial.log`.
pub fn gdb(args: &GdbArgs, interrupted: &AtomicBool) -> Result<()> {
    if !args.wait && !on_path("gdb") {
        bail!(
            "gdb is missing (Debian package gdb); with --wait the machine waits for another debugger"
        );
    }
    let plan = args.boot.plan()?;
    let dir = desk::out_dir("gdb")?;
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let machine = Machine {
        engine: Engine::Qemu,
        cpus: args.boot.cpus,
        memory_mib: 1024,
        boot: plan.recipe.direct(&dir.join("modules"))?,
        bochs_cpu: String::new(),
        bochs_quantum: BOCHS_QUANTUM,
        qemu_cpu: QEMU_CPU.to_string(),
        qemu_args: vec!["-S".to_string(), "-gdb".to_string(), format!("tcp:127.0.0.1:{port}")],
        deterministic: false,
        dir: dir.clone(),
    };
    let log = dir.join("serial.log");
    let mut serial = Serial::new(Emulator::start(&machine)?, &log, args.wait)?;
    let kernel = PROGRAMS.first().context("no kernel")?.path()?;
    let attach = [
        "gdb".to_string(),
        kernel.display().to_string(),
        "-ex".to_string(),
        format!("target remote 127.0.0.1:{port}"),
    ];
    eprintln!("  wait  {} {} {} '{}'", attach[0], attach[1], attach[2], attach[3]);
    eprintln!("  wait  serial log: {}", log.display());
    if args.wait {
        while !serial.closed() && !interrupted.load(Ordering::Relaxed) {
            serial.listen(Duration::from_millis(100))?;
        }
        return Ok(());
    }
    let [program, rest @ ..] = attach;
    let mut debugger = Command::new(program).args(rest).spawn().context("cannot start gdb")?;
    while debugger.try_wait()?.is_none() {
        serial.listen(Duration::from_millis(100))?;
        if serial.closed() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}
