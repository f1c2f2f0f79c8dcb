//! The guest's ATA disk: between its ports and the board's.
use crate::machine::Vm;
use crate::memory::GuestMemory;
use alloc::format;
use alloc::string::String;
use devices::ata::{Ata, DATA, IRQ};
use devices::virtio::overlay::Overlay;

/// A disk at the ports of a PC's first channel, over a boot module that is never changed.
pub struct AtaDisk<'a> {
    ata: Ata<Overlay<GuestMemory<'a>>>,
    name: String,
    /// The level of its wire as last driven.
    level: bool,
    /// The log has been told that there is no room for more changes.
    said: bool,
}

impl<'a> AtaDisk<'a> {
    /// A disk after power-on.
    pub fn new(disk: Overlay<GuestMemory<'a>>, name: &str) -> Self {
        Self { ata: Ata::new(disk, name), name: name.into(), level: false, said: false }
    }

    /// As after power-on, on a new board; what was written stays.
    pub fn reset(&mut self) {
        self.ata.reset();
        (self.level, self.said) = (false, false);
    }
}

impl Vm<'_> {
    /// What the guest reads if the port is the disk's.
    pub(crate) fn ata_read(&mut self, port: u16, size: u8) -> Option<u32> {
        let value = self.ata.as_mut()?.ata.read(port, size)?;
        self.settle_ata();
        Some(value)
    }

    /// Whether the port is the disk's, and then it took what the guest wrote.
    pub(crate) fn ata_write(&mut self, port: u16, size: u8, value: u32) -> bool {
        let taken = self.ata.as_mut().is_some_and(|disk| disk.ata.write(port, size, value));
        if taken {
            self.settle_ata();
        }
        taken
    }

    /// Carries the disk's wire to the board, and what the log should hear.
    fn settle_ata(&mut self) {
        let Some(disk) = &mut self.ata else { return };
        let level = disk.ata.irq();
        if core::mem::replace(&mut disk.level, level) != level {
            self.board.drive(IRQ, level);
        }
        if disk.ata.failures() > 0 && !core::mem::replace(&mut disk.said, true) {
            let name = &disk.name;
            self.messages
                .push(format!("{name} at port {DATA:#x}: no room for more changes; writes fail"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Now;
    use core::sync::atomic::AtomicU64;

    /// A guest with a disk of one block, over a store of so many words.
    fn with_disk<'a>(ram: &'a [AtomicU64], disk: &'a [AtomicU64]) -> Vm<'a> {
        let (image, store) = disk.split_at(512);
        let overlay = Overlay::new(GuestMemory::new(image), 4096, GuestMemory::new(store));
        Vm { ata: Some(AtaDisk::new(overlay, "disk")), ..crate::exits::tests::vm(ram) }
    }

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count as u64).map(AtomicU64::new).collect()
    }

    /// The wire of IRQ 14 as the slave 8259 sees it, through its request register.
    fn requested(vm: &mut Vm) -> bool {
        vm.port_write(0xa0, 1, 0x0a, Now::default());
        vm.port_read(0xa0, 1, Now::default()) & 0x40 != 0
    }

    #[test]
    fn a_sector_comes_with_an_interrupt() {
        let (ram, disk) = (crate::exits::tests::ram(), words(2048));
        disk[512..].iter().for_each(|word| word.store(0, core::sync::atomic::Ordering::Relaxed));
        let mut vm = with_disk(&ram, &disk);
        for (port, value) in
            [(0x1f6, 0x40), (0x1f2, 1), (0x1f3, 1), (0x1f4, 0), (0x1f5, 0), (0x1f7, 0x20)]
        {
            assert!(!requested(&mut vm));
            vm.port_write(port, 1, value, Now::default());
        }
        assert!(requested(&mut vm));
        assert_eq!(vm.port_read(0x1f7, 1, Now::default()), 0x58);
        let first = [4, 4, 2, 2].map(|size| vm.port_read(0x1f0, size, Now::default()));
        // Sector 1 begins with word 64 of the image.
        assert_eq!(first, [64, 0, 65, 0]);
        // Not the disk's: the serial line beside it, and the second channel.
        assert_eq!(vm.port_read(0x3fd, 1, Now::default()), 0x60);
        assert_eq!(vm.port_read(0x177, 1, Now::default()), 0xff);
    }

    #[test]
    fn no_room_is_said_once_in_a_life() {
        let (ram, disk) = (crate::exits::tests::ram(), words(1024));
        disk[512..].iter().for_each(|word| word.store(0, core::sync::atomic::Ordering::Relaxed));
        let mut vm = with_disk(&ram, &disk);
        for round in 0..3 {
            vm.port_write(0x1f2, 1, 1, Now::default());
            vm.port_write(0x1f6, 1, 0x40, Now::default());
            vm.port_write(0x1f7, 1, 0x30, Now::default());
            (0..128).for_each(|_| vm.port_write(0x1f0, 4, 7, Now::default()));
            assert_eq!(vm.port_read(0x1f7, 1, Now::default()), 0x51);
            let said = "disk at port 0x1f0: no room for more changes; writes fail";
            let messages = core::mem::take(&mut vm.messages);
            assert_eq!(messages, if round != 1 { vec![said] } else { Vec::new() });
            if round == 1 {
                vm.ata.as_mut().unwrap().reset();
            }
        }
    }
}
