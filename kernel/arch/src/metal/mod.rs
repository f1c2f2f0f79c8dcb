//! The machine itself: instructions, only for target_os = "none".
//!
//! ```text
//!   bring_up   what each CPU goes through        early, tables, smp   what happens once        sleep   and again
//!   user       to user mode and back             traps, dump          what must not happen
//!   cpu msr fpu descriptors percpu bases         the CPU's own state
//!   apic ioapic pic clock serial screen          what lies around it
//!   space physical layout                        addresses
//!   guest guest_switch vmx vmx_active vmx_enable vmx_host svm   guests
//! ```

mod apic;
mod bases;
mod bring_up;
mod clock;
mod cpu;
mod crash;
mod descriptors;
mod dump;
mod early;
mod fpu;
mod guest;
mod guest_switch;
mod ioapic;
mod isolate;
mod layout;
mod machine;
mod memory_type;
mod msr;
mod percpu;
mod physical;
mod pic;
mod screen;
mod serial;
mod sleep;
mod smp;
mod space;
mod svm;
mod tables;
mod traps;
mod user;
mod vmx;
mod vmx_active;
mod vmx_enable;
mod vmx_host;

pub use apic::{
    end_of_interrupt, found_registers, lvt_thermal, msi_target, send_ipi, set_deadline, timer_fired,
};
pub use bring_up::cpu_is_up;
pub use clock::{bus_khz, measure_again, now, tsc_khz};
pub use cpu::{
    one_gib_pages, pcid_available, physical_bits, signature, svm_words, topology, vendor_name,
    xstate,
};
pub use crash::{Crash, crash};
pub use dump::{Epitaph, backtrace_here};
pub use fpu::{fpu_fresh, fpu_init, fpu_order, fpu_restore, fpu_save};
pub use guest::{
    Guest, guest_enable_cpu, guest_secondary_controls, guest_tags, guest_vendor, guest_without,
    guest_words,
};
pub use ioapic::{
    ioapic_count, ioapic_id, ioapic_mask, ioapic_pins, ioapic_read, ioapic_registers, ioapic_write,
};
pub use isolate::{Mitigations, isolate, mitigations, note_mitigations};
pub use layout::PORT_BITMAP_ADDRESS;
pub use machine::{
    Clocks, check_cpu, console_write, early_start, local_apic_address, note_fault, note_killed,
    note_unclaimed, own_apic_id, read_physical, relax, start_clocks, start_console, start_devices,
    start_first_cpu, start_other_cpus, stop,
};
pub use memory_type::memory_type;
pub use msr::{read_msr, write_msr};
pub use percpu::cpu_number;
pub use physical::with_physical;
pub use screen::Screen;
pub use sleep::{note_sleep_ports, sleep, waking_vector};
pub use smp::{BadPlace, START_PAGES, boot_cpu, cpu_count, cpu_online, join};
pub use space::{flush_everything, flush_page, flush_space, load_kernel_space, load_space};
pub use tables::{
    TablesError, Taken, image_bytes, kernel_root_entries, port_bitmap_entry, port_bitmap_tail,
    port_table_entry, take_over,
};
pub use user::{exchange, idle, park, run, take_interrupt, with_seat};
