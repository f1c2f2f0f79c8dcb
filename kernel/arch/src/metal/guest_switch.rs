//! What must change hands between host and guest by instructions, the same for both vendors.
//!
//! FPU, XCR0, CR2, debug registers, the MSRs that no control block carries, FS and GS base. Everything
//! is compared first and written only where host and guest differ.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::utcb::offset;
use sync::SharedPage;

use super::{bases, cpu, cpu_number, fpu, fpu_restore, fpu_save, percpu, xstate};
use crate::MAX_CPUS;
use crate::x86::guest_software::{DR6_RESET, Software};

/// MSRs that the kernel switches by hand.
mod msr {
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const FMASK: u32 = 0xc000_0084;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const SPEC_CTRL: u32 = 0x48;
}

/// STAR, LSTAR, FMASK, and where the state page has them.
const SYSCALL_MSRS: [(u32, usize); 3] =
    [(msr::STAR, offset::STAR), (msr::LSTAR, offset::LSTAR), (msr::FMASK, offset::FMASK)];

/// What the host has in the registers that a guest changes; constant once a CPU is up.
pub struct HostValues {
    syscall: [AtomicU64; 3],
    tsc_aux: AtomicU64,
    features: AtomicU64,
}

const HAS_TSC_AUX: u64 = 1;
const HAS_SPEC_CTRL: u64 = 2;
const HAS_XSAVE: u64 = 4;

static HOSTS: [HostValues; MAX_CPUS] = [const {
    HostValues {
        syscall: [const { AtomicU64::new(0) }; 3],
        tsc_aux: AtomicU64::new(0),
        features: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// The calling CPU's values.
#[inline(always)]
pub fn host() -> &'static HostValues {
    &HOSTS[cpu_number() % MAX_CPUS]
}

/// Notes the calling CPU's values; system-call MSRs and XCR0 must have got theirs before.
pub fn note_host() {
    let host = host();
    for (place, (number, _)) in host.syscall.iter().zip(SYSCALL_MSRS) {
        place.store(rdmsr(number), Relaxed);
    }
    let mut features = 0;
    if core::arch::x86_64::__cpuid(0x8000_0001).edx >> 27 & 1 != 0 {
        features |= HAS_TSC_AUX;
        host.tsc_aux.store(rdmsr(msr::TSC_AUX), Relaxed);
    }
    if has_spec_ctrl() {
        features |= HAS_SPEC_CTRL;
    }
    // CR4.OSXSAVE: without it there is neither XSETBV nor anything to switch.
    if core::arch::x86_64::__cpuid(1).ecx >> 27 & 1 != 0 {
        features |= HAS_XSAVE;
    }
    host.features.store(features, Relaxed);
    percpu::local().xcr0.store(xstate(), Relaxed);
}

/// Whether the CPU has SPEC_CTRL: Intel says so in leaf 7 (EDX bits 26, 27 and 31), AMD in leaf 0x80000008
/// (EBX bits 14, 15 and 24). A guest may write it freely, so it is switched wherever it exists.
fn has_spec_ctrl() -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    let intel = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (1 << 26 | 1 << 27 | 1 << 31) != 0;
    let amd = __cpuid(0x8000_0000).eax >= 0x8000_0008
        && __cpuid(0x8000_0008).ebx & (1 << 14 | 1 << 15 | 1 << 24) != 0;
    intel || amd
}

bitflags::bitflags! {
    /// Which of the guest's registers must be moved by hand. Chosen when the guest's controls are; each entry and
    /// exit asks once whether there is any of the [`SELDOM`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Duties: u8 {
        /// VMX: KERNEL_GS_BASE, FS base, CR2 and DR6. On SVM VMLOAD, VMSAVE and the VMCB do it.
        const BARE = 1 << 0;
        /// STAR, LSTAR, FMASK, because the guest can execute SYSCALL (on SVM VMLOAD and VMSAVE).
        const SYSCALL_MSRS = 1 << 1;
        /// TSC_AUX.
        const TSC_AUX = 1 << 2;
        /// SPEC_CTRL.
        const SPEC_CTRL = 1 << 3;
        /// The guest writes these two without an exit.
        const FREE = 1 << 4;
        /// DR0 to DR3 are loaded, because the guest uses them; otherwise their first use exits.
        const DEBUG = 1 << 5;
        /// The guest can execute XSETBV without an exit: not every SVM intercepts it (QEMU 7.2 does not).
        const XCR0 = 1 << 6;
        /// The CPU lacks the newer instructions for FPU, FS and GS base.
        const SLOW = 1 << 7;
    }
}

/// What most exits do without.
const SELDOM: Duties = Duties::SYSCALL_MSRS
    .union(Duties::TSC_AUX)
    .union(Duties::SPEC_CTRL)
    .union(Duties::DEBUG)
    .union(Duties::XCR0);

/// Which MSRs differ for this guest, or can; `free` says that it writes them without an exit.
pub fn msr_duties(guest: &Software, free: bool) -> Duties {
    let host = host();
    let features = host.features.load(Relaxed);
    let aux = free || u64::from(guest.tsc_aux()) != host.tsc_aux.load(Relaxed);
    let spec = free || guest.image.at(offset::SPEC_CTRL) != 0;
    let mut duties = Duties::empty();
    duties.set(Duties::SLOW, !cpu::has_fast_switch());
    duties.set(Duties::FREE, free);
    duties.set(Duties::TSC_AUX, features & HAS_TSC_AUX != 0 && aux);
    duties.set(Duties::SPEC_CTRL, features & HAS_SPEC_CTRL != 0 && spec);
    duties
}

/// What [`Switch::enter`] took of the host and [`Switch::leave`] puts back: the thread's FS and GS base.
pub struct Switch((u64, u64));

impl Switch {
    /// Loads the guest's side. Refused, with nothing changed, if XCR0 or the FPU page is invalid.
    #[inline(always)]
    pub fn enter(
        guest: &mut Software,
        monitor: &SharedPage,
        fpu: &SharedPage,
        duties: Duties,
    ) -> Option<Self> {
        let xcr0 = percpu::xcr0();
        if !guest.has_valid_xcr0(xcr0) {
            return None;
        }
        let own = guest.image.at(offset::XCR0);
        let base = guest.image.at(offset::KERNEL_GS_BASE);
        let mut kept = (0, 0);
        if duties.contains(Duties::SLOW) {
            let base = duties.contains(Duties::BARE).then_some(base);
            kept = enter_slowly(monitor, fpu, own, base)?;
        } else {
            if fpu::exchange(monitor, fpu).is_err() {
                let _ = fpu_restore(monitor);
                return None;
            }
            if own != xcr0 {
                xsetbv(own);
            }
            if duties.contains(Duties::BARE) {
                kept = bases::give(base);
            }
        }
        if duties.intersects(SELDOM) {
            load_seldom(guest, duties);
        }
        let cr2 = guest.image.at(offset::CR2);
        if duties.contains(Duties::BARE) && read_cr2() != cr2 {
            write_cr2(cr2);
        }
        Some(Self(kept))
    }

    /// Takes the guest's side out and loads the host's.
    #[inline(always)]
    pub fn leave(
        self,
        guest: &mut Software,
        monitor: &SharedPage,
        fpu: &SharedPage,
        duties: Duties,
    ) {
        if duties.contains(Duties::BARE) {
            guest.image.set(offset::CR2, read_cr2());
        }
        if duties.intersects(SELDOM) {
            save_seldom(guest, duties);
        }
        if duties.contains(Duties::SLOW) {
            return self.leave_slowly(guest, fpu, monitor, duties);
        }
        if duties.contains(Duties::BARE) {
            guest.image.set(offset::KERNEL_GS_BASE, bases::take_back(self.0));
        }
        let xcr0 = percpu::xcr0();
        if guest.image.at(offset::XCR0) != xcr0 {
            xsetbv(xcr0);
        }
        fpu::switch(fpu, monitor);
    }

    /// [`Self::leave`] without the newer instructions.
    #[cold]
    #[inline(never)]
    fn leave_slowly(
        self,
        guest: &mut Software,
        from: &SharedPage,
        to: &SharedPage,
        duties: Duties,
    ) {
        if duties.contains(Duties::BARE) {
            guest.image.set(offset::KERNEL_GS_BASE, bases::restore(self.0));
        }
        let xcr0 = percpu::xcr0();
        let has_xsave = host().features.load(Relaxed) & HAS_XSAVE != 0;
        if has_xsave && guest.image.at(offset::XCR0) != xcr0 {
            xsetbv(xcr0);
        }
        fpu_save(from);
        let _ = fpu_restore(to);
    }
}

/// FPU, XCR0, FS and GS base without the newer instructions; `base` is the guest's, if it is moved here.
#[cold]
#[inline(never)]
fn enter_slowly(
    from: &SharedPage,
    to: &SharedPage,
    xcr0: u64,
    base: Option<u64>,
) -> Option<(u64, u64)> {
    fpu_save(from);
    if fpu_restore(to).is_err() {
        let _ = fpu_restore(from);
        return None;
    }
    let has_xsave = host().features.load(Relaxed) & HAS_XSAVE != 0;
    if has_xsave && xcr0 != percpu::xcr0() {
        xsetbv(xcr0);
    }
    Some(base.map_or((0, 0), bases::exchange))
}

#[inline(never)]
fn load_seldom(guest: &Software, duties: Duties) {
    let host = host();
    if duties.contains(Duties::SYSCALL_MSRS) {
        for ((number, at), host) in SYSCALL_MSRS.into_iter().zip(&host.syscall) {
            exchange(number, host.load(Relaxed), guest.image.at(at));
        }
    }
    if duties.contains(Duties::TSC_AUX) {
        exchange(msr::TSC_AUX, host.tsc_aux.load(Relaxed), guest.tsc_aux().into());
    }
    if duties.contains(Duties::SPEC_CTRL) {
        offer(msr::SPEC_CTRL, 0, guest.image.at(offset::SPEC_CTRL));
    }
    if duties.contains(Duties::DEBUG) {
        load_debug(guest, duties.contains(Duties::BARE));
    }
}

#[inline(never)]
fn save_seldom(guest: &mut Software, duties: Duties) {
    let host = host();
    if duties.contains(Duties::DEBUG) {
        save_debug(guest, duties.contains(Duties::BARE));
    }
    if duties.contains(Duties::SPEC_CTRL) {
        if duties.contains(Duties::FREE) {
            guest.image.set(offset::SPEC_CTRL, rdmsr(msr::SPEC_CTRL));
        }
        offer(msr::SPEC_CTRL, guest.image.at(offset::SPEC_CTRL), 0);
    }
    if duties.contains(Duties::TSC_AUX) {
        if duties.contains(Duties::FREE) {
            guest.image.set(offset::TSC_AUX, read_tsc_aux().into());
        }
        exchange(msr::TSC_AUX, guest.tsc_aux().into(), host.tsc_aux.load(Relaxed));
    }
    if duties.contains(Duties::SYSCALL_MSRS) {
        for ((number, at), host) in SYSCALL_MSRS.into_iter().zip(&host.syscall) {
            exchange(number, guest.image.at(at), host.load(Relaxed));
        }
    }
    if duties.contains(Duties::XCR0) && host.features.load(Relaxed) & HAS_XSAVE != 0 {
        guest.image.set(offset::XCR0, xgetbv());
    }
}

/// Whether a guest with this DR7 has a breakpoint armed; only then must DR0 to DR3 be loaded at once.
#[must_use]
pub const fn breakpoints_armed(dr7: u64) -> bool {
    dr7 & 0xff != 0
}

/// A guest that never touched DR0 to DR3 may still have set bits of DR6 (single steps): takes them
/// over, before its first access loads the others.
pub fn adopt_dr6(guest: &mut Software) {
    let left = read_dr6();
    if left != DR6_RESET {
        guest.dr6 |= left & 0xe00f;
        write_dr6(DR6_RESET);
    }
}

/// Another guest comes: DR6 bits of the last one are not its business.
pub fn reset_dr6() {
    if read_dr6() != DR6_RESET {
        write_dr6(DR6_RESET);
    }
}

/// An NMI made a guest exit and NMIs are blocked until an IRET (Intel SDM vol. 3, 28.3): the host's
/// handler does it.
pub fn deliver_nmi() {
    // SAFETY: vector 2 is a gate to `nmi_entry`, which needs nothing and returns by IRET.
    unsafe { asm!("int 2") };
}

/// A machine check made a guest exit: the host's handler looks at it.
pub fn deliver_machine_check() {
    // SAFETY: vector 18 is a gate to `machine_check_entry`, which saves what it uses and returns by IRET.
    unsafe { asm!("int 18") };
}

/// WRMSR if the two values differ; the MSR exists and takes the value.
#[inline(always)]
fn exchange(number: u32, old: u64, new: u64) {
    if old != new {
        // SAFETY: the callers name system-call MSRs and TSC_AUX. The kernel's own values are back before
        // user code runs; `Software::load` made the guest's fit (canonical, 32 bits).
        unsafe {
            asm!("wrmsr", in("ecx") number, in("eax") new as u32, in("edx") (new >> 32) as u32,
                options(nostack, preserves_flags));
        }
    }
}

/// The same for an MSR that may refuse the value; then it keeps the old one.
fn offer(number: u32, old: u64, new: u64) {
    if old != new {
        let _ = super::write_msr(number, new);
    }
}

fn load_debug(guest: &Software, dr6: bool) {
    // SAFETY: DR7 is clear in the host, so addresses in DR0 to DR3 have no effect before the guest runs.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
            in(reg) guest.dr[0], in(reg) guest.dr[1], in(reg) guest.dr[2], in(reg) guest.dr[3],
            options(nostack, preserves_flags));
    }
    if dr6 {
        // Bits 63:32 fault when set.
        write_dr6(guest.dr6 & 0xffff_ffff);
    }
}

fn save_debug(guest: &mut Software, dr6: bool) {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
            out(reg) a, out(reg) b, out(reg) c, out(reg) d, options(nostack, preserves_flags));
    }
    guest.dr = [a, b, c, d];
    if dr6 {
        guest.dr6 = read_dr6();
        write_dr6(DR6_RESET);
    }
}

fn read_dr6() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nostack, preserves_flags)) };
    value
}

fn write_dr6(value: u64) {
    // SAFETY: DR6 only reports; the callers pass 32-bit values.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nostack, preserves_flags)) };
}

fn read_cr2() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nostack, preserves_flags)) };
    value
}

fn write_cr2(value: u64) {
    // SAFETY: CR2 only reports; page faults of the host have been handled.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nostack, preserves_flags)) };
}

fn xsetbv(value: u64) {
    // SAFETY: the value is the host's own or passed `xcr0_is_valid` against it; no FPU register is used
    // between the two XSETBVs around a guest.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

#[inline(always)]
fn read_tsc_aux() -> u32 {
    let value: u32;
    // SAFETY: RDTSCP exists where the MSR does, as `note_host` found, and is quicker than RDMSR.
    unsafe {
        asm!("rdtscp", out("ecx") value, out("eax") _, out("edx") _,
            options(nomem, nostack, preserves_flags));
    }
    value
}

fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: only called where XSAVE is enabled; register 0 always exists then; reads alone.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Reads an MSR that is known to exist.
pub fn rdmsr(number: u32) -> u64 {
    super::read_msr(number).unwrap_or(0)
}
