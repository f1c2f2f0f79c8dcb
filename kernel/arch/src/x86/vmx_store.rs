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
use super::vmx_state::{COMMON, EFER_LMA, PDPTES, Vmcs, VmxState};

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
        if wanted.contains(Mtd::RIP_LEN) {
            let length =
                if has_length(reason) { vmcs.read(field::EXIT_INSTRUCTION_LENGTH) } else { 0 };
            page.write_u64(offset::INST_LEN, length);
            self.get(vmcs, page, Mtd::RIP_LEN, offset::RIP, field::GUEST_RIP);
        }
        if wanted.contains(Mtd::RSP) {
            self.get(vmcs, page, Mtd::RSP, offset::RSP, field::GUEST_RSP);
        }
        if wanted.contains(Mtd::RFLAGS) {
            self.get(vmcs, page, Mtd::RFLAGS, offset::RFLAGS, field::GUEST_RFLAGS);
        }
        if wanted.contains(Mtd::STA) {
            self.store_activity(vmcs, page);
        }
        if wanted.contains(Mtd::QUAL) {
            let qualified = QUALIFIED.contains(reason);
            let qual = if qualified { vmcs.read(field::EXIT_QUALIFICATION) } else { 0 };
            let address = if matches!(reason, 48 | 49) {
                vmcs.read(field::GUEST_PHYSICAL_ADDRESS)
            } else {
                0
            };
            page.write_u64(offset::QUAL0, qual);
            page.write_u64(offset::QUAL1, address);
        }
        self.store_event(vmcs, software, page, wanted, reason);
        if wanted.0 & !COMMON.0 & ALL_RARE.0 != 0 {
            self.store_rare(vmcs, cpu, page, wanted);
        }
        self.known |= wanted & !Mtd(Mtd::CTRL.0 | Mtd::VINTR.0 | Mtd::PDPTE.0);
    }

    /// The event group; and an event interrupted by an exception waits again (abi.md 11.5).
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
        if VECTORED.contains(reason) {
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

    fn store_rare(&mut self, vmcs: &impl Vmcs, cpu: &Capabilities, page: &SharedPage, wanted: Mtd) {
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
        let known = self.known;
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
            self.store_paging(vmcs, page, wanted);
        }
        if wanted.contains(Mtd::DR) {
            self.get(vmcs, page, Mtd::DR, offset::DR7, field::GUEST_DR7);
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

    fn store_paging(&mut self, vmcs: &impl Vmcs, page: &SharedPage, wanted: Mtd) {
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
            self.get(vmcs, page, Mtd::CR, offset::CR3, field::GUEST_CR3);
        }
        if wanted.contains(Mtd::PDPTE) {
            let pae = cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && lma == 0;
            for (i, pdpte) in PDPTES.iter().enumerate() {
                let at = offset::PDPTE + 8 * i;
                if pae {
                    self.get(vmcs, page, Mtd::PDPTE, at, *pdpte);
                } else {
                    self.tell(page, at);
                }
            }
        }
    }

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
        let step = 2 * INDEX as u32;
        // The fields have the width of `Segment`'s, so its words are put together without masks: eight
        // segments are half of what a full store costs. A test compares with `Segment::encode`.
        let rights = vmcs.read(field::GUEST_ES_RIGHTS + step);
        let first = vmcs.read(field::GUEST_ES_SELECTOR + step)
            | (rights & 0xff) << 16
            | (rights & 0x1_f000) << 12
            | vmcs.read(field::GUEST_ES_LIMIT + step) << 32;
        let base = vmcs.read(field::GUEST_ES_BASE + step);
        let at = offset::ES + 16 * INDEX;
        self.note(at, first);
        self.note(at + 8, base);
        page.write_u64(at, first);
        page.write_u64(at + 8, base);
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
    fn get(&mut self, vmcs: &impl Vmcs, page: &SharedPage, group: Mtd, at: usize, field: u32) {
        let value = if self.known.contains(group) { self.at(at) } else { vmcs.read(field) };
        self.note(at, value);
        page.write_u64(at, value);
    }

    /// Writes what the mirror holds: for words that the guest cannot change.
    fn tell(&self, page: &SharedPage, at: usize) {
        page.write_u64(at, self.at(at));
    }
}

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
/// A set of exit reasons below 64.
struct Reasons(u64);

impl Reasons {
    const fn of(reasons: &[u32]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < reasons.len() {
            bits |= 1 << (reasons[i] & 63);
            i += 1;
        }
        Self(bits)
    }

    const fn contains(&self, reason: u32) -> bool {
        // An entry that failed (bit 31) has a qualification as well (27.8).
        let reason = reason & !abi::exit::ENTRY_FAILURE_BIT;
        reason < 64 && self.0 >> reason & 1 != 0
    }
}

/// Exits with a qualification (28.2.1).
const QUALIFIED: Reasons = Reasons::of(&[
    0, 3, 4, 9, 14, 19, 21, 22, 23, 25, 27, 28, 29, 30, 33, 39, 44, 45, 46, 47, 48, 50, 53, 56, 58,
    62, 63, 64,
]);
/// Exits that can interrupt the delivery of an event (28.2.4).
const VECTORED: Reasons = Reasons::of(&[0, 2, 9, 44, 48, 49, 56, 62]);

/// Whether the instruction length means something (28.2.5).
const fn has_length(reason: u32) -> bool {
    reason < 64 && !matches!(reason, 1 | 2 | 3 | 4 | 7 | 8 | 33 | 37 | 43 | 45 | 52)
}

/// Two 32-bit words as the state page holds them.
const fn pair(words: (u32, u32)) -> u64 {
    words.0 as u64 | (words.1 as u64) << 32
}
