//! A machine made of arrays, for tests on any host: the names of `metal`, with nothing behind them.
//!
//! One machine per test thread. A test makes it with [`Machine::install`], says which CPU the next
//! calls come from ([`Machine::set_cpu`]), lets time pass ([`Machine::advance`]) and reads what the
//! kernel did to the hardware ([`Machine::take_deeds`]). So four CPUs run in one thread, in any order.
//!
//! ```text
//!   run(thread)  -> a pending interrupt of this CPU, else the program at thread.rip, else a page fault
//!   Guest::enter -> the next guest script, else HLT
//! ```
//! It checks no permission that the hardware would check, and walks no page table.

mod custody;
mod devices;
mod guest;
mod machine;
mod names;
#[cfg(test)]
mod tests;

pub use devices::{
    ioapic_count, ioapic_id, ioapic_mask, ioapic_pins, ioapic_read, ioapic_write, lvt_thermal,
    msi_target,
};
pub use guest::{Guest, guest_enable_cpu, guest_tags, guest_vendor};
pub use machine::{Deed, GuestScript, Machine, Pin, Program};
pub use names::{
    PORT_BITMAP_ADDRESS, console_write, cpu_count, cpu_number, cpu_online, end_of_interrupt,
    exchange, flush_page, flush_space, fpu_fresh, fpu_init, fpu_order, fpu_restore, fpu_save, idle,
    isolate, kernel_root_entries, load_kernel_space, load_space, memory_type, note_fault,
    note_killed, note_unclaimed, now, one_gib_pages, park, pcid_available, physical_bits,
    port_bitmap_tail, read_msr, relax, run, send_ipi, set_deadline, sleep, take_interrupt, tsc_khz,
    waking_vector, with_physical, with_seat, write_msr,
};
