//! `cargo xtask bench --latency`: how long interrupts are kept off, by call, and how long a thread or a guest waits to
//! hear of something.
//!
//! Both in Bochs, where a tick is an instruction. The stretches come from the conformance suite on a kernel built with the
//! feature `stretch`, on one processor and on two; the other rows from the bench program on the usual kernel.

use crate::bench::said;
use crate::bench_page::replace_between;
use crate::build::{self, STRETCH};
use crate::desk;
use crate::run;
use abi::Call;
use abi::log::{STRETCH_EXCEPTION, STRETCH_GUEST, STRETCH_INTERRUPT};
use anyhow::{Context, Result, bail};
use driver::emulator::BOCHS_QUANTUM;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

/// The page with the figures, and where they stand in it.
const PAGE: &str = "docs/costs.md";
const MARKS: [&str; 2] =
    ["<!-- latency: cargo xtask bench --latency --write -->", "<!-- end of latency -->"];
/// The longest stretch that is allowed, in instructions.
const LIMIT: u64 = 10_000;

/// A stretch by label, on one processor and on two.
type Stretches = BTreeMap<u8, [u64; 2]>;

/// Measures, shows, and fails if a stretch is too long.
pub fn latency(write: bool) -> Result<()> {
    build::build(&["kernel", "bench", "suite"])?;
    build::measuring_kernel()?;
    let interrupted = run::interruptible()?;
    let mut stretches = Stretches::new();
    for (place, cpus) in [1, 2].into_iter().enumerate() {
        let text = said((STRETCH, "suite", cpus), BOCHS_QUANTUM, SUITE, &interrupted)?;
        for (label, ticks) in text.lines().filter_map(stretch) {
            stretches.entry(label).or_default()[place] = ticks;
        }
        println!("{}", markdown(&stretches, &[]));
    }
    if stretches.is_empty() {
        bail!("the suite told no stretch");
    }
    let text = said(("hematite.elf64", "bench", 1), 1, BENCH, &interrupted)?;
    let rows: Vec<_> = text.lines().filter_map(row).collect();
    let table = markdown(&stretches, &rows);
    println!("{table}");
    if write {
        let page = desk::root().join(PAGE);
        let old = fs::read_to_string(&page).with_context(|| format!("cannot read {PAGE}"))?;
        let new = replace_between(MARKS, &old, &table)
            .with_context(|| format!("{PAGE} has no marks for the latency"))?;
        desk::write_if_changed(&page, new.as_bytes())?;
        println!("written: {PAGE}");
    }
    let long = stretches.values().flatten().filter(|ticks| **ticks > LIMIT).count();
    if long != 0 {
        bail!("{long} stretches are longer than {LIMIT} instructions");
    }
    Ok(())
}

/// What the suite must and must not say.
const SUITE: [&str; 2] = ["FAIL", " passed, 0 failed"];
/// What the bench must and must not say.
const BENCH: [&str; 2] = ["bench: FAILED", "bench: done"];

/// `suite: stretch LABEL TICKS`.
fn stretch(line: &str) -> Option<(u8, u64)> {
    let (_, words) = line.split_once("suite: stretch ")?;
    let (label, ticks) = words.trim().split_once(' ')?;
    Some((label.parse().ok()?, ticks.parse().ok()?))
}

/// `bench: latency ROW MEDIAN MINIMUM MAXIMUM`.
fn row(line: &str) -> Option<(String, [u64; 3])> {
    let (_, words) = line.split_once("bench: latency ")?;
    let mut words = words.split_whitespace();
    let name = words.next()?.to_string();
    let mut number = || words.next()?.parse().ok();
    Some((name, [number()?, number()?, number()?]))
}

/// What a stretch was about.
fn label_name(label: u8) -> String {
    match label {
        STRETCH_EXCEPTION => "exceptions".to_string(),
        STRETCH_INTERRUPT => "interrupts, idling".to_string(),
        STRETCH_GUEST => "guest exits".to_string(),
        number => match Call::from_word(number.into()) {
            Ok(call) => format!("{number} {call:?}"),
            Err(_) => format!("{number} (no such call)"),
        },
    }
}

fn markdown(stretches: &Stretches, rows: &[(String, [u64; 3])]) -> String {
    let mut text = String::from("| longest stretch of | 1 CPU | 2 CPUs |\n|---|---|---|\n");
    for (label, [one, two]) in stretches {
        let _ = writeln!(text, "| {} | {one} | {two} |", label_name(*label));
    }
    text += "\n| latency | median | minimum | maximum |\n|---|---|---|---|\n";
    for (name, [median, least, most]) in rows {
        let _ = writeln!(text, "| {name} | {median} | {least} | {most} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        assert_eq!(stretch("suite: stretch 7 1234\r"), Some((7, 1234)));
        assert_eq!(stretch("suite: stretched 7 1"), None);
        let line = "bench: latency guest_injection 10 5 20\r";
        assert_eq!(row(line), Some(("guest_injection".to_string(), [10, 5, 20])));
        assert_eq!(row("bench: call 1 2"), None);
    }

    #[test]
    fn labels_have_names() {
        assert_eq!(label_name(7), "7 Revoke");
        assert_eq!(label_name(99), "99 (no such call)");
        let text = markdown(&[(129, [1, 2])].into(), &[("a".to_string(), [3, 4, 5])]);
        assert!(text.contains("| interrupts, idling | 1 | 2 |"));
        assert!(text.contains("| a | 3 | 4 | 5 |"));
    }
}
