//! The ring: calls on every CPU and semaphores between them, without a pause.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::portal::Servant;
use rt::sync::{Semaphore, after_us};
use rt::{Mtd, Selector, Status, Utcb, calls, thread};

/// Above the guest and the first thread.
const PRIORITY: u8 = 30;
/// How long the token may stay away, in microseconds.
const LOST_US: u64 = 20_000_000;
/// How long it rests after each round.
const REST_US: u64 = 200;

/// What one CPU has of it.
struct Station {
    /// Up when the token comes.
    token: Semaphore,
    /// Messages that the servant answered.
    served: AtomicU64,
}

/// All stations, and what they tell.
pub struct Ring {
    stations: Vec<Station>,
    /// The token shall rest before the next round.
    hold: AtomicBool,
    /// It does.
    held: AtomicBool,
    /// A call failed, or was answered wrongly.
    broken: AtomicBool,
    /// The token stayed away.
    lost: AtomicBool,
}

/// Starts the ring.
///
/// # Errors
/// What the kernel refuses.
pub fn start(cpus: &[u16]) -> Result<Arc<Ring>, Status> {
    let station = |_| Ok(Station { token: Semaphore::new(0)?, served: AtomicU64::new(0) });
    let stations = cpus.iter().map(station).collect::<Result<_, Status>>()?;
    let ring = Arc::new(Ring {
        stations,
        hold: AtomicBool::new(false),
        held: AtomicBool::new(false),
        broken: AtomicBool::new(false),
        lost: AtomicBool::new(false),
    });
    for (index, cpu) in cpus.iter().enumerate() {
        let served = Arc::clone(&ring);
        let answer = move |_, utcb: &mut Utcb| served.answer(index, utcb);
        let portal = Servant::new(*cpu, Box::new(answer))?.new_portal(Mtd::NONE, 0)?;
        let passed = Arc::clone(&ring);
        thread::spawn(*cpu, PRIORITY, move || passed.pass(index, portal))?;
    }
    ring.stations.first().map_or(Ok(()), |first| first.token.up())?;
    Ok(ring)
}

impl Ring {
    /// Rounds that are over.
    pub fn rounds(&self) -> u64 {
        self.stations.last().map_or(0, |last| last.served.load(Ordering::Acquire))
    }

    /// Stops the token for a moment: every station must have served as often.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self) -> Result<(), String> {
        self.hold.store(true, Ordering::Release);
        let held = crate::eventually("the token", || self.held.load(Ordering::Acquire));
        held.map_err(|why| format!("{why}; lost: {}", self.lost.load(Ordering::Acquire)))?;
        let counts: Vec<u64> =
            self.stations.iter().map(|station| station.served.load(Ordering::Acquire)).collect();
        self.hold.store(false, Ordering::Release);
        crate::eventually("the token", || !self.held.load(Ordering::Acquire))?;
        if counts.iter().any(|count| Some(count) != counts.first()) {
            return Err(format!("stations of the ring served {counts:?}"));
        }
        for (what, flag) in [("a call failed", &self.broken), ("the token was lost", &self.lost)] {
            if flag.load(Ordering::Acquire) {
                return Err(format!("ring: {what}"));
            }
        }
        Ok(())
    }

    /// A servant: the message must have the number that is expected.
    fn answer(&self, index: usize, utcb: &mut Utcb) {
        let Some(station) = self.stations.get(index) else { return };
        let expected = station.served.fetch_add(1, Ordering::AcqRel);
        if utcb.words() != 1 || utcb.word(0) != expected {
            self.broken.store(true, Ordering::Release);
        }
        utcb.set_message(&[expected + 1]);
    }

    /// A thread: takes the token, calls, passes it on; for ever.
    fn pass(&self, index: usize, portal: Selector) {
        let Some(station) = self.stations.get(index) else { return };
        let next = self.stations.get(index + 1).or(self.stations.first());
        loop {
            if station.token.down_until(after_us(LOST_US)) == Err(Status::Timeout) {
                self.lost.store(true, Ordering::Release);
                continue;
            }
            if index == 0 {
                self.rest();
            }
            self.call(station, portal);
            let _ = next.map(|next| next.token.up());
        }
    }

    /// The token lies here for a moment, and as long as it is held.
    fn rest(&self) {
        rt::sync::sleep_us(REST_US);
        while self.hold.load(Ordering::Acquire) {
            self.held.store(true, Ordering::Release);
            rt::sync::sleep_us(REST_US);
        }
        self.held.store(false, Ordering::Release);
    }

    fn call(&self, station: &Station, portal: Selector) {
        let number = station.served.load(Ordering::Acquire);
        let Some(mut utcb) = Utcb::current() else { return };
        utcb.set_message(&[number]);
        let called = calls::call(portal);
        if called.is_err() || utcb.words() != 1 || utcb.word(0) != number + 1 {
            self.broken.store(true, Ordering::Release);
        }
    }
}
