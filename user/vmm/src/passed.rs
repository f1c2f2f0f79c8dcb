//! Ports of the machine that a guest has: its instructions are carried out on them as they are.
//!
//! An access that lies in one of its ranges as a whole goes to the machine, any other to the board of the guest. The monitor
//! has the ports' capabilities and no others, so nothing else can be reached.
use crate::regions::Ports;
use alloc::vec::Vec;

/// The ports, and how they are reached.
pub struct Passed {
    /// The ranges.
    pub ranges: Vec<Ports>,
    /// Reads 1, 2 or 4 bytes at a port.
    pub read: fn(u16, u8) -> u32,
    /// Writes them.
    pub write: fn(u16, u8, u32),
}

impl Passed {
    /// None.
    pub fn none() -> Self {
        Self { ranges: Vec::new(), read: |_, _| u32::MAX, write: |_, _, _| {} }
    }

    /// Whether all of an access is the guest's.
    pub(crate) fn has(&self, port: u16, size: u8) -> bool {
        let last = port.checked_add(u16::from(size.max(1)) - 1);
        last.is_some_and(|end| {
            self.ranges.iter().any(|(first, last)| *first <= port && end <= *last)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::tests::{ram, vm};
    use crate::machine::Now;

    #[test]
    fn whole_accesses_in_a_range_go_to_the_machine() {
        let words = ram();
        let mut vm = vm(&words);
        vm.passed = Passed {
            ranges: alloc::vec![(0x402, 0x405), (0xffff, 0xffff)],
            read: |port, size| u32::from(port) + u32::from(size),
            ..Passed::none()
        };
        for (port, size, wanted) in [
            (0x402, 1, 0x403),
            (0x402, 4, 0x406),
            (0x405, 1, 0x406),
            (0x401, 2, 0xffff),
            (0x404, 4, u32::MAX),
            (0xffff, 1, 0x1_0000),
            (0xffff, 2, 0xffff),
        ] {
            assert_eq!(vm.port_read(port, size, Now::default()), wanted, "{port:#x}, {size}");
        }
        vm.port_write(0x402, 4, 1, Now::default());
        vm.port_write(0x400, 4, 1, Now::default());
        let seen: Vec<_> = core::iter::from_fn(|| vm.board.take_unclaimed()).collect();
        assert_eq!(seen.last().map(|access| (access.address, access.write)), Some((0x400, true)));
        assert_eq!(seen.iter().filter(|access| access.write).count(), 1);
    }
}
