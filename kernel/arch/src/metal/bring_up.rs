//! The one set-up that every CPU goes through: the first at boot, the others when started, all again
//! after resume.

use core::sync::atomic::Ordering::Relaxed;

use super::{apic, cpu, descriptors, percpu, space, traps};
use crate::x86::feature::Features;

/// Brings the calling CPU from "runs our code on our tables" to "may run user code". Its number is
/// already known (`percpu::adopt`).
pub fn this_cpu() {
    descriptors::load_segments();
    descriptors::load_task();
    traps::load();
    cpu::withdraw_missing();
    cpu::set_registers();
    // Translations of the start-up tables are of no use any more.
    space::load_kernel_space();
    space::flush_everything();
    apic::enable(cpu::features().contains(Features::X2APIC));
    apic::set_registers();
    apic::start_timer();
    if !descriptors::verify() || !traps::verify() {
        log::error!("GDT, TSS or IDT is not what was loaded");
    }
    percpu::local().online.store(1, Relaxed);
}
