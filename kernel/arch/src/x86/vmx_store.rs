//! The way from the VMCS to the state page: what `vmx_state` does backwards.
//!
//! Each VMREAD here stands on the path of every exit that asks for its group; what the exit reason or
//! the mirror already says is not read.

use abi::Mtd;
use abi::utcb::offset;
use sync::SharedPage;

use super::event;
use super::guest_software::Software;
use super::vmx_controls::{Capabilities, guest_view, secondary};
use super::vmx_fields as field;
use super::vmx_state::{COMMON, EFER_LMA, PDPTES, TABLES, Vmcs, VmxState};

const EFER_LME: u64 = 1 << 8;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;

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

    /// Tells the monitor the groups of `wanted` that live in the VMCS. `reason` may be the kernel's own
    /// (255); what belongs to an exit of the hardware is then empty.
    pub fn store(
        &mut self,
        vmcs: &impl Vmcs,
        cpu: &Capabilities,
        software: &mut Software,
        page: &SharedPage,
        wanted: Mtd,
        reason: u32,
    ) {
        let kind = Kind::of(reason);
        // After nearly every exit the same groups are known. With both sets constant the compiler makes
        // one straight line of VMREADs and moves out of the whole way; a test counts the reads.
        if wanted == Mtd::VCPU_EXIT && self.known & ASKED == USUAL {
            self.tell_all(vmcs, cpu, page, Mtd::VCPU_EXIT, USUAL, kind);
        } else {
            self.tell_all(vmcs, cpu, page, wanted, self.known, kind);
        }
        if kind.has(Kind::EVENT | Kind::VECTORED | Kind::POKE) {
            self.store_event(vmcs, software, page, wanted, reason);
        } else {
            self.vectoring = (0, 0);
            if wanted.contains(Mtd::INJ) {
                page.write_u64(offset::INTR_INFO, 0);
                page.write_u64(offset::VECT_INFO, 0);
            }
        }
        self.known |= wanted & !Mtd(Mtd::CTRL.0 | Mtd::VINTR.0 | Mtd::PDPTE.0);
    }

    /// Everything but events, with `known` as the groups whose words in the mirror are true.
    #[inline(always)]
    fn tell_all(
        &mut self,
        vmcs: &impl Vmcs,
        cpu: &Capabilities,
        page: &SharedPage,
        wanted: Mtd,
        known: Mtd,
        kind: Kind,
    ) {
        if wanted.contains(Mtd::RIP_LEN) {
            let length =
                if kind.has(Kind::LENGTH) { vmcs.read(field::EXIT_INSTRUCTION_LENGTH) } else { 0 };
            page.write_u64(offset::INST_LEN, length);
            let known = known.contains(Mtd::RIP_LEN);
            self.get(vmcs, page, known, offset::RIP, field::GUEST_RIP);
        }
        if wanted.contains(Mtd::RSP) {
            self.get(vmcs, page, known.contains(Mtd::RSP), offset::RSP, field::GUEST_RSP);
        }
        if wanted.contains(Mtd::RFLAGS) {
            let known = known.contains(Mtd::RFLAGS);
            self.get(vmcs, page, known, offset::RFLAGS, field::GUEST_RFLAGS);
        }
        if wanted.contains(Mtd::STA) {
            self.store_activity(vmcs, page);
        }
        if wanted.contains(Mtd::QUAL) {
            let qualified = kind.has(Kind::QUALIFIED);
            let qual = if qualified { vmcs.read(field::EXIT_QUALIFICATION) } else { 0 };
            let nested = kind.has(Kind::ADDRESS);
            let address = if nested { vmcs.read(field::GUEST_PHYSICAL_ADDRESS) } else { 0 };
            page.write_u64(offset::QUAL0, qual);
            page.write_u64(offset::QUAL1, address);
        }
        if wanted.0 & !COMMON.0 & ALL_RARE.0 != 0 {
            self.store_rare(vmcs, cpu, page, wanted, known);
        }
    }

    /// The event group; and an event interrupted by an exception waits again (abi.md 11.5).
    #[inline(never)]
    fn store_event(
        &mut self,
        vmcs: &impl Vmcs,
        software: &mut Software,
        page: &SharedPage,
        wanted: Mtd,
        reason: u32,
    ) {
        let mut exit = (0, 0);
        if reason == 0 {
            exit.0 = vmcs.read(field::EXIT_INTERRUPT_INFO) as u32;
            if exit.0 & event::ERROR_CODE != 0 {
                exit.1 = vmcs.read(field::EXIT_ERROR_CODE) as u32;
            }
        }
        let mut vectoring = (0, 0);
        if Kind::of(reason).has(Kind::VECTORED) {
            vectoring = self.read_vectoring(vmcs);
        }
        let told = software.told_event(reason, exit);
        if wanted.contains(Mtd::INJ) {
            page.write_u64(offset::INTR_INFO, pair(told));
            page.write_u64(offset::VECT_INFO, pair(vectoring));
        }
        if reason == 0 && vectoring.0 & event::VALID != 0 {
            software.event = vectoring;
            software.event_length = vmcs.read(field::EXIT_INSTRUCTION_LENGTH);
        }
        self.vectoring = vectoring;
    }

    #[inline(always)]
    fn store_rare(
        &mut self,
        vmcs: &impl Vmcs,
        cpu: &Capabilities,
        page: &SharedPage,
        wanted: Mtd,
        known: Mtd,
    ) {
        if wanted.contains(Mtd::DS_ES) {
            self.store_segment::<0>(vmcs, page);
            self.store_segment::<3>(vmcs, page);
        }
        if wanted.contains(Mtd::CS_SS) {
            self.store_segment::<1>(vmcs, page);
            self.store_segment::<2>(vmcs, page);
        }
        if wanted.contains(Mtd::FS_GS) {
            self.store_segment::<4>(vmcs, page);
            self.store_segment::<5>(vmcs, page);
        }
        if wanted.contains(Mtd::LDTR) {
            if known.contains(Mtd::LDTR) {
                self.tell_pair(page, offset::LDTR);
            } else {
                self.store_segment::<6>(vmcs, page);
            }
        }
        if wanted.contains(Mtd::TR) {
            if known.contains(Mtd::TR) {
                self.tell_pair(page, offset::TR);
            } else {
                self.store_segment::<7>(vmcs, page);
            }
        }
        if wanted.contains(Mtd::GDTR) {
            if known.contains(Mtd::GDTR) {
                self.tell_pair(page, offset::GDTR);
            } else {
                self.store_table(vmcs, page, offset::GDTR, 0);
            }
        }
        if wanted.contains(Mtd::IDTR) {
            if known.contains(Mtd::IDTR) {
                self.tell_pair(page, offset::IDTR);
            } else {
                self.store_table(vmcs, page, offset::IDTR, 2);
            }
        }
        if wanted.0 & (Mtd::CR.0 | Mtd::EFER_PAT.0 | Mtd::PDPTE.0) != 0 {
            self.store_paging(vmcs, page, wanted, known);
        }
        if wanted.contains(Mtd::DR) {
            self.get(vmcs, page, known.contains(Mtd::DR), offset::DR7, field::GUEST_DR7);
        }
        if wanted.contains(Mtd::SYSENTER) {
            for word in 0..3 {
                self.tell(page, offset::SYSENTER_CS + 8 * word);
            }
        }
        if wanted.contains(Mtd::TSC) {
            self.tell(page, offset::TSC_OFF);
        }
        if wanted.contains(Mtd::VINTR) && cpu.secondary.allows(secondary::VIRTUAL_INTERRUPT) {
            page.write_u16(offset::VINTR_STATUS, vmcs.read(field::GUEST_INTERRUPT_STATUS) as u16);
        }
    }

    #[inline(always)]
    fn store_paging(&mut self, vmcs: &impl Vmcs, page: &SharedPage, wanted: Mtd, known: Mtd) {
        let cr0 = guest_view(vmcs.read(field::GUEST_CR0), self.cr0_shadow, self.cr0_mask);
        // LMA is LME and PG, always (Intel SDM vol. 3, 4.1.2): no VMREAD of EFER needed.
        let efer = self.at(offset::EFER);
        let lma = if efer & EFER_LME != 0 && cr0 & CR0_PG != 0 { EFER_LMA } else { 0 };
        let efer = efer & !EFER_LMA | lma;
        if wanted.contains(Mtd::EFER_PAT) {
            self.note(offset::EFER, efer);
            page.write_u64(offset::EFER, efer);
            self.tell(page, offset::PAT);
        }
        if wanted.0 & (Mtd::CR.0 | Mtd::PDPTE.0) == 0 {
            return;
        }
        let cr4 = guest_view(vmcs.read(field::GUEST_CR4), self.cr4_shadow, self.cr4_mask);
        if wanted.contains(Mtd::CR) {
            self.note(offset::CR0, cr0);
            self.note(offset::CR4, cr4);
            page.write_u64(offset::CR0, cr0);
            page.write_u64(offset::CR4, cr4);
            self.get(vmcs, page, known.contains(Mtd::CR), offset::CR3, field::GUEST_CR3);
        }
        if wanted.contains(Mtd::PDPTE) {
            if cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && lma == 0 {
                self.store_pdptes(vmcs, page);
            } else {
                for word in 0..PDPTES.len() {
                    self.tell(page, offset::PDPTE + 8 * word);
                }
            }
        }
    }

    /// Only a guest with PAE paging has them.
    #[cold]
    fn store_pdptes(&mut self, vmcs: &impl Vmcs, page: &SharedPage) {
        for (i, pdpte) in PDPTES.iter().enumerate() {
            self.get(vmcs, page, false, offset::PDPTE + 8 * i, *pdpte);
        }
    }

    #[inline(always)]
    fn store_activity(&mut self, vmcs: &impl Vmcs, page: &SharedPage) {
        let blocking = vmcs.read(field::GUEST_INTERRUPTIBILITY) & 0xffff_ffff;
        // HLT always exits, so only the monitor can have made the guest inactive.
        let asleep = self.at(offset::INTR_STATE) >> 32 != 0;
        let activity = if asleep { vmcs.read(field::GUEST_ACTIVITY) } else { 0 };
        let word = blocking | activity << 32;
        self.note(offset::INTR_STATE, word);
        page.write_u64(offset::INTR_STATE, word);
    }

    #[inline(always)]
    fn store_segment<const INDEX: usize>(&mut self, vmcs: &impl Vmcs, page: &SharedPage) {
        vmcs.read_segment::<INDEX>(&mut self.mirror);
        self.tell_pair(page, offset::ES + 16 * INDEX);
    }

    /// Two words that the mirror holds.
    #[inline(always)]
    fn tell_pair(&self, page: &SharedPage, at: usize) {
        self.tell(page, at);
        self.tell(page, at + 8);
    }

    #[inline(always)]
    fn store_table(&mut self, vmcs: &impl Vmcs, page: &SharedPage, at: usize, step: u32) {
        let limit = vmcs.read(field::GUEST_GDTR_LIMIT + step) << 32;
        let base = vmcs.read(field::GUEST_GDTR_BASE + step);
        self.note(at, limit);
        self.note(at + 8, base);
        page.write_u64(at, limit);
        page.write_u64(at + 8, base);
    }

    #[inline(always)]
    fn get(&mut self, vmcs: &impl Vmcs, page: &SharedPage, known: bool, at: usize, field: u32) {
        if !known {
            self.note(at, vmcs.read(field));
        }
        self.tell(page, at);
    }

    /// Writes what the mirror holds.
    #[inline(always)]
    fn tell(&self, page: &SharedPage, at: usize) {
        page.write_u64(at, self.at(at));
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
/// Groups that `store_rare` knows.
const ALL_RARE: Mtd = Mtd(Mtd::DS_ES.0
    | Mtd::FS_GS.0
    | Mtd::CS_SS.0
    | Mtd::TR.0
    | Mtd::LDTR.0
    | Mtd::GDTR.0
    | Mtd::IDTR.0
    | Mtd::CR.0
    | Mtd::DR.0
    | Mtd::SYSENTER.0
    | Mtd::TSC.0
    | Mtd::EFER_PAT.0
    | Mtd::PDPTE.0
    | Mtd::VINTR.0);
/// What an exit of some reason brings along: a set of the bits below.
#[derive(Clone, Copy)]
struct Kind(u8);

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
    /// It is the kernel's own, for a poke.
    const POKE: u8 = 1 << 5;

    #[inline(always)]
    fn of(reason: u32) -> Self {
        match KINDS.get(reason as usize) {
            Some(kind) => Self(*kind),
            None => Self::unusual(reason),
        }
    }

    /// The kernel's own, and entries that failed: those have a qualification as well (27.8).
    #[cold]
    fn unusual(reason: u32) -> Self {
        match reason {
            abi::exit::POKED => Self(Self::POKE),
            _ if reason & abi::exit::ENTRY_FAILURE_BIT != 0 => Self(Self::QUALIFIED),
            _ => Self(0),
        }
    }

    #[inline(always)]
    const fn has(self, any: u8) -> bool {
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
        if matches!(reason, 48 | 49) {
            kind |= Self::ADDRESS;
        }
        if matches!(reason, 0 | 2 | 9 | 44 | 48 | 49 | 56 | 62) {
            kind |= Self::VECTORED;
        }
        if reason == 0 {
            kind |= Self::EVENT;
        }
        kind
    }
}

/// Two 32-bit words as the state page holds them.
const fn pair(words: (u32, u32)) -> u64 {
    words.0 as u64 | (words.1 as u64) << 32
}
