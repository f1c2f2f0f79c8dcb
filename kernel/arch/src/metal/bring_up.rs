//! The one set-up that every CPU goes through: the first at boot, the others when started, all again
//! after resume.

use super::{apic, cpu, descriptors, space, traps};
use crate::x86::feature::Features;

/// Brings the calling CPU from "runs our code on our tables" to "may run user code". Its number is
/// already known (`percpu::adopt`).
pub fn this_cpu() {
    descriptors::load_segments_keeping_gs();
    descriptors::load_task();
    traps::load();
    cpu::withdraw_missing();
    cpu::set_registers();
    // Translations of the start-up tables are of no use any more.
    space::load_kernel_space();
    space::flush_everything();
    apic::enable(cpu::features().contains(Features::X2APIC));
    apic::set_registers();
    if super::cpu_number() != 0 {
        apic::start_timer();
    }
    if !descriptors::verify() || !traps::verify() {
        log::error!("GDT, TSS or IDT is not what was loaded");
    }
}
