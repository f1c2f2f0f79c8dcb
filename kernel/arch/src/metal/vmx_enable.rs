//! Brings a CPU into VMX operation, and keeps what all CPUs have in common.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use logic::Oom;
use sync::{Pool, Site, SpinLock};

use super::guest::{keep, place, without};
use super::guest_switch::rdmsr;
use super::{percpu, vmx_host, write_msr};
use crate::x86::vmx_controls::{Allowed, Capabilities, primary};

/// What all CPUs have in common.
static COMMON: SpinLock<Option<Capabilities>> = SpinLock::new(None);
/// The frame of the MSR bitmap, one for all guests.
static MSR_BITMAP: AtomicU64 = AtomicU64::new(0);

/// Physical address of the MSR bitmap.
pub fn msr_bitmap() -> u64 {
    MSR_BITMAP.load(Relaxed) << 12
}

const FEATURE_CONTROL: u32 = 0x3a;
const BASIC: u32 = 0x480;

/// Whether the CPU has VMX (CPUID.1:ECX bit 5).
pub fn present() -> bool {
    core::arch::x86_64::__cpuid(1).ecx >> 5 & 1 != 0
}

/// Tags for translations; 0 if the CPUs have none.
pub fn tags() -> u16 {
    if capabilities().vpid() { u16::MAX } else { 0 }
}

/// The HIP's word about secondary controls.
pub fn hip_word() -> u64 {
    capabilities().hip_word()
}

/// The longest time the preemption timer counts, in TSC ticks.
pub fn longest_timeout() -> u64 {
    u64::from(u32::MAX) << capabilities().timer_shift()
}

/// What all CPUs can do that have been enabled.
pub fn capabilities() -> Capabilities {
    COMMON.lock().unwrap_or_default()
}

/// Enters VMX operation on the calling CPU.
pub fn enable(pool: &Pool) -> Result<(), &'static str> {
    const LOCKED: u64 = 1 << 0;
    const OUTSIDE_SMX: u64 = 1 << 2;
    let control = rdmsr(FEATURE_CONTROL);
    if control & LOCKED == 0 {
        // The firmware left the choice to us.
        write_msr(FEATURE_CONTROL, control | LOCKED | OUTSIDE_SMX)
            .map_err(|()| "VMX cannot be enabled")?;
    } else if control & OUTSIDE_SMX == 0 {
        return Err("VMX is locked off by the firmware");
    }
    let cpu = read_capabilities();
    if let Some(reason) = cpu.missing() {
        return Err(reason);
    }
    let area = keep(&place().area, pool, 0)?;
    pool.page(area).write_u32(0, revision(&cpu));
    make_msr_bitmap(pool)?;
    vmx_host::enable_cr4();
    if !vmx_host::vmxon(area.address()) {
        return Err("VMXON failed");
    }
    vmx_host::forget_translations();
    percpu::note_gdt();
    percpu::local().vmcs.store(0, Relaxed);
    let mut common = COMMON.lock();
    *common = Some(common.map_or(cpu, |other| other.common(&cpu)));
    Ok(())
}

/// The first word of a VMCS (24.2).
pub fn revision(cpu: &Capabilities) -> u32 {
    cpu.basic as u32 & 0x7fff_ffff
}

/// Appendix A of the manual; the TRUE words where the CPU has them (BASIC bit 55).
fn read_capabilities() -> Capabilities {
    let basic = rdmsr(BASIC);
    let first = if basic >> 55 & 1 != 0 { 0x48d } else { 0x481 };
    let primary_word = Allowed(rdmsr(first + 1));
    let has_secondary = primary_word.allows(primary::SECONDARY);
    let secondary_word = if has_secondary { Allowed(rdmsr(0x48b)) } else { Allowed(0) };
    let ept = has_secondary && secondary_word.possible() & (1 << 1 | 1 << 5) != 0;
    without().vmx(Capabilities {
        pin: Allowed(rdmsr(first)),
        primary: primary_word,
        secondary: secondary_word,
        exit: Allowed(rdmsr(first + 2)),
        entry: Allowed(rdmsr(first + 3)),
        cr0_fixed: [rdmsr(0x486), rdmsr(0x487)],
        cr4_fixed: [rdmsr(0x488), rdmsr(0x489)],
        ept_vpid: if ept { rdmsr(0x48c) } else { 0 },
        misc: rdmsr(0x485),
        basic,
    })
}

/// All accesses exit but those of abi.md 11.3.
fn make_msr_bitmap(pool: &Pool) -> Result<(), &'static str> {
    const FREE: [u32; 8] =
        [0xc000_0100, 0xc000_0101, 0xc000_0102, 0xc000_0103, 0x10a, 0x48, 0x49, 0x10b];
    if MSR_BITMAP.load(Relaxed) != 0 {
        return Ok(());
    }
    let frame = pool.alloc_zeroed(0, Site::Boot).map_err(|Oom| "no memory for the MSR bitmap")?;
    let page = pool.page(frame);
    page.fill(u64::MAX);
    for msr in FREE {
        // Reads of low MSRs at 0, of high ones at 0x400; writes 0x800 further (25.6.9).
        let base = if msr >= 0xc000_0000 { 0x400 } else { 0 };
        let at = base + (msr as usize & 0x1fff) / 8;
        for at in [at, at + 0x800] {
            page.write_u8(at, page.read_u8(at) & !(1 << (msr & 7)));
        }
    }
    MSR_BITMAP.store(frame.0, Relaxed);
    Ok(())
}
