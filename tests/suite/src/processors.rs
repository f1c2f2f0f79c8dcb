//! More than one processor.

use crate::world::{NOTHING, PD, World};
use abi::TypedItem;
use abi::cap::{MEM_RW, RECALL};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::instructions::{pause, rdtsc};
use rt::portal::Servant;
use rt::sync::{after_us, sleep_us};
use rt::{Crd, Mtd, Status, calls, probe, thread};

/// Ends the threads on the other processor.
static END: AtomicBool = AtomicBool::new(false);
/// What the other processor counted or saw.
static SEEN: AtomicU64 = AtomicU64::new(0);
/// TSC of the other processor.
static CLOCK: AtomicU64 = AtomicU64::new(0);

/// The family.
pub fn run(world: &mut World) {
    let here = world.boot.cpu;
    let Some(there) = world.boot.hip.cpus().map(|cpu| cpu.number).find(|cpu| *cpu != here) else {
        world.tally.skip("all", "one processor");
        return;
    };
    waking(world, there);
    calling(world, there);
    recalling(world, there);
    mappings(world, there);
}

/// Waits until a condition holds, for at most half a second.
fn eventually(condition: impl Fn() -> bool) -> bool {
    let end = after_us(500_000);
    while rdtsc() < end {
        if condition() {
            return true;
        }
        pause();
    }
    false
}

fn waking(world: &mut World, there: u16) {
    let (go, done) = (world.semaphore(), world.semaphore());
    let made = thread::spawn(there, 1, move || {
        CLOCK.store(rdtsc(), Ordering::Relaxed);
        let _ = calls::sm_down(go, 0);
        let _ = calls::sm_up(done);
    });
    let tally = &mut world.tally;
    tally.holds("thread on another cpu", made.is_ok());
    tally.holds("it runs", eventually(|| CLOCK.load(Ordering::Relaxed) != 0));
    let clock = CLOCK.load(Ordering::Relaxed);
    let now = rdtsc();
    let second = 1000 * u64::from(world.boot.hip.tsc_khz());
    let tally = &mut world.tally;
    tally.holds("clocks agree", clock < now + second / 100 && now < clock + second);
    let _ = calls::sm_up(go);
    tally.equal("semaphores reach across", calls::sm_down(done, after_us(500_000)), Ok(()));
}

fn calling(world: &mut World, there: u16) {
    let portal = Servant::new(there, Box::new(|_, _| ()))
        .and_then(|servant| servant.new_portal(Mtd::NONE, 0))
        .unwrap_or(NOTHING);
    let tally = &mut world.tally;
    tally.equal("call to another cpu", calls::call(portal), Err(Status::BadCpu));
    SEEN.store(9, Ordering::Relaxed);
    let made = thread::spawn(there, 1, move || {
        SEEN.store(u64::from(calls::call(portal).is_err()), Ordering::Relaxed);
    });
    tally
        .holds("call from there", made.is_ok() && eventually(|| SEEN.load(Ordering::Relaxed) == 0));
}

fn recalling(world: &mut World, there: u16) {
    SEEN.store(0, Ordering::Relaxed);
    END.store(false, Ordering::Relaxed);
    let note = Servant::new(
        there,
        Box::new(|_, utcb| {
            SEEN.fetch_add(1, Ordering::Relaxed);
            utcb.set_mtd(Mtd::NONE);
        }),
    );
    let base = thread::events(there).map_or(NOTHING, u64::from);
    let made = note.and_then(|note| note.portal(base + RECALL, Mtd::RIP_LEN, RECALL));
    let spinner = thread::spawn(there, 1, || {
        while !END.load(Ordering::Relaxed) {
            pause();
        }
        SEEN.fetch_add(100, Ordering::Relaxed);
    });
    sleep_us(20_000);
    let recalled = spinner.and_then(|spinner| calls::recall(spinner.ec));
    let tally = &mut world.tally;
    tally.equal("recall of a thread there", (made, recalled), (Ok(()), Ok(())));
    tally.holds("it reports", eventually(|| SEEN.load(Ordering::Relaxed) == 1));
    END.store(true, Ordering::Relaxed);
    tally.holds("and goes on", eventually(|| SEEN.load(Ordering::Relaxed) == 101));
}

fn mappings(world: &mut World, there: u16) {
    let pages = [world.page(), world.page()];
    let Ok(target) = rt::memory::reserve_page() else { return };
    for (value, page) in (1u64..).zip(pages) {
        let _ = probe::write(page, value);
    }
    let map = |page: u64| {
        let item = TypedItem::delegate(Crd::memory(page >> abi::PAGE_BITS, 0, MEM_RW), 0);
        let _ = calls::delegate(PD, PD, item, Crd::memory(target >> abi::PAGE_BITS, 0, 0x1f));
    };
    map(pages[0]);
    END.store(false, Ordering::Relaxed);
    SEEN.store(0, Ordering::Relaxed);
    CLOCK.store(0, Ordering::Relaxed);
    let _ = thread::spawn(there, 1, move || {
        while !END.load(Ordering::Acquire) {
            SEEN.store(probe::read(target).unwrap_or(99), Ordering::Relaxed);
        }
        // The change was complete before END was set.
        SEEN.store(probe::read(target).unwrap_or(99), Ordering::Relaxed);
        CLOCK.store(1, Ordering::Release);
    });
    let tally = &mut world.tally;
    tally.holds("the other cpu reads", eventually(|| SEEN.load(Ordering::Relaxed) == 1));
    map(pages[1]);
    END.store(true, Ordering::Release);
    tally.holds("it ends", eventually(|| CLOCK.load(Ordering::Acquire) == 1));
    tally.equal("with the new page", SEEN.load(Ordering::Relaxed), 2);
}
