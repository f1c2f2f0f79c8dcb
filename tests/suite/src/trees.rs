//! Domain trees with objects of all kinds are built and torn down many times: every frame comes back, also while another
//! processor never enters the kernel by itself.

use crate::vcpu::{ended, spinning};
use crate::world::{PD, World, thread_args};
use abi::args::{CreateEc, CreatePt, CreateSc, CreateVcpu};
use abi::crd::ItemMeta;
use abi::hip::{FLAG_SVM, FLAG_VMX};
use abi::{Call, PAGE_BITS, TypedItem};
use core::sync::atomic::{AtomicBool, Ordering};
use rt::instructions::pause;
use rt::sync::sleep_us;
use rt::{Crd, Mtd, Selector, Status, calls, selectors, thread};

/// Rounds, and rounds when a second boot module asks for the long form.
const ROUNDS: [u32; 2] = [5, 1000];
/// Naps of 200 us for which a round's frames may take to come back.
const NAPS: u32 = 100;
/// log2 of the selectors of one tree.
const ORDER: u8 = 5;
/// Where a tree's pages are seen in its domains.
const PLACE: u64 = 0x5000_0000;

/// Ends the thread that spins.
static END: AtomicBool = AtomicBool::new(false);

/// The family. It reads what only this kernel tells.
pub fn run(world: &mut World) {
    if world.boot.hip.ours().is_none() {
        return;
    }
    let here = world.boot.cpu;
    let there = world.boot.hip.cpus().map(|cpu| cpu.number).find(|cpu| *cpu != here);
    many(world, "alone", here);
    let Some(there) = there else {
        world.tally.skip("beside others", "one processor");
        return;
    };
    many(world, "with parts on another cpu", there);
    if rounds(world) == ROUNDS[0] {
        world.tally.skip("beside others that spin", "the short form");
        return;
    }
    END.store(false, Ordering::Relaxed);
    let spinner = thread::spawn(there, 1, || {
        while !END.load(Ordering::Relaxed) {
            pause();
        }
    });
    sleep_us(20_000);
    world.tally.holds("a thread spins there", spinner.is_ok());
    many(world, "beside a spinning thread", here);
    END.store(true, Ordering::Relaxed);
    sleep_us(20_000);
    if !has_guests(world) {
        world.tally.skip("beside a guest", "no virtualization");
        return;
    }
    let guest = spinning(there);
    world.tally.holds("a guest spins there", guest.is_ok());
    many(world, "beside a spinning guest", here);
    let stopped = guest.and_then(calls::poke_vcpu);
    world.tally.equal("the guest stops", (stopped, ended().is_some()), (Ok(()), true));
}

/// How many trees each time.
fn rounds(world: &World) -> u32 {
    ROUNDS[usize::from(world.boot.hip.modules().count() > 1)]
}

/// Whether this machine runs guests.
fn has_guests(world: &World) -> bool {
    world.boot.hip.flags() & (FLAG_VMX | FLAG_SVM) != 0
}

/// Builds and tears down many trees with parts on processor `cpu`.
fn many(world: &mut World, name: &str, cpu: u16) {
    let rounds = rounds(world);
    // Two first: tables of our own that later ones use again, and the slabs' places.
    let mut result = round(world, cpu).and_then(|()| round(world, cpu));
    let first = settled();
    let mut late = 0;
    for _ in 0..rounds {
        result = result.and_then(|()| round(world, cpu));
        late += u32::from(!comes_back(first));
        if late > 1 {
            break;
        }
    }
    rt::println!("suite: {rounds} trees {name}: {first:?} frames free before, {:?} after", free());
    world.tally.equal(name, (result, late, free()), (Ok(()), 0, first));
}

/// Frames that are free once the number stands still.
fn settled() -> Result<u64, Status> {
    let (mut last, mut same) = (free(), 0);
    for _ in 0..10 * NAPS {
        sleep_us(200);
        let now = free();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == NAPS / 2 {
            break;
        }
    }
    last
}

/// Waits until so many frames are free.
fn comes_back(frames: Result<u64, Status>) -> bool {
    (0..NAPS).any(|_| {
        let is_back = free() == frames;
        if !is_back {
            sleep_us(200);
        }
        is_back
    })
}

/// Frames of kernel memory that are free.
fn free() -> Result<u64, Status> {
    calls::invoke([Call::QuotaRead.word(0, PD), 0, 0, 0, 0]).map(|out| out.rax)
}

/// One tree.
fn round(world: &World, cpu: u16) -> Result<(), Status> {
    let base = selectors::allocate_block(ORDER);
    let built = build(world, base, cpu);
    calls::revoke(Crd::objects(base, ORDER, 0x1f))?;
    selectors::free_block(base, ORDER);
    built
}

/// A domain, its child, and in both of them one object of each kind, some in use.
fn build(world: &World, base: Selector, cpu: u16) -> Result<(), Status> {
    calls::create_pd(base, PD, Crd::NULL)?;
    calls::create_pd(base + 1, base, Crd::objects(base, 1, 0x1f))?;
    for (number, pd) in [base, base + 1].into_iter().enumerate() {
        let at = base + 2 + 14 * number as u64;
        let args = CreateEc { pd, utcb: PLACE, ..thread_args(at, cpu) };
        calls::create_ec(&CreateEc { global: false, ..args })?;
        let pt = CreatePt { sel: at + 1, owner: pd, ec: at, mtd: Mtd::NONE, entry: 0 };
        calls::create_pt(&pt)?;
        calls::create_ec(&CreateEc { sel: at + 2, utcb: PLACE + 4096, ..args })?;
        let sc = CreateSc { sel: at + 3, owner: pd, ec: at + 2, priority: 1, quantum_us: 1000 };
        calls::create_sc(&sc)?;
        calls::create_sm(at + 4, pd, 0)?;
        for kp in [at + 5, at + 6, at + 7] {
            calls::create_kp(kp, pd)?;
        }
        calls::map_kp(at + 5, pd, PLACE + 2 * 4096)?;
        memory(world, pd)?;
        let all = TypedItem::delegate(Crd::objects(base, ORDER, 0x1f), 0);
        calls::delegate(PD, pd, all, Crd::objects(0x400, ORDER, 0x1f))?;
        if has_guests(world) {
            let (state, vlapic, fpu) = (at + 5, at + 6, at + 7);
            let sel = 0x800;
            calls::create_vcpu(&CreateVcpu { sel, cpu, parent: pd, state, vlapic, fpu })?;
        }
    }
    Ok(())
}

/// Memory and ports of ours for a domain and its guests.
fn memory(world: &World, pd: Selector) -> Result<(), Status> {
    let meta = ItemMeta::DELEGATE | ItemMeta::GUEST;
    let first = (world.heap.0 >> PAGE_BITS) & !0xff;
    let pages = TypedItem { crd: Crd::memory(first, 8, 7), meta };
    calls::delegate(PD, pd, pages, Crd::memory(0x10_0000, 8, 7))?;
    let ports = TypedItem { crd: Crd::ports(0x80, 0, 1), meta };
    calls::delegate(PD, pd, ports, Crd::ports(0x80, 0, 1))?;
    Ok(())
}
