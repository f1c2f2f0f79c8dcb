//! Leaves to user mode and comes back with an event.
//!
//! The path of a system call is counted in instructions: entry code stores into the thread itself, and
//! FS base, GS base and RSP0 are touched only when the thread is not the one that ran here last.

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::Ordering::Relaxed;

use sync::SharedPage;

use super::percpu::{self, INTERRUPT, KERNEL_RSP, SEAT, THREAD};
use super::traps::NO_ERROR_PUSHED;
use super::{apic, bases, cpu, descriptors, fpu, guest_switch};
use crate::x86::descriptor::{USER_CS, USER_SS};
use crate::{Event, ExitKind, Host, QUICK_CALLS, Quick, Registers, Seat, Thread, stretch, vector};

global_asm!(
    concat!(include_str!("registers.S"), include_str!("user.S"), include_str!("traps.S")),
    THREAD = const THREAD,
    SEAT = const SEAT,
    QUICK_CALLS = const QUICK_CALLS,
    VCPU_CTRL = const abi::Call::VcpuCtrl as u8,
    SUB_OPERATION = const abi::Call::VcpuCtrl.word(3, 0) as u32 & !0xff,
    QUICK_DONE = const Quick::Done as u32,
    EXIT = const offset_of!(Thread, exit),
    KERNEL_RSP = const KERNEL_RSP,
    INTERRUPT = const INTERRUPT,
    NO_ERROR_PUSHED = const NO_ERROR_PUSHED,
    RIP = const offset_of!(Registers, rip),
    RSP = const offset_of!(Registers, rsp),
    RAX = const offset_of!(Registers, rax),
    RDX = const offset_of!(Registers, rdx),
    RBX = const offset_of!(Registers, rbx),
    RBP = const offset_of!(Registers, rbp),
    RSI = const offset_of!(Registers, rsi),
    RDI = const offset_of!(Registers, rdi),
    R8 = const offset_of!(Registers, r8),
    R9 = const offset_of!(Registers, r9),
    R10 = const offset_of!(Registers, r10),
    R12 = const offset_of!(Registers, r12),
    R13 = const offset_of!(Registers, r13),
    R14 = const offset_of!(Registers, r14),
    R15 = const offset_of!(Registers, r15),
);

unsafe extern "C" {
    fn leave_by_sysret();
    fn leave_by_iret();
}

/// What [`leave`] answers for a system call that nobody has settled; [`Quick::Look`] is another answer.
const CAME_BY_SYSCALL: u32 = 0;

/// Leaves by one of the two doors of user.S: [`CAME_BY_SYSCALL`], [`Quick::Look`], or another number for a trap;
/// and the RDI of a system call that nobody has settled.
macro_rules! leave {
    ($thread:expr, $door:ident) => {{
        let came: u32;
        let first: u64;
        // SAFETY: `load` or `exchange` made entry code store into this thread, which stays where it is; nobody but
        // the seat's host touches it or the seat meanwhile, and `run` uses no borrow of theirs until it is back; the doors
        // keep the stack and return with only RBX and RBP as they were; the kernel's code and data are not
        // reachable from user mode; RIP, CS, SS and flags were made harmless by `run`.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "call {door}",
                "pop rbp",
                "pop rbx",
                door = sym $door,
                inout("rdi") core::ptr::from_mut($thread) => first,
                lateout("eax") came, lateout("rcx") _, lateout("rdx") _, lateout("rsi") _,
                lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
                lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            )
        }
        (came, first)
    }};
}

/// Flags a thread may choose: arithmetic, direction, trap, resume, alignment, identification.
const USER_FLAGS: u64 = 0x0025_0dd5;
/// Flags every thread has: interrupts on, and bit 1, which is always set.
const FIXED_FLAGS: u64 = 0x202;

/// Exceptions that are events as they are, a bit each: all but debug, general-protection and page faults.
const PLAIN: u32 = !(1 << 1 | 1 << 13 | 1 << 14);

/// Makes a seat for `host`, whose [`Host::quick`] the calling CPU's entry code asks while `f` runs.
pub fn with_seat<H: Host, R>(host: H, f: impl FnOnce(&mut Seat<H>) -> R) -> R {
    let mut seat = Seat::new(host);
    let word = &percpu::local().seat;
    let before = word.load(Relaxed);
    word.store(core::ptr::from_mut(&mut seat) as u64, Relaxed);
    let result = f(&mut seat);
    word.store(before, Relaxed);
    result
}

/// Runs the host's thread in user mode until it makes a call that the host does not settle at once, faults or is
/// interrupted; `None` if the host has no thread. With a system call comes its first word, RDI.
///
/// Its FPU state and address space must be loaded. An instruction pointer outside the lower half is
/// answered with a general-protection event at once, because leaving to it would fault in the kernel.
#[inline(always)]
pub fn run<H: Host>(seat: &mut Seat<H>) -> Option<(Event, u64)> {
    loop {
        let thread = seat.host.thread()?;
        if percpu::loaded_thread() != core::ptr::from_mut(thread) as u64 {
            load(thread);
        }
        if thread.registers.rip >> 47 != 0 {
            thread.exit = ExitKind::Trap;
            return Some((Event::Exception { vector: 13, error: 0, cr2: 0 }, 0));
        }
        stretch::end();
        let (came, first) = if thread.exit == ExitKind::Syscall {
            leave!(thread, leave_by_sysret)
        } else {
            thread.registers.cs = USER_CS.into();
            thread.registers.ss = USER_SS.into();
            thread.registers.rflags = thread.registers.rflags & USER_FLAGS | FIXED_FLAGS;
            let (came, first) = leave!(thread, leave_by_iret);
            if came == CAME_BY_SYSCALL {
                seat.host.thread()?.exit = ExitKind::Syscall;
            }
            (came, first)
        };
        if came == CAME_BY_SYSCALL {
            stretch::begin(first as u8);
            return Some((Event::Syscall, first));
        }
        if came == Quick::Look as u32 {
            stretch::begin(first as u8);
            return Some((Event::Settled, first));
        }
        // Not the borrow from above: the host was asked in between.
        let thread = seat.host.thread()?;
        thread.exit = ExitKind::Trap;
        let number = thread.registers.vector as u8;
        stretch::begin(if number < 32 {
            stretch::STRETCH_EXCEPTION
        } else {
            stretch::STRETCH_INTERRUPT
        });
        if number < 32 && 1 << number & PLAIN != 0 {
            let error = thread.registers.error;
            return Some((Event::Exception { vector: number, error, cr2: 0 }, first));
        }
        if let Some(event) = trap(thread) {
            return Some((event, first));
        }
    }
}

/// The event of an interrupt, or of an exception that is not `PLAIN`, or nothing when the kernel has settled it itself.
#[inline(never)]
fn trap(thread: &mut Thread) -> Option<Event> {
    let number = thread.registers.vector as u8;
    if number >= 32 {
        if number == vector::TIMER {
            apic::timer_fired();
        }
        return Some(Event::Interrupt(number));
    }
    if number == 13 && descriptors::repair_task() {
        return None;
    }
    if number == 1 {
        // What a thread's single step left there is not the next guest's business.
        guest_switch::reset_dr6();
    }
    let cr2 = if number == 14 { x86_64::registers::control::Cr2::read_raw() } else { 0 };
    Some(Event::Exception { vector: number, error: thread.registers.error, cr2 })
}

/// Makes `thread` the one that this CPU's entry code stores into, and loads its FS and GS base.
#[cold]
#[inline(never)]
fn load(thread: &mut Thread) {
    receive(thread);
    bases::load(thread.fs_base, thread.gs_base);
}

/// Makes entry code store into `thread`.
#[inline(always)]
fn receive(thread: &mut Thread) {
    let address = core::ptr::from_mut(thread) as u64;
    percpu::set_loaded_thread(address);
    descriptors::set_stack(address + size_of::<Registers>() as u64);
}

/// Turns the CPU from one thread to another: FPU state, FS and GS base, and where entry code stores.
///
/// The same as [`park`] and [`super::fpu_save`] of the first and [`super::fpu_restore`] of the second, but in one
/// go where the CPU has the instructions for it: this is on the path of every call and reply.
#[inline(always)]
pub fn exchange(from: &mut Thread, from_fpu: &SharedPage, to: &mut Thread, to_fpu: &SharedPage) {
    let loaded = percpu::loaded_thread() == core::ptr::from_mut(from) as u64;
    if loaded && cpu::has_fast_switch() {
        fpu::switch(from_fpu, to_fpu);
        (from.fs_base, from.gs_base) = bases::switch(to.fs_base, to.gs_base);
        receive(to);
    } else {
        exchange_slowly(from, from_fpu, to_fpu);
    }
}

/// [`exchange`] without the newer instructions, or from a thread that is not loaded; `run` loads the other one.
#[cold]
#[inline(never)]
fn exchange_slowly(from: &mut Thread, from_fpu: &SharedPage, to_fpu: &SharedPage) {
    fpu::fpu_save(from_fpu);
    park(from);
    // Areas of threads are always valid: a thread cannot reach its own.
    let _ = fpu::fpu_restore(to_fpu);
}

/// Ends this CPU's hold on `thread`: its FS and GS base are stored in it.
///
/// Call it when the CPU turns to another thread (with saving the FPU state), before the bases are read
/// or written, and before the thread's memory is given back. Does nothing if another thread is loaded.
#[inline(always)]
pub fn park(thread: &mut Thread) {
    if percpu::loaded_thread() == core::ptr::from_mut(thread) as u64 {
        (thread.fs_base, thread.gs_base) = bases::save();
        percpu::local().thread.store(0, Relaxed);
    }
}

/// Waits for an interrupt and takes it: its vector, if one came (an NMI also ends the wait).
#[inline]
pub fn idle() -> Option<u8> {
    stretch::end();
    // SAFETY: interrupts are on for this one instruction; the handler only notes the vector.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
    stretch::begin(stretch::STRETCH_INTERRUPT);
    taken()
}

/// Takes a pending interrupt, if there is one: its vector.
pub fn take_interrupt() -> Option<u8> {
    stretch::end();
    // SAFETY: as `idle`. STI takes effect after the next instruction, hence two.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
    stretch::again();
    taken()
}

#[inline]
fn taken() -> Option<u8> {
    let local = percpu::local();
    let number = local.interrupt.load(Relaxed);
    local.interrupt.store(0, Relaxed);
    if number == u64::from(vector::TIMER) {
        apic::timer_fired();
    }
    if number == 0 { None } else { u8::try_from(number).ok() }
}
