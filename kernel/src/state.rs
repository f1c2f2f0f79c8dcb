//! What all CPUs share, made once, and how each CPU goes from bring-up into the loop.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use boot::BootInfo;
use logic::acpi::Acpi;
use logic::addr::{Frame, PAGE_BITS};
use objects::{Cpu, Kernel};
use sync::{CpuKey, MAX_CPUS, Once, Pool, Rcu, Site, SpinLock, Token};

use crate::bring_up::{io_apics, step};
use crate::panic::fail;
use crate::{hip, root, run};

static POOL: Once<Pool> = Once::new();
static RCU: Rcu = Rcu::new();
static KERNEL: Once<Kernel> = Once::new();
static ROOT_MODULE: Once<Range<u64>> = Once::new();
/// The proof of being a CPU, one for each, until it takes its own.
static KEYS: SpinLock<[Option<CpuKey>; MAX_CPUS]> = SpinLock::new([const { None }; MAX_CPUS]);

/// All memory that the image leaves, as one pool.
pub fn make_pool(memory: arch::Taken) {
    match memory.into_pool() {
        Ok(pool) => {
            if let Some(pool) = POOL.make(|| pool) {
                log::info!("{} KiB of kernel memory free", pool.free_frames() * 4);
            }
        }
        Err(logic::Oom) => fail(format_args!("too little kernel memory (see kmem=)")),
    }
    for (key, slot) in CpuKey::machine().zip(KEYS.lock().iter_mut()) {
        *slot = Some(key);
    }
}

/// What a CPU does besides `arch`'s bring-up, while no other one is starting: virtualization.
pub fn prepare_cpu() {
    arch::cpu_is_up(enable_guests);
}

fn enable_guests() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    arch::note_mitigations();
    if let Some(pool) = POOL.get()
        && let Err(reason) = arch::guest_enable_cpu(pool)
        && !TOLD.swap(true, Relaxed)
    {
        log::info!("no guests: {reason}");
    }
}

/// The shared state and the information page; all CPUs are up by now.
pub fn make_kernel(loader: &BootInfo, firmware: &Acpi, own: Range<u64>) {
    let Some(pool) = POOL.get() else { fail(format_args!("there is no pool")) };
    let Ok(page) = pool.alloc_zeroed(0, Site::Boot) else {
        fail(format_args!("no memory for the information page (see kmem=)"))
    };
    hip::write(pool.page(page), loader, firmware, &own);
    let frames = own.start >> PAGE_BITS..own.end >> PAGE_BITS;
    let cpus = arch::cpu_count();
    KERNEL.make(|| Kernel::new(pool, &RCU, page, cpus, frames, controllers(firmware)));
    log::info!("between trust groups and guests: {:?}", arch::mitigations());
    let Some(module) = loader.modules().next() else {
        fail(format_args!("the boot loader passed no module: the first one is the root task"))
    };
    ROOT_MODULE.make(|| module.address..module.address.saturating_add(module.size));
    step("information page and kernel state");
}

/// Frames of the interrupt controllers, which nobody but the kernel may touch.
fn controllers(firmware: &Acpi) -> [u64; 18] {
    let mut frames = [0; 18];
    let pages = core::iter::once(arch::local_apic_address()).chain(io_apics(firmware));
    for (slot, address) in frames.iter_mut().zip(pages) {
        *slot = Frame::containing(address).0;
    }
    frames
}

/// Where every CPU arrives when all are up, on its own stack.
pub fn enter(number: usize) -> ! {
    let key = KEYS.lock().get_mut(number).and_then(Option::take);
    let (Some(key), Some(kernel), Some(token)) = (key, KERNEL.get(), RCU.join(number)) else {
        fail(format_args!("CPU {number} has no place in the kernel's state"));
    };
    if kernel.make_irq_table(number).is_err() {
        fail(format_args!("no memory for the interrupt table of CPU {number}"));
    }
    go(key, kernel, token)
}

/// Into the loop. What is below it on the stack stays there for ever: the CPU's state once, and nothing else that is
/// large. So what makes it is a function of its own, and so is what makes the interrupt table.
#[inline(never)]
fn go(key: CpuKey, kernel: &'static Kernel, mut token: Token) -> ! {
    let mut cpu = ready(key, kernel);
    run::run_loop(&mut cpu, &mut token)
}

/// A CPU that can go into the loop, the boot CPU with the root task.
#[inline(never)]
fn ready(key: CpuKey, kernel: &'static Kernel) -> Cpu {
    let mut cpu = Cpu::new(key, kernel);
    if cpu.id == arch::boot_cpu()
        && let Some(module) = ROOT_MODULE.get()
    {
        match root::launch(&mut cpu, module.clone()) {
            Ok(()) => step("root task"),
            Err(error) => log::error!("{error}"),
        }
    }
    cpu
}
