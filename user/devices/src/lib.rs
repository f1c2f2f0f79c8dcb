//! The devices of a PC as plain state machines: no system calls, no clock, no threads.
//!
//! Every model is a value that the monitor owns. Guest accesses come in through *register doors*
//! (`read`, `write`), the outside world through named methods (`receive`, `set_line`), and time as
//! an explicit argument `now_ns`: guest nanoseconds since power-on, the same clock for all
//! devices. Interrupt outputs are levels that the [`board`] wires; nothing here calls back.
//!
//! A guest is hostile from its first instruction: no register door may panic, loop without bound
//! or allocate without bound, whatever words it is given. `tests/` throws random words at all of
//! them.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod ata;
pub mod board;
pub mod clock;
pub mod decode;
pub mod i8042;
pub mod ioapic;
pub mod lapic;
pub mod message;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod pm;
pub mod rtc;
pub mod uart;
pub mod vga;
pub mod virtio;
