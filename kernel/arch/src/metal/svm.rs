//! Runs a guest by SVM (AMD APM vol. 2, chapter 15).
//!
//! The VMCB is a page that nothing holds on to between runs. Physical interrupts exit because of the
//! host's IF; they are taken after STGI by the ordinary way. What VMX does in hardware and SVM does not
//! is done here: the monitor's time-out, NMI blocking, the inactive state.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::Mtd;
use abi::utcb::offset;
use logic::Oom;
use logic::addr::Frame;
use sync::{Pool, SharedPage, Site};

use super::guest::{TIMED_OUT, keep, place, without};
use super::guest_switch::{self, Duties, Switch, rdmsr};
use super::{cpu_number, idle, now, send_ipi, set_deadline, take_interrupt, write_msr};
use crate::x86::event::{self, VALID};
use crate::x86::guest_software::{GuestRegisters, Software};
use crate::x86::svm_exit::{Meaning, Raw};
use crate::x86::svm_state::SvmState;
use crate::x86::svm_vmcb::{self as vmcb, clean, msr_permission_bit};
use crate::x86::vmx_controls::{MACHINE_CHECK, primary};
use crate::{GuestEnv, GuestEvent, stretch, vector};

unsafe extern "C" {
    fn svm_enter(registers: *mut GuestRegisters, block: u64, host: u64);
}

const EFER: u32 = 0xc000_0080;
const VM_CR: u32 = 0xc001_0114;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// CPUID 0x8000000a: EBX (number of ASIDs) low, EDX (features) high; what all CPUs have.
static COMMON: AtomicU64 = AtomicU64::new(u64::MAX);
/// First of two frames: the MSR permission map, one for all guests.
static MSR_MAP: AtomicU64 = AtomicU64::new(0);
/// First of three frames of ones: the port map of guests without ports.
static NO_PORTS: AtomicU64 = AtomicU64::new(0);

const NESTED_PAGING: u32 = 1 << 0;
const NEXT_RIP: u32 = 1 << 3;
const CLEAN_BITS: u32 = 1 << 5;
const FLUSH_BY_ASID: u32 = 1 << 6;
const DECODE_ASSISTS: u32 = 1 << 7;
/// Byte of the virtual APIC page with the task priority.
const VLAPIC_TPR: usize = 0x80;

/// Whether the CPU has SVM (CPUID 0x80000001 ECX bit 2).
pub fn present() -> bool {
    core::arch::x86_64::__cpuid(0x8000_0000).eax >= 0x8000_000a
        && core::arch::x86_64::__cpuid(0x8000_0001).ecx >> 2 & 1 != 0
}

/// Tags for translations: ASID 0 is the host's.
pub fn tags() -> u16 {
    let count = COMMON.load(Relaxed) as u32;
    u16::try_from(count.saturating_sub(1)).unwrap_or(u16::MAX)
}

fn features() -> u32 {
    (COMMON.load(Relaxed) >> 32) as u32
}

/// Switches SVM on on the calling CPU.
pub fn enable(pool: &Pool) -> Result<(), &'static str> {
    const SVM_DISABLED: u64 = 1 << 4;
    const SVME: u64 = 1 << 12;
    if super::read_msr(VM_CR).is_ok_and(|word| word & SVM_DISABLED != 0) {
        return Err("SVM is locked off by the firmware");
    }
    let leaf = core::arch::x86_64::__cpuid(0x8000_000a);
    if leaf.edx & NESTED_PAGING == 0 {
        return Err("SVM lacks nested paging");
    }
    if leaf.ebx < 2 {
        return Err("SVM lacks address-space identifiers");
    }
    let area = keep(&place().area, pool, 0)?;
    keep(&place().block, pool, 0)?;
    make_msr_map(pool)?;
    if NO_PORTS.load(Relaxed) == 0 {
        let map = pool.alloc_zeroed(2, Site::Boot).map_err(|Oom| "no memory for the port map")?;
        for i in 0..4 {
            pool.page(Frame(map.0 + i)).fill(u64::MAX);
        }
        NO_PORTS.store(map.0, Relaxed);
    }
    write_msr(EFER, rdmsr(EFER) | SVME).map_err(|()| "SVM cannot be enabled")?;
    write_msr(VM_HSAVE_PA, area.address()).map_err(|()| "SVM takes no save area")?;
    let known = COMMON.load(Relaxed);
    let asids = leaf.ebx.min(known as u32);
    let features = without().svm(leaf.edx) & (known >> 32) as u32;
    COMMON.store(u64::from(asids) | u64::from(features) << 32, Relaxed);
    Ok(())
}

/// All accesses exit but those of abi.md 11.3, and CSTAR, which VMSAVE keeps and Intel has no use for.
fn make_msr_map(pool: &Pool) -> Result<(), &'static str> {
    const FREE: [u32; 7] =
        [0xc000_0100, 0xc000_0101, 0xc000_0102, 0xc000_0103, 0xc000_0083, 0x48, 0x49];
    if MSR_MAP.load(Relaxed) != 0 {
        return Ok(());
    }
    let map = pool.alloc_zeroed(1, Site::Boot).map_err(|Oom| "no memory for the MSR map")?;
    for i in 0..2 {
        pool.page(Frame(map.0 + i)).fill(u64::MAX);
    }
    for bit in FREE.into_iter().filter_map(msr_permission_bit) {
        let page = pool.page(Frame(map.0 + (bit / 32768) as u64));
        let at = bit % 32768 / 8;
        // Read and write permission: two bits, an even one first, in one byte.
        page.write_u8(at, page.read_u8(at) & !(3 << (bit % 8)));
    }
    MSR_MAP.store(map.0, Relaxed);
    Ok(())
}

/// One VMCB.
pub struct Svm {
    frame: Frame,
    state: SvmState,
    raw: Raw,
    flush: bool,
    /// DR0 to DR3 are loaded with each entry; otherwise their first use exits.
    debug: bool,
}

impl Svm {
    /// A VMCB with all guest state zero.
    pub fn new(pool: &Pool) -> Result<Self, Oom> {
        let frame = pool.alloc_zeroed(0, Site::GuestBlock)?;
        let mut state = SvmState::default();
        state.reset(pool.page(frame));
        Ok(Self { frame, state, raw: Raw::default(), flush: false, debug: false })
    }

    /// Gives the frame back.
    pub fn free(self, pool: &Pool) {
        pool.free(self.frame, 0);
    }

    /// See [`super::Guest::load`].
    pub fn load(&mut self, pool: &Pool, software: &Software, page: &SharedPage, mtd: Mtd) {
        if mtd.contains(Mtd::TLB) {
            self.flush = true;
        }
        self.state.load(pool.page(self.frame), software, page, mtd);
    }

    /// See [`super::Guest::enter`].
    #[inline(never)]
    pub fn enter(&mut self, software: &mut Software, env: GuestEnv) -> GuestEvent {
        let env = &env;
        let block = env.pool.page(self.frame);
        if let Some(event) = self.before(software, env, block) {
            return event;
        }
        let free = software.asked.primary & primary::MSR_BITMAPS != 0;
        let mut duties = Duties::XCR0 | guest_switch::msr_duties(software, free);
        duties.set(Duties::DEBUG, self.debug);
        let Some(switch) = Switch::enter(software, env.monitor, env.fpu, duties) else {
            return GuestEvent::Exit(abi::exit::INVALID_STATE);
        };
        if self.state.write_event(block, software).is_err() {
            switch.leave(software, env.monitor, env.fpu, duties);
            return GuestEvent::Exit(abi::exit::ENTRY_FAILED);
        }
        let exception = software.event.0 & (VALID | event::TYPE) == VALID | event::HARDWARE;
        self.state.keep_copy(block, exception);
        let start = now();
        set_deadline(first(env.host_deadline, monitor_deadline(software, start)));
        if env.pending_poke {
            send_ipi(cpu_number(), vector::RESCHEDULE);
        }
        let host = place().block.load(Relaxed) << 12;
        let registers = software.image.as_mut_ptr().wrapping_byte_add(offset::RAX);
        stretch::end();
        // SAFETY: the VMCB is this guest's, intercepts what it must (`svm_controls`), and nested paging
        // confines the guest to its space; the save block is this CPU's; the registers stay borrowed.
        unsafe { svm_enter(registers, self.frame.address(), host) };
        stretch::begin(stretch::STRETCH_GUEST);
        let end = now();
        switch.leave(software, env.monitor, env.fpu, duties);
        software.spend(end.wrapping_sub(start));
        set_deadline(env.host_deadline);
        self.after(software, env, block)
    }

    /// What must be settled or written before VMRUN.
    fn before(
        &mut self,
        software: &mut Software,
        env: &GuestEnv,
        block: &SharedPage,
    ) -> Option<GuestEvent> {
        // Kept until a VMRUN has done it: not every way from here leads to one.
        self.flush |= env.flush_tag;
        let injects = software.event.0 & VALID != 0;
        if software.timeout == 0 && !injects && !env.pending_poke {
            return self.own_exit(TIMED_OUT);
        }
        if injects {
            self.state.activity = 0;
        } else if software.nmi_window && self.state.takes_nmi(block) {
            return self.own_exit(8);
        } else if self.state.activity != 0 {
            return self.sleep(software, env, block);
        }
        self.state.write_controls(block, software, !self.debug);
        let shadow = software.asked.primary & primary::TPR_SHADOW != 0;
        let tpr = if shadow { env.pool.page(env.place.vlapic).read_u8(VLAPIC_TPR) >> 4 } else { 0 };
        self.state.write_virtual_interrupt(block, software, tpr);
        let flush = match self.flush {
            false => 0,
            true if features() & FLUSH_BY_ASID != 0 => 3,
            true => 1,
        };
        let use_ports = software.asked.primary & primary::IO_BITMAPS != 0;
        let ports = match env.ports {
            own if use_ports && own != Frame(0) => own.address(),
            _ => NO_PORTS.load(Relaxed) << 12,
        };
        let use_msrs = software.asked.primary & primary::MSR_BITMAPS != 0;
        // The page of ones serves as the map of a guest whose every MSR access exits.
        let msrs = if use_msrs { &MSR_MAP } else { &NO_PORTS }.load(Relaxed) << 12;
        let root = env.place.table.address();
        if features() & CLEAN_BITS == 0 {
            self.state.forget_clean();
        }
        self.state.write_place(block, env.tag.max(1), flush, root, ports, msrs);
        None
    }

    /// An exit that the hardware did not make.
    fn own_exit(&mut self, reason: u32) -> Option<GuestEvent> {
        self.state.report = crate::x86::svm_exit::Report { reason, ..Default::default() };
        Some(GuestEvent::Exit(reason))
    }

    /// The monitor made the guest inactive: nothing runs until a host interrupt, or the window opens.
    fn sleep(
        &mut self,
        software: &mut Software,
        env: &GuestEnv,
        block: &SharedPage,
    ) -> Option<GuestEvent> {
        const IF: u64 = 1 << 9;
        if env.pending_poke {
            return Some(GuestEvent::Exit(abi::exit::POKED));
        }
        if software.interrupt_window && block.read_u64(vmcb::RFLAGS) & IF != 0 {
            self.state.activity = 0;
            return self.own_exit(7);
        }
        let start = now();
        set_deadline(first(env.host_deadline, monitor_deadline(software, start)));
        let vector = idle();
        software.spend(now().wrapping_sub(start));
        set_deadline(env.host_deadline);
        Some(vector.map_or(GuestEvent::Nothing, |vector| GuestEvent::Interrupt(vector.into())))
    }

    /// The guest ran, or was refused.
    fn after(&mut self, software: &mut Software, env: &GuestEnv, block: &SharedPage) -> GuestEvent {
        let features = features();
        let (assists, next_rip) = (features & DECODE_ASSISTS != 0, features & NEXT_RIP != 0);
        let raw = self.state.raw(block, assists, next_rip);
        self.raw = raw;
        let meaning = raw.meaning();
        self.state.settle_copy(block, raw.refused());
        if !raw.refused() {
            self.flush = false;
            software.event = (0, 0);
            block.write_u64(vmcb::EVENT_INJECTION, 0);
            if software.asked.primary & primary::TPR_SHADOW != 0 {
                let tpr = block.read_u8(vmcb::VIRTUAL_INTERRUPT) << 4;
                env.pool.page(env.place.vlapic).write_u8(VLAPIC_TPR, tpr);
            }
            if self.debug && !guest_switch::breakpoints_armed(block.read_u64(vmcb::DR7)) {
                self.debug = false;
            }
        }
        let report = match meaning {
            Meaning::Report(report) => report,
            Meaning::DebugRegister(report) => {
                if software.asked.primary & primary::MOV_DR == 0 {
                    self.debug = true;
                    return self.again(software);
                }
                report
            }
            Meaning::Interrupt => {
                self.again(software);
                return match take_interrupt() {
                    Some(vector) => GuestEvent::Interrupt(vector.into()),
                    None => GuestEvent::Nothing,
                };
            }
            // STGI let the host's handler have it.
            Meaning::Nmi => return self.again(software),
            Meaning::Undefined => {
                software.event = (VALID | event::HARDWARE | 6, 0);
                return GuestEvent::Nothing;
            }
            Meaning::Iret => {
                // From here on NMIs may come; one that the monitor has waiting comes before the IRET
                // (docs/spec/svm-mapping.md).
                self.state.nmi_blocked = false;
                return self.again(software);
            }
        };
        if report.reason == 0 && report.event.0 & 0xff == 18 {
            guest_switch::deliver_machine_check();
            if software.asked.exceptions & MACHINE_CHECK == 0 {
                return self.again(software);
            }
        }
        self.state.report = report;
        GuestEvent::Exit(report.reason)
    }

    /// The kernel has settled the exit: an event that was on its way goes on it again.
    fn again(&mut self, software: &mut Software) -> GuestEvent {
        if event::must_repeat_on_svm(self.raw.int_info) {
            software.event = event::from_svm(self.raw.int_info);
        }
        GuestEvent::Nothing
    }

    /// See [`super::Guest::store_groups`].
    pub fn store(
        &mut self,
        pool: &Pool,
        software: &mut Software,
        page: &SharedPage,
        wanted: Mtd,
        reason: u32,
    ) {
        let block = pool.page(self.frame);
        software.store(page, wanted, reason, now());
        self.state.store(block, software, page, wanted, reason);
        if !wanted.contains(Mtd::ACDB) || !wanted.contains(Mtd::CR) {
            // Software's copies must not be older than the block's when a later load is partial.
            software.image.set(offset::RAX, block.read_u64(vmcb::RAX));
            software.image.set(offset::CR2, block.read_u64(vmcb::CR2));
        }
    }

    /// See [`super::Guest::store_extended`].
    pub fn store_extended(&self, pool: &Pool, page: &SharedPage) {
        use abi::utcb::extended_offset as at;
        let block = pool.page(self.frame);
        page.write_u64(at::DR6, block.read_u64(vmcb::DR6));
        page.write_u64(at::DEBUGCTL, block.read_u64(vmcb::DEBUGCTL));
        page.write_u64(at::PENDING_DEBUG, 0);
        page.write_u64(at::GUEST_LINEAR, 0);
        page.write_u64(at::INSTRUCTION_ERROR, 0);
        page.write_u64(at::RAW_EXIT, self.raw.code);
        page.write_u64(at::RAW_INFO1, self.raw.info1);
        page.write_u64(at::RAW_INFO2, self.raw.info2);
        page.write_u64(at::RAW_INT_INFO, self.raw.int_info);
        let assists = self.raw.assists;
        for word in 0..2 {
            let bytes = block.read_u64(vmcb::INSTRUCTION_BYTES + 8 * word);
            page.write_u64(at::INSTRUCTION_BYTES + 8 * word, if assists { bytes } else { 0 });
        }
    }

    /// See [`super::Guest::load_extended`].
    pub fn load_extended(&mut self, pool: &Pool, page: &SharedPage) {
        use abi::utcb::extended_offset as at;
        let block = pool.page(self.frame);
        block.write_u64(vmcb::DR6, page.read_u64(at::DR6));
        self.state.touch(clean::DR);
        self.debug = true;
    }
}

/// When the monitor's time-out comes, if it comes at all.
fn monitor_deadline(software: &Software, start: u64) -> Option<u64> {
    if software.timeout == u64::MAX { None } else { start.checked_add(software.timeout) }
}

/// The earlier of two deadlines.
fn first(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}
