//! Runs a guest by VMX (Intel SDM vol. 3, chapters 24 to 28).
//!
//! A VMCS is clear, current or launched; it becomes current on its home CPU with the first load and
//! leaves by [`Vmx::retire`]. The host's part is written once per VMCS: after an exit FS base, GS base,
//! stacks and tables are the kernel's by the hardware's own doing.

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;

use abi::Mtd;
use abi::utcb::offset;
use logic::Oom;
use logic::addr::Frame;
use sync::{Pool, SharedPage, Site};

use super::guest::TIMED_OUT;
use super::guest_switch::{self, Duties, Switch};
use super::vmx_enable::{capabilities, msr_bitmap, revision};
use super::{now, percpu, vmx_active, vmx_host};
use crate::x86::event::{self, VALID};
use crate::x86::guest_software::Software;
use crate::x86::image::Image;
use crate::x86::vmx_controls::{Capabilities, MACHINE_CHECK, primary};
use crate::x86::vmx_fields as field;
use crate::x86::vmx_state::{Vmcs, VmxState};
use crate::x86::vmx_store::Kind;
use crate::{GuestEnv, GuestEvent, GuestPlace, stretch};

unsafe extern "C" {
    fn vmx_enter();
}

/// The current VMCS of the calling CPU.
struct Current;

impl Vmcs for Current {
    #[inline(always)]
    fn read(&self, field: u32) -> u64 {
        let value: u64;
        // SAFETY: VMREAD reads a field of the current VMCS, which every `Vmx` has made its own before.
        unsafe {
            asm!("vmread {}, {}", out(reg) value, in(reg) u64::from(field), options(nostack));
        }
        value
    }

    #[inline(always)]
    fn write(&mut self, field: u32, value: u64) {
        // SAFETY: VMWRITE writes a field of the current VMCS, which belongs to the guest at hand. Host
        // fields are written by `vmx_host` alone; guest fields cannot harm the host.
        unsafe {
            asm!("vmwrite {}, {}", in(reg) u64::from(field), in(reg) value, options(nostack));
        }
    }

    #[inline(always)]
    fn read_into<const AT: usize>(&self, field: u32, image: &mut Image) {
        const { assert!(AT.is_multiple_of(8) && AT < offset::EXIT_REASON) };
        // SAFETY: a VMREAD as in `read`, to a word of the image.
        unsafe {
            asm!("vmread [{} + {at}], {}", in(reg) image.as_mut_ptr(), in(reg) u64::from(field),
                at = const AT, options(nostack));
        }
    }

    #[inline(always)]
    fn read_segment<const INDEX: usize>(&self, image: &mut Image) {
        // SAFETY: VMREADs as in `read`. They store 8 bytes each: selector, limit over its upper half,
        // base over the limit's; then the two bytes of the access rights between selector and limit.
        // All of it lies in the 16 bytes of this segment (`Segment`), which are inside the image.
        unsafe {
            asm!(
                "mov {field:e}, {selector}",
                "vmread [{image} + {at}], {field}",
                "mov {field:e}, {limit}",
                "vmread [{image} + {at} + 4], {field}",
                "mov {field:e}, {base}",
                "vmread [{image} + {at} + 8], {field}",
                "mov {field:e}, {rights}",
                "vmread {field}, {field}",
                "mov [{image} + {at} + 2], {field:l}",
                "shr {field:e}, 12",
                "mov [{image} + {at} + 3], {field:l}",
                image = in(reg) image.as_mut_ptr(),
                field = out(reg) _,
                at = const offset::ES + 16 * INDEX,
                selector = const field::GUEST_ES_SELECTOR + 2 * INDEX as u32,
                limit = const field::GUEST_ES_LIMIT + 2 * INDEX as u32,
                base = const field::GUEST_ES_BASE + 2 * INDEX as u32,
                rights = const field::GUEST_ES_RIGHTS + 2 * INDEX as u32,
                options(nostack),
            );
        }
    }
}

/// Most TSC ticks that a guest runs before this CPU looks around (some milliseconds on hardware). An
/// interrupt ends guest time earlier; where it is missed, as in Bochs when host and guest both have IF clear,
/// this bounds how late a poke, a shoot-down or a grace period is seen.
const LOOK_AROUND: u64 = 1 << 24;

/// What the preemption timer was armed for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Armed {
    Monitor,
    Host,
    Poke,
}

/// One VMCS.
pub struct Vmx {
    frame: Frame,
    cpu: Capabilities,
    state: VmxState,
    /// The VMCS is initialised; before that its host part is unknown.
    ready: bool,
    launched: bool,
    /// The CPU's epoch when it last held it, 0 before (`vmx_active`).
    epoch: u64,
    event_written: bool,
    host_rsp: u64,
    /// What `write_place` last wrote: first port page, CR3.
    place: [u64; 2],
    tag: u16,
    /// What must change hands at each entry.
    duties: Duties,
    armed: Armed,
    /// When it was armed, TSC.
    start: u64,
    /// The preemption timer is armed for [`LOOK_AROUND`].
    looks_around: bool,
    /// Of the last entry that failed.
    instruction_error: u32,
}

/// 4 levels, write-back, no accessed or dirty flags (25.6.11).
const fn ept_pointer(table: u64) -> u64 {
    table << 12 | 3 << 3 | 6
}

impl Vmx {
    /// A clear VMCS.
    pub fn new(pool: &Pool) -> Result<Self, Oom> {
        let cpu = capabilities();
        let frame = pool.alloc_zeroed(0, Site::GuestBlock)?;
        pool.page(frame).write_u32(0, revision(&cpu));
        Ok(Self {
            frame,
            cpu,
            state: VmxState::default(),
            ready: false,
            launched: false,
            epoch: 0,
            event_written: false,
            host_rsp: 0,
            place: [u64::MAX; 2],
            tag: 0,
            duties: Duties::empty(),
            armed: Armed::Host,
            start: 0,
            looks_around: false,
            instruction_error: 0,
        })
    }

    /// VMCLEAR, on the home CPU.
    pub fn retire(&mut self) {
        if !self.ready {
            return;
        }
        vmx_host::vmclear(self.frame.address());
        vmx_active::forget(self.frame.0);
        self.epoch = 0;
        self.ready = false;
        let current = &percpu::local().vmcs;
        if current.load(Relaxed) == self.frame.0 {
            current.store(0, Relaxed);
        }
    }

    /// Gives the frame back. A VMCS that was not retired keeps it: the CPU may still write there.
    pub fn free(self, pool: &Pool) {
        if !self.ready {
            pool.free(self.frame, 0);
        }
    }

    /// Makes it the current VMCS: before all else, after another guest's turn.
    #[inline(always)]
    pub fn activate(&mut self, software: &mut Software) {
        if percpu::vmcs() != self.frame.0 {
            self.switch_to(software);
        }
    }

    #[cold]
    #[inline(never)]
    fn switch_to(&mut self, software: &mut Software) {
        if !self.ready {
            vmx_host::vmclear(self.frame.address());
        }
        if self.epoch != vmx_active::epoch() {
            // The CPU does not hold it: never did, or it was cleared with all others.
            vmx_active::hold(self.frame.0);
            self.epoch = vmx_active::epoch();
            self.launched = false;
        }
        vmx_host::vmptrld(self.frame.address());
        percpu::local().vmcs.store(self.frame.0, Relaxed);
        guest_switch::reset_dr6();
        if !self.ready {
            self.ready = true;
            self.launched = false;
            self.looks_around = false;
            vmx_host::write_host(&mut Current);
            self.state.reset(&mut Current, &self.cpu, software);
        }
    }

    /// See [`super::Guest::load`].
    #[inline(always)]
    pub fn load(&mut self, software: &mut Software, page: &SharedPage, mtd: Mtd) {
        self.state.load(&mut Current, &self.cpu, software, page, mtd);
    }

    /// See [`super::Guest::enter`]. The VMCS is active.
    #[inline(always)]
    pub fn enter(&mut self, software: &mut Software, env: GuestEnv) -> GuestEvent {
        let moved = self.place != [env.ports.0, vmx_host::read_cr3()];
        if software.news | env.flush_tag | moved {
            self.prepare(software, env.place, env.tag, env.flush_tag, env.ports);
        }
        let duties = self.duties | Duties::BARE;
        let Some(switch) = Switch::enter(software, env.monitor, env.fpu, duties) else {
            return GuestEvent::Exit(abi::exit::INVALID_STATE);
        };
        if env.host_deadline.is_some() || software.is_limited() | env.pending_poke {
            self.arm(software, env.host_deadline, env.pending_poke);
        } else if !self.looks_around {
            self.arm(software, None, false);
            self.looks_around = true;
        }
        stretch::end();
        let failed = self.run(software);
        stretch::begin(stretch::STRETCH_GUEST);
        switch.leave(software, env.monitor, env.fpu, self.duties | Duties::BARE);
        percpu::after_exit();
        if failed != 0 {
            return self.entry_failed();
        }
        if software.is_limited() {
            software.spend(now().wrapping_sub(self.start));
        }
        self.after(software)
    }

    /// Into the guest and back; not 0 if the instruction failed.
    #[inline(always)]
    fn run(&mut self, software: &mut Software) -> u32 {
        let failed: u32;
        // SAFETY: the VMCS is current, its host part is this CPU's, HOST_RIP is `vmx_exit`, which goes on here
        // because HOST_RSP is the stack of `vmx_enter`; the registers stay borrowed. All registers are named as
        // lost but RBX and RBP, which are kept on the stack. A guest reaches nothing but its space, by EPT.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "call {enter}",
                "pop rbp",
                "pop rbx",
                enter = sym vmx_enter,
                inlateout("rdi") software.image.as_mut_ptr().wrapping_byte_add(offset::RAX) => _,
                inlateout("rsi") u64::from(self.launched) => _,
                inlateout("rdx") &raw mut self.host_rsp => _,
                lateout("eax") failed, lateout("rcx") _,
                lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
                lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            );
        }
        failed
    }

    #[cold]
    #[inline(never)]
    fn entry_failed(&mut self) -> GuestEvent {
        self.instruction_error = Current.read(field::INSTRUCTION_ERROR) as u32;
        GuestEvent::Exit(abi::exit::ENTRY_FAILED)
    }

    /// Writes what is not as it was at the last entry.
    #[cold]
    #[inline(never)]
    fn prepare(
        &mut self,
        software: &mut Software,
        frames: &GuestPlace,
        tag: u16,
        flush: bool,
        ports: Frame,
    ) {
        let place = [ports.0, vmx_host::read_cr3()];
        if self.place != place || self.tag != tag {
            (self.place, self.tag) = (place, tag);
            Self::write_place(frames, tag, ports, place[1]);
        }
        let watch = self.state.choose_watch(&self.cpu);
        if software.news | watch {
            self.choose_duties(software);
            let (ports, tagged) = (ports != Frame(0), tag != 0);
            let mov_dr = !self.duties.contains(Duties::DEBUG);
            self.state.write_controls(&mut Current, &self.cpu, software, ports, tagged, mov_dr);
        }
        if software.event.0 & VALID != 0 {
            self.event_written = true;
            self.state.write_event(&mut Current, software);
        } else if self.event_written {
            self.event_written = false;
            Current.write(field::ENTRY_INTERRUPT_INFO, 0);
        }
        if flush | self.state.flush {
            self.state.flush = false;
            vmx_host::invalidate(&self.cpu, ept_pointer(frames.table.0), tag, flush);
        }
        software.news = false;
    }

    /// What the guest and its controls make necessary at each entry and exit.
    fn choose_duties(&mut self, software: &Software) {
        let debug = self.duties & Duties::DEBUG;
        let free = software.asked.primary & primary::MSR_BITMAPS != 0;
        self.duties = debug | guest_switch::msr_duties(software, free);
        self.duties.set(Duties::SYSCALL_MSRS, VmxState::syscall_enabled(software));
    }

    /// Addresses that change with the vCPU's surroundings.
    fn write_place(frames: &GuestPlace, tag: u16, ports: Frame, cr3: u64) {
        let GuestPlace { table, vlapic, apic_access } = *frames;
        for (field, value) in [
            (field::EPT_POINTER, ept_pointer(table.0)),
            (field::VPID, u64::from(tag)),
            // Without ports of its own no bitmap is used; any page will do.
            (field::IO_BITMAP_A, ports.address()),
            (field::IO_BITMAP_B, ports.plus(1).address()),
            (field::VIRTUAL_APIC_ADDRESS, vlapic.address()),
            (field::APIC_ACCESS_ADDRESS, apic_access.address()),
            (field::MSR_BITMAP, msr_bitmap()),
            (field::HOST_CR3, cr3),
        ] {
            Current.write(field, value);
        }
    }

    /// Arms the preemption timer for the first of the monitor's time-out and the host's deadline. The VMCS keeps the
    /// value, from which it counts down at each entry (26.5.1, 25.7.1).
    #[inline(never)]
    fn arm(&mut self, software: &Software, deadline: Option<u64>, poked: bool) {
        let start = now();
        self.start = start;
        let host = deadline
            .map_or(LOOK_AROUND, |deadline| deadline.saturating_sub(start).min(LOOK_AROUND));
        let ticks;
        (ticks, self.armed) = match poked {
            true => (0, Armed::Poke),
            false if software.timeout <= host => (software.timeout, Armed::Monitor),
            false => (host, Armed::Host),
        };
        self.looks_around = false;
        // At most `LOOK_AROUND`, so neither sum nor result overflows.
        let shift = self.cpu.timer_shift();
        Current.write(field::PREEMPTION_TIMER, (ticks + (1 << shift) - 1) >> shift);
    }

    /// The guest ran, or its state was refused.
    #[inline(always)]
    fn after(&mut self, software: &mut Software) -> GuestEvent {
        let reason = Current.read(field::EXIT_REASON) as u32;
        if reason & abi::exit::ENTRY_FAILURE_BIT != 0 {
            return GuestEvent::Exit(reason);
        }
        self.launched = true;
        // The CPU cleared the valid bit (28.2.2).
        self.event_written = false;
        software.event = (0, 0);
        self.state.entered();
        if Kind::of(reason).has(Kind::KERNEL) || self.duties.contains(Duties::DEBUG) {
            return self.settle(software, reason);
        }
        GuestEvent::Exit(reason)
    }

    /// An exit that may be the kernel's own, or of a guest that uses debug registers.
    #[inline(never)]
    fn settle(&mut self, software: &mut Software, reason: u32) -> GuestEvent {
        let debug = self.duties.contains(Duties::DEBUG);
        if debug && !guest_switch::breakpoints_armed(Current.read(field::GUEST_DR7)) {
            self.set_debug(software, false);
        }
        match reason {
            0 => self.exception(software, Current.read(field::EXIT_INTERRUPT_INFO) as u32),
            1 => {
                let vector = Current.read(field::EXIT_INTERRUPT_INFO) as u8;
                if vector == crate::vector::TIMER {
                    super::timer_fired();
                }
                GuestEvent::Interrupt(vector.into())
            }
            29 if software.asked.primary & primary::MOV_DR == 0 => {
                guest_switch::adopt_dr6(software);
                self.set_debug(software, true);
                GuestEvent::Nothing
            }
            46 | 47 if self.state.release_tables(software) => GuestEvent::Nothing,
            TIMED_OUT => match self.armed {
                Armed::Monitor => {
                    software.timeout = 0;
                    GuestEvent::Exit(TIMED_OUT)
                }
                Armed::Host => GuestEvent::HostTimer,
                Armed::Poke => GuestEvent::Exit(abi::exit::POKED),
            },
            other => GuestEvent::Exit(other),
        }
    }

    /// NMIs and machine checks are the host's; a machine check may be the monitor's as well.
    fn exception(&mut self, software: &Software, info: u32) -> GuestEvent {
        if info & event::TYPE == event::NMI {
            guest_switch::deliver_nmi();
            return GuestEvent::Nothing;
        }
        if info & 0xff == 18 {
            guest_switch::deliver_machine_check();
            if software.asked.exceptions & MACHINE_CHECK == 0 {
                return GuestEvent::Nothing;
            }
        }
        GuestEvent::Exit(0)
    }

    fn set_debug(&mut self, software: &mut Software, on: bool) {
        self.duties.set(Duties::DEBUG, on);
        software.news = true;
    }

    /// See [`super::Guest::store`].
    #[inline(always)]
    pub fn store(&mut self, software: &mut Software, page: &SharedPage, wanted: Mtd, reason: u32) {
        self.state.store(&mut Current, &self.cpu, software, page, wanted, reason, now());
    }

    /// See [`super::Guest::store_extended`].
    pub fn store_extended(&self, software: &Software, page: &SharedPage, reason: u32) {
        use abi::utcb::extended_offset as at;
        let vmcs = Current;
        page.write_u64(at::DR6, software.dr6);
        for (at, field) in [
            (at::DEBUGCTL, field::GUEST_DEBUGCTL),
            (at::PENDING_DEBUG, field::GUEST_PENDING_DEBUG),
            (at::GUEST_LINEAR, field::GUEST_LINEAR_ADDRESS),
            (at::RAW_EXIT, field::EXIT_REASON),
            (at::RAW_INFO1, field::EXIT_QUALIFICATION),
            (at::RAW_INFO2, field::GUEST_PHYSICAL_ADDRESS),
        ] {
            page.write_u64(at, vmcs.read(field));
        }
        let failed = reason == abi::exit::ENTRY_FAILED;
        page.write_u32(at::INSTRUCTION_ERROR, if failed { self.instruction_error } else { 0 });
        page.write_u32(at::INSTRUCTION_INFO, vmcs.read(field::EXIT_INSTRUCTION_INFO) as u32);
        let info = vmcs.read(field::EXIT_INTERRUPT_INFO) & 0xffff_ffff;
        page.write_u64(at::RAW_INT_INFO, info | vmcs.read(field::EXIT_ERROR_CODE) << 32);
        page.write_u64(at::INSTRUCTION_BYTES, 0);
        page.write_u64(at::INSTRUCTION_BYTES + 8, 0);
    }

    /// See [`super::Guest::load_extended`].
    #[inline]
    pub fn load_extended(&mut self, software: &mut Software, page: &SharedPage) {
        use abi::utcb::extended_offset as at;
        Current.write(field::GUEST_DEBUGCTL, page.read_u64(at::DEBUGCTL));
        Current.write(field::GUEST_PENDING_DEBUG, page.read_u64(at::PENDING_DEBUG));
        self.set_debug(software, true);
    }
}
