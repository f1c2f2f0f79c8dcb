//! Which events of a guest SVM intercepts, from the VMX control words that the monitor speaks.
//!
//! The table of what has no counterpart is `docs/spec/svm-mapping.md`.

use super::svm_vmcb::{misc1, misc2, misc3};
use super::vmx_controls::{primary, secondary};

/// The words 0x000 to 0x017 of a VMCB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intercepts {
    /// Reads (bits 15:0) and writes (31:16) of control registers.
    pub cr: u32,
    /// Reads (bits 15:0) and writes (31:16) of debug registers.
    pub dr: u32,
    /// Exceptions by vector.
    pub exceptions: u32,
    /// Word 0x00c.
    pub misc1: u32,
    /// Word 0x010.
    pub misc2: u32,
    /// Word 0x014.
    pub misc3: u32,
}

/// What the kernel wants for itself, besides the monitor's wishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The interrupt window is asked for.
    pub interrupt_window: bool,
    /// IRET ends a blocking of NMIs that the kernel keeps account of.
    pub iret: bool,
    /// DR0 to DR3 are not the guest's at the moment: the first access must exit.
    pub debug_registers: bool,
}

/// The monitor's words as they lie in the state page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Primary controls.
    pub primary: u32,
    /// Secondary controls.
    pub secondary: u32,
    /// Exceptions.
    pub exceptions: u32,
    /// CR0 bits to watch.
    pub cr0: u64,
    /// CR4 bits to watch.
    pub cr4: u64,
}

const READ: u32 = 0;
const WRITE: u32 = 16;

impl Intercepts {
    /// The intercepts for what is asked and wanted.
    #[must_use]
    pub const fn new(asked: Asked, own: Own) -> Self {
        // What exits always on VMX exits always here (Intel SDM vol. 3, 26.1.2), and the
        // instructions of SVM itself, which the guest's CPUID does not have.
        let mut misc1 = misc1::INTR
            | misc1::NMI
            | misc1::INIT
            | misc1::CPUID
            | misc1::RSM
            | misc1::INVD
            | misc1::HLT
            | misc1::INVLPGA
            | misc1::IOIO
            | misc1::MSR
            | misc1::TASK_SWITCH
            | misc1::SHUTDOWN;
        let mut misc2 = misc2::VMRUN | misc2::VMMCALL | misc2::SVM_OTHERS | misc2::XSETBV;
        let mut misc3 = 0;
        let mut cr = 0;
        let mut dr = 0;
        let p = asked.primary;
        misc1 |= when(p, primary::RDTSC, misc1::RDTSC)
            | when(p, primary::RDPMC, misc1::RDPMC)
            | when(p, primary::PAUSE, misc1::PAUSE)
            | when(p, primary::INVLPG, misc1::INVLPG)
            | when(asked.secondary, secondary::DESCRIPTOR_TABLE, misc1::TABLES);
        misc2 |= when(p, primary::RDTSC, misc2::RDTSCP)
            | when(p, primary::MONITOR, misc2::MONITOR)
            | when(p, primary::MWAIT, misc2::MWAIT)
            | when(asked.secondary, secondary::WBINVD, misc2::WBINVD);
        misc3 |= when(p, primary::INVLPG, misc3::INVPCID);
        cr |= when(p, primary::CR3_STORE, 1 << (READ + 3))
            | when(p, primary::CR3_LOAD, 1 << (WRITE + 3));
        if p & primary::TPR_SHADOW == 0 {
            cr |= 1 << (READ + 8) | 1 << (WRITE + 8);
        }
        if asked.cr0 != 0 {
            cr |= 1 << WRITE;
        }
        if asked.cr4 != 0 {
            cr |= 1 << (WRITE + 4);
        }
        if p & primary::MOV_DR != 0 {
            dr = 0x00ff_00ff;
        } else if own.debug_registers {
            dr = 0x000f_000f;
        }
        if own.interrupt_window {
            misc1 |= misc1::VINTR;
        }
        if own.iret {
            misc1 |= misc1::IRET;
        }
        let exceptions = super::vmx_controls::Capabilities::exceptions(asked.exceptions);
        Self { cr, dr, exceptions, misc1, misc2, misc3 }
    }
}

const fn when(word: u32, bit: u32, intercept: u32) -> u32 {
    if word & bit != 0 { intercept } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_still_contains_the_guest() {
        let none = Intercepts::new(Asked::default(), Own::default());
        assert_eq!(none.misc1 & misc1::INTR, misc1::INTR);
        assert_eq!(none.misc2 & misc2::VMRUN, misc2::VMRUN);
        assert_eq!(none.misc2 & misc2::SVM_OTHERS, misc2::SVM_OTHERS);
        assert_eq!(none.misc1 & (misc1::VINTR | misc1::IRET), 0);
        assert_eq!(none.cr, 1 << 8 | 1 << 24);
        assert_eq!(none.exceptions, 3 << 17);
    }

    #[test]
    fn no_wish_removes_a_forced_intercept() {
        let base = Intercepts::new(Asked::default(), Own::default());
        let mut x = 1_u64;
        for _ in 0..100_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (a, b) = (x as u32, (x >> 32) as u32);
            let asked = Asked { primary: a, secondary: b, exceptions: a ^ b, cr0: x, cr4: !x };
            let got = Intercepts::new(asked, Own { iret: a & 1 == 0, ..Own::default() });
            assert_eq!(got.misc1 & base.misc1, base.misc1);
            assert_eq!(got.misc2 & base.misc2, base.misc2);
            assert_eq!(got.exceptions, (a ^ b) | 3 << 17);
        }
    }

    #[test]
    fn debug_registers_by_need() {
        let own = Own { debug_registers: true, ..Own::default() };
        assert_eq!(Intercepts::new(Asked::default(), own).dr, 0x000f_000f);
        let asked = Asked { primary: primary::MOV_DR, ..Asked::default() };
        assert_eq!(Intercepts::new(asked, own).dr, 0x00ff_00ff);
    }
}
