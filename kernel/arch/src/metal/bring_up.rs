//! The one set-up that every CPU goes through: the first at boot, the others when started, all again
//! after resume.
//!
//! One CPU at a time is here. What each stage took is noted, and told in one line when the last one is over: so the
//! log has the same names for every CPU, and no CPU's part is interrupted by another's.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{apic, clock, cpu, descriptors, percpu, sleep, smp, space, traps};
use crate::x86::feature::Features;

/// The stages in their order (docs/boot.md draws them); the last one is the caller's, see [`cpu_is_up`].
const STAGES: [&str; 5] =
    ["descriptors", "registers", "address space", "local APIC", "virtualization"];

/// Ticks that each stage took on the CPU that is here.
static TICKS: [AtomicU64; STAGES.len()] = [const { AtomicU64::new(0) }; STAGES.len()];

/// Measures one stage after the other.
struct Stages {
    begun: u64,
    ticks: core::slice::Iter<'static, AtomicU64>,
}

impl Stages {
    fn begin() -> Self {
        Self { begun: clock::now(), ticks: TICKS.iter() }
    }

    fn end(&mut self) {
        let now = clock::now();
        if let Some(ticks) = self.ticks.next() {
            ticks.store(now - self.begun, Relaxed);
        }
        self.begun = now;
    }
}

/// Brings the calling CPU from "runs our code on our tables" to "may run user code". Its number is
/// already known (`percpu::adopt`).
pub fn this_cpu() {
    let mut stages = Stages::begin();
    descriptors::load_segments();
    descriptors::load_task();
    traps::load();
    stages.end();
    cpu::withdraw_missing();
    cpu::set_registers();
    stages.end();
    // Translations of the start-up tables are of no use any more.
    space::load_kernel_space();
    space::flush_everything();
    stages.end();
    apic::enable(cpu::features().contains(Features::X2APIC));
    apic::set_registers();
    apic::start_timer();
    stages.end();
    if !descriptors::verify() || !traps::verify() {
        log::error!("GDT, TSS or IDT is not what was loaded");
    }
    percpu::local().online.store(1, Relaxed);
}

/// Runs the last stage of the calling CPU's bring-up, and tells all of them.
pub fn cpu_is_up(last: impl FnOnce()) {
    let begun = clock::now();
    last();
    if let [.., ticks] = &TICKS {
        ticks.store(clock::now() - begun, Relaxed);
    }
    let number = percpu::cpu_number();
    let how = match (sleep::left_stack(number), number == smp::boot_cpu()) {
        (0, true) => "first",
        (0, false) => "started",
        _ => "resumed",
    };
    log::info!("CPU {number} ({how}): {}", Told);
}

/// The stages with their ticks, as the log has them.
struct Told;

impl core::fmt::Display for Told {
    fn fmt(&self, out: &mut core::fmt::Formatter) -> core::fmt::Result {
        for (name, ticks) in STAGES.iter().zip(&TICKS) {
            write!(out, "{name} {} ", ticks.load(Relaxed))?;
        }
        write!(out, "ticks")
    }
}
