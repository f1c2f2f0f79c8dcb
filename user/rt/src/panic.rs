//! The end of a program that found itself wrong.

use crate::last_words;
use crate::log::print_now;
use core::panic::PanicInfo;

/// Says where and why, and stops the thread.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    print_now(format_args!("\nprogram stopped: {info}\n"));
    last_words::ended();
    crate::sync::stop()
}
