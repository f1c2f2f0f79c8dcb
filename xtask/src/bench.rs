//! `cargo xtask bench`: measures the kernel's costs in Bochs and holds them against the goals and
//! the committed figures.
//!
//! The ticks are emulated instructions, the same in every run with one processor. Two runs: all
//! rows that one processor is enough for, then those of two processors in lock step.

use crate::bench_guest::{self, GuestArgs};
use crate::bench_page as page;
use crate::build;
use crate::desk;
use crate::image::{Module, Recipe};
use crate::latency;
use crate::progress::Step;
use crate::run;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use driver::emulator::{BOCHS_CPU, Boot, Emulator, Engine, Machine, QEMU_CPU};
use driver::serial::{Serial, Step as Line};
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// The reference and the goals.
const REFERENCE: &str = "tests/bench/reference.txt";
/// The committed figures.
const FIGURES: &str = "tests/bench/figures.txt";
/// The page that shows them.
const PAGE: &str = "docs/costs.md";
/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Ticks by which a row may differ from the committed figure: the clock of two processors has
/// steps of 5.
const TOLERANCE: u64 = 10;

/// Options of `bench`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Something else to measure.
    #[command(subcommand)]
    pub what: Option<What>,
    /// Make what was measured the committed figures
    #[arg(long)]
    pub write: bool,
    /// Instead: how long interrupts are off, by call, and how long threads and guests wait for them
    #[arg(long)]
    pub latency: bool,
    /// Show only rows whose name contains this; all are measured
    pub name: Option<String>,
}

/// What is measured besides the kernel's calls.
#[derive(Subcommand, Clone, Debug)]
pub enum What {
    /// A Linux guest's work against the same kernel natively in the same engine
    Guest(GuestArgs),
}

/// Median and minimum of a row, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// The middle one of all rounds.
    pub median: u64,
    /// The shortest round.
    pub minimum: u64,
}

/// A row of the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What the reference takes, in ticks.
    pub reference: u64,
    /// The highest ratio that meets the goal, if there is one.
    pub goal: Option<f64>,
}

/// Figures by row.
pub type Figures = BTreeMap<String, Figure>;

/// Measures, compares, reports.
pub fn bench(args: &BenchArgs) -> Result<()> {
    if let Some(What::Guest(args)) = &args.what {
        return bench_guest::guest(args);
    }
    if args.latency {
        return latency::latency(args.write);
    }
    build::build(&["kernel", "bench"])?;
    let interrupted = run::interruptible()?;
    let mut figures = Figures::new();
    for cpus in [1, 2] {
        figures.extend(measure(cpus, &interrupted)?);
    }
    let read = |file: &str| {
        fs::read_to_string(desk::root().join(file)).with_context(|| format!("cannot read {file}"))
    };
    let rows = reference(&read(REFERENCE)?)?;
    if let Some(missing) = rows.iter().find(|row| !figures.contains_key(&row.name)) {
        bail!("the bench program printed no row {}", missing.name);
    }
    let wanted = |row: &&Row| args.name.as_ref().is_none_or(|part| row.name.contains(part));
    let shown: Vec<_> = rows.iter().filter(wanted).cloned().collect();
    println!("{}", page::table(&shown, &figures));
    println!("{}", page::summary(&rows, &figures));
    let out = desk::out_dir("bench")?;
    let files = [
        ("costs.csv", page::csv(&rows, &figures)),
        ("costs.md", page::markdown(&rows, &figures)),
        ("costs.svg", page::svg(&rows, &figures)),
    ];
    for (name, text) in files {
        desk::write_if_changed(&out.join(name), text.as_bytes())?;
    }
    println!("tables and chart: target/hematite/bench/costs.csv, costs.md, costs.svg");
    if args.write {
        let text = write_figures(&rows, &figures);
        desk::write_if_changed(&desk::root().join(FIGURES), text.as_bytes())?;
        let text = page::replace_table(&read(PAGE)?, &page::markdown(&rows, &figures))
            .with_context(|| format!("{PAGE} has no marked table"))?;
        desk::write_if_changed(&desk::root().join(PAGE), text.as_bytes())?;
        println!("written: {FIGURES}, {PAGE}");
        return Ok(());
    }
    compare(&read_figures(&read(FIGURES)?), &figures)
}

/// One run of the bench program.
fn measure(cpus: u32, interrupted: &AtomicBool) -> Result<Figures> {
    let words = ["bench: FAILED", "bench: done"];
    Ok(printed(&said(("hematite.elf64", "bench", cpus), 1, words, interrupted)?))
}

/// What a test program as root task says in Bochs on this kernel and so many processors, until the last of `words`; not
/// the first of them.
pub fn said(
    (kernel, program, cpus): (&str, &str, u32),
    quantum: u32,
    [bad, last]: [&str; 2],
    interrupted: &AtomicBool,
) -> Result<String> {
    let step = Step::new(format!("{program} in Bochs, {cpus} CPUs"));
    let dir = desk::out_dir(&format!("bench/{program}{cpus}"))?;
    let root = Module::new("root", desk::out()?.join(format!("{program}.elf")));
    // Without the word `serial` the kernel leaves COM1 alone, where a byte takes thousands of instructions.
    let recipe = Recipe { kernel: desk::out()?.join(kernel), ..Recipe::new("", vec![root])? };
    recipe.check()?;
    let iso = dir.join(format!("{program}{cpus}.iso"));
    recipe.iso_quietly(&iso)?;
    let machine = Machine {
        engine: Engine::Bochs,
        cpus,
        memory_mib: 512,
        boot: Boot::Iso(iso),
        bochs_cpu: BOCHS_CPU.to_string(),
        bochs_quantum: quantum,
        qemu_cpu: QEMU_CPU.to_string(),
        qemu_args: Vec::new(),
        deterministic: false,
        dir: dir.clone(),
    };
    let mut serial = Serial::new(Emulator::start(&machine)?, &dir.join("serial.log"), false)?;
    let lines = [
        Line::Refuse(bad.to_string()),
        Line::Refuse("*** CPU ".to_string()),
        Line::Expect(last.to_string()),
    ];
    if let Err(failure) = serial.play(&lines, Some(PATIENCE), interrupted)? {
        bail!("{}", run::report(&serial, &failure));
    }
    let text = String::from_utf8_lossy(serial.said()).into_owned();
    step.finish(&format!("{} lines", text.lines().count()));
    Ok(text)
}

/// The rows in what the program printed: `bench: ROW MEDIAN MINIMUM`. The first may follow a byte
/// that got lost when the program set up the serial line.
fn printed(said: &str) -> Figures {
    let lines = said.lines().filter_map(|line| line.split_once("bench: "));
    lines.filter_map(|(_, line)| figure(line)).collect()
}

/// `ROW MEDIAN MINIMUM`.
fn figure(line: &str) -> Option<(String, Figure)> {
    let mut words = line.split_whitespace();
    let name = words.next()?.to_string();
    let (median, minimum) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((name, Figure { median, minimum }))
}

/// The rows of the reference file.
fn reference(text: &str) -> Result<Vec<Row>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_string();
        let reference = words.next()?.parse().ok()?;
        let goal = match words.next()? {
            "-" => None,
            word => Some(word.parse().ok()?),
        };
        Some(Row { name, reference, goal })
    };
    lines.map(|line| row(line).with_context(|| format!("{REFERENCE}: '{line}'"))).collect()
}

/// The committed figures.
fn read_figures(text: &str) -> Figures {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(figure).collect()
}

/// The text of the committed figures.
fn write_figures(rows: &[Row], figures: &Figures) -> String {
    let mut text = String::from(
        "# Written by `cargo xtask bench --write`: row, median and minimum in ticks (docs/costs.md).\n",
    );
    for row in rows {
        if let Some(figure) = figures.get(&row.name) {
            text += &format!("{:<34}{:>7} {:>7}\n", row.name, figure.median, figure.minimum);
        }
    }
    text
}

/// Says what changed; fails when a row got worse.
fn compare(committed: &Figures, figures: &Figures) -> Result<()> {
    let mut worse = 0;
    for (name, now) in figures {
        let Some(before) = committed.get(name) else {
            println!("not committed yet: {name}");
            continue;
        };
        if now.median > before.median + TOLERANCE {
            worse += 1;
            println!("  worse: {name} {} -> {}", before.median, now.median);
        } else if now.median + TOLERANCE < before.median {
            println!(" better: {name} {} -> {}", before.median, now.median);
        }
    }
    if worse > 0 {
        bail!("{worse} rows cost more than {FIGURES} says; --write makes this the new figure");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_the_log() {
        let said = "kernel: hello\r\n\0bench: call_same 530 525\r\nbench: done\r\n";
        let figures = printed(said);
        assert_eq!(figures.len(), 1);
        assert_eq!(figures["call_same"], Figure { median: 530, minimum: 525 });
    }

    #[test]
    fn the_reference_is_whole() {
        let text = fs::read_to_string(desk::root().join(REFERENCE)).unwrap();
        let rows = reference(&text).unwrap();
        assert_eq!(rows.len(), 57);
        assert!(rows.iter().all(|row| row.reference != 0));
        assert!(reference("x 5").is_err());
    }

    #[test]
    fn a_worse_row_fails() {
        let one = |median| Figures::from([("a".to_string(), Figure { median, minimum: 1 })]);
        assert!(compare(&one(100), &one(110)).is_ok());
        assert!(compare(&one(100), &one(111)).is_err());
        assert!(compare(&Figures::new(), &one(5)).is_ok());
        let row = Row { name: "a".to_string(), reference: 1, goal: None };
        assert_eq!(read_figures(&write_figures(&[row], &one(7))), one(7));
    }
}
