//! What RDMSR and WRMSR do: a table of registers, everything else is #GP.
//!
//! The table with reasons is `docs/msr.md`. Registers that live in the state page are read and
//! written there; the local APIC's go to the board; the few the machine merely remembers are
//! kept in [`MsrFile`]. Sources: Intel SDM vol. 4; AMD APM vol. 2, appendix A.
use abi::Mtd;
use abi::utcb::StatePage;

/// Bits of EFER a guest may set: SCE, LME, LMA (kept by hardware), NXE, FFXSR.
const EFER_ALLOWED: u64 = 1 | (1 << 8) | (1 << 10) | (1 << 11) | (1 << 14);
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// The local APIC's registers as MSRs, and its neighbours, belong to the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Done; these groups of the state page changed.
    Done(Mtd),
    /// The board's: APIC_BASE, TSC_DEADLINE and 0x800 to 0x8ff.
    Board,
    /// #GP(0) is what the processor would answer.
    Fault,
}

/// What a read gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This value.
    Value(u64),
    /// The board knows.
    Board,
    /// #GP(0).
    Fault,
}

/// The registers that are only remembered, one set per virtual processor.
#[derive(Clone, Debug)]
pub struct MsrFile {
    mtrr_default: u64,
    mtrr_fixed: [u64; 11],
    mtrr_variable: [u64; 16],
    misc_enable: u64,
    tsc_adjust: u64,
    debug_control: u64,
    syscfg: u64,
    hwcr: u64,
}

impl Default for MsrFile {
    fn default() -> Self {
        Self {
            mtrr_default: 0xc06,
            mtrr_fixed: [0x0606_0606_0606_0606; 11],
            mtrr_variable: [0; 16],
            misc_enable: 1,
            tsc_adjust: 0,
            debug_control: 0,
            syscfg: 0,
            hwcr: 0,
        }
    }
}

const FIXED: [u32; 11] =
    [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

impl MsrFile {
    /// What RDMSR of `index` gives; `tsc` is the guest's TSC now.
    pub fn read(&self, index: u32, page: &StatePage, tsc: u64) -> Read {
        Read::Value(match index {
            0x10 => tsc,
            0x17 => 0, // PLATFORM_ID
            0x1b | 0x6e0 | 0x800..=0x8ff => return Read::Board,
            0x3a => 1, // FEATURE_CONTROL: locked, no VMX
            0x3b => self.tsc_adjust,
            0x8b => 1 << 32, // microcode revision
            0xce => 0,       // PLATFORM_INFO
            0xfe => 0x508,   // MTRRCAP: 8 variable, fixed, WC
            0x140 => 0,      // MISC_FEATURE_ENABLES
            0x174 => page.sysenter_cs,
            0x175 => page.sysenter_rsp,
            0x176 => page.sysenter_rip,
            0x179 | 0x17a => 0, // MCG_CAP, MCG_STATUS: no banks
            0x1a0 => self.misc_enable,
            0x1d9 => self.debug_control,
            0x200..=0x20f => variable(&self.mtrr_variable, index),
            0x277 => page.pat,
            0x2ff => self.mtrr_default,
            0x34 | 0x606 | 0x611 | 0x639 | 0x641 | 0x619 => 0, // SMI count, RAPL
            0xc000_0080 => page.efer,
            0xc000_0081 => page.star,
            0xc000_0082 => page.lstar,
            0xc000_0083 => 0, // CSTAR: kept by AMD for compat mode
            0xc000_0084 => page.fmask,
            0xc000_0100 => page.fs.base,
            0xc000_0101 => page.gs.base,
            0xc000_0102 => page.kernel_gs_base,
            0xc000_0103 => u64::from(page.tsc_aux),
            0xc001_0010 => self.syscfg,
            0xc001_0015 => self.hwcr,
            // Family-specific knobs Linux looks at: NB_CFG, PATCH_LEVEL, INT_PENDING, DE_CFG...
            0xc001_001f | 0xc001_0055 | 0xc001_1022..=0xc001_1029 | 0xc001_100d | 0xc001_102a => 0,
            0xc001_0114 => 1 << 4, // VM_CR: SVM disabled
            _ => match FIXED.iter().position(|fixed| *fixed == index) {
                Some(at) => self.mtrr_fixed.get(at).copied().unwrap_or(0),
                None => return Read::Fault,
            },
        })
    }

    /// What WRMSR of `value` to `index` does; `tsc` is the guest's TSC now.
    pub fn write(&mut self, index: u32, value: u64, page: &mut StatePage, tsc: u64) -> Effect {
        match index {
            0x10 => {
                page.tsc_off = page.tsc_off.wrapping_add(value.wrapping_sub(tsc));
                return Effect::Done(Mtd::TSC);
            }
            0x3b => {
                page.tsc_off = page.tsc_off.wrapping_add(value.wrapping_sub(self.tsc_adjust));
                self.tsc_adjust = value;
                return Effect::Done(Mtd::TSC);
            }
            0x1b | 0x6e0 | 0x800..=0x8ff => return Effect::Board,
            // Microcode update trigger and signature, MCG, misc features: taken, no effect.
            0x79 | 0x8b | 0x140 | 0x17a => {}
            0x174..=0x176 => return sysenter(index, value, page),
            0x1a0 => self.misc_enable = value,
            0x1d9 => self.debug_control = value & 0x3,
            0x200..=0x20f => {
                if let Some(slot) = self.mtrr_variable.get_mut((index - 0x200) as usize) {
                    *slot = value;
                }
            }
            0x277 => {
                if !pat_is_valid(value) {
                    return Effect::Fault;
                }
                page.pat = value;
                return Effect::Done(Mtd::EFER_PAT);
            }
            0x2ff => self.mtrr_default = value & 0xcff,
            0xc000_0080 => return efer(value, page),
            0xc000_0081..=0xc000_0084 | 0xc000_0102 => return syscall(index, value, page),
            0xc000_0100 | 0xc000_0101 => {
                if !canonical(value) {
                    return Effect::Fault;
                }
                let segment = if index & 1 == 0 { &mut page.fs } else { &mut page.gs };
                segment.base = value;
                return Effect::Done(Mtd::FS_GS);
            }
            0xc000_0103 => {
                page.tsc_aux = value as u32;
                return Effect::Done(Mtd::TSC);
            }
            0xc001_0010 => self.syscfg = value,
            0xc001_0015 => self.hwcr = value,
            0xc001_0020
            | 0xc001_001f
            | 0xc001_0055
            | 0xc001_1022..=0xc001_1029
            | 0xc001_100d
            | 0xc001_102a => {}
            _ => match FIXED.iter().position(|fixed| *fixed == index) {
                Some(at) => {
                    if let Some(slot) = self.mtrr_fixed.get_mut(at) {
                        *slot = value;
                    }
                }
                None => return Effect::Fault,
            },
        }
        Effect::Done(Mtd::NONE)
    }
}

fn variable(ranges: &[u64; 16], index: u32) -> u64 {
    ranges.get((index - 0x200) as usize).copied().unwrap_or(0)
}

fn sysenter(index: u32, value: u64, page: &mut StatePage) -> Effect {
    match index {
        0x174 => page.sysenter_cs = value & 0xffff_ffff,
        _ if !canonical(value) => return Effect::Fault,
        0x175 => page.sysenter_rsp = value,
        _ => page.sysenter_rip = value,
    }
    Effect::Done(Mtd::SYSENTER)
}

fn efer(value: u64, page: &mut StatePage) -> Effect {
    let paging = page.cr0 & (1 << 31) != 0;
    if value & !EFER_ALLOWED != 0 || (paging && (value ^ page.efer) & EFER_LME != 0) {
        return Effect::Fault;
    }
    page.efer = (value & !EFER_LMA) | (page.efer & EFER_LMA);
    Effect::Done(Mtd::EFER_PAT)
}

fn syscall(index: u32, value: u64, page: &mut StatePage) -> Effect {
    match index {
        0xc000_0081 => page.star = value,
        0xc000_0084 => page.fmask = value & 0xffff_ffff,
        _ if !canonical(value) => return Effect::Fault,
        0xc000_0082 => page.lstar = value,
        0xc000_0102 => page.kernel_gs_base = value,
        // CSTAR: compatibility-mode SYSCALL is not offered to Intel guests, harmless on AMD.
        _ => {}
    }
    Effect::Done(Mtd::SYSCALL_SWAPGS)
}

fn canonical(value: u64) -> bool {
    let top = value >> 47;
    top == 0 || top == 0x1_ffff
}

/// Memory types 0, 1, 4, 5, 6, 7 in each byte (Intel SDM vol. 3, 12.12.2).
fn pat_is_valid(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Box<StatePage> {
        Box::new(StatePage::ZERO)
    }

    #[test]
    fn unknown_registers_and_vmx_ones_fault() {
        let file = MsrFile::default();
        for index in [0x480, 0x0, 0x4b56_4d00, 0xc001_0117, 0x12345] {
            assert_eq!(file.read(index, &page(), 0), Read::Fault, "{index:#x}");
            assert_eq!(MsrFile::default().write(index, 0, &mut page(), 0), Effect::Fault);
        }
    }

    #[test]
    fn writing_the_tsc_moves_the_offset() {
        let mut page = page();
        page.tsc_off = 50;
        let effect = MsrFile::default().write(0x10, 0, &mut page, 1050);
        assert_eq!(effect, Effect::Done(Mtd::TSC));
        assert_eq!(page.tsc_off, 50u64.wrapping_sub(1050));
    }

    #[test]
    fn bad_values_fault() {
        let mut file = MsrFile::default();
        let mut page = page();
        assert_eq!(file.write(0x277, 0x03, &mut page, 0), Effect::Fault);
        assert_eq!(file.write(0xc000_0080, 1 << 12, &mut page, 0), Effect::Fault);
        assert_eq!(file.write(0xc000_0082, 1 << 60, &mut page, 0), Effect::Fault);
        page.cr0 = 1 << 31;
        assert_eq!(file.write(0xc000_0080, EFER_LME, &mut page, 0), Effect::Fault);
    }

    #[test]
    fn random_writes_never_panic() {
        let mut file = MsrFile::default();
        let mut page = page();
        let mut seed = 7u64;
        for _ in 0..200_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = (seed >> 32) as u32 & 0xc001_1fff;
            let _ = file.write(index, seed, &mut page, seed);
            let _ = file.read(index, &page, seed);
        }
    }
}
