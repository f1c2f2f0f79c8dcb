//! The part of a guest's state that no hardware block holds, the same for both vendors.
//!
//! General registers, CR2, XCR0, the MSRs that the kernel switches by hand, the event that waits for
//! the next entry, and what the monitor asked for. The rest lies in the VMCS (`vmx_state`) or the VMCB
//! (`svm_state`).

use abi::Mtd;
use abi::utcb::offset;
use sync::SharedPage;

use super::event;
use super::svm_controls::Asked;

/// Where rax lies in the state page, as a word; rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15 follow.
const FIRST_GPR: usize = offset::RAX / 8;
/// The stack pointer's place among the registers.
const RSP: usize = 4;

/// A guest's general registers in the order of the state page, which is the hardware's encoding. The
/// assembly relies on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuestRegisters {
    /// rax, rcx, rdx, rbx, rsp (not used: it lies in the control block), rbp, rsi, rdi, r8 to r15.
    pub general: [u64; 16],
}

/// State kept by software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Software {
    /// General registers.
    pub registers: GuestRegisters,
    /// CR2.
    pub cr2: u64,
    /// XCR0; 0 until the monitor gives one, and then no entry is possible.
    pub xcr0: u64,
    /// The value of XCR0 that was last found valid on this machine.
    pub valid_xcr0: u64,
    /// SPEC_CTRL.
    pub spec_ctrl: u64,
    /// STAR, LSTAR, FMASK, KERNEL_GS_BASE; values that the MSRs take.
    pub syscall: [u64; 4],
    /// TSC_AUX.
    pub tsc_aux: u32,
    /// TSC ticks until the monitor's time-out.
    pub timeout: u64,
    /// The event for the next entry: interruption information and error code.
    pub event: (u32, u32),
    /// Length of the instruction that makes the event, if it is a soft one.
    pub event_length: u64,
    /// The monitor wants to know when an interrupt can be taken.
    pub interrupt_window: bool,
    /// The monitor wants to know when an NMI can be taken.
    pub nmi_window: bool,
    /// Controls that the monitor asked for.
    pub asked: Asked,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
}

impl Software {
    /// A guest that never ran; `longest` is the longest time-out the hardware can count.
    #[must_use]
    pub fn new(longest: u64) -> Self {
        Self { timeout: longest, dr6: DR6_RESET, ..Self::default() }
    }

    /// Takes over the groups of `mtd` that live here.
    #[inline]
    pub fn load(&mut self, page: &SharedPage, mtd: Mtd, longest: u64) {
        if mtd.contains(Mtd::ACDB) {
            self.take::<0, 4>(page);
        }
        if mtd.contains(Mtd::BSD) {
            self.take::<{ RSP + 1 }, 3>(page);
        }
        if mtd.contains(Mtd::R8_R15) {
            self.take::<8, 8>(page);
        }
        if mtd.contains(Mtd::RIP_LEN) {
            self.event_length = page.read_u64(offset::INST_LEN);
        }
        if mtd.contains(Mtd::INJ) {
            let info = page.read_u32(offset::INTR_INFO);
            self.interrupt_window = info & event::INTERRUPT_WINDOW != 0;
            self.nmi_window = info & event::NMI_WINDOW != 0;
            let windows = event::INTERRUPT_WINDOW | event::NMI_WINDOW;
            self.event = (info & !windows, page.read_u32(offset::INTR_ERROR));
        }
        if mtd.contains(Mtd::CTRL) {
            self.asked = Asked {
                primary: page.read_u32(offset::CTRL0),
                secondary: page.read_u32(offset::CTRL1),
                exceptions: page.read_u32(offset::EXC_BITMAP),
                cr0: page.read_u64(offset::CR0_MON),
                cr4: page.read_u64(offset::CR4_MON),
            };
        }
        if mtd.contains(Mtd::CR) {
            self.cr2 = page.read_u64(offset::CR2);
            self.xcr0 = page.read_u64(offset::XCR0);
            self.spec_ctrl = page.read_u64(offset::SPEC_CTRL);
        }
        if mtd.contains(Mtd::TSC) {
            self.tsc_aux = page.read_u32(offset::TSC_AUX);
        }
        if mtd.contains(Mtd::SYSCALL_SWAPGS) {
            self.syscall = [
                page.read_u64(offset::STAR),
                canonical(page.read_u64(offset::LSTAR)),
                page.read_u64(offset::FMASK) & 0xffff_ffff,
                canonical(page.read_u64(offset::KERNEL_GS_BASE)),
            ];
        }
        if mtd.contains(Mtd::TSC_TIMEOUT) {
            self.timeout = page.read_u64(offset::TSC_TIMEOUT).min(longest);
        }
    }

    /// Tells the monitor the groups of `wanted` that live here, and the words that every exit sets.
    /// `now` is the host's TSC.
    #[inline]
    pub fn store(&self, page: &SharedPage, wanted: Mtd, reason: u32, now: u64) {
        // With a constant set the compiler leaves one straight line of moves.
        if wanted == Mtd::VCPU_EXIT {
            self.tell(page, Mtd::VCPU_EXIT, reason, now);
        } else {
            self.tell(page, wanted, reason, now);
        }
    }

    #[inline(always)]
    fn tell(&self, page: &SharedPage, wanted: Mtd, reason: u32, now: u64) {
        page.write_u32(offset::EXIT_REASON, reason);
        page.write_u64(offset::ITEMS, abi::utcb::ARCH_WORDS as u64);
        page.write_u64(offset::MTD, u64::from(wanted.0));
        if wanted.contains(Mtd::ACDB) {
            self.give::<0, 4>(page);
        }
        if wanted.contains(Mtd::BSD) {
            self.give::<{ RSP + 1 }, 3>(page);
        }
        if wanted.contains(Mtd::R8_R15) {
            self.give::<8, 8>(page);
        }
        if wanted.contains(Mtd::CR) {
            page.write_u64(offset::CR2, self.cr2);
            page.write_u64(offset::XCR0, self.xcr0);
            page.write_u64(offset::SPEC_CTRL, self.spec_ctrl);
        }
        if wanted.contains(Mtd::TSC) {
            page.write_u64(offset::TSC_VAL, now);
            page.write_u32(offset::TSC_AUX, self.tsc_aux);
        }
        if wanted.contains(Mtd::SYSCALL_SWAPGS) {
            for (i, value) in self.syscall.iter().enumerate() {
                page.set_word(offset::STAR / 8 + i, *value);
            }
        }
        if wanted.contains(Mtd::TSC_TIMEOUT) {
            page.write_u64(offset::TSC_TIMEOUT, self.timeout);
        }
    }

    /// The groups that the monitor gets when it does not choose (abi.md 11.1).
    #[must_use]
    pub const fn all_groups(&self) -> Mtd {
        use super::vmx_controls::{primary, secondary};
        let delivery = self.asked.primary & primary::SECONDARY != 0
            && self.asked.secondary & secondary::VIRTUAL_INTERRUPT != 0;
        if delivery { Mtd::VCPU_EXIT_VINTR } else { Mtd::VCPU_EXIT }
    }

    /// What the injection group tells: the event of the exit, or for a poke the one that still waits.
    #[must_use]
    pub fn told_event(&self, reason: u32, exit: (u32, u32)) -> (u32, u32) {
        if reason == abi::exit::POKED { self.event } else { exit }
    }

    /// Whether its XCR0 may be loaded on a host that has `host`; the answer is remembered.
    #[inline(always)]
    pub fn has_valid_xcr0(&mut self, host: u64) -> bool {
        // 0 is never valid, and nothing else was found valid before.
        if self.xcr0 != self.valid_xcr0 || self.xcr0 == 0 {
            if !xcr0_is_valid(self.xcr0, host) {
                return false;
            }
            self.valid_xcr0 = self.xcr0;
        }
        true
    }

    /// Ticks used by the guest are taken off its time-out.
    pub fn spend(&mut self, ticks: u64) {
        self.timeout = self.timeout.saturating_sub(ticks);
    }

    #[inline(always)]
    fn take<const FIRST: usize, const COUNT: usize>(&mut self, page: &SharedPage) {
        for i in 0..COUNT {
            self.registers.general[FIRST + i] = page.word(FIRST_GPR + FIRST + i);
        }
    }

    #[inline(always)]
    fn give<const FIRST: usize, const COUNT: usize>(&self, page: &SharedPage) {
        for i in 0..COUNT {
            page.set_word(FIRST_GPR + FIRST + i, self.registers.general[FIRST + i]);
        }
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
        state.load(&from, Mtd::ACDB, 1000);
        assert_eq!(state.registers.general[0], from.read_u64(offset::RAX));
        assert_eq!(state.registers.general[5], 0);
        state.load(&from, Mtd(!0), 1000);
        assert_eq!(state.registers.general[4], 0, "rsp lives elsewhere");
        assert_eq!(state.registers.general[15], from.read_u64(offset::R15));
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
        state.load(&from, Mtd::INJ, 1);
        assert!(state.interrupt_window && state.nmi_window);
        assert_eq!(state.event, (0x8000_0030, 0));
        assert_eq!(state.told_event(255, (1, 1)), (0x8000_0030, 0));
        assert_eq!(state.told_event(10, (0, 0)), (0, 0));
    }
}
