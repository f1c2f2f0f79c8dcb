//! Suspends the machine: brings all CPUs together, and lets them go on afterwards.
//!
//! Each CPU comes here from the top of its loop, so it is in the middle of nothing. Until all have come, each serves what
//! the others may wait for; from then on nobody waits for anybody, and power may go.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use crate::Cpu;

/// The suspension that is under way.
#[derive(Default)]
pub struct Sleep {
    /// The sleep types in bits 7:0 and 15:8, with [`ASKED`]; 0 for none.
    asked: AtomicU64,
    came: AtomicUsize,
    went: AtomicUsize,
    slept: AtomicBool,
}

const ASKED: u64 = 1 << 16;

/// Why the machine does not sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awake {
    /// It has no registers or no place for that.
    Unable,
    /// Somebody else has asked already.
    Busy,
    /// The registers were written, and nothing happened.
    Stayed,
}

/// The physical address at which firmware must wake the machine, if it can be suspended.
#[must_use]
pub fn waking_vector() -> Option<u64> {
    arch::waking_vector()
}

impl Sleep {
    /// Nobody has asked.
    pub const fn new() -> Self {
        Self {
            asked: AtomicU64::new(0),
            came: AtomicUsize::new(0),
            went: AtomicUsize::new(0),
            slept: AtomicBool::new(false),
        }
    }
}

impl Cpu {
    /// One step of suspending the machine. The cursor with which to go on, or `None` when it has slept and is awake.
    ///
    /// # Errors
    /// See [`Awake`].
    pub fn suspend(&mut self, types: [u8; 2], cursor: u64) -> Result<Option<u64>, Awake> {
        let sleep = &self.kernel.sleep;
        if cursor == 0 {
            arch::waking_vector().ok_or(Awake::Unable)?;
            let word = ASKED | u64::from(types[0]) | u64::from(types[1]) << 8;
            sleep.asked.compare_exchange(0, word, SeqCst, SeqCst).map_err(|_| Awake::Busy)?;
            let kernel = self.kernel;
            for (cpu, remote) in kernel.remotes.iter().enumerate().take(kernel.cpus) {
                if kernel.is_online(cpu as u64) {
                    remote.leave(|work| work.sleep = true);
                    self.tell(cpu);
                }
            }
            return Ok(Some(1));
        }
        // This CPU slept, too, on its way back here.
        if sleep.slept.load(SeqCst) { Ok(None) } else { Err(Awake::Stayed) }
    }

    /// Sleeps with all other CPUs.
    #[cold]
    #[inline(never)]
    pub(crate) fn sleep(&mut self) {
        let (kernel, sleep) = (self.kernel, &self.kernel.sleep);
        let cpus = (0..kernel.cpus as u64).filter(|cpu| kernel.is_online(*cpu)).count();
        sleep.came.fetch_add(1, SeqCst);
        while sleep.came.load(SeqCst) < cpus {
            self.serve_flush();
            arch::relax();
        }
        let asked = sleep.asked.load(SeqCst);
        let slept = arch::sleep([asked as u8, (asked >> 8) as u8]);
        sleep.slept.store(slept, SeqCst);
        // The last one makes room for the next time.
        if sleep.went.fetch_add(1, SeqCst) + 1 == cpus {
            sleep.came.store(0, SeqCst);
            sleep.went.store(0, SeqCst);
            sleep.asked.store(0, SeqCst);
        }
        // The timer is not armed any more, and interrupts were lost: look at everything.
        self.on_timer();
    }
}
