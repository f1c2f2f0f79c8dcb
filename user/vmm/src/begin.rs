//! From the control page to running threads.
use crate::pages::{extend_heap, words};
use crate::processor::{self, Entry};
use crate::shared::{Line, Shared};
use crate::streams;
use crate::told;
use abi::hip::FLAG_VMX;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use devices::board::{Board, Config};
use devices::rtc::Memory;
use devices::virtio::block::Block;
use devices::virtio::console::Console;
use devices::virtio::mmio;
use devices::virtio::net::Net;
use devices::virtio::overlay::Overlay;
use rt::instructions::{inb, inl, inw, outb, outl, outw, rdtsc};
use rt::sync::Semaphore;
use vmm::ata::AtaDisk;
use vmm::claims::Seen;
use vmm::clock::Clock;
use vmm::control::{self, Boot, Control, End};
use vmm::cpuid::{Leaf, XCR0_ALLOWED};
use vmm::frames::{RING, Ring};
use vmm::linux::{self, Image};
use vmm::machine::{Mailbox, Vm};
use vmm::memory::{GuestMemory, Region};
use vmm::orders::{self, Backing, Order, What};
use vmm::passed::Passed;
use vmm::regions::Ports;
use vmm::status::Kind;
use vmm::virtio::{Bus, Kind as Device, Peer, Place, Port};
use vmm::{acpi, layout, mptable, multiboot};

/// Priority of the thread that hands over keys; above the guest's.
const STREAMS_PRIORITY: u8 = 10;

/// The first function.
pub fn start(_boot: rt::Boot) {
    rt::log::set_sink(&streams::MESSAGES);
    rt::last_words::afterwards(streams::report_crash);
    let Some(control) = Control::decode(&copy(control::CONTROL)) else {
        rt::println!("the control page is no order");
        return streams::report_end(End::Stopped);
    };
    extend_heap(control.vcpus);
    if let Err(why) = run(&control) {
        rt::println!("{} not started: {why}", control.name());
        streams::report_end(End::Stopped);
    }
}

/// A copy of a page's words.
fn copy(address: u64) -> [u64; 512] {
    let mut copy = [0; 512];
    for (to, from) in copy.iter_mut().zip(words(address, abi::PAGE_SIZE)) {
        *to = from.load(Ordering::Relaxed);
    }
    copy
}

/// Builds the machine, starts the threads, serves the streams. Returns only with a refusal.
fn run(control: &Control) -> Result<(), String> {
    let all = words(control::RAM, control.memory + control.high_memory);
    let (regions, ports) = regions();
    let memory = GuestMemory::with_high(all, control.memory).and(regions);
    let orders = orders::decode(&copy(control::DEVICES));
    let virtio = Bus::new(orders.iter().filter_map(place).collect());
    let ata = orders.iter().find_map(ata_disk);
    let resources = virtio.resources();
    let entry = load(control, &memory, &resources)?;
    let clock = Clock::new(rdtsc(), control.tsc_khz);
    let vcpus = control.vcpus as usize;
    let mut lines = Vec::new();
    for _ in 0..vcpus {
        let sleep = Semaphore::new(0).map_err(|status| format!("no semaphore: {status}"))?;
        lines.push(Line { sleep, vcpu: AtomicU64::new(0) });
    }
    let ended = Semaphore::new(0).map_err(|status| format!("no semaphore: {status}"))?;
    let machine = Vm { ata, ..machine(control, memory, passed(ports), virtio, clock) };
    let shared: &'static Shared =
        Box::leak(Box::new(Shared::new(machine, clock, lines, control.silent_s, ended)));
    let name = control.name().to_string();
    let home = control.home_cpu as u16;
    let slice = rt::thread::QUANTUM_US;
    spawn(Kind::Streams, home, STREAMS_PRIORITY, slice, move || streams::serve(shared))?;
    let order = control.clone();
    let again = move || load(&order, &memory, &resources).ok().map(|_| board(&order));
    spawn(Kind::Watcher, home, STREAMS_PRIORITY, slice, move || {
        processor::watch(shared, &name, again)
    })?;
    for id in 0..vcpus {
        let cpu = control.cpu_of(id as u32);
        let entry = if id == 0 { entry } else { Entry::Wait };
        let (priority, slice) = (control.priority, control.slice_us);
        spawn(Kind::Processor, cpu, priority, slice, move || {
            processor::run(shared, id, cpu, entry)
        })?;
    }
    Ok(())
}

/// The guest's regions besides RAM, and its ports of the machine.
fn regions() -> (&'static [Region<'static>], Vec<Ports>) {
    let (orders, ports) = vmm::regions::decode(&copy(control::REGIONS));
    let region = |order: &vmm::regions::Order| Region {
        start: order.address,
        size: order.size,
        words: if order.place == 0 { &[] } else { words(order.place, order.size) },
        write: order.write,
    };
    (Vec::leak(orders.iter().map(region).collect()), ports)
}

/// The machine's ports that the guest has.
fn passed(ranges: Vec<Ports>) -> Passed {
    let read = |port, size| match size {
        1 => inb(port).into(),
        2 => inw(port).into(),
        _ => inl(port),
    };
    let write = |port, size, value| match size {
        1 => outb(port, value as u8),
        2 => outw(port, value as u16),
        _ => outl(port, value),
    };
    Passed { ranges, read, write }
}

fn spawn(
    kind: Kind,
    cpu: u16,
    priority: u8,
    slice_us: u32,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), String> {
    rt::thread::spawn_with(cpu, priority, slice_us, body)
        .map(|thread| told::note(thread, kind, cpu, priority, slice_us))
        .map_err(|status| format!("no thread on CPU {cpu}: {status}"))
}

/// Puts image and tables into guest memory.
fn load(control: &Control, memory: &GuestMemory, virtio: &[(u64, u8)]) -> Result<Entry, String> {
    let kernel =
        Image::new(words(control::KERNEL, padded(control.kernel_size)), control.kernel_size);
    let modules = modules(control);
    let line = control.command_line().as_bytes();
    let entry = match control.boot {
        Boot::Linux => {
            let initrd = modules.first().map(|module| module.image);
            linux::load(memory, kernel, initrd, line)
                .map(Entry::Linux)
                .map_err(|refusal| refusal.to_string())?
        }
        Boot::Flat(address) => linux::copy(memory, address, kernel, 0, kernel.size())
            .map(|()| Entry::Flat(address))
            .ok_or("the image does not fit the guest's memory")?,
        Boot::Multiboot => multiboot::load(memory, kernel, &modules, line)
            .map(Entry::Multiboot)
            .map_err(|refusal| refusal.to_string())?,
    };
    let tables = acpi::tables(control.vcpus as u8, virtio);
    let one = host_cpuid(1, 0);
    let mp = mptable::table(control.vcpus as u8, one.eax, one.edx);
    let roms = layout::ROMS.step_by(8).try_for_each(|at| memory.write_number(at, 8, u64::MAX));
    roms.and_then(|()| memory.write(layout::ACPI, &tables.body))
        .and_then(|()| memory.write(layout::RSDP, &tables.root))
        .and_then(|()| memory.write(layout::MP, &mp))
        .map_err(|_| "the guest has no memory for its tables")?;
    Ok(entry)
}

/// What comes with the kernel, each on a page of its own behind the one before.
fn modules(control: &Control) -> Vec<multiboot::Module<'_>> {
    let mut at = control::INITRD;
    let mut modules = Vec::new();
    for module in control.modules.iter().filter(|module| module.size > 0) {
        let image = Image::new(words(at, padded(module.size)), module.size);
        modules.push(multiboot::Module { name: module.name(), image });
        at += padded(module.size);
    }
    modules
}

/// Bytes up to the end of the last page, which is mapped whole.
fn padded(size: u64) -> u64 {
    size.next_multiple_of(abi::PAGE_SIZE)
}

fn board(control: &Control) -> Board {
    Board::new(&Config {
        vcpus: control.vcpus as usize,
        tsc_hz: u64::from(control.tsc_khz) * 1000,
        epoch: control.wall_clock,
        memory: Memory { below_4g: control.memory, above_4g: control.high_memory },
        x2apic: true,
    })
}

fn machine(
    control: &Control,
    memory: GuestMemory<'static>,
    passed: Passed,
    virtio: Bus<'static>,
    clock: Clock,
) -> Vm<'static> {
    Vm {
        board: board(control),
        virtio,
        ata: None,
        memory,
        passed,
        vmx: control.hip_flags & FLAG_VMX != 0,
        host_cpuid,
        tsc_zero: clock.zero(),
        tsc_khz: control.tsc_khz,
        epoch: control.wall_clock,
        xcr0_allowed: XCR0_ALLOWED & xcr0_host(),
        unclaimed: control.unclaimed,
        mailboxes: vec![Mailbox::default(); control.vcpus as usize],
        kicks: Vec::new(),
        messages: Vec::new(),
        seen_msrs: Seen::default(),
        ended: None,
    }
}

/// A virtio device as the root task ordered it; nothing if a ring is short, which it never is.
fn place(order: &Order) -> Option<Place<'static>> {
    let kind = match order.what {
        What::Disk(backing) => {
            Device::Disk(mmio::Device::new(Block::new(overlay(backing), order.name())))
        }
        What::Ata(_) => return None,
        What::Console => Device::Console(mmio::Device::new(Console::default())),
        What::Net { mac, rings, wakes, peers } => {
            let ring = |number: u64| Ring::new(words(rings + number * RING, RING));
            let peers = (0..).zip(peers.macs()).map(|(number, mac)| {
                Some(Peer {
                    mac: address(*mac),
                    to: ring(2 * number)?,
                    from: ring(2 * number + 1)?,
                    wake: wakes + number,
                })
            });
            let port = Port::new(address(mac), peers.collect::<Option<_>>()?);
            Device::Net(mmio::Device::new(Net::new(port, address(mac))))
        }
    };
    Some(Place::new(order.name(), order.address, order.line, kind))
}

/// The ATA disk, if this orders one.
fn ata_disk(order: &Order) -> Option<AtaDisk<'static>> {
    match order.what {
        What::Ata(backing) => Some(AtaDisk::new(overlay(backing), order.name())),
        _ => None,
    }
}

/// Copy on write over what the root task has mapped.
fn overlay(backing: Backing) -> Overlay<GuestMemory<'static>> {
    let memory = |address: u64, bytes: u64| GuestMemory::new(words(address, padded(bytes)));
    let Backing { image, size, store, store_size } = backing;
    Overlay::new(memory(image, size), size, memory(store, store_size))
}

/// An Ethernet address from the low six bytes of a word, the first one lowest.
fn address(word: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = word.to_le_bytes();
    [a, b, c, d, e, f]
}

fn host_cpuid(eax: u32, ecx: u32) -> Leaf {
    let answer = raw_cpuid::native_cpuid::cpuid_count(eax, ecx);
    Leaf { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
}

/// XCR0 components the host's processor has.
fn xcr0_host() -> u64 {
    if host_cpuid(1, 0).ecx & (1 << 26) == 0 {
        return 1;
    }
    u64::from(host_cpuid(0xd, 0).eax)
}
