//! The machine itself: instructions, only for target_os = "none".
//!
//! ```text
//!   bring_up   what each CPU goes through        early, tables, smp   what happens once
//!   user       to user mode and back             traps, dump          what must not happen
//!   cpu msr fpu descriptors percpu bases         the CPU's own state
//!   apic ioapic pic clock serial                 what lies around it
//!   space physical layout                        addresses
//! ```

mod apic;
mod bases;
mod bring_up;
mod clock;
mod cpu;
mod descriptors;
mod dump;
mod early;
mod fpu;
mod ioapic;
mod layout;
mod machine;
mod msr;
mod percpu;
mod physical;
mod pic;
mod serial;
mod smp;
mod space;
mod tables;
mod traps;
mod user;

pub use apic::{
    end_of_interrupt, found_registers, mask_lvt_thermal, msi_target, send_ipi, set_deadline,
    set_lvt_thermal, timer_fired,
};
pub use clock::{bus_khz, now, tsc_khz};
pub use cpu::{one_gib_pages, pcid_available, physical_bits, topology, xstate};
pub use descriptors::task_was_cut;
pub use dump::Epitaph;
pub use fpu::{fpu_init, fpu_order, fpu_restore, fpu_save};
pub use ioapic::{
    ioapic_count, ioapic_mask, ioapic_pins, ioapic_read, ioapic_registers, ioapic_write,
};
pub use layout::PORT_BITMAP_ADDRESS;
pub use machine::{Machine, Plan, Taken, console_write, early_start, read_physical, start_machine};
pub use msr::{read_msr, write_msr};
pub use percpu::cpu_number;
pub use physical::with_physical;
pub use smp::cpu_count;
pub use space::{flush_everything, flush_page, flush_space, load_kernel_space, load_space};
pub use tables::{kernel_root_entries, port_bitmap_entry, port_bitmap_tail, port_table_entry};
pub use user::{idle, park, run, take_interrupt};
