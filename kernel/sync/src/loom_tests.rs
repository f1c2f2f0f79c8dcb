//! Models of what CPUs race for: every order of their steps is tried, with the weak orders that the code asks for.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p sync --release loom`. Each model watches data that only the protocol
//! protects; loom fails when two threads touch it at once or without a happens-before.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use loom::thread;

use crate::bell::{Bell, Busy};
use crate::count::Count;
use crate::epoch::Epochs;
use crate::raw_lock::RawLock;

/// Data without protection of its own.
struct Bare<T>(UnsafeCell<T>);

// SAFETY: the models' subject is that access is exclusive; loom checks every access.
unsafe impl<T: Send> Sync for Bare<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Bare<T> {}

impl<T: Copy> Bare<T> {
    fn new(value: T) -> Self {
        Bare(UnsafeCell::new(value))
    }

    fn read(&self) -> T {
        // SAFETY: loom stops the model where this races.
        self.0.with(|value| unsafe { *value })
    }

    fn write(&self, value: T) {
        // SAFETY: as `read`.
        self.0.with_mut(|place| unsafe { *place = value });
    }
}

#[test]
fn loom_lock_excludes() {
    loom::model(|| {
        let shared = Arc::new((RawLock::new(), Bare::new(0)));
        let work = |shared: Arc<(RawLock, Bare<u32>)>| {
            let (lock, value) = &*shared;
            lock.lock();
            value.write(value.read() + 1);
            lock.unlock();
        };
        let other = shared.clone();
        let thread = thread::spawn(move || work(other));
        work(shared.clone());
        thread.join().unwrap();
        let (lock, value) = &*shared;
        assert!(lock.try_lock());
        assert_eq!(value.read(), 2);
    });
}

/// The value behind a count, and what the last owner does with it.
struct Counted {
    count: Count,
    value: Bare<u32>,
    ends: AtomicUsize,
}

impl Counted {
    fn end(&self) {
        if self.count.end() {
            // As `Rcu::bury` and the free after it: nobody else may use the value any more.
            self.value.write(0);
            self.ends.fetch_add(1, Relaxed);
        }
    }
}

fn counted() -> Arc<Counted> {
    let one = Counted { count: Count::new(), value: Bare::new(7), ends: AtomicUsize::new(0) };
    one.count.begin();
    Arc::new(one)
}

#[test]
fn loom_count_ends_once_and_last() {
    loom::model(|| {
        let one = counted();
        let threads: [_; 2] = core::array::from_fn(|_| {
            let one = one.clone();
            one.count.again();
            thread::spawn(move || {
                assert_eq!(one.value.read(), 7);
                one.end();
            })
        });
        one.end();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(one.ends.load(Relaxed), 1);
    });
}

#[test]
fn loom_a_borrower_cannot_revive() {
    loom::model(|| {
        let one = counted();
        let borrower = one.clone();
        let thread = thread::spawn(move || {
            if borrower.count.hold() {
                assert_eq!(borrower.value.read(), 7);
                borrower.end();
            }
        });
        one.end();
        thread.join().unwrap();
        assert_eq!(one.ends.load(Relaxed), 1, "it ends once, whoever comes late");
    });
}

/// A slot that names an object, the object, and the epochs that keep it.
struct World {
    epochs: Epochs,
    slot: AtomicUsize,
    object: Bare<u32>,
}

impl World {
    fn new() -> Arc<Self> {
        let (slot, object) = (AtomicUsize::new(1), Bare::new(7));
        Arc::new(World { epochs: Epochs::new(), slot, object })
    }

    /// Finds the object in the slot and uses it, as a lookup under a token does.
    fn look(&self) {
        if self.slot.load(Acquire) != 0 {
            assert_eq!(self.object.read(), 7);
        }
    }

    /// Takes the object out of the slot and, a few looks later at most, reuses its memory if the grace period ended.
    fn remove(&self, looks: usize) {
        self.slot.store(0, Release);
        let target = self.epochs.begin();
        for _ in 0..looks {
            if self.epochs.has_passed(target) {
                self.object.write(0);
                return;
            }
            thread::yield_now();
        }
    }
}

#[test]
fn loom_rcu_waits_for_a_quiescent_state() {
    loom::model(|| {
        let world = World::new();
        let mut token = world.epochs.join(0).unwrap();
        let other = world.clone();
        let thread = thread::spawn(move || other.remove(2));
        world.look();
        world.epochs.quiesce(&mut token);
        world.look();
        world.epochs.quiesce(&mut token);
        thread.join().unwrap();
    });
}

#[test]
fn loom_rcu_finds_who_comes_back_from_idle() {
    loom::model(|| {
        let world = World::new();
        let other = world.clone();
        let thread = thread::spawn(move || other.remove(2));
        // For the first time, which makes the CPU known, and again after it was idle.
        for _ in 0..2 {
            let token = world.epochs.join(1).unwrap();
            world.look();
            world.epochs.leave(token);
        }
        thread.join().unwrap();
    });
}

#[test]
fn loom_rcu_finds_who_comes_back_from_a_pause() {
    loom::model(|| {
        let world = World::new();
        let mut token = world.epochs.join(0).unwrap();
        let other = world.clone();
        let thread = thread::spawn(move || other.remove(2));
        world.look();
        // As the loop does where nobody is ready: away until an interrupt, then back with the same token.
        world.epochs.away(&mut token, thread::yield_now);
        world.look();
        world.epochs.quiesce(&mut token);
        world.look();
        thread.join().unwrap();
    });
}

/// A CPU that is away keeps nobody waiting, and one that was passed while away is waited for once it is back.
#[test]
fn loom_rcu_does_not_wait_for_who_is_away() {
    loom::model(|| {
        let epochs = Arc::new(Epochs::new());
        let mut token = epochs.join(0).unwrap();
        let other = epochs.clone();
        let passed = epochs.away(&mut token, || {
            let thread = thread::spawn(move || {
                let target = other.begin();
                other.has_passed(target)
            });
            thread.join().unwrap()
        });
        assert!(passed);
        let target = epochs.begin();
        assert!(!epochs.has_passed(target));
        epochs.quiesce(&mut token);
        assert!(epochs.has_passed(target));
    });
}

/// A model of three threads, with at most so many switches away from one that could go on: all orders of them are too
/// many to try.
const SWITCHES: usize = 3;

fn three(model: impl Fn() + Sync + Send + 'static) {
    let mut all = loom::model::Builder::new();
    all.preemption_bound = Some(SWITCHES);
    all.check(model);
}

/// What waits, as a bit for each that was added, and whether anybody knows: `Rcu::bury` and `Rcu::collect`.
struct Graves {
    pending: AtomicUsize,
    busy: Busy,
}

impl Graves {
    fn bury(&self, one: usize) {
        let mut head = self.pending.load(Relaxed);
        while let Err(now) = self.pending.compare_exchange_weak(head, head | one, Release, Relaxed)
        {
            head = now;
        }
        self.busy.note();
    }

    /// Takes what waits, and marks the place empty when nothing does.
    fn collect(&self) {
        if self.pending.swap(0, AcqRel) == 0 {
            self.busy.rest(|| self.pending.load(Acquire) == 0);
        }
    }
}

#[test]
fn loom_what_is_buried_is_never_forgotten() {
    three(|| {
        let graves = Arc::new(Graves { pending: AtomicUsize::new(0), busy: Busy::new() });
        let threads: [_; 2] = core::array::from_fn(|number| {
            let graves = graves.clone();
            thread::spawn(move || graves.bury(1 << number))
        });
        // One batch, and the look that finds no other.
        graves.collect();
        graves.collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let waits = graves.pending.load(Acquire) != 0;
        assert!(!waits || graves.busy.word() != 0, "something waits and nobody would look");
    });
}

/// A CPU's bell and what others left: `Remote::leave`, `Remote::take_left`.
struct Door {
    bell: Bell,
    lock: RawLock,
    work: Bare<usize>,
}

impl Door {
    fn leave(&self) {
        self.lock.lock();
        self.work.write(self.work.read() + 1);
        self.lock.unlock();
        self.bell.leave();
    }

    /// What the loop does when it sees the bell; how much was taken.
    fn care(&self) -> usize {
        if self.bell.work() == 0 {
            return 0;
        }
        self.bell.begin_care();
        if !self.bell.take_left() {
            return 0;
        }
        self.lock.lock();
        let taken = self.work.read();
        self.work.write(0);
        self.lock.unlock();
        taken
    }
}

#[test]
fn loom_what_is_left_for_a_cpu_is_taken() {
    three(|| {
        let door = Door { bell: Bell::new(), lock: RawLock::new(), work: Bare::new(0) };
        let door = Arc::new(door);
        let threads: [_; 2] = core::array::from_fn(|_| {
            let door = door.clone();
            thread::spawn(move || door.leave())
        });
        // A note of the CPU's own in between must not cover what others leave.
        door.bell.note();
        let mut taken = door.care() + door.care();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // The interrupts that follow each `leave` make the CPU look again.
        taken += door.care();
        assert_eq!(taken, 2, "work was left and the bell was silent");
    });
}
