//! The kernel's last words when it cannot go on: what, where, a backtrace; then all CPUs stop.
//!
//! Exceptions inside the kernel are dumped by `arch`, which sees the registers.

use core::fmt::{Arguments, Write};
use core::panic::PanicInfo;

/// Ends the machine because it is not one that the kernel can run on.
pub fn fail(reason: Arguments) -> ! {
    let mut out = arch::Epitaph::begin();
    let _ = writeln!(out, "\n*** Hematite cannot start: {reason}");
    out.end()
}

/// A bug of the kernel.
#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    let mut out = arch::Epitaph::begin();
    let _ = writeln!(out, "\n*** CPU {}: {info}", arch::cpu_number());
    arch::backtrace_here(&mut out);
    out.end()
}
