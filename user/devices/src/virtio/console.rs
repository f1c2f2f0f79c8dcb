//! The console device (virtio 5.3) with one port: bytes in, bytes out.
//!
//! Bytes that nobody has taken yet wait here, at most [`ROOM`] each way: what is typed beyond that is
//! not accepted, and what the guest sends beyond that stays in its ring.

use super::queue::Queue;
use super::{Broken, CHAINS, Memory, Model, Served};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Bytes that wait at most, each way.
pub const ROOM: usize = 4096;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// The device.
#[derive(Debug)]
pub struct Console {
    typed: VecDeque<u8>,
    sent: Vec<u8>,
    /// How much of the chain at the head of the transmit queue has been sent.
    done: u64,
    /// Bytes on their way.
    buffer: Box<[u8; ROOM]>,
}

impl Default for Console {
    fn default() -> Self {
        let (typed, sent) = (VecDeque::new(), Vec::new());
        Self { typed, sent, done: 0, buffer: Box::new([0; ROOM]) }
    }
}

impl Console {
    /// Bytes are typed. Returns how many it took; offer the rest again later.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(ROOM.saturating_sub(self.typed.len()));
        self.typed.extend(bytes.iter().take(count));
        count
    }

    /// The bytes that the guest has sent since the last call; there may be more to serve then.
    pub fn take_output(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.sent)
    }

    /// Whether the guest has sent bytes.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Bytes from the guest; whether chains were given back.
    fn transmit(&mut self, queue: &mut Queue, memory: &dyn Memory) -> Result<bool, Broken> {
        let mut given = false;
        for _ in 0..CHAINS {
            let room = ROOM.saturating_sub(self.sent.len());
            if room == 0 {
                break;
            }
            let Some(chain) = queue.look(memory)? else { break };
            // A chain that the guest has made shorter meanwhile has no more.
            let left = chain.readable().saturating_sub(self.done);
            let count = left.min(room as u64) as usize;
            let bytes = self.buffer.get_mut(..count).unwrap_or_default();
            chain.read(memory, self.done, bytes)?;
            self.sent.extend_from_slice(bytes);
            if count as u64 == left {
                self.done = 0;
                queue.pass();
                queue.give(memory, &chain, 0)?;
                given = true;
            } else {
                self.done += count as u64;
            }
        }
        Ok(given)
    }

    /// Typed bytes to the guest, as far as it has buffers; whether chains were given back.
    fn deliver(&mut self, queue: &mut Queue, memory: &dyn Memory) -> Result<bool, Broken> {
        let mut given = false;
        for _ in 0..CHAINS {
            if self.typed.is_empty() {
                break;
            }
            let Some(chain) = queue.take(memory)? else { break };
            let count = (self.typed.len() as u64).min(chain.writable()) as usize;
            if count == 0 {
                return Err(Broken::Short);
            }
            let bytes: Vec<u8> = self.typed.drain(..count).collect();
            chain.write(memory, 0, &bytes)?;
            queue.give(memory, &chain, count as u32)?;
            given = true;
        }
        Ok(given)
    }
}

impl Model for Console {
    fn id(&self) -> u32 {
        3
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> usize {
        2
    }

    /// Size, ports and emergency write are all for features that it does not offer.
    fn config(&self, _offset: u64) -> u8 {
        0
    }

    fn reset(&mut self) {
        self.done = 0;
        self.typed.clear();
    }

    fn serve(&mut self, queues: &mut [Queue], memory: &dyn Memory) -> Result<Served, Broken> {
        let mut served = Served::default();
        if let Some(queue) = queues.get_mut(TRANSMIT) {
            let given = self.transmit(queue, memory)?;
            served.interrupt |= given && queue.wants_interrupt(memory)?;
            // With no room left, what waits is served after the output has been taken.
            served.more |= queue.waiting(memory)? > 0 && self.sent.len() < ROOM;
        }
        if let Some(queue) = queues.get_mut(RECEIVE) {
            let given = self.deliver(queue, memory)?;
            served.interrupt |= given && queue.wants_interrupt(memory)?;
            served.more |= queue.waiting(memory)? > 0 && !self.typed.is_empty();
        }
        Ok(served)
    }
}
