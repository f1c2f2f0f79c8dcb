//! Microcode on its way to every processor (Intel SDM vol. 3, 10.11.6).
//!
//! A processor reads an update through the kernel's own addresses and in one piece; the caller names physical memory,
//! which the kernel does not map. So it is copied into frames of the caller's account first, a little in each step, and
//! then each CPU writes the trigger. What the processors think of it nobody learns here: their revision tells.

use core::num::NonZeroU64;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use logic::Oom;
use logic::addr::{Frame, PAGE_SIZE, frames_touched, order_for};
use sync::{Counted, Site, SpinLock};

use crate::{Cpu, Ec, OwnedFrames, machine};

/// Bytes before the data; the trigger takes the address behind them.
const HEADER: u64 = 48;
/// IA32_BIOS_UPDT_TRIG.
const TRIGGER: u32 = 0x79;
/// Pages copied in one step.
const PAGES: u64 = 2;

/// The update that is being loaded: one at a time.
pub struct Microcode {
    loading: SpinLock<Option<Loading>>,
    /// CPUs that have not written the trigger yet.
    waits: AtomicUsize,
}

struct Loading {
    by: Counted<Ec>,
    frames: OwnedFrames,
}

/// Why no update is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No memory for the copy.
    Memory,
    /// Another thread is loading one.
    Busy,
}

impl Default for Microcode {
    fn default() -> Self {
        Self::new()
    }
}

impl Microcode {
    /// None is being loaded.
    pub const fn new() -> Self {
        Self { loading: SpinLock::new(None), waits: AtomicUsize::new(0) }
    }
}

impl Cpu {
    /// One step of loading the update of `size` bytes, header included, at `physical` on every CPU. The cursor with
    /// which to go on, or `None` when all have written the trigger. An update that cannot be one is never tried.
    pub fn load_microcode(
        &mut self,
        physical: u64,
        size: u64,
        cursor: u64,
    ) -> Result<Option<u64>, Refused> {
        let bytes = physical..physical.saturating_add(size);
        let frames = frames_touched(&bytes);
        let pages = frames.end.saturating_sub(frames.start);
        if size <= HEADER || !machine::has_physical(frames.end) {
            return Ok(None);
        }
        match cursor {
            0 => self.take_room(pages).map(|()| Some(1)),
            at if at <= pages => {
                let end = (at + PAGES).min(pages + 1);
                (at..end).for_each(|page| self.copy_page(frames.start, page - 1));
                Ok(Some(end))
            }
            at if at == pages + 1 => {
                self.tell_all(physical % PAGE_SIZE + HEADER);
                Ok(Some(at + 1))
            }
            at if self.kernel.microcode.waits.load(SeqCst) != 0 => Ok(Some(at)),
            _ => {
                let done = self.kernel.microcode.loading.lock().take();
                drop(done);
                Ok(None)
            }
        }
    }

    fn take_room(&mut self, pages: u64) -> Result<(), Refused> {
        let Some(by) = self.current.clone() else { return Err(Refused::Busy) };
        let microcode = &self.kernel.microcode;
        let room = |_: Oom| Refused::Memory;
        let (pool, order) = (self.kernel.pool, order_for(pages));
        let frames =
            OwnedFrames::unscrubbed(pool, &by.pd.account, order, Site::KernelPage).map_err(room)?;
        let mut loading = microcode.loading.lock();
        // Who died over it left its frames behind; a CPU may still read them.
        let is_free = loading.as_ref().is_none_or(|other| other.by.is_dead());
        if !is_free || microcode.waits.load(SeqCst) != 0 {
            return Err(Refused::Busy);
        }
        let before = loading.replace(Loading { by, frames });
        drop(loading);
        drop(before);
        Ok(())
    }

    fn copy_page(&self, first: u64, page: u64) {
        let loading = self.kernel.microcode.loading.lock();
        let Some(Loading { frames, .. }) = &*loading else { return };
        let to = frames.page_at(page);
        machine::with_physical(Frame(first + page), &mut |from| to.copy_words(from, 0, 512));
    }

    /// Every CPU is to write the trigger, this one too. The data begins `offset` bytes into the copy.
    fn tell_all(&self, offset: u64) {
        let kernel = self.kernel;
        let address = match &*kernel.microcode.loading.lock() {
            Some(Loading { frames, .. }) => kernel.pool.virtual_address(frames.frame()) + offset,
            None => return,
        };
        kernel.microcode.waits.store(kernel.cpus, SeqCst);
        for (cpu, remote) in kernel.remotes.iter().enumerate().take(kernel.cpus) {
            remote.leave(|work| work.microcode = NonZeroU64::new(address));
            self.tell(cpu);
        }
    }

    /// Does what `tell_all` of some CPU asked.
    #[cold]
    pub(crate) fn trigger_microcode(&self, address: NonZeroU64) {
        // A processor that knows no such register, or does not like what it finds, goes on as it is.
        machine::write_msr(TRIGGER, address.get());
        self.kernel.microcode.waits.fetch_sub(1, SeqCst);
    }
}
