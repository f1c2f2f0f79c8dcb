//! The way from the VMCS to the state page: what `vmx_state` does backwards.
//!
//! Each VMREAD here stands on the path of every exit that asks for its group; what the exit reason or
//! the image already says is not read. What is read goes into the image; the image goes to the page.

use abi::Mtd;
use abi::utcb::offset;
use sync::SharedPage;

use super::event;
use super::guest_software::Software;
use super::image::Image;
use super::vmx_controls::{Capabilities, guest_view, secondary};
use super::vmx_fields as field;
use super::vmx_nmi;
use super::vmx_state::{EFER_LMA, PDPTES, TABLES, Vmcs, VmxState};

const EFER_LME: u64 = 1 << 8;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// The exit reason of an EPT misconfiguration.
const MISCONFIGURATION: u32 = 49;

impl VmxState {
    /// Reads what the exit interrupted (28.2.4). The caller knows whether that is possible.
    pub fn read_vectoring(&self, vmcs: &impl Vmcs) -> (u32, u32) {
        let info = vmcs.read(field::VECTORING_INFO) as u32;
        match info {
            info if info & event::VALID == 0 => (0, 0),
            info if info & event::ERROR_CODE == 0 => (info, 0),
            info => (info, vmcs.read(field::VECTORING_ERROR_CODE) as u32),
        }
    }

    /// Tells the monitor the groups of `wanted`. `reason` may be the kernel's own (255); what belongs to an exit of
    /// the hardware is then empty. `now` is the host's TSC.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "inlined: they stay where they are")]
    pub fn store(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &mut Software,
        page: &SharedPage,
        wanted: Mtd,
        reason: u32,
        now: u64,
    ) {
        let kind = Kind::of(reason);
        read_qualification(vmcs, &mut software.image, kind);
        if kind.has(Kind::EVENT | Kind::VECTORED | Kind::SPECIAL) {
            self.read_events(vmcs, software, kind, reason);
        } else {
            software.image.set(offset::INTR_INFO, 0);
            software.image.set(offset::VECT_INFO, 0);
        }
        // After nearly every exit the same groups are known. With both sets constant the compiler makes one straight
        // line of VMREADs; a test counts them.
        if wanted == Mtd::VCPU_EXIT && self.known & ASKED == USUAL {
            self.read_all(vmcs, &mut software.image, wanted, USUAL, kind);
            self.known |= wanted & !NOT_KEPT;
            software.store_all(page, wanted, reason, now);
        } else {
            self.store_some(vmcs, cpu, software, page, wanted, reason, now);
        }
    }

    /// The same for any groups.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "the second half of `store`")]
    fn store_some(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &mut Software,
        page: &SharedPage,
        wanted: Mtd,
        reason: u32,
        now: u64,
    ) {
        let known = self.known;
        self.read_all(vmcs, &mut software.image, wanted, known, Kind::of(reason));
        self.known |= wanted & !NOT_KEPT;
        let fresh = self.known & !known;
        software.news |= fresh.contains(Mtd::DR) || self.known.contains(TABLES) != self.watched;
        software.store(page, wanted, reason, now);
        tell(&software.image, page, wanted);
        if wanted.contains(Mtd::VINTR) && cpu.secondary.allows(secondary::VIRTUAL_INTERRUPT) {
            page.write_u16(offset::VINTR_STATUS, vmcs.read(field::GUEST_INTERRUPT_STATUS) as u16);
        }
    }

    /// Reads what is wanted and not known into the image, but for events.
    #[inline(always)]
    fn read_all(&self, vmcs: &impl Vmcs, image: &mut Image, wanted: Mtd, known: Mtd, kind: Kind) {
        let missing = |group| wanted.contains(group) && !known.contains(group);
        if wanted.contains(Mtd::RIP_LEN) {
            if kind.has(Kind::LENGTH) {
                vmcs.read_into::<{ offset::INST_LEN }>(field::EXIT_INSTRUCTION_LENGTH, image);
            } else {
                image.set(offset::INST_LEN, 0);
            }
        }
        if missing(Mtd::RIP_LEN) {
            vmcs.read_into::<{ offset::RIP }>(field::GUEST_RIP, image);
        }
        if missing(Mtd::RSP) {
            vmcs.read_into::<{ offset::RSP }>(field::GUEST_RSP, image);
        }
        if missing(Mtd::RFLAGS) {
            vmcs.read_into::<{ offset::RFLAGS }>(field::GUEST_RFLAGS, image);
        }
        if wanted.contains(Mtd::STA) {
            read_activity(vmcs, image);
        }
        if wanted.0 & !SHORT.0 != 0 {
            self.read_more(vmcs, image, wanted, known);
        }
    }

    /// The groups that a monitor seldom asks for if it can choose.
    #[inline(always)]
    fn read_more(&self, vmcs: &impl Vmcs, image: &mut Image, wanted: Mtd, known: Mtd) {
        let missing = |group| wanted.contains(group) && !known.contains(group);
        if wanted.contains(Mtd::DS_ES) {
            vmcs.read_segment::<0>(image);
            vmcs.read_segment::<3>(image);
        }
        if wanted.contains(Mtd::CS_SS) {
            vmcs.read_segment::<1>(image);
            vmcs.read_segment::<2>(image);
        }
        if wanted.contains(Mtd::FS_GS) {
            vmcs.read_segment::<4>(image);
            vmcs.read_segment::<5>(image);
        }
        if missing(Mtd::LDTR) {
            vmcs.read_segment::<6>(image);
        }
        if missing(Mtd::TR) {
            vmcs.read_segment::<7>(image);
        }
        if missing(Mtd::GDTR) {
            read_table(vmcs, image, offset::GDTR, 0);
        }
        if missing(Mtd::IDTR) {
            read_table(vmcs, image, offset::IDTR, 2);
        }
        if wanted.0 & (Mtd::CR.0 | Mtd::EFER_PAT.0 | Mtd::PDPTE.0) != 0 {
            self.read_paging(vmcs, image, wanted, known);
        }
        if missing(Mtd::DR) {
            vmcs.read_into::<{ offset::DR7 }>(field::GUEST_DR7, image);
        }
    }

    #[inline(always)]
    fn read_paging(&self, vmcs: &impl Vmcs, image: &mut Image, wanted: Mtd, known: Mtd) {
        let cr0 = guest_view(vmcs.read(field::GUEST_CR0), self.cr0_shadow, self.cr0_mask);
        if image.at(offset::EFER) & EFER_LME != 0 && wanted.contains(Mtd::EFER_PAT) {
            read_efer(image, cr0);
        }
        if wanted.0 & (Mtd::CR.0 | Mtd::PDPTE.0) == 0 {
            return;
        }
        let cr4 = guest_view(vmcs.read(field::GUEST_CR4), self.cr4_shadow, self.cr4_mask);
        if wanted.contains(Mtd::CR) {
            image.set(offset::CR0, cr0);
            image.set(offset::CR4, cr4);
            if !known.contains(Mtd::CR) {
                vmcs.read_into::<{ offset::CR3 }>(field::GUEST_CR3, image);
            }
        }
        if wanted.contains(Mtd::PDPTE) && cr4 & CR4_PAE != 0 {
            read_pdptes(vmcs, image, cr0);
        }
    }

    /// The event of the exit and the one it interrupted. Before the interruptibility is read: an IRET that has to be
    /// repeated blocks NMIs again.
    #[inline(always)]
    fn read_events(&self, vmcs: &mut impl Vmcs, software: &mut Software, kind: Kind, reason: u32) {
        let qualification = software.image.at(offset::QUAL0);
        let vectoring = if kind.has(Kind::VECTORED) { vmcs.read(field::VECTORING_INFO) } else { 0 };
        let iret = kind.has(Kind::IRET) && vmx_nmi::was_unblocked(qualification);
        if kind.has(Kind::EVENT | Kind::SPECIAL) || vectoring as u32 & event::VALID != 0 || iret {
            return self.read_event(vmcs, software, kind, reason);
        }
        software.image.set(offset::INTR_INFO, 0);
        software.image.set(offset::VECT_INFO, 0);
    }

    /// The same where there is something to tell. An event interrupted by an exception waits again (abi.md 11.5).
    #[inline(never)]
    fn read_event(&self, vmcs: &mut impl Vmcs, software: &mut Software, kind: Kind, reason: u32) {
        vmx_nmi::block_again(vmcs, reason);
        if reason == MISCONFIGURATION {
            let image = &mut software.image;
            vmcs.read_into::<{ offset::QUAL1 }>(field::GUEST_PHYSICAL_ADDRESS, image);
        }
        let mut exit = (0, 0);
        if reason == 0 {
            exit.0 = vmcs.read(field::EXIT_INTERRUPT_INFO) as u32;
            if exit.0 & event::ERROR_CODE != 0 {
                exit.1 = vmcs.read(field::EXIT_ERROR_CODE) as u32;
            }
        }
        let mut vectoring = (0, 0);
        if kind.has(Kind::VECTORED) {
            vectoring = self.read_vectoring(vmcs);
        }
        let told = software.told_event(reason, exit);
        if reason == 0 && vectoring.0 & event::VALID != 0 {
            software.event = vectoring;
            software.event_length = vmcs.read(field::EXIT_INSTRUCTION_LENGTH);
            software.news = true;
        }
        software.image.set(offset::INTR_INFO, pair(told));
        software.image.set(offset::VECT_INFO, pair(vectoring));
    }
}

/// What the exit says of its cause.
#[inline(always)]
fn read_qualification(vmcs: &impl Vmcs, image: &mut Image, kind: Kind) {
    if kind.has(Kind::QUALIFIED) {
        vmcs.read_into::<{ offset::QUAL0 }>(field::EXIT_QUALIFICATION, image);
        if kind.has(Kind::ADDRESS) {
            return vmcs.read_into::<{ offset::QUAL1 }>(field::GUEST_PHYSICAL_ADDRESS, image);
        }
        return image.set(offset::QUAL1, 0);
    }
    image.set(offset::QUAL0, 0);
    image.set(offset::QUAL1, 0);
}

/// Writes the groups of `wanted` that `Software` does not, and what an exit says of itself.
#[inline]
fn tell(image: &Image, page: &SharedPage, wanted: Mtd) {
    let mut row = |(group, at, words): (Mtd, usize, usize)| {
        if wanted.contains(group) {
            for word in 0..words {
                page.write_u64(at + 8 * word, image.at(at + 8 * word));
            }
        }
    };
    SHORT_WORDS.into_iter().for_each(&mut row);
    if wanted.0 & !SHORT.0 != 0 {
        MORE_WORDS.into_iter().for_each(&mut row);
    }
}

/// Groups that a monitor asks for after most exits, and those that `Software` tells.
const SHORT: Mtd = Mtd(Mtd::GPR.0
    | Mtd::RSP.0
    | Mtd::RIP_LEN.0
    | Mtd::RFLAGS.0
    | Mtd::STA.0
    | Mtd::QUAL.0
    | Mtd::INJ.0
    | Mtd::SYSCALL_SWAPGS.0
    | Mtd::TSC_TIMEOUT.0);

/// Where those lie that [`tell`] writes: byte offset and number of words.
const SHORT_WORDS: [(Mtd, usize, usize); 6] = [
    (Mtd::RIP_LEN, offset::INST_LEN, 2),
    (Mtd::RFLAGS, offset::RFLAGS, 1),
    (Mtd::STA, offset::INTR_STATE, 1),
    (Mtd::INJ, offset::INTR_INFO, 2),
    (Mtd::RSP, offset::RSP, 1),
    (Mtd::QUAL, offset::QUAL0, 2),
];
/// And the others.
const MORE_WORDS: [(Mtd, usize, usize); 15] = [
    (Mtd::CR, offset::CR0, 1),
    (Mtd::CR, offset::CR3, 2),
    (Mtd::PDPTE, offset::PDPTE, 4),
    (Mtd::EFER_PAT, offset::EFER, 2),
    (Mtd::DR, offset::DR7, 1),
    (Mtd::SYSENTER, offset::SYSENTER_CS, 3),
    (Mtd::DS_ES, offset::ES, 2),
    (Mtd::CS_SS, offset::CS, 4),
    (Mtd::DS_ES, offset::DS, 2),
    (Mtd::FS_GS, offset::FS, 4),
    (Mtd::LDTR, offset::LDTR, 2),
    (Mtd::TR, offset::TR, 2),
    (Mtd::GDTR, offset::GDTR, 2),
    (Mtd::IDTR, offset::IDTR, 2),
    (Mtd::TSC, offset::TSC_OFF, 1),
];

#[inline(always)]
fn read_activity(vmcs: &impl Vmcs, image: &mut Image) {
    // HLT always exits, so only the monitor can have made the guest inactive.
    let asleep = image.at(offset::INTR_STATE) >> 32 != 0;
    vmcs.read_into::<{ offset::INTR_STATE }>(field::GUEST_INTERRUPTIBILITY, image);
    if asleep {
        let blocking = image.at(offset::INTR_STATE) & 0xffff_ffff;
        image.set(offset::INTR_STATE, blocking | vmcs.read(field::GUEST_ACTIVITY) << 32);
    }
}

fn read_table(vmcs: &impl Vmcs, image: &mut Image, at: usize, step: u32) {
    image.set(at, vmcs.read(field::GUEST_GDTR_LIMIT + step) << 32);
    image.set(at + 8, vmcs.read(field::GUEST_GDTR_BASE + step));
}

/// LMA is LME and PG, always (Intel SDM vol. 3, 4.1.2): no VMREAD of EFER needed.
#[inline(never)]
fn read_efer(image: &mut Image, cr0: u64) {
    let lma = if cr0 & CR0_PG != 0 { EFER_LMA } else { 0 };
    image.set(offset::EFER, image.at(offset::EFER) & !EFER_LMA | lma);
}

/// Only a guest with PAE paging outside IA-32e mode has them.
#[inline(never)]
fn read_pdptes(vmcs: &impl Vmcs, image: &mut Image, cr0: u64) {
    if cr0 & CR0_PG == 0 || image.at(offset::EFER) & EFER_LME != 0 {
        return;
    }
    for (i, pdpte) in PDPTES.iter().enumerate() {
        image.set(offset::PDPTE + 8 * i, vmcs.read(*pdpte));
    }
}

/// Groups of which [`VmxState::store`] asks whether they are known.
const ASKED: Mtd = Mtd(Mtd::RSP.0
    | Mtd::RIP_LEN.0
    | Mtd::RFLAGS.0
    | Mtd::CR.0
    | Mtd::DR.0
    | Mtd::LDTR.0
    | Mtd::TR.0
    | Mtd::GDTR.0
    | Mtd::IDTR.0);
/// What of it is known when a guest has run: the tables are watched, and debug registers exit.
const USUAL: Mtd = TABLES.union(Mtd::DR);
/// Groups that an exit tells and that are read anew after each.
const NOT_KEPT: Mtd = Mtd(Mtd::CTRL.0 | Mtd::VINTR.0 | Mtd::PDPTE.0);

/// What an exit of some reason brings along: a set of the bits below.
#[derive(Clone, Copy)]
pub struct Kind(u8);

/// The kinds of the reasons below 64: one look instead of a question for each bit.
static KINDS: [u8; 64] = {
    let mut kinds = [0; 64];
    let mut reason = 0;
    while reason < 64 {
        kinds[reason] = Kind::hardware(reason as u32);
        reason += 1;
    }
    kinds
};

impl Kind {
    /// The instruction length means something (28.2.5).
    const LENGTH: u8 = 1 << 0;
    /// It has a qualification (28.2.1).
    const QUALIFIED: u8 = 1 << 1;
    /// It has a guest-physical address.
    const ADDRESS: u8 = 1 << 2;
    /// It can interrupt the delivery of an event (28.2.4).
    const VECTORED: u8 = 1 << 3;
    /// It is an exception.
    const EVENT: u8 = 1 << 4;
    /// It has words of its own: a poke (the kernel's own) tells the waiting event, an EPT misconfiguration has an
    /// address but no qualification.
    const SPECIAL: u8 = 1 << 5;
    /// Its qualification says whether an IRET unblocked NMIs.
    const IRET: u8 = 1 << 7;
    /// The kernel settles it itself, always or sometimes.
    pub const KERNEL: u8 = 1 << 6;

    /// What the exit reason says.
    #[inline(always)]
    #[must_use]
    pub fn of(reason: u32) -> Self {
        match KINDS.get(reason as usize) {
            Some(kind) => Self(*kind),
            None => Self::unusual(reason),
        }
    }

    /// The kernel's own, and entries that failed: those have a qualification as well (27.8).
    #[cold]
    fn unusual(reason: u32) -> Self {
        match reason {
            abi::exit::POKED => Self(Self::SPECIAL),
            _ if reason & abi::exit::ENTRY_FAILURE_BIT != 0 => Self(Self::QUALIFIED),
            _ => Self(0),
        }
    }

    /// Whether it is of any of these kinds.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, any: u8) -> bool {
        self.0 & any != 0
    }

    const fn hardware(reason: u32) -> u8 {
        let mut kind = 0;
        if !matches!(reason, 1 | 2 | 3 | 4 | 7 | 8 | 33 | 37 | 43 | 45 | 52) {
            kind |= Self::LENGTH;
        }
        if matches!(
            reason,
            0 | 3 | 4 | 9 | 14 | 19 | 21 | 22 | 23 | 25 | 27..=30 | 33 | 39 | 44..=48 | 50 | 53 | 56
                | 58 | 62 | 63
        ) {
            kind |= Self::QUALIFIED;
        }
        if reason == 48 {
            kind |= Self::ADDRESS;
        }
        if matches!(reason, 0 | 2 | 9 | 44 | 48 | 49 | 56 | 62) {
            kind |= Self::VECTORED;
        }
        if reason == 0 {
            kind |= Self::EVENT;
        }
        if matches!(reason, 48 | 62) {
            kind |= Self::IRET;
        }
        if reason == MISCONFIGURATION {
            kind |= Self::SPECIAL;
        }
        // NMIs and machine checks, interrupts, debug registers, tables, the timer.
        if matches!(reason, 0 | 1 | 29 | 46 | 47 | 52) {
            kind |= Self::KERNEL;
        }
        kind
    }
}

/// Two 32-bit words as the state page holds them.
const fn pair(words: (u32, u32)) -> u64 {
    words.0 as u64 | (words.1 as u64) << 32
}
