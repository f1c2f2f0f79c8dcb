//! Guest exits, one arm each: decide what the guest sees, never fail because of it.
//!
//! Reasons and qualifications are those of VMX on either vendor's hardware (abi.md 11.2, Intel
//! SDM vol. 3, 28.2.1). What a page field means is in `docs/spec/utcb.md`.
use crate::control::Unclaimed;
use crate::inject::{self, GENERAL_PROTECTION, INVALID_OPCODE};
use crate::machine::{Activity, Cpu, Now, Vm};
use crate::msr::{Effect, Read};
use crate::{control_registers, cpuid, instruction, io, mmio, paravirtual};
use abi::Mtd;
use abi::exit::ExitReason;
use abi::utcb::StatePage;
use alloc::format;
use alloc::string::String;

/// What follows an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter again, with these groups changed.
    Resume(Mtd),
    /// The guest cannot go on.
    Stop(String),
}

/// Handles the exit that the page shows.
pub fn handle(cpu: &mut Cpu, page: &mut StatePage, vm: &mut Vm, now: Now) -> Next {
    cpu.history.note(page);
    let reason = ExitReason::from_word(page.exit_reason);
    let exception = (page.intr_info, page.intr_error);
    inject::after_exit(page, reason == ExitReason::Poked);
    match reason {
        ExitReason::Cpuid => cpuid_exit(cpu, page, vm),
        ExitReason::Hlt => {
            cpu.activity = Activity::Halted;
            skip(page, vm, 1)
        }
        ExitReason::Io => io::handle(page, vm, now),
        ExitReason::Rdmsr => read_msr(cpu, page, vm, now),
        ExitReason::Wrmsr => write_msr(cpu, page, vm, now),
        ExitReason::ControlRegister => control_registers::handle(cpu, page, vm),
        ExitReason::Xsetbv => set_xcr0(page, vm),
        ExitReason::EptViolation => mmio::handle(cpu, page, vm, now),
        ExitReason::Wbinvd | ExitReason::Invd | ExitReason::Pause => {
            let size = if reason == ExitReason::Pause { 1 } else { 2 };
            skip(page, vm, size)
        }
        ExitReason::InterruptWindow
        | ExitReason::NmiWindow
        | ExitReason::PreemptionTimer
        | ExitReason::Poked
        | ExitReason::Init
        | ExitReason::Sipi => Next::Resume(Mtd::NONE),
        ExitReason::Rdpmc => fault(page, GENERAL_PROTECTION),
        ExitReason::Exception => {
            (page.intr_info, page.intr_error) = (exception.0 & 0x8000_0fff, exception.1);
            Next::Resume(Mtd::INJ)
        }
        ExitReason::Vmcall
        | ExitReason::Vmclear
        | ExitReason::Vmlaunch
        | ExitReason::Vmptrld
        | ExitReason::Vmptrst
        | ExitReason::Vmread
        | ExitReason::Vmresume
        | ExitReason::Vmwrite
        | ExitReason::Vmxoff
        | ExitReason::Vmxon
        | ExitReason::Invept
        | ExitReason::Invvpid
        | ExitReason::Vmfunc
        | ExitReason::Getsec
        | ExitReason::Encls
        | ExitReason::Rsm
        | ExitReason::Monitor
        | ExitReason::Mwait
        | ExitReason::Invpcid
        | ExitReason::Xsaves
        | ExitReason::Xrstors => fault(page, INVALID_OPCODE),
        ExitReason::TripleFault => Next::Stop("triple fault".into()),
        ExitReason::InvalidState => Next::Stop("the processor refuses the guest's state".into()),
        ExitReason::EntryFailed => Next::Stop("the processor refuses the controls".into()),
        other => Next::Stop(format!("exit {other:?} is not handled")),
    }
}

/// Moves past an instruction whose length without prefixes is `size`.
pub fn skip(page: &mut StatePage, vm: &Vm, size: u64) -> Next {
    instruction::advance(page, &vm.memory, size);
    Next::Resume(Mtd::RIP_LEN | Mtd::STA)
}

/// The same, with more groups changed.
pub fn skip_and(page: &mut StatePage, vm: &Vm, size: u64, changed: Mtd) -> Next {
    instruction::advance(page, &vm.memory, size);
    Next::Resume(Mtd::RIP_LEN | Mtd::STA | changed)
}

/// Delivers an exception instead of the instruction. Error code 0 where there is one.
pub fn fault(page: &mut StatePage, vector: u8) -> Next {
    let error = (vector != INVALID_OPCODE).then_some(0);
    inject::exception(page, vector, error);
    Next::Resume(Mtd::INJ)
}

/// What the policy for unclaimed accesses says, after an access.
pub fn claimed(vm: &mut Vm) -> Result<(), String> {
    let mut stop = None;
    while let Some(access) = vm.board.take_unclaimed() {
        let verb = if access.write { "written" } else { "read" };
        let text = format!(
            "nobody claims {:?} {:#x}, {verb} with {} byte(s)",
            access.space, access.address, access.size
        );
        if vm.unclaimed == Unclaimed::Stop {
            stop = Some(text);
        } else {
            vm.messages.push(text);
        }
    }
    stop.map_or(Ok(()), Err)
}

fn cpuid_exit(cpu: &Cpu, page: &mut StatePage, vm: &mut Vm) -> Next {
    let view = vm.view(cpu.id, page);
    let leaf = cpuid::answer(page.rax as u32, page.rcx as u32, &view, vm.host_cpuid);
    page.rax = u64::from(leaf.eax);
    page.rbx = u64::from(leaf.ebx);
    page.rcx = u64::from(leaf.ecx);
    page.rdx = u64::from(leaf.edx);
    skip_and(page, vm, 2, Mtd::ACDB)
}

fn read_msr(cpu: &Cpu, page: &mut StatePage, vm: &mut Vm, now: Now) -> Next {
    let index = page.rcx as u32;
    let guest_tsc = now.tsc.wrapping_add(page.tsc_off);
    let value = match cpu.msrs.read(index, page, guest_tsc) {
        Read::Value(value) => Some(value),
        Read::Board => match vm.board.read_msr(cpu.id, index, now.ns) {
            Some(Ok(value)) => Some(value),
            _ => None,
        },
        Read::Fault => None,
    };
    let Some(value) = value else {
        note_msr(vm, index, "read");
        return fault(page, GENERAL_PROTECTION);
    };
    page.rax = value & 0xffff_ffff;
    page.rdx = value >> 32;
    skip_and(page, vm, 2, Mtd::ACDB)
}

fn write_msr(cpu: &mut Cpu, page: &mut StatePage, vm: &mut Vm, now: Now) -> Next {
    let index = page.rcx as u32;
    let value = (page.rdx << 32) | (page.rax & 0xffff_ffff);
    let guest_tsc = now.tsc.wrapping_add(page.tsc_off);
    let time = paravirtual::Time {
        tsc_khz: vm.tsc_khz,
        tsc_zero: vm.tsc_zero.wrapping_add(page.tsc_off),
        epoch: vm.epoch,
    };
    if paravirtual::write(index, value, &vm.memory, &time) {
        return skip(page, vm, 2);
    }
    let changed = match cpu.msrs.write(index, value, page, guest_tsc) {
        Effect::Done(changed) => Some(changed),
        Effect::Board => match vm.board.write_msr(cpu.id, index, value, now.ns) {
            Some(Ok(())) => Some(Mtd::NONE),
            _ => None,
        },
        Effect::Fault => None,
    };
    let Some(changed) = changed else {
        note_msr(vm, index, "written");
        return fault(page, GENERAL_PROTECTION);
    };
    if changed == Mtd::TSC {
        vm.board.set_tsc_offset(cpu.id, page.tsc_off.wrapping_add(vm.tsc_zero), now.ns);
    }
    skip_and(page, vm, 2, changed)
}

fn note_msr(vm: &mut Vm, index: u32, verb: &str) {
    if vm.seen_msrs.first(u64::from(index)) {
        vm.messages.push(format!("MSR {index:#x} {verb}: the guest gets #GP"));
    }
}

/// XSETBV (Intel SDM vol. 2): register 0 alone, x87 always, AVX only with SSE.
fn set_xcr0(page: &mut StatePage, vm: &Vm) -> Next {
    let value = (page.rdx << 32) | (page.rax & 0xffff_ffff);
    let privileged = page.cs.selector & 3 == 0 || page.cr0 & 1 == 0;
    let sound = value & 1 != 0 && value & 0b110 != 0b100 && value & !vm.xcr0_allowed == 0;
    if page.rcx as u32 != 0 || !privileged || !sound {
        return fault(page, GENERAL_PROTECTION);
    }
    page.xcr0 = value;
    skip_and(page, vm, 3, Mtd::CR)
}

#[cfg(test)]
pub(crate) mod tests;
