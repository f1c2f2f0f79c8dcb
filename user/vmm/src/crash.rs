//! Ways for this monitor to die at its guest's word: for the tests of what the others notice.
//!
//! Built in with the feature `crash` alone. A byte that the guest writes to [`PORT`] chooses how; the thread that dies is
//! the virtual processor's, with the machine's lock held.
use abi::exit::ExitReason;
use abi::utcb::StatePage;

/// The guest writes here; `guests/small` has the same number.
const PORT: u64 = 0xcad;
/// No port belongs to a monitor: the processor answers with #GP.
const FAULT: u64 = 1;
const PANIC: u64 = 2;
const HANG: u64 = 3;

/// Dies if the exit asks for it.
pub fn on(page: &StatePage) {
    let io = ExitReason::from_word(page.exit_reason) == ExitReason::Io;
    if !io || page.qual[0] >> 16 != PORT {
        return;
    }
    match page.rax & 0xff {
        FAULT => rt::instructions::outb(0x80, 0),
        PANIC => die(),
        HANG => loop {
            core::hint::spin_loop();
        },
        _ => {}
    }
}

#[allow(clippy::panic, reason = "what is tested")]
fn die() {
    panic!("the guest asked for it");
}
