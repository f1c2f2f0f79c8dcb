//! A tiny guest that tests the machine it runs on, and says what it found.
//!
//! It is started by Linux's 64-bit boot protocol and has no other needs: no ACPI, no BIOS. Each
//! word of its command line is a test (`tests.rs`); each prints one line to COM1,
//! `small: NAME ok ...` or `small: NAME FAIL ...`. Then it switches the machine off.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod cost;
#[cfg(target_os = "none")]
mod exceptions;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod probe;
#[cfg(target_os = "none")]
mod random;
#[cfg(target_os = "none")]
mod regions;
#[cfg(target_os = "none")]
mod rings;
#[cfg(target_os = "none")]
mod tests;
#[cfg(target_os = "none")]
mod timers;

/// Runs the tests that the command line names. Called by the entry code in `machine.rs`.
#[cfg(target_os = "none")]
fn begin(command_line: &'static str) {
    exceptions::prepare();
    println!("small: hello, my words are '{command_line}'");
    for word in command_line.split_ascii_whitespace() {
        tests::run(word);
    }
    println!("small: end");
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    println!("small: FAIL {info}");
    machine::power_off()
}

/// On a host there is no machine to test.
#[cfg(not(target_os = "none"))]
fn main() {}
