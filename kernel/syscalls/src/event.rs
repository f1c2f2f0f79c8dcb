//! An exception as a call that the processor makes on a thread's behalf (abi.md 9).

use abi::Mtd;
use abi::utcb::{ARCH_WORDS, offset};
use objects::{Cpu, Help, Pt, Resume};
use sync::Token;

use crate::ipc::with_ends;

/// RFLAGS bits a handler may set: carry to overflow, trap, direction, alignment check, ID. Interrupts are always on.
const FLAGS_OF_USER: u64 = 0x0024_0dd5;

/// The running thread raises an event of its domain: 0 to 31 exceptions, 30 startup, 31 recall.
pub fn raise(cpu: &mut Cpu, token: &Token, event: u8, error: u64, cr2: u64) {
    let Some(current) = &cpu.current else { return };
    let selector = u64::from(current.event_base) + u64::from(event);
    let found = current.pd.objects.lookup(selector, token);
    let Some(pt) = found.and_then(|cap| cap.object.downcast::<Pt>()) else {
        return kill(cpu, event, "PT not found");
    };
    let pt = pt.get();
    if pt.ec.cpu() != cpu.id {
        return kill(cpu, event, "PT wrong CPU");
    }
    if cpu.idle_callee(pt).is_none() {
        if pt.ec.is_dead() {
            return kill(cpu, event, "PT dead");
        }
        let again = Resume::RaiseAgain { event, error, cr2 };
        if cpu.help(&pt.ec, again) == Help::Livelock {
            cpu.kill_current("Livelock");
        }
        return;
    }
    let mtd = pt.mtd;
    let utcb = pt.ec.utcb();
    utcb.write_u64(offset::ITEMS, ARCH_WORDS as u64);
    utcb.write_u64(offset::MTD, mtd.0.into());
    if mtd.contains(Mtd::FPU) {
        cpu.depart();
        if let Some(current) = &cpu.current {
            pt.ec.copy_fpu(current);
        }
    }
    let Some(state) = cpu.state() else { return };
    state.restore_all();
    state.fault_address = cr2;
    if let Resume::Guest(_) = state.resume
        && let Resume::Guest(vcpu) = core::mem::replace(&mut state.resume, Resume::User)
    {
        state.interrupted = Some(vcpu);
    }
    let r = &state.thread.registers;
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
    put(Mtd::RIP_LEN, &[(offset::RIP, r.rip)]);
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
    cpu.enter_portal(pt, Resume::AwaitEventReply);
}

fn kill(cpu: &mut Cpu, event: u8, reason: &'static str) {
    cpu.note_fault(event);
    cpu.kill_current(reason);
}

/// The handler's answer, before the handler parks: what its MTD word selects is written back.
pub fn reply(cpu: &mut Cpu) {
    let mut mtd = Mtd::NONE;
    cpu.with_caller(|mine, _, _, state| {
        let utcb = mine.utcb();
        mtd = Mtd(utcb.read_u64(offset::MTD) as u32);
        state.resume = state.interrupted.take().map_or(Resume::User, Resume::Guest);
        state.restore_all();
        let get = |at: usize| utcb.read_u64(at);
        let r = &mut state.thread.registers;
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
        if mtd.contains(Mtd::RIP_LEN) {
            r.rip = get(offset::RIP);
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
    });
    if mtd.contains(Mtd::FPU) {
        cpu.depart();
        with_ends(cpu, |_, mine, theirs| theirs.copy_fpu(mine));
    }
}
