//! The bootable kernel: who calls whom, and when.
//!
//! Read [`kernel_main`] first; it is the table of contents. `boot` brings the first CPU here, the loop in
//! `run.rs` is where every CPU ends up.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
#![deny(unsafe_code)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod bring_up;
#[cfg(target_os = "none")]
mod hip;
#[cfg(target_os = "none")]
mod log_lines;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod root;
#[cfg(target_os = "none")]
mod run;
#[cfg(target_os = "none")]
mod state;

/// Linked for its assembly alone.
#[cfg(target_os = "none")]
use boot as _;

/// Where `boot` arrives: the loader's magic number and information block, and where the image is.
#[cfg(target_os = "none")]
#[allow(unsafe_code, reason = "the symbol that start.S calls")]
#[unsafe(no_mangle)]
extern "C" fn kernel_main(magic: u32, information: u64, load_base: u64) -> ! {
    arch::early_start();
    let loader = bring_up::read_loader(magic, information);
    let options = bring_up::read_command_line(&loader);
    bring_up::check_cpu(&options);
    let firmware = bring_up::read_firmware(&loader);
    let memory = bring_up::take_memory(&loader, &firmware, &options, information, load_base);
    let own = memory.range();
    bring_up::start_clocks_and_devices(&firmware, &options);
    state::make_pool(memory);
    state::prepare_cpu();
    bring_up::start_other_cpus(&loader, &firmware, state::prepare_cpu, state::enter);
    bring_up::note_sleep_registers(&firmware);
    bring_up::compare_clocks(&firmware, &options);
    state::make_kernel(&loader, &firmware, own);
    report::write(&loader, &firmware);
    bring_up::crash_if_asked(&loader);
    arch::join()
}
