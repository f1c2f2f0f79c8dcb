//! What CPUID tells the guest: the host's answer cut down to what this machine really gives.
//!
//! The table with reasons is `docs/cpuid.md`. Bits come through an allow-mask each, so a bit that
//! a newer processor adds stays hidden until someone has thought about it.
//! Sources: Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E.

use crate::paravirtual;

/// The four registers of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// What an answer depends on besides the host.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// This virtual processor's APIC id.
    pub apic_id: u32,
    /// Virtual processors of the guest.
    pub vcpus: u32,
    /// TSC frequency in kHz.
    pub tsc_khz: u32,
    /// The guest's CR4.
    pub cr4: u64,
    /// The guest's XCR0.
    pub xcr0: u64,
    /// Whether the guest's local APIC is switched on.
    pub apic_enabled: bool,
}

/// XSAVE components a guest may use: x87, SSE, AVX.
pub const XCR0_ALLOWED: u64 = 0b111;
/// First leaf of the hypervisor range.
pub const HYPERVISOR: u32 = 0x4000_0000;
/// Last leaf of the hypervisor range that answers.
pub const HYPERVISOR_LAST: u32 = HYPERVISOR + 0x10;
/// The signature in EBX, ECX, EDX of leaf 0x40000000.
pub const SIGNATURE: &[u8; 12] = b"HematiteVMM\0";

/// Leaf 1 ECX: SSE3, PCLMUL, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX,
/// F16C, RDRAND.
const ONE_ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Leaf 1 EDX: FPU VME DE PSE TSC MSR PAE CX8 APIC SEP MTRR PGE CMOV PAT PSE36 CLFSH MMX FXSR
/// SSE SSE2 SS. Machine checks (7, 14) are the host's business.
const ONE_EDX: u32 =
    bits(&[0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 19, 23, 24, 25, 26, 27]);
/// Leaf 7 EBX: FSGSBASE, TSC_ADJUST, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP,
/// CLFLUSHOPT, CLWB, SHA.
const SEVEN_EBX: u32 = bits(&[0, 1, 3, 5, 7, 8, 9, 18, 19, 20, 23, 24, 29]);
/// Leaf 7 EDX: fast short REP MOV.
const SEVEN_EDX: u32 = bits(&[4]);
/// Leaf 0x80000001 ECX: LAHF, ABM, SSE4A, misaligned SSE, PREFETCHW.
const EXTENDED_ECX: u32 = bits(&[0, 5, 6, 7, 8]);
/// Leaf 0x80000001 EDX: what AMD repeats of leaf 1, SYSCALL, NX, MMX extensions, FFXSR,
/// 1 GiB pages, RDTSCP, long mode.
const EXTENDED_EDX: u32 =
    (ONE_EDX & 0x0183_f3ff & !bits(&[7, 11])) | bits(&[11, 20, 22, 24, 26, 27, 29]);

const fn bits(list: &[u32]) -> u32 {
    let mut mask = 0;
    let mut at = 0;
    while at < list.len() {
        mask |= 1 << list[at];
        at += 1;
    }
    mask
}

/// The answer to leaf `eax`, sub-leaf `ecx`; `host` asks the real processor.
pub fn answer(eax: u32, ecx: u32, view: &View, host: impl Fn(u32, u32) -> Leaf) -> Leaf {
    // Asking the real processor is slow where it is a guest, too.
    let vendor = host(0, 0);
    let is_intel = vendor.ebx == u32::from_le_bytes(*b"Genu");
    let top = if is_intel { 0x16 } else { vendor.eax.clamp(0x0b, 0x16) };
    match eax {
        0 => Leaf { eax: top, ..vendor },
        1 => one(view, host(1, 0)),
        2 if top >= 2 => host(2, 0),
        4 => caches(view, host(4, ecx)),
        6 => Leaf { eax: bits(&[2]), ..Leaf::default() },
        7 if ecx == 0 => seven(view, host(7, 0)),
        0x0b => topology(ecx, view),
        0x0d => xsave(ecx, view, &host),
        0x15 if top >= 0x15 => crystal(view.tsc_khz),
        0x16 if top >= 0x16 => {
            let mhz = view.tsc_khz / 1000;
            Leaf { eax: mhz, ebx: mhz, ecx: 100, edx: 0 }
        }
        HYPERVISOR => signature(),
        paravirtual::LEAF..=0x4000_01ff => paravirtual::leaf(eax),
        0x4000_0010 => Leaf { eax: view.tsc_khz, ..Leaf::default() },
        0x8000_0000 => {
            Leaf { eax: host(eax, 0).eax.clamp(0x8000_0008, 0x8000_0008), ..host(eax, 0) }
        }
        0x8000_0001 => {
            let leaf = host(eax, 0);
            Leaf { ecx: leaf.ecx & EXTENDED_ECX, edx: leaf.edx & EXTENDED_EDX, ..leaf }
        }
        0x8000_0002..=0x8000_0006 => host(eax, 0),
        0x8000_0007 => Leaf { edx: bits(&[8]), ..Leaf::default() },
        0x8000_0008 => Leaf {
            eax: host(eax, 0).eax & 0xffff,
            ecx: view.vcpus.saturating_sub(1) & 0xff,
            ..Leaf::default()
        },
        _ => Leaf::default(),
    }
}

/// Hertz of the "crystal" in leaf 0x15, which is also what the board's local APIC timer counts.
pub const CRYSTAL_HZ: u32 = 1_000_000_000;
/// Linux multiplies the crystal's kHz with the numerator in 32 bits.
const NUMERATOR_MAX: u64 = u32::MAX as u64 / (CRYSTAL_HZ as u64 / 1000);

/// Leaf 0x15: TSC Hz = ECX * EBX / EAX, the nearest ratio with a numerator that Linux can take
/// (Intel SDM vol. 3, 19.17.4; Linux `native_calibrate_tsc`).
fn crystal(tsc_khz: u32) -> Leaf {
    let crystal_khz = u64::from(CRYSTAL_HZ) / 1000;
    let tsc_khz = u64::from(tsc_khz).max(1);
    let mut best = (u64::MAX, 1, 1);
    for numerator in 1..=NUMERATOR_MAX {
        let denominator = (numerator * crystal_khz + tsc_khz / 2) / tsc_khz;
        if denominator == 0 || denominator > u64::from(u32::MAX) {
            continue;
        }
        // Error in millionths of a kHz.
        let error =
            (numerator * crystal_khz * 1_000_000 / denominator).abs_diff(tsc_khz * 1_000_000);
        if error < best.0 {
            best = (error, numerator, denominator);
        }
        if error == 0 {
            break;
        }
    }
    Leaf { eax: best.2 as u32, ebx: best.1 as u32, ecx: CRYSTAL_HZ, edx: 0 }
}

fn one(view: &View, leaf: Leaf) -> Leaf {
    let mut ecx = leaf.ecx & ONE_ECX;
    // x2APIC (21), TSC deadline (24) and "there is a hypervisor" (31) are ours to give.
    ecx |= bits(&[21, 24, 31]);
    if leaf.ecx & bits(&[26]) == 0 {
        ecx &= !bits(&[12, 28, 29]);
    } else if view.cr4 & (1 << 18) != 0 {
        ecx |= bits(&[27]);
    }
    let mut edx = leaf.edx & ONE_EDX;
    if !view.apic_enabled {
        edx &= !bits(&[9]);
    }
    if view.vcpus > 1 {
        edx |= bits(&[28]);
    }
    let ebx = (leaf.ebx & 0xff00) | ((view.vcpus & 0xff) << 16) | (view.apic_id << 24);
    Leaf { eax: leaf.eax, ebx, ecx, edx }
}

fn seven(view: &View, leaf: Leaf) -> Leaf {
    // TSC_ADJUST is emulated, whatever the host has.
    let mut ebx = (leaf.ebx & SEVEN_EBX) | bits(&[1]);
    if view.tsc_khz == 0 {
        ebx &= !bits(&[1]);
    }
    Leaf { eax: 0, ebx, ecx: 0, edx: leaf.edx & SEVEN_EDX }
}

/// Leaf 4: as the host's, but no cache is shared between virtual processors.
fn caches(view: &View, leaf: Leaf) -> Leaf {
    if leaf.eax & 0x1f == 0 {
        return Leaf::default();
    }
    let cores = view.vcpus.saturating_sub(1) & 0x3f;
    Leaf { eax: (leaf.eax & 0x3fff) | (cores << 26), ..leaf }
}

/// Leaf 0x0b: one thread a core, all cores in one package.
fn topology(ecx: u32, view: &View) -> Leaf {
    let shift = 32 - view.vcpus.saturating_sub(1).leading_zeros();
    let level = match ecx {
        0 => Leaf { eax: 0, ebx: 1, ecx: 1 << 8, edx: 0 },
        1 => Leaf { eax: shift, ebx: view.vcpus, ecx: (2 << 8) | 1, edx: 0 },
        _ => Leaf { ecx: ecx & 0xff, ..Leaf::default() },
    };
    Leaf { edx: view.apic_id, ..level }
}

/// Leaf 0x0d: the components of [`XCR0_ALLOWED`] in standard format; XSAVEOPT alone of the forms.
fn xsave(ecx: u32, view: &View, host: &impl Fn(u32, u32) -> Leaf) -> Leaf {
    if host(1, 0).ecx & bits(&[26]) == 0 {
        return Leaf::default();
    }
    let allowed = host(0x0d, 0).eax & XCR0_ALLOWED as u32;
    let avx = host(0x0d, 2);
    let size = |mask: u64| if mask & 4 != 0 { avx.ebx.saturating_add(avx.eax) } else { 576 };
    match ecx {
        0 => Leaf {
            eax: allowed,
            ebx: size(view.xcr0 & u64::from(allowed)),
            ecx: size(u64::from(allowed)),
            edx: 0,
        },
        1 => Leaf { eax: host(0x0d, 1).eax & 1, ..Leaf::default() },
        2 if allowed & 4 != 0 => Leaf { eax: avx.eax, ebx: avx.ebx, ..Leaf::default() },
        _ => Leaf::default(),
    }
}

fn signature() -> Leaf {
    let part = |at: usize| {
        let mut bytes = [0u8; 4];
        for (to, from) in bytes.iter_mut().zip(SIGNATURE.iter().skip(at)) {
            *to = *from;
        }
        u32::from_le_bytes(bytes)
    };
    Leaf { eax: HYPERVISOR_LAST, ebx: part(0), ecx: part(4), edx: part(8) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View {
        apic_id: 1,
        vcpus: 2,
        tsc_khz: 3_000_000,
        cr4: 1 << 18,
        xcr0: 7,
        apic_enabled: true,
    };

    /// A host that has everything.
    fn full(eax: u32, ecx: u32) -> Leaf {
        match (eax, ecx) {
            (0, _) => Leaf { eax: 0x1f, ebx: u32::from_le_bytes(*b"Genu"), ..Leaf::default() },
            (0x0d, 2) => Leaf { eax: 256, ebx: 576, ..Leaf::default() },
            _ => Leaf { eax: !0, ebx: !0, ecx: !0, edx: !0 },
        }
    }

    #[test]
    fn virtualization_and_compact_saves_are_hidden() {
        let one = answer(1, 0, &VIEW, full);
        assert_eq!(one.ecx & bits(&[3, 5, 6]), 0);
        assert_eq!(one.ecx & bits(&[21, 24, 27, 31]), bits(&[21, 24, 27, 31]));
        assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff), (1, 2));
        assert_eq!(answer(0x8000_0001, 0, &VIEW, full).ecx & bits(&[2]), 0);
        assert_eq!(answer(0x0d, 1, &VIEW, full).eax, 1);
        assert_eq!(answer(0x0d, 0, &VIEW, full).ebx, 832);
        assert_eq!(answer(0x8000_000a, 0, &VIEW, full), Leaf::default());
    }

    #[test]
    fn a_poor_host_stays_poor() {
        let none = |_, _| Leaf::default();
        let one = answer(1, 0, &VIEW, none);
        assert_eq!(one.ecx, bits(&[21, 24, 31]));
        assert_eq!(answer(0x0d, 0, &VIEW, none), Leaf::default());
    }

    #[test]
    fn the_crystal_gives_the_tsc_back() {
        for khz in [100_000, 199_997, 1_000_000, 2_904_123, 3_699_999, 6_000_000] {
            let leaf = crystal(khz);
            let product = u64::from(CRYSTAL_HZ / 1000) * u64::from(leaf.ebx);
            assert!(product <= u64::from(u32::MAX));
            let back = product / u64::from(leaf.eax);
            assert!(back.abs_diff(u64::from(khz)) <= 1 + u64::from(khz) / 50_000, "{khz} {back}");
        }
    }

    #[test]
    fn signature_and_topology() {
        let leaf = answer(HYPERVISOR, 0, &VIEW, full);
        assert_eq!(leaf.ebx.to_le_bytes(), *b"Hema");
        assert_eq!(answer(0x4000_0010, 0, &VIEW, full).eax, 3_000_000);
        let core = answer(0x0b, 1, &VIEW, full);
        assert_eq!((core.eax, core.ebx, core.edx), (1, 2, 1));
    }
}
