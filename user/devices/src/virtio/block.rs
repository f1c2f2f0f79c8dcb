//! The block device (virtio 5.2): read, write, flush, get id.
//!
//! One request queue. A request larger than [`LARGEST`], beyond the end, or not in whole sectors gets
//! an error, as one that the disk cannot do. Flush has nothing to do: a write is done when it is
//! answered.

use super::queue::{Chain, Queue};
use super::{Broken, CHAINS, Memory, Model, Served, field};
use alloc::boxed::Box;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Most bytes of one request; the configuration space tells drivers.
pub const LARGEST: u64 = PIECES as u64 * PIECE as u64;
/// Bytes after which one call of [`Model::serve`] leaves the rest for the next.
pub const BYTES: u64 = 1 << 20;
/// Bytes of a buffer and buffers of a request.
const PIECE: u32 = 64 << 10;
const PIECES: u32 = 32;

/// Features (virtio 5.2.3).
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const FLUSH: u64 = 1 << 9;

/// Kinds of request (virtio 5.2.6).
const READ: u32 = 0;
const WRITE: u32 = 1;
const SYNC: u32 = 4;
const GET_ID: u32 = 8;
/// Bytes before the data, and of an identification.
const HEADER: u64 = 16;
const ID: usize = 20;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok = 0,
    Failed = 1,
    Unsupported = 2,
}

/// A disk could not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// What a block device stores its sectors in.
pub trait Disk {
    /// Its size in sectors.
    fn sectors(&self) -> u64;
    /// Reads from byte `at`; the range lies inside the disk.
    ///
    /// # Errors
    /// The disk cannot.
    fn read(&mut self, at: u64, out: &mut [u8]) -> Result<(), Failed>;
    /// Writes from byte `at`; the range lies inside the disk.
    ///
    /// # Errors
    /// The disk cannot; a part may have been written.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Failed>;
}

/// The device.
pub struct Block<D> {
    disk: D,
    id: [u8; ID],
    /// Data on its way.
    buffer: Box<[u8; 4096]>,
    failures: u64,
}

impl<D: Disk> Block<D> {
    /// A device over a disk; the first 20 bytes of `name` identify it.
    pub fn new(disk: D, name: &str) -> Self {
        let mut id = [0; ID];
        id.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        Self { disk, id, buffer: Box::new([0; 4096]), failures: 0 }
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

    /// Carries a request out: how it ended, and how many bytes of data were written to the guest.
    fn request(&mut self, chain: &Chain, memory: &dyn Memory) -> Result<(Status, u64), Broken> {
        let mut header = [0; HEADER as usize];
        chain.read(memory, 0, &mut header)?;
        let word = u128::from_le_bytes(header);
        let (kind, sector) = (word as u32, (word >> 64) as u64);
        let room = chain.writable().checked_sub(1).ok_or(Broken::Short)?;
        match kind {
            READ => self.transfer(sector, room, |disk, at, done, bytes| {
                disk.read(at, bytes)?;
                Ok(chain.write(memory, done, bytes))
            }),
            WRITE => {
                let size = chain.readable() - HEADER;
                let written = self.transfer(sector, size, |disk, at, done, bytes| {
                    if let Err(broken) = chain.read(memory, HEADER + done, bytes) {
                        return Ok(Err(broken));
                    }
                    disk.write(at, bytes).map(Ok)
                });
                written.map(|(status, _)| (status, 0))
            }
            SYNC => Ok((Status::Ok, 0)),
            GET_ID if room >= ID as u64 => {
                chain.write(memory, 0, &self.id)?;
                Ok((Status::Ok, ID as u64))
            }
            _ => Ok((Status::Unsupported, 0)),
        }
    }

    /// Moves `size` bytes from `sector` on, a piece at a time.
    fn transfer(
        &mut self,
        sector: u64,
        size: u64,
        mut piece: impl FnMut(&mut D, u64, u64, &mut [u8]) -> Result<Result<(), Broken>, Failed>,
    ) -> Result<(Status, u64), Broken> {
        let end = sector.checked_add(size / SECTOR);
        let inside = end.is_some_and(|end| end <= self.disk.sectors());
        if !inside || !size.is_multiple_of(SECTOR) || size > LARGEST {
            return Ok((Status::Failed, 0));
        }
        let mut done = 0;
        while done < size {
            let count = (size - done).min(self.buffer.len() as u64) as usize;
            let bytes = self.buffer.get_mut(..count).unwrap_or_default();
            match piece(&mut self.disk, sector * SECTOR + done, done, bytes) {
                Ok(moved) => moved?,
                Err(Failed) => {
                    self.failures += 1;
                    return Ok((Status::Failed, done));
                }
            }
            done += count as u64;
        }
        Ok((Status::Ok, done))
    }
}

impl<D: Disk> Model for Block<D> {
    fn id(&self) -> u32 {
        2
    }

    fn features(&self) -> u64 {
        SIZE_MAX | SEG_MAX | FLUSH
    }

    fn queues(&self) -> usize {
        1
    }

    /// Capacity 8 bytes, largest buffer 4, most buffers 4 (virtio 5.2.4).
    fn config(&self, offset: u64) -> u8 {
        field(offset, 0, &self.disk.sectors().to_le_bytes())
            .or_else(|| field(offset, 8, &PIECE.to_le_bytes()))
            .or_else(|| field(offset, 12, &PIECES.to_le_bytes()))
            .unwrap_or(0)
    }

    fn serve(&mut self, queues: &mut [Queue], memory: &dyn Memory) -> Result<Served, Broken> {
        let Some(queue) = queues.first_mut() else { return Ok(Served::default()) };
        let (mut bytes, mut given) = (0, false);
        for _ in 0..CHAINS {
            if bytes >= BYTES {
                break;
            }
            let Some(chain) = queue.take(memory)? else { break };
            let (status, written) = self.request(&chain, memory)?;
            // The status is the last byte of the writable part (virtio 5.2.6).
            chain.write(memory, chain.writable() - 1, &[status as u8])?;
            queue.give(memory, &chain, (written + 1) as u32)?;
            bytes += chain.readable().min(LARGEST) + written;
            given = true;
        }
        let interrupt = given && queue.wants_interrupt(memory)?;
        Ok(Served { interrupt, more: queue.waiting(memory)? > 0 })
    }
}
