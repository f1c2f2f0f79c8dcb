//! The machine-independent names, acting on the fake.

use logic::addr::Frame;
use sync::SharedPage;

use super::machine::{Deed, page, run_others, run_program, with};
use crate::{Event, ExitKind, Host, Isolate, QUICK_CALLS, Quick, Seat, Thread};

/// Where a domain's port bitmap is mapped: the first page under slot 510 of its root.
pub const PORT_BITMAP_ADDRESS: u64 = 0xffff_ff00_0000_0000;

/// The general-protection fault's vector.
const GENERAL_PROTECTION: u8 = 13;
/// The page fault's vector.
const PAGE_FAULT: u8 = 14;
/// Error code of a user's fetch from a page that is not present (Intel SDM vol. 3, 4.7).
const FETCH_NOT_PRESENT: u64 = 0x14;

/// Makes a seat for `host` while `f` runs.
pub fn with_seat<H: Host, R>(host: H, f: impl FnOnce(&mut Seat<H>) -> R) -> R {
    f(&mut Seat::new(host))
}

/// Runs the program at the RIP of the host's thread, as `run_thread`; a call that the host settles at once ends
/// the turn, too.
pub fn run<H: Host>(seat: &mut Seat<H>) -> Option<(Event, u64)> {
    let thread = seat.host.thread()?;
    let event = run_thread(thread);
    let first = thread.registers.rdi;
    let quick = event == Event::Syscall && QUICK_CALLS >> (first & 31) & 1 != 0;
    let settled = match (first as u8 == abi::Call::VcpuCtrl as u8, abi::call::sub(first)) {
        _ if !quick => Quick::Not,
        (false, _) => seat.host.quick(),
        (true, 0) => Quick::Not,
        (true, _) => seat.host.quick_vcpu_ctrl(),
    };
    if settled != Quick::Not {
        return Some((Event::Settled, first));
    }
    Some((event, first))
}

/// Runs the program at the thread's RIP, unless an interrupt is pending on this CPU; where no
/// program is, there is a page fault.
pub(super) fn run_thread(thread: &mut Thread) -> Event {
    with(|state| state.record(Deed::Run));
    let rip = thread.registers.rip;
    if rip >> 47 != 0 {
        thread.exit = ExitKind::Trap;
        return Event::Exception { vector: GENERAL_PROTECTION, error: 0, cr2: 0 };
    }
    if thread.exit != ExitKind::Syscall {
        with(|state| state.irets += 1);
    } else {
        (thread.registers.rcx, thread.registers.r11) = (rip, 0x202);
        thread.registers.rflags = 0x202;
    }
    let event = match with(|state| state.take_interrupt()) {
        Some(vector) => Event::Interrupt(vector),
        None => run_program(rip, thread).unwrap_or(Event::Exception {
            vector: PAGE_FAULT,
            error: FETCH_NOT_PRESENT,
            cr2: rip,
        }),
    };
    thread.exit = if event == Event::Syscall { ExitKind::Syscall } else { ExitKind::Trap };
    event
}

/// Nothing: the fake keeps no part of a thread.
pub fn park(_thread: &mut Thread) {}

/// Turns from one thread to another: only the FPU registers change.
pub fn exchange(_from: &mut Thread, from_fpu: &SharedPage, _to: &mut Thread, to_fpu: &SharedPage) {
    fpu_save(from_fpu);
    let _ = fpu_restore(to_fpu);
}

/// A pending interrupt; the CPU does not wait here, the test steps another one.
pub fn idle() -> Option<u8> {
    with(|state| {
        state.record(Deed::Idle);
        state.take_interrupt()
    })
}

/// A pending interrupt, if there is one.
pub fn take_interrupt() -> Option<u8> {
    with(|state| state.take_interrupt())
}

/// The CPU whose turn it is.
#[must_use]
pub fn cpu_number() -> usize {
    with(|state| state.current)
}

/// How many CPUs the machine has.
#[must_use]
pub fn cpu_count() -> usize {
    with(|state| state.cpus.len())
}

/// The time stamp counter; it stands still until the test lets time pass.
#[must_use]
pub fn now() -> u64 {
    with(|state| state.tsc)
}

/// 1 GHz.
#[must_use]
pub fn tsc_khz() -> u64 {
    1_000_000
}

/// Arms this CPU's timer; nothing happens when it is armed so already.
pub fn set_deadline(tsc: Option<u64>) {
    with(|state| {
        if state.cpu().deadline != tsc {
            state.cpu().deadline = tsc;
            state.record(Deed::Deadline(tsc));
        }
    });
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    with(|state| state.record(Deed::EndOfInterrupt));
}

/// Makes an interrupt pending on another CPU.
pub fn send_ipi(cpu: usize, vector: u8) {
    with(|state| {
        state.record(Deed::Ipi { cpu, vector });
        if let Some(cpu) = state.cpus.get_mut(cpu) {
            cpu.pending.insert(vector);
        }
    });
}

/// Part of a waiting loop: the other CPUs do what the test has set for that.
///
/// # Panics
/// After a long wait without any other deed of this CPU.
pub fn relax() {
    run_others();
}

/// log2 of the frames that FPU registers need.
#[must_use]
pub fn fpu_order() -> u8 {
    with(|state| state.fpu_order)
}

/// Fills an area that may hold anything with the registers' initial state.
pub fn fpu_fresh(area: &SharedPage) {
    fpu_init(area);
}

/// Fills an area with the registers' initial state (abi.md 11.8).
pub fn fpu_init(area: &SharedPage) {
    area.clear();
    area.write_u32(0, 0x37f);
    area.write_u32(24, 0x1f80);
}

/// Stores this CPU's registers: 512 bytes, as FXSAVE.
pub fn fpu_save(area: &SharedPage) {
    with(|state| {
        state.record(Deed::FpuSave);
        for (index, word) in state.cpu().fpu.iter().enumerate() {
            area.set_word(index, *word);
        }
    });
}

/// Loads this CPU's registers.
///
/// # Errors
/// When XSTATE_BV (offset 512) names components other than x87, SSE and AVX; nothing is loaded.
#[allow(clippy::result_unit_err, reason = "the processor does not say more")]
pub fn fpu_restore(area: &SharedPage) -> Result<(), ()> {
    if area.word(64) & !7 != 0 {
        return Err(());
    }
    with(|state| {
        state.record(Deed::FpuRestore);
        for (index, word) in state.cpu().fpu.iter_mut().enumerate() {
            *word = area.word(index);
        }
    });
    Ok(())
}

/// Forgets what speculation left.
pub fn isolate(border: Isolate) {
    with(|state| state.record(Deed::Isolate(border)));
}

/// Loads CR3.
pub fn load_space(root: Frame, tag: Option<u16>, flush: bool) {
    with(|state| state.record(Deed::LoadSpace { root, tag, flush }));
}

/// Drops the translation of one page in the current space.
pub fn flush_page(page: u64) {
    with(|state| state.record(Deed::FlushPage(page)));
}

/// Drops all translations of a tag, or of the current space.
pub fn flush_space(tag: Option<u16>) {
    with(|state| state.record(Deed::FlushSpace(tag)));
}

/// Whether address spaces may be tagged.
#[must_use]
pub fn pcid_available() -> bool {
    with(|state| state.pcid)
}

/// What the last three slots of every domain's root hold; the tables behind do not exist.
#[must_use]
pub fn kernel_root_entries() -> [(usize, u64); 3] {
    [509, 510, 511].map(|slot| (slot, (slot as u64) << 12 | 3))
}

/// The entry behind a domain's own port bitmap.
#[must_use]
pub fn port_bitmap_tail() -> u64 {
    0
}

/// Reads a register that was written before.
///
/// # Errors
/// When it does not exist: it was never written.
#[allow(clippy::result_unit_err, reason = "the processor does not say more")]
pub fn read_msr(msr: u32) -> Result<u64, ()> {
    with(|state| {
        state.record(Deed::ReadMsr(msr));
        state.msrs.get(&msr).copied().ok_or(())
    })
}

/// Writes a register.
///
/// # Errors
/// Never.
#[allow(clippy::result_unit_err, reason = "the signature of the real one")]
pub fn write_msr(msr: u32, value: u64) -> Result<(), ()> {
    with(|state| {
        state.record(Deed::WriteMsr(msr, value));
        state.msrs.insert(msr, value);
    });
    Ok(())
}

/// Shows any physical page.
pub fn with_physical(frame: Frame, work: &mut dyn FnMut(&SharedPage)) {
    work(page(frame));
}

/// Bits of a physical address.
#[must_use]
pub fn physical_bits() -> u8 {
    40
}

/// The fake has them.
#[must_use]
pub fn one_gib_pages() -> bool {
    true
}

/// The memory type of a block, if it is the same everywhere in it.
#[must_use]
pub fn memory_type(frame: Frame, order: u8) -> Option<u8> {
    with(|state| {
        let (_, first) = state.memory_types.range(..=frame.0).next_back()?;
        let end = frame.0.saturating_add(1 << order.min(40));
        let mut inside = state.memory_types.range(frame.0..end);
        inside.all(|(_, other)| other == first).then_some(*first)
    })
}

/// Keeps what is written for the test.
pub fn console_write(bytes: &[u8]) {
    with(|state| state.console.extend_from_slice(bytes));
}

/// Leaves all domains' tables.
pub fn load_kernel_space() {
    with(|state| state.record(Deed::LoadSpace { root: Frame(0), tag: None, flush: true }));
}

/// Notes why a thread on a CPU was killed.
pub fn note_killed(cpu: usize, reason: &'static str) {
    with(|state| state.killed.push((cpu, reason)));
}

/// Notes an interrupt that nobody asked for.
pub fn note_unclaimed(cpu: usize, vector: u8) {
    with(|state| state.unclaimed.push((cpu, vector)));
}

/// Notes which event a thread on a CPU died of, and where.
pub fn note_fault(cpu: usize, event: u8, address: u64) {
    with(|state| state.faults.push((cpu, event, address)));
}

/// Whether a CPU came up; the fake's all do.
pub fn cpu_online(cpu: usize) -> bool {
    cpu < cpu_count()
}

/// Nothing: this machine cannot be suspended, unless the test said what happens then.
#[must_use]
pub fn waking_vector() -> Option<u64> {
    with(|state| state.sleeps.map(|_| 0x8000))
}

/// Notes the types; whether it lost power is for the test to say.
#[must_use]
pub fn sleep(types: [u8; 2]) -> bool {
    with(|state| {
        state.record(Deed::Sleep(types));
        state.sleeps.unwrap_or(false)
    })
}
