//! An ATA disk at the ports of a PC's first channel, moved by the processor (PIO).
//!
//! ```text
//!   0x1f0 data   1 error | features   2 count   3 4 5 address   6 device   7 status | command
//!   0x3f6 alternate status | control                                 INTRQ --> IRQ 14
//! ```
//! Follows ATA/ATAPI-6 (T13 1410D revision 3b; "ATA" below) as a lone device 0. Modelled: IDENTIFY, READ, WRITE and
//! VERIFY SECTORS by cylinder, head and sector, by 28 and by 48 bits; FLUSH CACHE, SEEK, SET FEATURES, the power
//! commands, the diagnostic, soft reset, the registers that answer for the absent device 1.
//!
//! Not modelled: DMA, READ and WRITE MULTIPLE, security, SMART, ATAPI. Those commands are aborted. Nothing takes
//! time: a command is done, or its next sector there, before the access that asked for it returns.

mod identify;

use crate::virtio::block::{Disk, Failed, SECTOR};
use alloc::boxed::Box;

/// The interrupt wire.
pub const IRQ: u8 = 14;
/// The data register, first of the command block (ATA 6, 7).
pub const DATA: u16 = 0x1f0;
const LAST: u16 = DATA + 7;
/// Device control, and alternate status.
pub const CONTROL: u16 = 0x3f6;

/// Bits of the status register (ATA 7.15).
const BUSY: u8 = 0x80;
const READY: u8 = 0x40;
/// Command dependent now; "seek complete" to older drivers, which wait for it.
const SETTLED: u8 = 0x10;
const REQUEST: u8 = 0x08;
const FAILED: u8 = 0x01;
/// Bits of the error register (ATA 7.9): no such address, command not done.
const NOT_FOUND: u8 = 0x10;
const ABORTED: u8 = 0x04;
/// What the error register has after a reset: device 0 passed, there is no device 1 (ATA 9.10).
const PASSED: u8 = 0x01;
/// Bits of the device register: the address is a sector's number; device 1.
const BY_NUMBER: u8 = 0x40;
const DEVICE_1: u8 = 0x10;
/// Bits of the control register (ATA 7.8): no interrupts; reset; show the earlier of two written bytes.
const SILENT: u8 = 0x02;
const RESET: u8 = 0x04;
const EARLIER: u8 = 0x80;

/// The geometry that old drivers see.
const HEADS: u64 = 16;
const SECTORS: u64 = 63;

/// Indices of the registers that take two bytes (ATA 6.20).
const COUNT: usize = 1;
const LOW: usize = 2;
const MIDDLE: usize = 3;
const HIGH: usize = 4;

/// How a command names a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addressing {
    /// Cylinder, head, sector.
    Geometry,
    /// 28 bits.
    Short,
    /// 48 bits, in registers written twice.
    Long,
}

/// Where data is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToGuest,
    ToDisk,
}

/// Sectors on their way; one of them is in the buffer.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    way: Way,
    addressing: Addressing,
    /// The one after that in the buffer when it goes to the guest, else the one in the buffer.
    sector: u64,
    /// How many follow that in the buffer.
    left: u64,
    /// Bytes of the buffer that have been moved.
    moved: usize,
}

/// The disk with its registers.
pub struct Ata<D> {
    disk: D,
    name: [u8; identify::NAME],
    /// Features, count, and the three address registers: the last byte written, and the one before.
    pairs: [[u8; 2]; 5],
    device: u8,
    control: u8,
    status: u8,
    error: u8,
    interrupt: bool,
    /// Word 85 of the identification: which features are on.
    enabled: u16,
    transfer: Option<Transfer>,
    buffer: Box<[u8; SECTOR as usize]>,
    failures: u64,
}

impl<D: Disk> Ata<D> {
    /// A disk after power-on; the first 20 bytes of `name` are its serial number.
    pub fn new(disk: D, name: &str) -> Self {
        let mut ata = Self {
            disk,
            name: identify::name(name),
            pairs: [[0; 2]; 5],
            device: 0,
            control: 0,
            status: 0,
            error: 0,
            interrupt: false,
            enabled: identify::ENABLED,
            transfer: None,
            buffer: Box::new([0; SECTOR as usize]),
            failures: 0,
        };
        ata.restart();
        ata
    }

    /// What it stores its sectors in.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Reads and writes that the disk could not do.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// As after power-on, but what was written stays.
    pub fn reset(&mut self) {
        self.control = 0;
        self.enabled = identify::ENABLED;
        self.restart();
    }

    /// The interrupt wire's level: only the selected device drives it (ATA 5.2.9).
    #[must_use]
    pub fn irq(&self) -> bool {
        self.interrupt && self.control & SILENT == 0 && self.device & DEVICE_1 == 0
    }

    /// The guest reads `size` bytes (1, 2 or 4) at `port`; `None` if the port is not the disk's. Beyond
    /// the disk's ports it reads ones.
    pub fn read(&mut self, port: u16, size: u8) -> Option<u32> {
        if port == DATA {
            // A narrow access moves a whole word all the same.
            let value = (0..size.div_ceil(2).min(2))
                .fold(0, |value, word| value | u32::from(self.read_data()) << (16 * word));
            return Some(if size == 1 { value & 0xff } else { value });
        }
        claims(port).then(|| {
            (0..size.min(4)).fold(0, |value, index| {
                let byte = self.read_register(port.wrapping_add(index.into()));
                value | u32::from(byte) << (8 * index)
            })
        })
    }

    /// The guest writes `size` bytes (1, 2 or 4) at `port`; false if the port is not the disk's. What
    /// goes beyond the disk's ports is dropped.
    pub fn write(&mut self, port: u16, size: u8, value: u32) -> bool {
        if port == DATA {
            let value = if size == 1 { value & 0xff } else { value };
            (0..size.div_ceil(2).min(2))
                .for_each(|word| self.write_data((value >> (16 * word)) as u16));
            return true;
        }
        if !claims(port) {
            return false;
        }
        for (index, byte) in (0..size.min(4)).zip(value.to_le_bytes()) {
            self.write_register(port.wrapping_add(index.into()), byte);
        }
        true
    }

    fn read_register(&mut self, port: u16) -> u8 {
        let absent = self.device & DEVICE_1 != 0;
        match port.wrapping_sub(DATA) {
            1 => self.error,
            2..=5 => {
                let earlier = usize::from(self.control & EARLIER != 0);
                let pair = self.pairs.get(usize::from(port - DATA) - 1);
                pair.and_then(|pair| pair.get(earlier)).copied().unwrap_or(0)
            }
            // Bits 7 and 5 have been ones since ATA-1.
            6 => self.device | 0xa0,
            // Device 0 answers for a device 1 that is not there: with zeros (ATA 9.16.1).
            7 if absent => 0,
            7 => {
                self.interrupt = false;
                self.status
            }
            _ if port == CONTROL && absent => 0,
            _ if port == CONTROL => self.status,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, port: u16, value: u8) {
        if port == CONTROL {
            return self.write_control(value);
        }
        // While it is busy nothing else is listened to (ATA 6.20, 7).
        if self.status & BUSY != 0 {
            return;
        }
        self.control &= !EARLIER;
        match port.wrapping_sub(DATA) {
            register @ 1..=5 => {
                if let Some(pair) = self.pairs.get_mut(usize::from(register) - 1) {
                    *pair = [value, pair[0]];
                }
            }
            6 => self.device = value,
            // With data on its way no command is taken.
            7 if self.status & REQUEST == 0 => self.execute(value),
            _ => {}
        }
    }

    /// Soft reset while its bit is one (ATA 9.2); ends what was on its way.
    fn write_control(&mut self, value: u8) {
        let before = core::mem::replace(&mut self.control, value & (SILENT | RESET | EARLIER));
        match (before & RESET != 0, value & RESET != 0) {
            (false, true) => {
                self.transfer = None;
                self.interrupt = false;
                self.status = BUSY;
            }
            (true, false) => self.restart(),
            _ => {}
        }
    }

    /// Ready, with the signature of an ATA device (ATA 9.12).
    fn restart(&mut self) {
        self.transfer = None;
        self.interrupt = false;
        self.pairs = [[0; 2], [1, 0], [1, 0], [0; 2], [0; 2]];
        self.device = 0;
        self.error = PASSED;
        self.status = READY | SETTLED;
    }

    fn execute(&mut self, command: u8) {
        // Only the diagnostic is for both devices (ATA 9.16.1).
        if self.device & DEVICE_1 != 0 && command != 0x90 {
            return;
        }
        (self.interrupt, self.error, self.status) = (false, 0, READY | SETTLED);
        let plain =
            if self.device & BY_NUMBER != 0 { Addressing::Short } else { Addressing::Geometry };
        match command {
            0x20 | 0x21 => self.begin(Way::ToGuest, plain),
            0x24 => self.begin(Way::ToGuest, Addressing::Long),
            0x30 | 0x31 => self.begin(Way::ToDisk, plain),
            0x34 => self.begin(Way::ToDisk, Addressing::Long),
            0x40 | 0x41 => self.verify(plain),
            0x42 => self.verify(Addressing::Long),
            0x70 => match self.sector(plain) {
                Some(sector) if sector < self.disk.sectors() => self.done(),
                _ => self.fail(NOT_FOUND),
            },
            0x90 => {
                self.restart();
                self.done();
            }
            // INITIALIZE DEVICE PARAMETERS: this geometry or none.
            0x91 => {
                let asked = (u64::from(self.device & 0xf) + 1, u64::from(self.last(COUNT)));
                if asked == (HEADS, SECTORS) { self.done() } else { self.fail(ABORTED) }
            }
            // STANDBY, IDLE and SLEEP, at once and by timer: it is always as quiet.
            0xe0..=0xe3 | 0xe6 => self.done(),
            // CHECK POWER MODE: active.
            0xe5 => {
                self.set(COUNT, 0xff);
                self.done();
            }
            // FLUSH CACHE: a write is done when it is answered.
            0xe7 | 0xea => self.done(),
            0xec => {
                let words = identify::words(&self.name, self.disk.sectors(), self.enabled);
                self.buffer
                    .iter_mut()
                    .zip(words.iter().flat_map(|word| word.to_le_bytes()))
                    .for_each(|(to, from)| *to = from);
                let way = Way::ToGuest;
                self.transfer =
                    Some(Transfer { way, addressing: plain, sector: 0, left: 0, moved: 0 });
                self.status |= REQUEST;
                self.interrupt = true;
            }
            0xef => self.set_features(),
            _ => self.fail(ABORTED),
        }
    }

    /// SET FEATURES (ATA 8.46): write cache, look-ahead, PIO modes up to 4.
    fn set_features(&mut self) {
        let [features, count] = [self.last(0), self.last(COUNT)];
        match features {
            0x02 => self.enabled |= identify::CACHE,
            0x82 => self.enabled &= !identify::CACHE,
            0xaa => self.enabled |= identify::AHEAD,
            0x55 => self.enabled &= !identify::AHEAD,
            0x03 if matches!(count, 0 | 1 | 8..=12) => {}
            _ => return self.fail(ABORTED),
        }
        self.done();
    }

    fn verify(&mut self, addressing: Addressing) {
        let Some(sector) = self.sector(addressing) else { return self.fail(NOT_FOUND) };
        let end = self.disk.sectors();
        if sector + self.count(addressing) <= end {
            self.done();
        } else {
            self.not_found(addressing, sector.max(end));
        }
    }

    /// Sectors are going to be read or written.
    fn begin(&mut self, way: Way, addressing: Addressing) {
        let Some(sector) = self.sector(addressing) else { return self.fail(NOT_FOUND) };
        let left = self.count(addressing);
        let transfer = Transfer { way, addressing, sector, left, moved: 0 };
        match way {
            Way::ToGuest => self.next_to_guest(transfer),
            Way::ToDisk => {
                self.next_to_disk(transfer);
                // Nobody is told of the first, which the driver asks for itself (ATA 9.6), unless it is refused.
                self.interrupt = self.status & FAILED != 0;
            }
        }
    }

    /// The next sector comes into the buffer.
    fn next_to_guest(&mut self, transfer: Transfer) {
        let sector = transfer.sector;
        if sector >= self.disk.sectors() {
            return self.not_found(transfer.addressing, sector);
        }
        if let Err(Failed) = self.disk.read(sector * SECTOR, self.buffer.as_mut_slice()) {
            return self.fail_at(transfer);
        }
        self.transfer =
            Some(Transfer { sector: sector + 1, left: transfer.left - 1, moved: 0, ..transfer });
        self.status |= REQUEST;
        self.interrupt = true;
    }

    /// The buffer is free for the next sector.
    fn next_to_disk(&mut self, transfer: Transfer) {
        if transfer.sector >= self.disk.sectors() {
            return self.not_found(transfer.addressing, transfer.sector);
        }
        self.transfer = Some(Transfer { left: transfer.left - 1, moved: 0, ..transfer });
        self.status |= REQUEST;
        self.interrupt = true;
    }

    /// A word of data; zero when there is none.
    fn read_data(&mut self) -> u16 {
        let Some(transfer) = self.transfer.as_mut().filter(|transfer| transfer.way == Way::ToGuest)
        else {
            return 0;
        };
        let at = transfer.moved;
        transfer.moved += 2;
        let transfer = *transfer;
        let word = self.buffer.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
        if transfer.moved >= self.buffer.len() {
            self.status &= !REQUEST;
            self.transfer = None;
            if transfer.left > 0 {
                self.next_to_guest(transfer);
            }
        }
        u16::from_le_bytes(word.unwrap_or_default())
    }

    /// A word of data; dropped when none is wanted.
    fn write_data(&mut self, word: u16) {
        let Some(transfer) = self.transfer.as_mut().filter(|transfer| transfer.way == Way::ToDisk)
        else {
            return;
        };
        let at = transfer.moved;
        transfer.moved += 2;
        let transfer = *transfer;
        if let Some(bytes) = self.buffer.get_mut(at..at + 2) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        if transfer.moved < self.buffer.len() {
            return;
        }
        self.status &= !REQUEST;
        self.transfer = None;
        if let Err(Failed) = self.disk.write(transfer.sector * SECTOR, self.buffer.as_slice()) {
            self.fail_at(transfer);
        } else if transfer.left > 0 {
            self.next_to_disk(Transfer { sector: transfer.sector + 1, ..transfer });
        } else {
            self.done();
        }
    }

    /// A command without more data has ended well.
    fn done(&mut self) {
        self.interrupt = true;
    }

    fn fail(&mut self, error: u8) {
        (self.error, self.status, self.interrupt) = (error, READY | SETTLED | FAILED, true);
    }

    /// The disk could not do it.
    fn fail_at(&mut self, transfer: Transfer) {
        self.failures += 1;
        self.show(transfer.addressing, transfer.sector);
        self.fail(ABORTED);
    }

    fn not_found(&mut self, addressing: Addressing, sector: u64) {
        self.show(addressing, sector);
        self.fail(NOT_FOUND);
    }

    /// The sector that the registers name; nothing if there is none of this geometry.
    fn sector(&self, addressing: Addressing) -> Option<u64> {
        let head = u64::from(self.device & 0xf);
        let number = |of: usize| {
            [HIGH, MIDDLE, LOW].into_iter().fold(0, |number, index| {
                let pair = self.pairs.get(index).copied().unwrap_or_default();
                number << 8 | u64::from(pair.get(of).copied().unwrap_or(0))
            })
        };
        match addressing {
            Addressing::Short => Some(head << 24 | number(0)),
            Addressing::Long => Some(number(1) << 24 | number(0)),
            Addressing::Geometry => {
                let sector =
                    u64::from(self.last(LOW)).checked_sub(1).filter(|one| *one < SECTORS)?;
                Some(((number(0) >> 8) * HEADS + head) * SECTORS + sector)
            }
        }
    }

    /// Leaves the first sector that failed in the registers.
    fn show(&mut self, addressing: Addressing, sector: u64) {
        let mut put = |number: u64| {
            [LOW, MIDDLE, HIGH]
                .into_iter()
                .zip(number.to_le_bytes())
                .for_each(|(index, byte)| self.set(index, byte));
        };
        let head = match addressing {
            Addressing::Long => {
                put(sector >> 24);
                return put(sector);
            }
            Addressing::Short => {
                put(sector);
                sector >> 24
            }
            Addressing::Geometry => {
                put((sector / (HEADS * SECTORS)) << 8 | (sector % SECTORS + 1));
                sector / SECTORS % HEADS
            }
        };
        self.device = self.device & 0xf0 | (head & 0xf) as u8;
    }

    /// How many sectors the registers ask for; none means one more than fits (ATA 8.34, 8.35).
    fn count(&self, addressing: Addressing) -> u64 {
        let [last, before] = self.pairs.get(COUNT).copied().unwrap_or_default();
        match (addressing, last, before) {
            (Addressing::Long, 0, 0) => 0x1_0000,
            (Addressing::Long, ..) => u64::from(before) << 8 | u64::from(last),
            (_, 0, _) => 0x100,
            _ => u64::from(last),
        }
    }

    /// The byte that was last written to a register.
    fn last(&self, index: usize) -> u8 {
        self.pairs.get(index).map_or(0, |[last, _]| *last)
    }

    fn set(&mut self, index: usize, value: u8) {
        if let Some(pair) = self.pairs.get_mut(index) {
            *pair = [value, pair[0]];
        }
    }
}

/// Whether a port is the disk's.
#[must_use]
pub fn claims(port: u16) -> bool {
    (DATA..=LAST).contains(&port) || port == CONTROL
}

#[cfg(test)]
mod tests;
