//! Tells how long the kernel kept interrupts off meanwhile, if it was built to measure that: a line
//! `suite: stretch LABEL TICKS` for each label (`abi::log`), for `cargo xtask bench --latency`.

use crate::world::World;
use abi::log::{STRETCH_LABELS, STRETCHES};
use rt::calls;

/// Tells it.
pub fn tell(world: &World) {
    for label in 0..STRETCH_LABELS as u64 {
        match calls::statistics(world.boot.cpu, STRETCHES + label) {
            Ok(0) => {}
            Ok(ticks) => rt::println!("suite: stretch {label} {ticks}"),
            Err(_) => return,
        }
    }
}
