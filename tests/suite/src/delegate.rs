//! Memory from the kernel and between domains.

use crate::world::{EC, NOTHING, PD, World};
use abi::cap::{MEM_R, MEM_RW, MEM_RWX, MEM_X, USER_TOP};
use abi::crd::ItemMeta;
use abi::hip::MemoryKind;
use abi::{PAGE_BITS, TypedItem};
use rt::memory::{Window, free_ram, map_physical, reserve};
use rt::probe::{execute, read, write};
use rt::{Crd, Status, calls, selectors};

use crate::world::Answer;

/// The family.
pub fn run(world: &mut World) {
    refusals(world);
    kernel_memory(world);
    holes(world);
    copies(world);
    arithmetic(world);
}

/// A page-sized delegation inside the suite.
fn copy(from: u64, to: u64, rights: u8) -> Result<Crd, Status> {
    let item = TypedItem::delegate(Crd::memory(from >> PAGE_BITS, 0, rights), 0);
    calls::delegate(PD, PD, item, Crd::memory(to >> PAGE_BITS, 0, 0x1f)).map(|item| item.crd)
}

fn refusals(world: &mut World) {
    let tally = &mut world.tally;
    let item = TypedItem::delegate(Crd::NULL, 0);
    let send = |from, to| calls::delegate(from, to, item, Crd::NULL).map(|item| item.crd);
    tally.equal("source is nothing", send(NOTHING, PD), Err(Status::BadCap));
    tally.equal("destination is nothing", send(PD, NOTHING), Err(Status::BadCap));
    tally.equal("source is a thread", send(EC, PD), Err(Status::BadCap));
    tally.equal("null item", send(PD, PD), Ok(Crd::NULL));
    let far = TypedItem {
        crd: Crd::memory(1 << 51, 0, MEM_RW),
        meta: ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL,
    };
    let window = Crd::memory(0x10_0000, 0, 0x1f);
    let got = calls::delegate(PD, PD, far, window);
    tally.equal("memory that no machine has", got, Err(Status::BadPar));
    let high = Crd::memory(USER_TOP >> PAGE_BITS, 0, 0x1f);
    let page = TypedItem::delegate(Crd::memory(0x400, 0, MEM_R), 0);
    let got = calls::delegate(PD, PD, page, high).map(|item| item.crd);
    tally.ours("destination above user memory", got, Err(Status::BadPar));
    let source = TypedItem::delegate(high, 0);
    let got = calls::delegate(PD, PD, source, Crd::memory(0x10_0000, 0, 0x1f)).map(|i| i.crd);
    tally.ours("source above user memory", got, Err(Status::BadPar));
    let invalid = TypedItem { crd: Crd::objects(PD, 0, 0x1f), meta: ItemMeta(3) };
    let window = Crd::objects(selectors::allocate(), 0, 0x1f);
    let got = calls::delegate(PD, PD, invalid, window).map(|item| item.crd);
    tally.equal("item without a kind", got, Ok(Crd::NULL));
    let kinds = TypedItem::delegate(Crd::objects(PD, 0, 0x1f), 0);
    let got = calls::delegate(PD, PD, kinds, Crd::ALL_PORTS).map(|item| item.crd);
    tally.equal("kinds that differ", got, Ok(Crd::NULL));
}

fn kernel_memory(world: &mut World) {
    let Some(frame) = free_ram(&world.boot.hip, 4 << 20, 4 << 20) else {
        world.tally.skip("kernel memory", "no free memory");
        return;
    };
    let tally = &mut world.tally;
    let window = Window::physical(frame, 4 << 20, MEM_RW);
    let Ok(window) = window else {
        tally.equal("4 MiB of memory", window.map(|_| ()), Ok(()));
        return;
    };
    let last = (4 << 20) - 8;
    tally.equal("last word is writable", window.write(last, 0x77u64), Some(()));
    tally.equal("and readable", window.read::<u64>(last), Some(0x77));
    let Ok(second) = reserve(1, 0, 0) else { return };
    let physical = (frame + (4 << 20) - 4096) >> PAGE_BITS;
    let mapped = map_physical(physical, 0, second, MEM_R);
    tally.equal("the page once more", mapped, Ok(()));
    tally.equal("it is the same memory", read(second + 4088), Some(0x77));
    tally.equal("read only", write(second, 1), None);
    tally.equal("unmapped again", rt::memory::unmap(second, 0), Ok(()));
    tally.equal("and gone", read(second), None);
    // A hole of one page in the middle of a large mapping.
    let middle = window.address() + (1 << 20);
    tally.equal("hole in a large page", rt::memory::unmap(middle, 0), Ok(()));
    tally.equal("the page is gone", read(middle), None);
    tally.holds(
        "its neighbours are not",
        read(middle - 8).is_some() && read(middle + 4096).is_some(),
    );
}

fn holes(world: &mut World) {
    let hip = world.boot.hip;
    let kernel = hip.memory().find(|range| range.kind == MemoryKind::Hypervisor);
    let (Some(kernel), Ok(target)) = (kernel, reserve(1, 0, 0)) else { return };
    let page = world.page();
    let tally = &mut world.tally;
    tally.equal("something to lose", copy(page, target, MEM_RW).is_ok(), true);
    tally.equal("it is there", read(target), Some(0));
    let mapped = map_physical(kernel.addr >> PAGE_BITS, 0, target, MEM_R);
    tally.equal("kernel memory is a hole", mapped, Ok(()));
    tally.equal("which unmaps", read(target), None);
    let mapped = map_physical(0xfee0_0000 >> PAGE_BITS, 0, target, MEM_R);
    tally.ours("lapic page is a hole", (mapped, read(target)), (Ok(()), None));
    if let Some(ioapic) = hip.ioapics().next() {
        let mapped = map_physical(u64::from(ioapic.base) >> PAGE_BITS, 0, target, MEM_R);
        tally.ours("io apic page is a hole", (mapped, read(target)), (Ok(()), None));
    }
}

fn copies(world: &mut World) {
    let (page, other) = (world.page(), world.page());
    let Ok(target) = reserve(1, 0, 0) else { return };
    let tally = &mut world.tally;
    let _ = (write(page, 0xc3), write(other, 0x5a));
    let want = Crd::memory(target >> PAGE_BITS, 0, MEM_RW);
    tally.equal("copy", copy(page, target, MEM_RW), Ok(want));
    tally.equal("copy reads", read(target), Some(0xc3));
    tally.equal("copy writes", write(target + 8, 5), Some(()));
    tally.equal("through to the original", read(page + 8), Some(5));
    tally.equal("narrower copy", copy(page, target, MEM_R).map(|crd| crd.perms()), Ok(MEM_R));
    tally.equal("overwrites the wider one", write(target, 1), None);
    let _ = copy(target, target + 4096, MEM_RW);
    tally.equal("rights only shrink", write(target + 4096, 1), None);
    tally.equal("but it reads", read(target + 4096), Some(0xc3));
    let _ = copy(other, target, MEM_R);
    tally.equal("another page in its place", read(target), Some(0x5a));
    tally.equal("permissions 0 unmap", copy(page, target, 0).map(|crd| crd.perms()), Ok(0));
    tally.equal("unmapped", read(target), None);
    let _ = copy(page, target, MEM_RW);
    tally.equal("mapped anew", read(target), Some(0xc3));
    tally.equal("from nothing", copy(0x6000_0000_0000, target, MEM_RW).is_ok(), true);
    tally.equal("unmaps too", read(target), None);
    let _ = copy(page, target, MEM_RWX);
    let (ran, _) = world.events(Answer::RecoverExecute, || execute(target));
    world.tally.equal("execution is not granted by asking", ran, None);
    let hip = Crd::memory(abi::cap::ROOT_HIP >> PAGE_BITS, 0, MEM_RW);
    let item = TypedItem::delegate(hip, 0);
    let window = Crd::memory(target >> PAGE_BITS, 0, 0x1f);
    let sent = calls::delegate(PD, PD, item, window).is_ok();
    world
        .tally
        .holds("information page cannot be made writable", sent && write(target, 1).is_none());
    let utcb = copy(abi::cap::ROOT_UTCB, target, MEM_RW).is_ok();
    world.tally.equal("utcb is not delegated", (utcb, read(target)), (true, None));
    let Some(frame) = free_ram(&world.boot.hip, 4096, 4096) else { return };
    let mapped = map_physical(frame >> PAGE_BITS, 0, target, MEM_RWX);
    let _ = write(target, 0xc3);
    world.tally.equal("executable memory", (mapped, execute(target)), (Ok(()), Some(())));
    let mapped = map_physical(frame >> PAGE_BITS, 0, target, MEM_R | MEM_X);
    world.tally.equal("executable, read only", (mapped, execute(target)), (Ok(()), Some(())));
    world.tally.equal("is not writable", write(target, 1), None);
}

fn arithmetic(world: &mut World) {
    let tally = &mut world.tally;
    let Ok(room) = reserve(16, 0, 4) else { return };
    let page = |address: u64| address >> PAGE_BITS;
    // Small into large: the hotspot chooses the place.
    let item = TypedItem::delegate(Crd::memory(0x400, 0, MEM_R), page(room) + 5);
    let got = calls::delegate(PD, PD, item, Crd::memory(page(room), 4, 0x1f));
    let want = Crd::memory(page(room) + 5, 0, MEM_R);
    tally.equal("small into large", got.map(|item| item.crd), Ok(want));
    tally.holds("it is there", read(room + 5 * 4096).is_some() && read(room + 4 * 4096).is_none());
    // Large into small: the hotspot chooses what is sent.
    let _ = rt::memory::unmap(room, 4);
    let item = TypedItem::delegate(Crd::memory(page(room), 4, MEM_R), 7);
    let got = calls::delegate(PD, PD, item, Crd::memory(page(room) + 1, 0, 0x1f));
    let want = Crd::memory(page(room) + 1, 0, MEM_R);
    tally.equal("large into small", got.map(|item| item.crd), Ok(want));
    let flags = got.map(|item| item.meta.0);
    tally.equal("flags come back without hotspot", flags, Ok(1));
    let odd = TypedItem::delegate(Crd::memory(page(room) + 3, 2, MEM_R), 0);
    let got = calls::delegate(PD, PD, odd, Crd::memory(page(room) + 9, 2, 0x1f));
    let want = Crd::memory(page(room) + 8, 2, MEM_R);
    tally.equal("bases are rounded", got.map(|item| item.crd), Ok(want));
}
