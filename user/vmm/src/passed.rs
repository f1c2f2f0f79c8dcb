//! Ports of the machine that a guest has: its instructions are carried out on them as they are.
//!
//! An access that lies in one of its ranges as a whole goes to the machine, any other to the board of the guest. The monitor
//! has the ports' capabilities and no others, so nothing else can be reached.
use crate::machine::Vm;
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

    fn has(&self, port: u16, size: u8) -> bool {
        let last = port.checked_add(u16::from(size.max(1)) - 1);
        last.is_some_and(|end| {
            self.ranges.iter().any(|(first, last)| *first <= port && end <= *last)
        })
    }
}

impl Vm<'_> {
    /// The guest reads `size` bytes (1, 2 or 4) at a port.
    pub fn port_read(&mut self, port: u16, size: u8, now_ns: u64) -> u32 {
        if self.passed.has(port, size) {
            return (self.passed.read)(port, size);
        }
        self.board.port_read(port, size, now_ns)
    }

    /// The guest writes `size` bytes (1, 2 or 4) at a port.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32, now_ns: u64) {
        if self.passed.has(port, size) {
            return (self.passed.write)(port, size, value);
        }
        self.board.port_write(port, size, value, now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::tests::{ram, vm};

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
            assert_eq!(vm.port_read(port, size, 0), wanted, "{port:#x}, {size}");
        }
        vm.port_write(0x402, 4, 1, 0);
        vm.port_write(0x400, 4, 1, 0);
        let seen: Vec<_> = core::iter::from_fn(|| vm.board.take_unclaimed()).collect();
        assert_eq!(seen.last().map(|access| (access.address, access.write)), Some((0x400, true)));
        assert_eq!(seen.iter().filter(|access| access.write).count(), 1);
    }
}
