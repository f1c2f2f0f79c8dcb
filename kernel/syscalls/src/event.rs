//! An exception as a call that the processor makes on a thread's behalf (abi.md 9).

use abi::Mtd;
use abi::utcb::{ARCH_WORDS, offset};
use objects::{Cpu, Ec, EcState, Entered, Help, Passed, Pt, Resume};
use sync::{Ref, SharedPage, Token};

use crate::authority::named;
use crate::ipc::with_ends;

/// RFLAGS bits a handler may set: carry to overflow, trap, direction, alignment check, ID. Interrupts are always on.
const FLAGS_OF_USER: u64 = 0x0024_0dd5;

/// The groups besides the instruction pointer: most handlers want a few registers, many want nothing but that one.
const MORE: Mtd =
    Mtd(Mtd::ACDB.0 | Mtd::BSD.0 | Mtd::RSP.0 | Mtd::RFLAGS.0 | Mtd::R8_R15.0 | Mtd::QUAL.0);

/// What the processor said of an event: the error code, and CR2.
type Fault = (u64, u64);

/// The running thread raises an event of its domain: 0 to 31 exceptions, 30 startup, 31 recall.
///
/// Part of the loop, as call and reply are: an exception is a call that the processor makes.
#[inline(always)]
pub fn raise(cpu: &mut Cpu, token: &Token, event: u8, error: u64, cr2: u64) {
    let kernel = cpu.kernel;
    let find = |current: &Ec| {
        let selector = u64::from(current.event_base) + u64::from(event);
        named::<Pt>(current, kernel, token, selector, 0).map(Ref::get)
    };
    let entered = cpu.enter_portal(find, Resume::AwaitEventReply, |pt, _, state, handler| {
        if pt.mtd.contains(Mtd::FPU) {
            return Passed::More;
        }
        write_message(pt.mtd, state, handler, (error, cr2));
        Passed::All
    });
    match entered {
        Entered::Running => {}
        Entered::Nowhere => kill(cpu, event, "PT not found"),
        Entered::More(pt) => raise_with_fpu(cpu, pt, (error, cr2)),
        Entered::Refused(pt) => refused(cpu, pt, event, (error, cr2)),
    }
}

/// A message that carries FPU registers: the running thread's are stored first.
#[cold]
#[inline(never)]
fn raise_with_fpu(cpu: &mut Cpu, pt: &Pt, fault: Fault) {
    cpu.depart();
    cpu.enter_portal(
        |_| Some(pt),
        Resume::AwaitEventReply,
        |pt, current, state, handler| {
            handler.copy_fpu(current);
            write_message(pt.mtd, state, handler, fault);
            Passed::All
        },
    );
}

/// The handler is busy or cannot be entered from here.
#[cold]
#[inline(never)]
fn refused(cpu: &mut Cpu, pt: &Pt, event: u8, (error, cr2): Fault) {
    if pt.ec.cpu() != cpu.id {
        return kill(cpu, event, "PT wrong CPU");
    }
    if pt.ec.is_dead() {
        return kill(cpu, event, "PT dead");
    }
    let again = Resume::RaiseAgain { event, error, cr2 };
    if cpu.help(&pt.ec, again) == Help::Livelock {
        cpu.kill_current("Livelock");
    }
}

/// Writes what `mtd` selects of a thread's registers into its handler's page.
#[inline(always)]
fn write_message(mtd: Mtd, state: &mut EcState, handler: &Ec, (error, cr2): Fault) {
    let utcb = handler.utcb();
    utcb.write_u64(offset::ITEMS, ARCH_WORDS as u64);
    utcb.write_u64(offset::MTD, mtd.0.into());
    state.restore_all();
    state.fault_address = cr2;
    if let Resume::Guest(_) = state.resume
        && let Resume::Guest(vcpu) = core::mem::replace(&mut state.resume, Resume::User)
    {
        state.interrupted = Some(vcpu);
    }
    let r = &state.thread.registers;
    if mtd.contains(Mtd::RIP_LEN) {
        utcb.write_u64(offset::RIP, r.rip);
    }
    if mtd & MORE == Mtd::NONE {
        return;
    }
    let put = |group: Mtd, words: &[(usize, u64)]| {
        if mtd.contains(group) {
            for (at, value) in words {
                utcb.write_u64(*at, *value);
            }
        }
    };
    put(
        Mtd::ACDB,
        &[(offset::RAX, r.rax), (offset::RCX, r.rcx), (offset::RDX, r.rdx), (offset::RBX, r.rbx)],
    );
    put(Mtd::BSD, &[(offset::RBP, r.rbp), (offset::RSI, r.rsi), (offset::RDI, r.rdi)]);
    put(Mtd::RSP, &[(offset::RSP, r.rsp)]);
    put(Mtd::RFLAGS, &[(offset::RFLAGS, r.rflags)]);
    put(
        Mtd::R8_R15,
        &[
            (offset::R8, r.r8),
            (offset::R8 + 8, r.r9),
            (offset::R8 + 16, r.r10),
            (offset::R8 + 24, r.r11),
            (offset::R8 + 32, r.r12),
            (offset::R8 + 40, r.r13),
            (offset::R8 + 48, r.r14),
            (offset::R8 + 56, r.r15),
        ],
    );
    put(Mtd::QUAL, &[(offset::QUAL0, error), (offset::QUAL1, cr2)]);
}

#[cold]
#[inline(never)]
fn kill(cpu: &mut Cpu, event: u8, reason: &'static str) {
    cpu.note_fault(event);
    cpu.kill_current(reason);
}

/// The handler's answer, if it is registers alone: what its MTD word selects is written back.
#[inline(never)]
pub fn deliver_reply(mine: &Ec, state: &mut EcState) -> Passed {
    if !matches!(state.resume, Resume::AwaitEventReply) {
        return Passed::All;
    }
    let utcb = mine.utcb();
    let mtd = Mtd(utcb.read_u64(offset::MTD) as u32);
    if utcb.read_u64(offset::ITEMS) as u32 >> 16 != 0 || mtd.contains(Mtd::FPU) {
        return Passed::More;
    }
    read_answer(utcb, mtd, state);
    Passed::All
}

/// An answer with FPU registers or after typed items, before the handler parks.
#[cold]
#[inline(never)]
pub fn reply(cpu: &mut Cpu) {
    let mut mtd = Mtd::NONE;
    cpu.with_caller(|mine, _, _, state| {
        let utcb = mine.utcb();
        mtd = Mtd(utcb.read_u64(offset::MTD) as u32);
        read_answer(utcb, mtd, state);
    });
    if mtd.contains(Mtd::FPU) {
        cpu.depart();
        with_ends(cpu, |_, mine, theirs| theirs.copy_fpu(mine));
    }
}

/// Takes the registers that `mtd` selects from the handler's page; the thread goes on.
#[inline(always)]
fn read_answer(utcb: &SharedPage, mtd: Mtd, state: &mut EcState) {
    state.resume = state.interrupted.take().map_or(Resume::User, Resume::Guest);
    state.restore_all();
    let get = |at: usize| utcb.read_u64(at);
    let r = &mut state.thread.registers;
    if mtd.contains(Mtd::RIP_LEN) {
        r.rip = get(offset::RIP);
    }
    if mtd & MORE == Mtd::NONE {
        return;
    }
    if mtd.contains(Mtd::ACDB) {
        r.rax = get(offset::RAX);
        r.rcx = get(offset::RCX);
        r.rdx = get(offset::RDX);
        r.rbx = get(offset::RBX);
    }
    if mtd.contains(Mtd::BSD) {
        r.rbp = get(offset::RBP);
        r.rsi = get(offset::RSI);
        r.rdi = get(offset::RDI);
    }
    if mtd.contains(Mtd::RSP) {
        r.rsp = get(offset::RSP);
    }
    if mtd.contains(Mtd::RFLAGS) {
        r.rflags = get(offset::RFLAGS) & FLAGS_OF_USER | objects::USER_FLAGS;
    }
    if mtd.contains(Mtd::R8_R15) {
        let at = offset::R8;
        (r.r8, r.r9, r.r10, r.r11) = (get(at), get(at + 8), get(at + 16), get(at + 24));
        (r.r12, r.r13) = (get(at + 32), get(at + 40));
        (r.r14, r.r15) = (get(at + 48), get(at + 56));
    }
}
