//! `cargo xtask boot-matrix`: every way in, as a table.

use crate::build;
use crate::run;
use crate::test;
use anyhow::{Result, bail};
use driver::emulator::Engine;
use driver::stories::{Loader, Story};
use driver::stories_boot::{MATRIX, REPEATED};
use std::time::Instant;

/// Options of `boot-matrix`.
#[derive(clap::Args, Clone, Debug)]
pub struct MatrixArgs {
    /// Only rows whose name contains this
    pub name: Option<String>,
    /// Afterwards boot so many times in a row with 8 CPUs
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub again: u32,
}

/// After so many boots in a row a line says how many there were.
const TOLD: u32 = 10;

/// Boots every row, one at a time; fails when one did.
pub fn boot_matrix(args: &MatrixArgs) -> Result<()> {
    build::build(&["kernel", "root", "vmm", "aml"])?;
    let interrupted = run::interruptible()?;
    let wanted = |row: &&Story| args.name.as_ref().is_none_or(|part| row.name.contains(part));
    println!("{:<24} {:<22} {:>5} {:>6}  {:>6}  result", "row", "way in", "CPUs", "MiB", "s");
    let mut failures = Vec::new();
    for row in MATRIX.iter().filter(wanted) {
        let begun = Instant::now();
        let result = test::tell_one(row, &interrupted);
        println!(
            "{:<24} {:<22} {:>5} {:>6}  {:>6.1}  {}",
            row.name,
            way_in(row),
            row.cpus,
            row.memory_mib,
            begun.elapsed().as_secs_f64(),
            if result.is_ok() { "boots" } else { "FAILED" }
        );
        failures.extend(result.err().map(|error| format!("{}: {error:#}", row.name)));
    }
    failures.extend(again(args.again, &interrupted).err().map(|error| format!("{error:#}")));
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

/// Boots the same machine again and again; the first failure ends it.
fn again(times: u32, interrupted: &std::sync::atomic::AtomicBool) -> Result<()> {
    let begun = Instant::now();
    for time in 1..=times {
        if let Err(error) = test::tell_one(&REPEATED, interrupted) {
            bail!("boot {time} of {times}: {error:#}");
        }
        if time % TOLD == 0 {
            println!("{time} of {times} boots in a row: {:.0} s", begun.elapsed().as_secs_f64());
        }
    }
    if times > 0 {
        println!("{times} boots in a row with 8 CPUs: {:.0} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

fn way_in(row: &Story) -> String {
    let loader = match row.loader {
        Loader::Grub => "GRUB multiboot2, BIOS",
        Loader::Grub1 => "GRUB multiboot, BIOS",
        Loader::Efi => "GRUB multiboot2, UEFI",
        Loader::Direct => "-kernel",
    };
    let engine = if row.engine == Engine::Qemu { "" } else { ", Bochs" };
    format!("{loader}{engine}")
}
