//! Silences the two 8259 interrupt controllers that no part of this kernel uses.
//!
//! After reset they deliver on vectors that mean exceptions; so they are moved first, then masked, and
//! never heard of again. Intel 8259A data sheet: ICW1 to ICW4, OCW1.

use x86_64::instructions::port::Port;

const FIRST: u16 = 0x20;
const SECOND: u16 = 0xa0;
/// Where a spurious one would land: at the end of the vectors that user programs may configure.
const FIRST_VECTOR: u8 = 0xd0;

/// Moves both controllers to harmless vectors and masks all lines.
pub fn silence() {
    for (port, vector, wiring) in [(FIRST, FIRST_VECTOR, 4), (SECOND, FIRST_VECTOR + 8, 2)] {
        for (offset, value) in [(0, 0x11), (1, vector), (1, wiring), (1, 0x01), (1, 0xff)] {
            // SAFETY: the controllers' registers; with all lines masked they affect nothing.
            unsafe { Port::<u8>::new(port + offset).write(value) };
        }
    }
}

/// Whether a controller has an interrupt in service that landed on exception `vector` (8 to 15), as
/// they are programmed before [`silence`].
pub fn in_service(vector: u8) -> bool {
    // SAFETY: OCW3 "read in-service register", then a read without side effects.
    let service = unsafe {
        let mut command = Port::<u8>::new(FIRST);
        command.write(0x0b);
        command.read()
    };
    (8..16).contains(&vector) && service >> (vector - 8) & 1 != 0
}
