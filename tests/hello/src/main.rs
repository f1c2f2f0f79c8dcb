//! The smallest root program: says hello, then waits for ever.
#![cfg_attr(target_os = "none", no_std, no_main)]

rt::entry!(start);

/// Runs first on the machine.
fn start(boot: rt::Boot) {
    let _ = rt::com1::open();
    rt::println!("hello from root on cpu {}", boot.cpu);
    if let Ok(semaphore) = rt::sync::Semaphore::new(0) {
        while semaphore.down().is_ok() {}
    }
}

/// On a host there is nothing to greet.
#[cfg(not(target_os = "none"))]
fn main() {
    start(rt::Boot { cpu: 0, hip: rt::hip() });
}
