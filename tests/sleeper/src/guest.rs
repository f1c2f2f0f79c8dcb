//! The guest: two instructions that count on one CPU. Its interrupts are on: with them off the ring gets on more slowly in
//! Bochs, which seems to lose one for the host that is pending when a guest is entered while both have them off.

use abi::cap::MEM_RWX;
use abi::crd::ItemMeta;
use abi::exit::ExitReason;
use abi::hip::{FLAG_SVM, FLAG_VMX};
use abi::{Crd, PAGE_BITS, PAGE_SIZE, TypedItem};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::memory::Window;
use rt::sync::Mutex;
use rt::vcpu::{Vcpu, real_mode};
use rt::{Boot, Mtd, Status, calls, thread};

/// `inc dword [0x800]`, `jmp` back to it; in real mode.
const CODE: u64 = u64::from_le_bytes([0x66, 0xff, 0x06, 0x00, 0x08, 0xeb, 0xf9, 0xf4]);
/// Where it lies in the guest's only page, and where it counts.
const START: u64 = 0x100;
const COUNT: usize = 0x800;
/// RFLAGS: interrupts on, and the bit that is always set.
const INTERRUPTS_ON: u64 = 0x202;
/// Everything a first entry loads.
const ALL: Mtd = Mtd(0x01df_ffff & !Mtd::QUAL.0);
/// As the first thread: they take turns if they share a CPU.
const PRIORITY: u8 = 1;

/// The guest's page.
static PAGE: Mutex<Option<Arc<Window>>> = Mutex::new(None);
/// Why the guest does not run any more.
static ENDED: Mutex<Option<Result<ExitReason, Status>>> = Mutex::new(None);
/// Its virtual processor, 0 for none.
static VCPU: AtomicU64 = AtomicU64::new(0);
/// Exits that the kernel reported.
static EXITS: AtomicU64 = AtomicU64::new(0);

/// Starts it on a CPU, in the physical page `page`; `false` if the machine runs no guests.
///
/// # Errors
/// What the kernel refuses.
pub fn start(boot: &Boot, cpu: u16, page: u64) -> Result<bool, Status> {
    if boot.hip.flags() & (FLAG_VMX | FLAG_SVM) == 0 {
        return Ok(false);
    }
    let window = Window::physical(page, PAGE_SIZE, MEM_RWX)?;
    window.fill(0);
    window.write(START as usize, CODE);
    let item = TypedItem {
        crd: Crd::memory(window.address() >> PAGE_BITS, 0, MEM_RWX),
        meta: ItemMeta::DELEGATE | ItemMeta::GUEST | ItemMeta::NO_HOST,
    };
    let pd = rt::start::own_pd();
    calls::delegate(pd, pd, item, Crd::memory(0, 0, abi::cap::ALL))?;
    *PAGE.lock() = Some(Arc::new(window));
    let vcpu = Vcpu::new(cpu)?;
    VCPU.store(vcpu.selector(), Ordering::Release);
    thread::spawn(cpu, PRIORITY, move || serve(vcpu))?;
    Ok(true)
}

/// Ends it; it is gone a moment later.
///
/// # Errors
/// What the kernel refuses.
pub fn stop() -> Result<(), Status> {
    match VCPU.swap(0, Ordering::AcqRel) {
        0 => Ok(()),
        vcpu => calls::poke_vcpu(vcpu).map(|()| rt::sync::sleep_us(100_000)),
    }
}

/// How far it has counted.
pub fn count() -> u32 {
    let page = PAGE.lock().clone();
    page.and_then(|page| page.read(COUNT)).unwrap_or_default()
}

/// Whether it still runs.
///
/// # Errors
/// Why it does not.
pub fn judge() -> Result<(), String> {
    match *ENDED.lock() {
        None => Ok(()),
        Some(end) => {
            let exits = EXITS.load(Ordering::Relaxed);
            Err(format!("the guest ended with {end:?} after {exits} other exits"))
        }
    }
}

/// Runs the guest for ever. Its time never runs out, but that exit may come all the same (`docs/spec/vcpu_ctrl.md`).
fn serve(mut vcpu: Vcpu) {
    real_mode(vcpu.state(), START);
    vcpu.state().rflags = INTERRUPTS_ON;
    let mut load = ALL;
    loop {
        let exit = vcpu.run(load);
        if exit != Ok(ExitReason::PreemptionTimer) {
            *ENDED.lock() = Some(exit);
            return;
        }
        EXITS.fetch_add(1, Ordering::Relaxed);
        load = Mtd::NONE;
    }
}
