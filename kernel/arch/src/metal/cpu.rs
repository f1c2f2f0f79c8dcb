//! Control registers and MSRs that each CPU gets, and which optional features all CPUs share.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use raw_cpuid::cpuid;
use x86_64::registers::control::{Cr0, Cr4};

use super::msr::{read_msr, write_msr};
use super::percpu;
use crate::x86::descriptor::{KERNEL_CS, SYSRET_BASE};
use crate::x86::feature::{Features, REQUIRED, optional};
use crate::x86::page::PAT;

/// Features in use: those of the first CPU, less what another one lacks.
static FEATURES: AtomicU64 = AtomicU64::new(0);
/// Whether [`FAST_SWITCH`] is among them.
static HAS_FAST_SWITCH: AtomicBool = AtomicBool::new(false);
/// What the short way between two threads needs.
const FAST_SWITCH: Features = Features::FSGSBASE.union(Features::XSAVE).union(Features::XSAVEOPT);

const IA32_PAT: u32 = 0x277;
const IA32_EFER: u32 = 0xc000_0080;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_FMASK: u32 = 0xc000_0084;
const IA32_TSC_AUX: u32 = 0xc000_0103;

/// EFER: system calls, long mode, no-execute.
const EFER: u64 = 1 | 1 << 8 | 1 << 11;
/// CR0: paging, write protection in ring 0, native FPU errors, FPU present; no alignment checks (AM).
const CR0: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1;
/// CR4 that every CPU gets: PAE, MCE, PGE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10;
/// CR4 for optional features.
const CR4_OPTIONAL: &[(Features, u64)] = &[
    (Features::UMIP, 1 << 11),
    (Features::FSGSBASE, 1 << 16),
    (Features::PCID, 1 << 17),
    (Features::XSAVE, 1 << 18),
    (Features::SMEP, 1 << 20),
    (Features::SMAP, 1 << 21),
];
/// Flags that SYSCALL clears: all that could disturb the kernel (trap, interrupt, direction, I/O
/// privilege, nested task, resume, alignment) and the arithmetic ones, which are lost anyway.
const SYSCALL_MASK: u64 = 0x0025_7fd5;
/// XCR0 bits the kernel enables where they exist: x87, SSE, AVX, and the three of AVX-512.
const XCR0: u64 = 0b1110_0111;

unsafe extern "C" {
    static syscall_entry: u8;
}

fn ask(leaf: u32, subleaf: u32) -> [u32; 4] {
    let answer = cpuid!(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// The optional features that all CPUs have and the kernel uses.
#[inline]
pub fn features() -> Features {
    Features::from_bits_truncate(FEATURES.load(Relaxed))
}

/// Looks at the calling CPU: names every required feature that it lacks, and says whether none is.
pub fn check_required() -> bool {
    let mut complete = true;
    for feature in REQUIRED.iter().filter(|feature| !feature.bit.is_set(ask)) {
        log::error!("CPU lacks {}, needed for {}", feature.name, feature.purpose);
        complete = false;
    }
    complete
}

/// Decides which optional features are in use, less those `unwanted`. The first CPU calls it.
pub fn choose_features(unwanted: Features) {
    FEATURES.store((optional(ask) - unwanted).bits(), Relaxed);
    note_fast_switch();
}

/// Withdraws what the calling CPU lacks.
pub fn withdraw_missing() {
    let lost = features() - optional(ask);
    if !lost.is_empty() {
        log::warn!("this CPU lacks {lost:?}: not used on any");
        FEATURES.fetch_and(!lost.bits(), Relaxed);
        note_fast_switch();
    }
}

fn note_fast_switch() {
    HAS_FAST_SWITCH.store(features().contains(FAST_SWITCH), Relaxed);
}

/// Whether FS and GS base and the FPU state can be switched by the newer instructions, on all CPUs.
#[inline(always)]
pub fn has_fast_switch() -> bool {
    HAS_FAST_SWITCH.load(Relaxed)
}

/// Sets control registers and MSRs of the calling CPU. Also after resume.
pub fn set_registers() {
    let features = features();
    let mut cr4 = CR4;
    for (feature, bit) in CR4_OPTIONAL {
        if features.contains(*feature) {
            cr4 |= bit;
        }
    }
    // SAFETY: the bits keep paging and long mode as they are; optional ones exist on this CPU. PCID
    // may be set because the current CR3 has tag 0.
    unsafe {
        Cr0::write_raw(CR0);
        Cr4::write_raw(cr4);
    }
    if features.contains(Features::XSAVE) {
        let xcr0 = xstate();
        // SAFETY: only bits that CPUID reports, x87 and SSE always with them.
        unsafe {
            core::arch::asm!("xsetbv", in("ecx") 0, in("eax") xcr0 as u32,
                in("edx") (xcr0 >> 32) as u32, options(nomem, nostack, preserves_flags));
        }
    }
    let star = u64::from(SYSRET_BASE) << 48 | u64::from(KERNEL_CS) << 32;
    let settings = [
        (IA32_EFER, EFER),
        (IA32_PAT, PAT),
        (IA32_STAR, star),
        (IA32_LSTAR, (&raw const syscall_entry) as u64),
        (IA32_FMASK, SYSCALL_MASK),
    ];
    for (msr, value) in settings {
        if write_msr(msr, value).is_err() {
            log::error!("CPU refuses MSR {msr:#x}");
        }
    }
    if features.contains(Features::RDTSCP) {
        let _ = write_msr(IA32_TSC_AUX, percpu::cpu_number() as u64);
    }
}

/// The extended state components in use: XCR0, or 3 where there is no XSAVE.
#[must_use]
pub fn xstate() -> u64 {
    if !features().contains(Features::XSAVE) {
        return 3;
    }
    let [low, _, _, high] = ask(0xd, 0);
    let offered = (u64::from(high) << 32 | u64::from(low)) & XCR0;
    // AVX-512 is three bits or none.
    if offered & 0xe0 == 0xe0 { offered | 3 } else { offered & 7 | 3 }
}

/// Bytes of the state that [`xstate`] names, in standard format.
pub fn xstate_bytes() -> u32 {
    if !features().contains(Features::XSAVE) {
        return 512;
    }
    // Standard format: each component has its place; the last one in use ends the area.
    let mut end = 576;
    for component in (2..64).filter(|component| xstate() >> component & 1 != 0) {
        let [size, offset, ..] = ask(0xd, component);
        end = end.max(offset + size);
    }
    end
}

/// Width of physical addresses in bits.
#[must_use]
pub fn physical_bits() -> u8 {
    let [highest, ..] = ask(0x8000_0000, 0);
    if highest < 0x8000_0008 { 36 } else { (ask(0x8000_0008, 0)[0] & 0xff) as u8 }
}

/// Whether 1 GiB pages may be used.
#[must_use]
pub fn one_gib_pages() -> bool {
    features().contains(Features::GIB_PAGES)
}

/// Whether address spaces may be tagged.
#[must_use]
pub fn pcid_available() -> bool {
    features().contains(Features::PCID)
}

/// The CPU's brand string, for the log; NULs and leading blanks are the reader's problem.
pub fn brand() -> [u8; 48] {
    let mut text = [0; 48];
    if ask(0x8000_0000, 0)[0] >= 0x8000_0004 {
        for (leaf, chunk) in (0x8000_0002..).zip(text.chunks_exact_mut(16)) {
            for (word, bytes) in ask(leaf, 0).into_iter().zip(chunk.chunks_exact_mut(4)) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
    }
    text
}

/// Thread, core and package number of the CPU with APIC identifier `id`, for the HIP. All CPUs of a
/// machine split their identifiers in the same way (Intel SDM vol. 3, 8.9).
pub fn topology(id: u32) -> (u8, u8, u8) {
    let [highest, ..] = ask(0, 0);
    if highest < 0xb || ask(0xb, 0)[1] == 0 {
        return (0, id as u8, 0);
    }
    let (thread_shift, core_shift) = (ask(0xb, 0)[0] & 31, ask(0xb, 1)[0] & 31);
    let mask = |bits: u32| (1u32 << bits.min(8)) - 1;
    let core = id >> thread_shift & mask(core_shift.saturating_sub(thread_shift));
    ((id & mask(thread_shift)) as u8, core as u8, (id >> core_shift) as u8)
}

/// Family, model and stepping: CPUID leaf 1, EAX.
#[must_use]
pub fn signature() -> u32 {
    ask(1, 0)[0]
}

/// The vendor's twelve letters: CPUID leaf 0.
#[must_use]
pub fn vendor_name() -> [u8; 12] {
    let [_, ebx, ecx, edx] = ask(0, 0);
    let mut name = [0; 12];
    for (word, bytes) in [ebx, edx, ecx].into_iter().zip(name.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    name
}

/// What CPUID says of SVM: EAX, EBX and EDX of leaf 8000_000A; zeros without it.
#[must_use]
pub fn svm_words() -> [u32; 3] {
    if ask(0x8000_0000, 0)[0] < 0x8000_000a || ask(0x8000_0001, 0)[2] & 4 == 0 {
        return [0; 3];
    }
    let [eax, ebx, _, edx] = ask(0x8000_000a, 0);
    [eax, ebx, edx]
}

/// Whether the calling CPU is known to leak kernel memory through speculation past page rights
/// (Meltdown): Intel, and IA32_ARCH_CAPABILITIES bit 0 (RDCL_NO) is missing or clear.
pub fn has_meltdown() -> bool {
    let intel = ask(0, 0)[1] == u32::from_le_bytes(*b"Genu");
    let told = ask(0, 0)[0] >= 7 && ask(7, 0)[3] >> 29 & 1 != 0;
    intel && !(told && read_msr(0x10a).is_ok_and(|bits| bits & 1 != 0))
}

/// The local APIC identifier that the CPU has had since reset.
pub fn initial_apic_id() -> u32 {
    let [highest, ..] = ask(0, 0);
    let [_, ebx, _, edx] = if highest >= 0xb { ask(0xb, 0) } else { [0; 4] };
    if ebx != 0 { edx } else { ask(1, 0)[1] >> 24 }
}
