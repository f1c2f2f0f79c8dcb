//! The alarms: time-outs that are set before the machine sleeps.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use rt::instructions::rdtsc;
use rt::sync::{Semaphore, after_us};
use rt::{Status, thread};

/// Above the ring.
const PRIORITY: u8 = 40;
/// When the two of a CPU expire, in microseconds from the setting: long enough that the machine sleeps before.
const AFTER_US: [u64; 2] = [200_000, 350_000];

/// One thread with a time-out.
struct Alarm {
    /// Up when it shall wait.
    set: Semaphore,
    /// Nobody raises it.
    never: Semaphore,
    /// The TSC value that is waited for.
    deadline: AtomicU64,
    /// The number of the latest setting that has expired.
    expired: AtomicU32,
    /// How often it did not end as a time-out, or ended too early.
    wrong: AtomicU32,
}

/// All of them, the two of a CPU beside each other.
pub struct Alarms(Vec<Arc<Alarm>>);

/// Starts the threads.
///
/// # Errors
/// What the kernel refuses.
pub fn start(cpus: &[u16]) -> Result<Alarms, Status> {
    let mut alarms = Vec::new();
    for cpu in cpus.iter().flat_map(|cpu| AFTER_US.map(|_| *cpu)) {
        let alarm = Arc::new(Alarm {
            set: Semaphore::new(0)?,
            never: Semaphore::new(0)?,
            deadline: AtomicU64::new(0),
            expired: AtomicU32::new(0),
            wrong: AtomicU32::new(0),
        });
        let shared = Arc::clone(&alarm);
        thread::spawn(cpu, PRIORITY, move || shared.wait())?;
        alarms.push(alarm);
    }
    Ok(Alarms(alarms))
}

impl Alarms {
    /// Sets all of them for the `cycle`th time.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn set(&self, cycle: u32) -> Result<(), String> {
        for (index, alarm) in self.0.iter().enumerate() {
            let after = AFTER_US.get(index % AFTER_US.len()).copied().unwrap_or_default();
            alarm.deadline.store(after_us(after), Ordering::Release);
            let up = alarm.set.up();
            up.map_err(|status| format!("alarm {index} in cycle {cycle}: {status}"))?;
        }
        Ok(())
    }

    /// Whether all have expired for the `cycle`th time.
    pub fn expired(&self, cycle: u32) -> bool {
        self.0.iter().all(|alarm| alarm.expired.load(Ordering::Acquire) > cycle)
    }

    /// What went wrong.
    ///
    /// # Errors
    /// An alarm that was early, or did not end by time.
    pub fn judge(&self) -> Result<(), String> {
        let wrong: u32 = self.0.iter().map(|alarm| alarm.wrong.load(Ordering::Acquire)).sum();
        if wrong == 0 { Ok(()) } else { Err(format!("{wrong} alarms were early or no time-outs")) }
    }
}

impl Alarm {
    fn wait(&self) {
        while self.set.down().is_ok() {
            let deadline = self.deadline.load(Ordering::Acquire);
            let ended = self.never.down_until(deadline);
            if ended != Err(Status::Timeout) || rdtsc() < deadline {
                self.wrong.fetch_add(1, Ordering::AcqRel);
            }
            self.expired.fetch_add(1, Ordering::AcqRel);
        }
    }
}
