//! The network device (virtio 5.1): one receive and one transmit queue, no offloads.
//!
//! The driver sends whole frames and gets whole frames, each behind a header of 12 bytes that says
//! nothing. A frame shorter than an Ethernet header or longer than [`FRAME`] is not sent. Frames for
//! which the guest offers no buffers stay on the [`Wire`], which bounds them.

use super::queue::Queue;
use super::{Broken, CHAINS, Memory, Model, Served, field};
use alloc::boxed::Box;

/// Longest frame: header, VLAN tag, 1500 bytes.
pub const FRAME: usize = 14 + 4 + 1500;
/// Shortest: addresses and type.
pub const SHORTEST: usize = 14;

/// Features (virtio 5.1.3).
const MAC: u64 = 1 << 5;
const STATUS: u64 = 1 << 16;
/// Before each frame (virtio 5.1.6); the last two bytes count buffers.
const HEADER: usize = 12;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// What a network device is plugged into.
pub trait Wire {
    /// Takes a frame, or loses it.
    fn send(&mut self, frame: &[u8]);
    /// Whether a frame has come.
    fn has_frame(&mut self) -> bool;
    /// The next frame that has come: its bytes, at the start of `frame`.
    fn receive(&mut self, frame: &mut [u8; FRAME]) -> Option<usize>;
}

/// The device.
#[derive(Debug)]
pub struct Net<W> {
    wire: W,
    mac: [u8; 6],
    /// A frame with its header, on its way.
    frame: Box<[u8; FRAME]>,
}

impl<W: Wire> Net<W> {
    /// A device with this address.
    pub fn new(wire: W, mac: [u8; 6]) -> Self {
        Self { wire, mac, frame: Box::new([0; FRAME]) }
    }

    /// What it is plugged into.
    pub fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// Frames from the guest to the wire; whether some were taken.
    fn transmit(&mut self, queue: &mut Queue, memory: &dyn Memory) -> Result<bool, Broken> {
        let mut given = false;
        for _ in 0..CHAINS {
            let Some(chain) = queue.take(memory)? else { break };
            let size = chain.readable().checked_sub(HEADER as u64).ok_or(Broken::Short)?;
            let frame = usize::try_from(size).ok().and_then(|size| self.frame.get_mut(..size));
            if let Some(frame) = frame.filter(|frame| frame.len() >= SHORTEST) {
                chain.read(memory, HEADER as u64, frame)?;
                self.wire.send(frame);
            }
            queue.give(memory, &chain, 0)?;
            given = true;
        }
        Ok(given)
    }

    /// Frames from the wire to the guest, as far as it has buffers; whether some came.
    fn receive(&mut self, queue: &mut Queue, memory: &dyn Memory) -> Result<bool, Broken> {
        let mut given = false;
        for _ in 0..CHAINS {
            if queue.waiting(memory)? == 0 {
                break;
            }
            let Some(size) = self.wire.receive(&mut self.frame) else { break };
            let Some(chain) = queue.take(memory)? else { break };
            let mut header = [0; HEADER];
            // One buffer, even where it cannot be more (virtio 5.1.6.4.1).
            header[HEADER - 2] = 1;
            chain.write(memory, 0, &header)?;
            let frame = self.frame.get(..size).unwrap_or_default();
            chain.write(memory, HEADER as u64, frame)?;
            queue.give(memory, &chain, (HEADER + frame.len()) as u32)?;
            given = true;
        }
        Ok(given)
    }
}

impl<W: Wire> Model for Net<W> {
    fn id(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        MAC | STATUS
    }

    fn queues(&self) -> usize {
        2
    }

    /// Address 6 bytes, status 2: the link is up (virtio 5.1.4).
    fn config(&self, offset: u64) -> u8 {
        field(offset, 0, &self.mac).or_else(|| field(offset, 6, &[1, 0])).unwrap_or(0)
    }

    fn serve(&mut self, queues: &mut [Queue], memory: &dyn Memory) -> Result<Served, Broken> {
        let mut served = Served::default();
        if let Some(queue) = queues.get_mut(TRANSMIT) {
            let given = self.transmit(queue, memory)?;
            served.interrupt |= given && queue.wants_interrupt(memory)?;
            served.more |= queue.waiting(memory)? > 0;
        }
        if let Some(queue) = queues.get_mut(RECEIVE) {
            let given = self.receive(queue, memory)?;
            served.interrupt |= given && queue.wants_interrupt(memory)?;
            served.more |= queue.waiting(memory)? > 0 && self.wire.has_frame();
        }
        Ok(served)
    }
}
