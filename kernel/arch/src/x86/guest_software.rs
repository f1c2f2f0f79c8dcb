//! The part of a guest's state that no hardware block holds, the same for both vendors.
//!
//! General registers, CR2, XCR0, the MSRs that the kernel switches by hand, the event that waits for
//! the next entry, and what the monitor asked for. The rest lies in the VMCS (`vmx_state`) or the VMCB
//! (`svm_state`).

use abi::Mtd;
use abi::utcb::offset;
use sync::SharedPage;

use super::event;
use super::image::Image;
use super::svm_controls::Asked;

/// A guest's general registers as assembly finds them: rax, rcx, rdx, rbx, rsp (the control block's), rbp, rsi, rdi,
/// r8 to r15, in the order of the state page, which is the hardware's encoding.
pub type GuestRegisters = u64;

/// State kept by software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Software {
    /// The words of the state page: general registers, CR2, XCR0 (0 until the monitor gives one, and then no entry
    /// is possible), SPEC_CTRL, TSC_AUX, STAR, LSTAR, FMASK and KERNEL_GS_BASE are here and nowhere else, the last
    /// four as the MSRs take them. On VMX the other words say what the VMCS is known to hold (`vmx_state`).
    pub image: Image,
    /// The value of XCR0 that was last found valid on this machine.
    pub valid_xcr0: u64,
    /// TSC ticks until the monitor's time-out.
    pub timeout: u64,
    /// The longest time-out the hardware can count: none at all.
    pub longest: u64,
    /// The event for the next entry: interruption information and error code.
    pub event: (u32, u32),
    /// Length of the instruction that makes the event, if it is a soft one.
    pub event_length: u64,
    /// The monitor wants to know when an interrupt can be taken.
    pub interrupt_window: bool,
    /// The monitor wants to know when an NMI can be taken.
    pub nmi_window: bool,
    /// The injection word that was loaded last.
    injection: u32,
    /// Something came with the last load that the next entry must look at: an event, controls, an MSR.
    pub news: bool,
    /// Controls that the monitor asked for.
    pub asked: Asked,
    /// The groups that the monitor gets when it does not choose (abi.md 11.1): more with virtual interrupt delivery.
    pub told: Mtd,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
}

/// Groups that most runs load: no walk through the others.
const USUAL: Mtd = Mtd(Mtd::ACDB.0 | Mtd::RIP_LEN.0);

impl Software {
    /// A guest that never ran; `longest` is the longest time-out the hardware can count.
    #[must_use]
    pub fn new(longest: u64) -> Self {
        Self { timeout: longest, longest, dr6: DR6_RESET, told: Mtd::VCPU_EXIT, ..Self::default() }
    }

    /// Takes over the groups of `mtd` that live here.
    #[inline(always)]
    pub fn load(&mut self, page: &SharedPage, mtd: Mtd) {
        if mtd.contains(Mtd::ACDB) {
            self.image.take::<{ offset::RAX }, 4>(page);
        }
        if mtd.contains(Mtd::RIP_LEN) {
            self.event_length = page.read_u64(offset::INST_LEN);
        }
        if mtd.0 & !USUAL.0 != 0 {
            self.load_more(page, mtd);
        }
    }

    #[inline(never)]
    fn load_more(&mut self, page: &SharedPage, mtd: Mtd) {
        if mtd.contains(Mtd::BSD) {
            self.image.take::<{ offset::RBP }, 3>(page);
        }
        if mtd.contains(Mtd::R8_R15) {
            self.image.take::<{ offset::R8 }, 8>(page);
        }
        if mtd.contains(Mtd::INJ) {
            let info = page.read_u32(offset::INTR_INFO);
            // One that waits since an entry that failed is in the control block.
            let event = (info | self.event.0) & event::VALID != 0;
            if event || info != self.injection {
                self.inject(info, page.read_u32(offset::INTR_ERROR));
            }
        }
        if mtd.contains(Mtd::CTRL) {
            let asked = Asked {
                primary: page.read_u32(offset::CTRL0),
                secondary: page.read_u32(offset::CTRL1),
                exceptions: page.read_u32(offset::EXC_BITMAP),
                cr0: page.read_u64(offset::CR0_MON),
                cr4: page.read_u64(offset::CR4_MON),
            };
            if asked != self.asked {
                self.asked = asked;
                self.told = asked.told();
                self.news = true;
            }
        }
        if mtd.contains(Mtd::CR) {
            self.image.take::<{ offset::CR2 }, 1>(page);
            self.image.take::<{ offset::XCR0 }, 1>(page);
            self.news |= !self.image.agrees::<{ offset::SPEC_CTRL }, 1>(page);
            self.image.take::<{ offset::SPEC_CTRL }, 1>(page);
        }
        if mtd.contains(Mtd::TSC) {
            let aux = u64::from(page.read_u32(offset::TSC_AUX));
            self.news |= aux != self.image.at(offset::TSC_AUX);
            self.image.set(offset::TSC_AUX, aux);
        }
        if mtd.contains(Mtd::SYSCALL_SWAPGS) {
            self.image.take::<{ offset::STAR }, 1>(page);
            self.image.set(offset::LSTAR, canonical(page.read_u64(offset::LSTAR)));
            self.image.set(offset::FMASK, page.read_u64(offset::FMASK) & 0xffff_ffff);
            let base = canonical(page.read_u64(offset::KERNEL_GS_BASE));
            self.image.set(offset::KERNEL_GS_BASE, base);
        }
        if mtd.contains(Mtd::TSC_TIMEOUT) {
            self.timeout = page.read_u64(offset::TSC_TIMEOUT).min(self.longest);
        }
    }

    /// Takes over the injection word.
    fn inject(&mut self, info: u32, error: u32) {
        let windows = event::INTERRUPT_WINDOW | event::NMI_WINDOW;
        self.injection = info;
        self.interrupt_window = info & event::INTERRUPT_WINDOW != 0;
        self.nmi_window = info & event::NMI_WINDOW != 0;
        self.event = (info & !windows, error);
        self.news = true;
    }

    /// Takes over DR0 to DR3 and DR6.
    pub fn load_extended(&mut self, page: &SharedPage) {
        use abi::utcb::extended_offset as at;
        for (i, value) in self.dr.iter_mut().enumerate() {
            *value = page.read_u64(at::DR0 + 8 * i);
        }
        self.dr6 = page.read_u64(at::DR6) & 0xffff_ffff;
    }

    /// Tells the monitor the groups of `wanted` that live here, and the words that every exit sets.
    /// `now` is the host's TSC.
    pub fn store(&self, page: &SharedPage, wanted: Mtd, reason: u32, now: u64) {
        Self::sign(page, reason);
        page.write_u64(offset::MTD, u64::from(wanted.0));
        if wanted.contains(Mtd::ACDB) {
            self.image.tell::<{ offset::RAX }, 4>(page);
        }
        if wanted.contains(Mtd::BSD) {
            self.image.tell::<{ offset::RBP }, 3>(page);
        }
        if wanted.contains(Mtd::R8_R15) {
            self.image.tell::<{ offset::R8 }, 8>(page);
        }
        if wanted.contains(Mtd::CR) {
            self.image.tell::<{ offset::CR2 }, 1>(page);
            self.image.tell::<{ offset::XCR0 }, 1>(page);
            self.tell_spec_ctrl(page);
        }
        if wanted.contains(Mtd::TSC) {
            page.write_u64(offset::TSC_VAL, now);
            self.tell_tsc_aux(page);
        }
        if wanted.contains(Mtd::SYSCALL_SWAPGS) {
            self.image.tell::<{ offset::STAR }, 4>(page);
        }
        if wanted.contains(Mtd::TSC_TIMEOUT) {
            self.tell_timeout(page);
        }
    }

    /// The same for all groups, with what a control block holds as well: the whole image.
    #[inline(always)]
    pub fn store_all(&mut self, page: &SharedPage, wanted: Mtd, reason: u32, now: u64) {
        self.image.set(offset::MTD, u64::from(wanted.0));
        self.image.set(offset::TSC_VAL, now);
        self.image.tell_all(page);
        self.tell_tsc_aux(page);
        self.tell_spec_ctrl(page);
        self.tell_timeout(page);
        Self::sign(page, reason);
    }

    #[inline(always)]
    fn sign(page: &SharedPage, reason: u32) {
        page.write_u32(offset::EXIT_REASON, reason);
        page.write_u64(offset::ITEMS, abi::utcb::ARCH_WORDS as u64);
    }

    #[inline(always)]
    fn tell_tsc_aux(&self, page: &SharedPage) {
        page.write_u32(offset::TSC_AUX, self.tsc_aux());
    }

    #[inline(always)]
    fn tell_spec_ctrl(&self, page: &SharedPage) {
        self.image.tell::<{ offset::SPEC_CTRL }, 1>(page);
    }

    #[inline(always)]
    fn tell_timeout(&self, page: &SharedPage) {
        page.write_u64(offset::TSC_TIMEOUT, self.timeout);
    }

    /// TSC_AUX.
    #[inline(always)]
    #[must_use]
    pub fn tsc_aux(&self) -> u32 {
        self.image.at(offset::TSC_AUX) as u32
    }

    /// What the injection group tells: the event of the exit, or for a poke the one that still waits.
    #[must_use]
    pub fn told_event(&self, reason: u32, exit: (u32, u32)) -> (u32, u32) {
        if reason == abi::exit::POKED { self.event } else { exit }
    }

    /// Whether its XCR0 may be loaded on a host that has `host`; the answer is remembered.
    #[inline(always)]
    pub fn has_valid_xcr0(&mut self, host: u64) -> bool {
        let xcr0 = self.image.at(offset::XCR0);
        // 0 is never valid, and nothing else was found valid before.
        if xcr0 != self.valid_xcr0 || xcr0 == 0 {
            if !xcr0_is_valid(xcr0, host) {
                return false;
            }
            self.valid_xcr0 = xcr0;
        }
        true
    }

    /// Whether there is a time-out at all.
    #[inline(always)]
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.timeout != self.longest
    }

    /// Ticks used by the guest are taken off its time-out.
    #[inline(always)]
    pub fn spend(&mut self, ticks: u64) {
        self.timeout = self.timeout.saturating_sub(ticks);
    }
}

impl Asked {
    /// What an exit tells a monitor that does not choose.
    const fn told(&self) -> Mtd {
        use super::vmx_controls::{primary, secondary};
        let delivery = self.primary & primary::SECONDARY != 0
            && self.secondary & secondary::VIRTUAL_INTERRUPT != 0;
        if delivery { Mtd::VCPU_EXIT_VINTR } else { Mtd::VCPU_EXIT }
    }
}

/// The address itself if it is canonical, else with its upper bits made so: MSRs take no other.
const fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

/// DR6 after reset (Intel SDM vol. 3, 18.2.3).
pub const DR6_RESET: u64 = 0xffff_0ff0;

/// Whether a guest may run with this XCR0 on a host that has `host` (Intel SDM vol. 1, 13.3).
#[must_use]
pub const fn xcr0_is_valid(xcr0: u64, host: u64) -> bool {
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const BOUND: u64 = 3 << 3;
    const AVX512: u64 = 7 << 5;
    const TILE: u64 = 3 << 17;
    xcr0 & 1 != 0
        && xcr0 & !host == 0
        && (xcr0 & AVX == 0 || xcr0 & SSE != 0)
        && (xcr0 & BOUND == 0 || xcr0 & BOUND == BOUND)
        && (xcr0 & AVX512 == 0 || xcr0 & (AVX512 | AVX) == AVX512 | AVX)
        && (xcr0 & TILE == 0 || xcr0 & TILE == TILE)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A page of zeros.
    pub(crate) fn page() -> Box<SharedPage> {
        Box::new(SharedPage::zeroed())
    }

    #[test]
    fn xcr0_rules() {
        assert!(!xcr0_is_valid(0, 0xe7));
        assert!(xcr0_is_valid(1, 0xe7));
        assert!(!xcr0_is_valid(5, 0xe7));
        assert!(xcr0_is_valid(7, 0xe7));
        assert!(!xcr0_is_valid(0x27, 0xe7));
        assert!(xcr0_is_valid(0xe7, 0xe7));
        assert!(!xcr0_is_valid(0xe7, 7));
        assert!(!xcr0_is_valid(0x207, 0xe7));
    }

    #[test]
    fn groups_move_only_what_they_name() {
        let from = page();
        for i in 0..80 {
            from.set_word(i + 4, 0x1111 * (i as u64 + 1));
        }
        let mut state = Software::new(1000);
        state.load(&from, Mtd::ACDB);
        assert_eq!(state.image.at(offset::RAX), from.read_u64(offset::RAX));
        assert_eq!(state.image.at(offset::RBP), 0);
        state.load(&from, Mtd(!0));
        assert_eq!(state.image.at(offset::RSP), 0, "rsp lives elsewhere");
        assert_eq!(state.image.at(offset::R15), from.read_u64(offset::R15));
        assert_eq!(state.timeout, 1000, "bounded");
        let to = page();
        state.store(&to, Mtd::VCPU_EXIT, 10, 77);
        assert_eq!(to.read_u64(offset::TSC_VAL), 77);
        assert_eq!(to.read_u64(offset::KERNEL_GS_BASE), from.read_u64(offset::KERNEL_GS_BASE));
        assert_eq!(to.read_u64(offset::RSP), 0);
        assert_eq!(to.read_u64(offset::ITEMS), 80);
        assert_eq!(to.read_u64(offset::MTD), 0x23ff_ffff);
        assert_eq!(to.read_u32(offset::EXC_BITMAP), 0, "entry only");
    }

    #[test]
    fn injection_word_splits_into_event_and_windows() {
        let from = page();
        from.write_u32(offset::INTR_INFO, 0x8000_3030);
        let mut state = Software::new(1);
        state.load(&from, Mtd::INJ);
        assert!(state.interrupt_window && state.nmi_window);
        assert_eq!(state.event, (0x8000_0030, 0));
        assert_eq!(state.told_event(255, (1, 1)), (0x8000_0030, 0));
        assert_eq!(state.told_event(10, (0, 0)), (0, 0));
    }
}
