//! The front desk: every task of this repository is a command here.
#![forbid(unsafe_code)]

mod bench;
mod bench_guest;
mod bench_page;
mod boot_matrix;
mod build;
mod bzimage;
mod c_hello;
mod call_graph;
mod call_names;
mod check;
mod cpio;
mod desk;
mod doctor;
mod elf;
mod engine;
mod gdb;
mod guest;
mod header;
mod image;
mod image_check;
mod latency;
mod layers;
mod layout_page;
mod manifest;
mod nested;
mod no_panic;
mod progress;
mod rebreak;
mod recipe;
mod run;
mod setup;
mod size;
mod sources;
mod stack_depth;
mod symbols;
mod terminal;
mod test;
mod toolchain;
mod tools;
mod usb;

use anyhow::{Result, bail};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Hematite's front desk
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Desk {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, or print the command that does
    Setup,
    /// Say what this machine offers, and which engine will be used and why
    Doctor,
    /// Build kernel, root task, monitor and test programs into target/hematite
    Build {
        /// Only these packages
        packages: Vec<String>,
    },
    /// Judge a manifest: `manifest check FILE`
    Manifest {
        #[command(subcommand)]
        what: ManifestTask,
    },
    /// Write a bootable image for BIOS and UEFI machines
    Image(ImageArgs),
    /// Every check that CI runs: static checks, host tests, emulator suites
    Test(test::TestArgs),
    /// Boot by every loader, with many sizes of machine, and print a table
    BootMatrix(boot_matrix::MatrixArgs),
    /// Run as a guest of Linux KVM, with guests of our own, and print a table
    Nested(nested::NestedArgs),
    /// What the kernel's work costs, in Bochs, against goals and committed figures
    Bench(bench::BenchArgs),
    /// Start a machine in QEMU that waits for gdb, and gdb
    Gdb(Box<gdb::GdbArgs>),
    /// The static part of the tests: format, lints, doors, lists, images
    Check,
    /// Write abi/include/hematite.h, the interface for users in other languages
    Header,
    /// Put known failures back, one by one: their tests must fail (tests/rebreak)
    Rebreak {
        /// Only those whose name contains this
        name: Option<String>,
    },
    /// Lines per room, image bytes, who takes the most
    Size,
    /// Boot in an emulator: the guest's console is your terminal
    Run(Box<run::RunArgs>),
}

#[derive(Subcommand)]
enum ManifestTask {
    /// Refuse what would not boot, with file, line and reason
    Check(manifest::CheckArgs),
}

#[derive(clap::Args)]
struct ImageArgs {
    #[command(flatten)]
    boot: recipe::BootArgs,
    /// The image to write
    #[arg(short, long, default_value = "target/hematite/hematite.iso", value_name = "FILE")]
    output: PathBuf,
    /// Then write it to this USB stick, after asking; all that is on it is lost
    #[arg(long, value_name = "DEVICE")]
    usb: Option<PathBuf>,
}

fn main() -> ExitCode {
    let matches = Desk::command().get_matches();
    let done = Desk::from_arg_matches(&matches).map_err(anyhow::Error::from).and_then(|desk| {
        let sub = matches.subcommand().map(|(_, sub)| sub);
        serve(desk.command, sub)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(task: Task, matches: Option<&clap::ArgMatches>) -> Result<()> {
    match task {
        Task::Setup => setup::setup(),
        Task::Doctor => doctor::doctor(),
        Task::Build { packages } => {
            build::build(&packages.iter().map(String::as_str).collect::<Vec<_>>())
        }
        Task::Image(args) => {
            let image = std::path::absolute(args.output)?;
            args.boot.plan()?.recipe.iso(&image)?;
            args.usb.map_or(Ok(()), |device| usb::write(&image, &device))
        }
        Task::Manifest { what: ManifestTask::Check(args) } => manifest::check(&args),
        Task::Test(args) => test::test(&args),
        Task::BootMatrix(args) => boot_matrix::boot_matrix(&args),
        Task::Nested(args) => nested::nested(&args),
        Task::Bench(args) => bench::bench(&args),
        Task::Gdb(args) => gdb::gdb(&args, &*run::interruptible()?),
        Task::Check => check::check(),
        Task::Header => header::write(),
        Task::Rebreak { name } => rebreak::rebreak(name.as_deref()),
        Task::Size => size::size(),
        Task::Run(args) => {
            let Some(matches) = matches else { bail!("no command") };
            run::run(&args, &run::script(matches)?)
        }
    }
}
