//! The MMIO transport (virtio 4.2), version 2: the registers between a driver and a [`Model`].
//!
//! Modelled: all registers but the shared memory ones, which say that there is none. Registers are
//! 32 bits wide; the configuration space takes any width. Writes that make no sense are dropped.

use super::queue::{LARGEST, Queue};
use super::{Broken, INDIRECT, Memory, Model, VERSION_1};
use alloc::vec::Vec;

/// Bytes of address space that a device takes.
pub const SIZE: u64 = 0x1000;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"HMTT");
const CONFIG: u64 = 0x100;

/// Bits of the status register (virtio 2.1).
const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;
/// Bits of the interrupt status register.
const USED_BUFFER: u32 = 1;
const CONFIG_CHANGED: u32 = 2;

/// A device: a model behind its registers.
#[derive(Debug)]
pub struct Device<M> {
    model: M,
    queues: Vec<Queue>,
    status: u32,
    /// Which half of the features the driver reads, and which it writes.
    halves: (u32, u32),
    /// Features that the driver has accepted.
    accepted: u64,
    /// Which queue the queue registers are about.
    selected: u32,
    interrupt: u32,
    broken: Option<Broken>,
    more: bool,
}

impl<M: Model> Device<M> {
    /// After reset.
    #[must_use]
    pub fn new(model: M) -> Self {
        let queues = (0..model.queues()).map(|_| Queue::default()).collect();
        Self {
            model,
            queues,
            status: 0,
            halves: (0, 0),
            accepted: 0,
            selected: 0,
            interrupt: 0,
            broken: None,
            more: false,
        }
    }

    /// What is behind the registers, to look at.
    #[must_use]
    pub fn peek(&self) -> &M {
        &self.model
    }

    /// What is behind the registers.
    pub fn model(&mut self) -> &mut M {
        &mut self.model
    }

    /// As after reset; a disk keeps what it has.
    pub fn reset(&mut self) {
        self.model.reset();
        self.queues.iter_mut().for_each(|queue| *queue = Queue::default());
        self.status = 0;
        self.halves = (0, 0);
        self.accepted = 0;
        self.selected = 0;
        self.interrupt = 0;
        self.broken = None;
        self.more = false;
    }

    /// The level of its interrupt wire.
    #[must_use]
    pub fn irq(&self) -> bool {
        self.interrupt != 0
    }

    /// Whether its driver has said that it is ready, and nothing is broken.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// Whether [`Device::serve`] has left something to do.
    #[must_use]
    pub fn more(&self) -> bool {
        self.more
    }

    /// The guest reads `size` bytes (1, 2, 4 or 8) at `offset`.
    #[must_use]
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        if let Some(at) = offset.checked_sub(CONFIG) {
            return (0..u64::from(size.min(8))).rev().fold(0, |word, byte| {
                word << 8 | u64::from(self.model.config(at.saturating_add(byte)))
            });
        }
        if size != 4 {
            return 0;
        }
        let queue = self.queues.get(self.selected as usize);
        u64::from(match offset {
            0x000 => MAGIC,
            0x004 => 2,
            0x008 => self.model.id(),
            0x00c => VENDOR,
            0x010 => half(self.offered(), self.halves.0),
            0x034 => queue.map_or(0, |_| u32::from(LARGEST)),
            0x044 => queue.map_or(0, |queue| queue.ready.into()),
            0x060 => self.interrupt,
            0x070 => self.status,
            // No shared memory region has this size and address (virtio 4.2.2).
            0x0b0..=0x0bc => u32::MAX,
            _ => 0,
        })
    }

    /// The guest writes `size` bytes at `offset`. True: there may be something to [`Device::serve`].
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> bool {
        if size != 4 {
            return false;
        }
        let value = value as u32;
        match offset {
            0x014 => self.halves.0 = value,
            0x020 => self.accept(value),
            0x024 => self.halves.1 = value,
            0x030 => self.selected = value,
            0x050 => return self.status & DRIVER_OK != 0,
            0x064 => self.interrupt &= !value,
            0x070 => return self.set_status(value),
            _ => self.write_queue(offset, value),
        }
        false
    }

    /// Handles what waits, within bounds; what is wrong comes once.
    pub fn serve(&mut self, memory: &dyn Memory) -> Option<Broken> {
        self.more = false;
        if !self.runs() {
            return None;
        }
        match self.model.serve(&mut self.queues, memory) {
            Ok(served) => {
                self.more = served.more;
                if served.interrupt {
                    self.interrupt |= USED_BUFFER;
                }
                None
            }
            Err(broken) => {
                self.status |= NEEDS_RESET;
                self.interrupt |= CONFIG_CHANGED;
                self.broken = Some(broken);
                self.broken
            }
        }
    }

    fn offered(&self) -> u64 {
        self.model.features() | VERSION_1 | INDIRECT
    }

    fn accept(&mut self, value: u32) {
        // After FEATURES_OK nothing is negotiated any more (virtio 3.1.1).
        if self.status & FEATURES_OK != 0 {
            return;
        }
        self.accepted = match self.halves.1 {
            0 => self.accepted & !0xffff_ffff | u64::from(value),
            1 => self.accepted & 0xffff_ffff | u64::from(value) << 32,
            _ => self.accepted,
        };
    }

    fn set_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return false;
        }
        let mut next = value & 0xff & !NEEDS_RESET | self.status & NEEDS_RESET;
        let fits = self.accepted & !self.offered() == 0 && self.accepted & VERSION_1 != 0;
        if next & FEATURES_OK != 0 && !fits {
            next &= !FEATURES_OK;
        }
        // A driver that was refused cannot begin.
        if next & FEATURES_OK == 0 {
            next &= !DRIVER_OK;
        }
        let begins = next & !self.status & DRIVER_OK != 0;
        self.status = next;
        begins
    }

    fn write_queue(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.queues.get_mut(self.selected as usize) else { return };
        if offset == 0x044 {
            queue.set_ready(value & 1 != 0);
            return;
        }
        // A queue in use stays where it is (virtio 4.2.3.2).
        if queue.ready {
            return;
        }
        let low = |address: u64| address & !0xffff_ffff | u64::from(value);
        let high = |address: u64| address & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x038 => queue.set_size(value),
            0x080 => queue.descriptors = low(queue.descriptors),
            0x084 => queue.descriptors = high(queue.descriptors),
            0x090 => queue.driver = low(queue.driver),
            0x094 => queue.driver = high(queue.driver),
            0x0a0 => queue.device = low(queue.device),
            0x0a4 => queue.device = high(queue.device),
            _ => {}
        }
    }
}

fn half(word: u64, which: u32) -> u32 {
    match which {
        0 => word as u32,
        1 => (word >> 32) as u32,
        _ => 0,
    }
}
