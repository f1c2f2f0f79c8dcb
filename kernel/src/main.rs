//! (to be written)
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

#[cfg(target_os = "none")]
use boot as _;

#[cfg(not(target_os = "none"))]
fn main() {}

/// first
#[cfg(target_os = "none")]
#[unsafe(no_mangle)]
extern "C" fn kernel_main(magic: u32, info: u64, base: u64) -> ! {
    arch::metal::serial::start();
    arch::metal::serial::send(b"hello from rust\n");
    let _ = (magic, info, base);
    loop {
        core::hint::spin_loop();
    }
}
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
