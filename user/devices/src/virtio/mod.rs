//! Virtio devices (Virtual I/O Device specification 1.2, OASIS, 2022-07-01; "virtio" below).
//!
//! ```text
//!   guest's driver --registers--> mmio --kicks--> block | net | console
//!         |                                         |
//!         '----- rings in guest memory <--- queue --'
//! ```
//! Modelled: the MMIO transport without legacy interface, split rings with indirect descriptors, a
//! block device over a [`block::Disk`], a network device over a [`net::Wire`], a console.
//!
//! Not modelled: packed rings, event indices, legacy drivers, offloads, more than one request queue.
//!
//! Everything in a ring is a guest's word and may change at any moment: each is read once, judged,
//! and the copy used. A ring that makes no sense is [`Broken`]: the device stops looking at its rings,
//! sets DEVICE_NEEDS_RESET and waits for its driver to reset it (virtio 2.1.1). Work is bounded: one
//! call of [`Model::serve`] moves at most [`CHAINS`] chains and about [`block::BYTES`] bytes.

pub mod block;
pub mod console;
pub mod mmio;
pub mod net;
pub mod overlay;
pub mod queue;

use core::fmt;
use queue::Queue;

/// Chains that one call of [`Model::serve`] handles at most.
pub const CHAINS: usize = 64;
/// Every driver must accept this: the device is no legacy device (virtio 6).
pub const VERSION_1: u64 = 1 << 32;
/// Descriptors may point at tables of descriptors (virtio 2.7.5.3).
pub const INDIRECT: u64 = 1 << 28;

/// Memory that a device reaches: the guest's, or what backs a disk.
pub trait Memory {
    /// Whether `length` bytes from `address` are all memory.
    fn holds(&self, address: u64, length: u64) -> bool;
    /// Copies bytes out.
    ///
    /// # Errors
    /// [`Outside`] if some of them are no memory; nothing was copied.
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Outside>;
    /// Copies bytes in.
    ///
    /// # Errors
    /// [`Outside`] if some of them are no memory; nothing was copied.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Outside>;
}

/// An access would have left the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside;

/// What is wrong with a ring; the device needs a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A ring, a table or a buffer lies outside the guest's memory.
    Outside,
    /// More chains are offered than the ring has room for.
    Index,
    /// A descriptor's number is beyond its table.
    Descriptor,
    /// A chain has more descriptors than the ring, or never ends.
    Endless,
    /// An indirect table of a size that cannot be, or inside another, or not at the chain's end.
    Indirect,
    /// A readable buffer after a writable one.
    Order,
    /// The buffers are too short for what the device must find or leave there.
    Short,
}

impl From<Outside> for Broken {
    fn from(_: Outside) -> Self {
        Self::Outside
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outside => "a ring or a buffer lies outside the guest's memory",
            Self::Index => "the ring offers more than it has room for",
            Self::Descriptor => "a descriptor's number is beyond its table",
            Self::Endless => "a chain of descriptors is longer than the ring",
            Self::Indirect => "an indirect table is not what it may be",
            Self::Order => "a readable buffer follows a writable one",
            Self::Short => "a request's buffers are too short",
        })
    }
}

/// What one call of [`Model::serve`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The driver shall be interrupted.
    pub interrupt: bool,
    /// There is more to do; call again.
    pub more: bool,
}

/// A kind of device behind the registers of a transport.
pub trait Model {
    /// The device's number (virtio 5).
    fn id(&self) -> u32;
    /// Features it offers besides [`VERSION_1`] and [`INDIRECT`].
    fn features(&self) -> u64;
    /// How many queues it has.
    fn queues(&self) -> usize;
    /// A byte of its configuration space; 0 past the end.
    fn config(&self, offset: u64) -> u8;
    /// Its driver has reset it.
    fn reset(&mut self) {}
    /// Handles what waits in its queues, within bounds.
    ///
    /// # Errors
    /// The first thing that is wrong; the device then needs a reset.
    fn serve(&mut self, queues: &mut [Queue], memory: &dyn Memory) -> Result<Served, Broken>;
}

/// A byte of the little-endian `number` that stands at `at` in a configuration space, if `offset` is
/// inside it.
fn field(offset: u64, at: u64, number: &[u8]) -> Option<u8> {
    number.get(usize::try_from(offset.checked_sub(at)?).ok()?).copied()
}

#[cfg(test)]
pub(crate) mod tests;
