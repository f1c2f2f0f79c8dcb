//! Moves a guest's state between the state page, which speaks VMX, and its VMCB.
//!
//! The VMCB is memory, so every word is read and written as it is needed; the clean word tells the CPU
//! what need not be loaded again (AMD APM vol. 2, 15.15). What SVM has no field for is kept here.

use abi::Mtd;
use abi::utcb::{Segment, offset};
use sync::SharedPage;

use super::event::{self, Injection};
use super::guest_software::Software;
use super::svm_controls::{Intercepts, Own};
use super::svm_exit::{Raw, Report};
use super::svm_vmcb::{self as vmcb, EFER_SVME, clean, virtual_interrupt};
use super::vmx_controls::primary;

/// Segments: offset in the state page, offset in the VMCB, group, clean bits.
const SEGMENTS: [(usize, usize, Mtd, u32); 8] = [
    (offset::ES, vmcb::ES, Mtd::DS_ES, clean::SEGMENTS),
    (offset::DS, vmcb::DS, Mtd::DS_ES, clean::SEGMENTS),
    (offset::CS, vmcb::CS, Mtd::CS_SS, clean::SEGMENTS),
    (offset::SS, vmcb::SS, Mtd::CS_SS, clean::SEGMENTS),
    (offset::FS, vmcb::FS, Mtd::FS_GS, 0),
    (offset::GS, vmcb::GS, Mtd::FS_GS, 0),
    (offset::LDTR, vmcb::LDTR, Mtd::LDTR, 0),
    (offset::TR, vmcb::TR, Mtd::TR, 0),
];

/// Single words: offset in the state page, offset in the VMCB, group, clean bits.
const WORDS: [(usize, usize, Mtd, u32); 16] = [
    (offset::RIP, vmcb::RIP, Mtd::RIP_LEN, 0),
    (offset::RSP, vmcb::RSP, Mtd::RSP, 0),
    (offset::RFLAGS, vmcb::RFLAGS, Mtd::RFLAGS, 0),
    (offset::CR0, vmcb::CR0, Mtd::CR, clean::CR),
    (offset::CR2, vmcb::CR2, Mtd::CR, clean::CR2),
    (offset::CR3, vmcb::CR3, Mtd::CR, clean::CR),
    (offset::CR4, vmcb::CR4, Mtd::CR, clean::CR),
    (offset::DR7, vmcb::DR7, Mtd::DR, clean::DR),
    (offset::SYSENTER_CS, vmcb::SYSENTER_CS, Mtd::SYSENTER, 0),
    (offset::SYSENTER_RSP, vmcb::SYSENTER_RSP, Mtd::SYSENTER, 0),
    (offset::SYSENTER_RIP, vmcb::SYSENTER_RIP, Mtd::SYSENTER, 0),
    (offset::STAR, vmcb::STAR, Mtd::SYSCALL_SWAPGS, 0),
    (offset::LSTAR, vmcb::LSTAR, Mtd::SYSCALL_SWAPGS, 0),
    (offset::FMASK, vmcb::FMASK, Mtd::SYSCALL_SWAPGS, 0),
    (offset::KERNEL_GS_BASE, vmcb::KERNEL_GS_BASE, Mtd::SYSCALL_SWAPGS, 0),
    (offset::PAT, vmcb::PAT, Mtd::EFER_PAT, clean::NESTED),
];

const UNUSABLE: u16 = 1 << 12;
const PRESENT: u16 = 1 << 7;
const GRANULAR: u16 = 1 << 11;
const RFLAGS_IF: u64 = 1 << 9;
/// Blocking by STI, by MOV SS, by NMI in the interruptibility word (Intel SDM vol. 3, 25.4.2).
const STI: u32 = 1 << 0;
const MOV_SS: u32 = 1 << 1;
const NMI_BLOCKED: u32 = 1 << 3;

/// VMX would fail the entry instruction for such an event (reason 253).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// First word of the save area, and how many words of it are used.
const SAVE_FIRST: usize = vmcb::ES / 8;
const SAVE_WORDS: usize = (vmcb::DEBUGCTL + 8 - vmcb::ES) / 8;

/// What software keeps of one VMCB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvmState {
    /// The last exit, as the monitor is told it.
    pub report: Report,
    /// NMIs are blocked until the guest executes IRET.
    pub nmi_blocked: bool,
    /// Activity state as the monitor set it; SVM knows only "active".
    pub activity: u32,
    /// A copy of the save area while the hardware may still refuse it (see [`Self::keep_copy`]).
    copy: Option<[u64; SAVE_WORDS]>,
    clean: u32,
    intercepts: Intercepts,
    tsc_offset: u64,
    pdpte: [u64; 4],
    /// State was loaded that VMRUN may refuse.
    doubtful: bool,
    /// The external interrupt that waits in the virtual-interrupt word, not in EVENTINJ.
    carried: Option<u8>,
}

impl Default for SvmState {
    fn default() -> Self {
        Self {
            report: Report::default(),
            nmi_blocked: false,
            activity: 0,
            copy: None,
            clean: 0,
            intercepts: Intercepts::default(),
            tsc_offset: 0,
            pdpte: [0; 4],
            doubtful: true,
            carried: None,
        }
    }
}

impl SvmState {
    /// Gives a VMCB of zeros the values that do not come from the monitor.
    pub fn reset(&mut self, block: &SharedPage) {
        *self = Self::default();
        block.write_u64(vmcb::EFER, EFER_SVME);
        block.write_u64(vmcb::NESTED_CONTROL, 1);
        block.write_u64(vmcb::DR6, super::guest_software::DR6_RESET);
    }

    /// Loads the groups of `mtd` that live in the VMCB. `software` has loaded its own already.
    #[inline]
    pub fn load(&mut self, block: &SharedPage, software: &Software, page: &SharedPage, mtd: Mtd) {
        if mtd.0 & (Mtd::CR.0 | Mtd::EFER_PAT.0 | Mtd::DR.0 | Mtd::CS_SS.0) != 0 {
            self.doubtful = true;
        }
        if mtd.contains(Mtd::ACDB) {
            block.write_u64(vmcb::RAX, page.read_u64(offset::RAX));
        }
        for (from, to, group, touched) in WORDS {
            if mtd.contains(group) {
                self.set(block, to, page.read_u64(from), touched);
            }
        }
        for (from, to, group, touched) in SEGMENTS {
            if mtd.contains(group) {
                let segment = Segment::decode([page.read_u64(from), page.read_u64(from + 8)]);
                let [first, base] = to_svm(segment).encode();
                self.set(block, to, first, touched);
                self.set(block, to + 8, base, touched);
            }
        }
        if mtd.contains(Mtd::CS_SS) {
            // The privilege level is a field of its own; VMX takes it from SS (25.4.1).
            block.write_u8(vmcb::CPL, page.read_u8(offset::SS + 2) >> 5 & 3);
            self.clean &= !clean::SEGMENTS;
        }
        for (from, to, group) in
            [(offset::GDTR, vmcb::GDTR, Mtd::GDTR), (offset::IDTR, vmcb::IDTR, Mtd::IDTR)]
        {
            if mtd.contains(group) {
                let limit = page.read_u64(from) >> 32 << 32;
                self.set(block, to, limit, clean::TABLES);
                self.set(block, to + 8, page.read_u64(from + 8), clean::TABLES);
            }
        }
        if mtd.contains(Mtd::EFER_PAT) {
            let efer = page.read_u64(offset::EFER) | EFER_SVME;
            self.set(block, vmcb::EFER, efer, clean::CR);
        }
        if mtd.contains(Mtd::TSC) {
            self.tsc_offset = page.read_u64(offset::TSC_OFF);
        }
        if mtd.0 & (Mtd::TSC.0 | Mtd::CTRL.0) != 0 {
            let used = software.asked.primary & primary::TSC_OFFSETTING != 0;
            let value = if used { self.tsc_offset } else { 0 };
            self.set(block, vmcb::TSC_OFFSET, value, clean::INTERCEPTS);
        }
        if mtd.contains(Mtd::STA) {
            let blocking = page.read_u32(offset::INTR_STATE);
            let shadow = u64::from(blocking & (STI | MOV_SS) != 0);
            block.write_u64(vmcb::INTERRUPT_SHADOW, shadow);
            self.nmi_blocked = blocking & NMI_BLOCKED != 0;
            self.activity = page.read_u32(offset::ACTV_STATE);
        }
        if mtd.contains(Mtd::PDPTE) {
            for (i, pdpte) in self.pdpte.iter_mut().enumerate() {
                *pdpte = page.read_u64(offset::PDPTE + 8 * i);
            }
        }
    }

    /// Writes the intercepts if they changed. `debug_registers` catches the first use of DR0 to DR3.
    #[inline]
    pub fn write_controls(
        &mut self,
        block: &SharedPage,
        software: &Software,
        debug_registers: bool,
    ) {
        let own = Own {
            interrupt_window: software.interrupt_window,
            iret: self.nmi_blocked,
            debug_registers,
        };
        let new = Intercepts::new(software.asked, own);
        if new == self.intercepts {
            return;
        }
        self.intercepts = new;
        self.clean &= !(clean::INTERCEPTS | clean::TPR);
        block.write_u32(vmcb::INTERCEPT_CR, new.cr);
        block.write_u32(vmcb::INTERCEPT_DR, new.dr);
        block.write_u32(vmcb::INTERCEPT_EXCEPTIONS, new.exceptions);
        block.write_u32(vmcb::INTERCEPT_MISC1, new.misc1);
        block.write_u32(vmcb::INTERCEPT_MISC2, new.misc2);
        block.write_u32(vmcb::INTERCEPT_MISC3, new.misc3);
    }

    /// Writes the virtual-interrupt word: masking always, a waiting interrupt, and the guest's task
    /// priority.
    ///
    /// The waiting interrupt is either the monitor's own, or one that never arrives because VINTR is
    /// intercepted: the interrupt window. The monitor's own goes through EVENTINJ when it asks for a
    /// window too, or when the guest cannot take interrupts now.
    ///
    /// It does not go through EVENTINJ always because QEMU 7.2 may deliver such an interrupt twice:
    /// again, and whatever the guest's IF, when its own main loop is next asked to stop.
    pub fn write_virtual_interrupt(&mut self, block: &SharedPage, software: &Software, tpr: u8) {
        use virtual_interrupt::{IGNORE_TPR, IRQ, MASKING, PRIORITY, TPR, VECTOR_SHIFT};
        const ANY: u64 = IRQ | PRIORITY | IGNORE_TPR;
        let external = event::external(software.event.0);
        self.carried =
            external.filter(|_| !software.interrupt_window && Self::takes_interrupt(block));
        let waiting = match self.carried {
            Some(vector) => ANY | u64::from(vector) << VECTOR_SHIFT,
            None if software.interrupt_window => ANY,
            None => 0,
        };
        self.set(
            block,
            vmcb::VIRTUAL_INTERRUPT,
            MASKING | waiting | u64::from(tpr) & TPR,
            clean::TPR,
        );
    }

    /// Writes the waiting event. `Err` if VMX would fail the entry instruction (reason 253).
    pub fn write_event(&mut self, block: &SharedPage, software: &Software) -> Result<(), Refused> {
        let (info, error) = software.event;
        match event::to_svm(info, error, software.event_length) {
            Injection::Refused => return Err(Refused),
            Injection::Inject { word, advance } if self.carried.is_none() => {
                block.write_u64(vmcb::EVENT_INJECTION, word);
                if advance != 0 {
                    let rip = block.read_u64(vmcb::RIP).wrapping_add(advance);
                    block.write_u64(vmcb::RIP, rip);
                }
                if info & event::TYPE == event::NMI {
                    self.nmi_blocked = true;
                }
            }
            Injection::None | Injection::Inject { .. } => {
                block.write_u64(vmcb::EVENT_INJECTION, 0);
            }
        }
        Ok(())
    }

    /// Whether the guest takes an interrupt before its next instruction.
    fn takes_interrupt(block: &SharedPage) -> bool {
        block.read_u64(vmcb::RFLAGS) & RFLAGS_IF != 0
            && block.read_u64(vmcb::INTERRUPT_SHADOW) & 1 == 0
    }

    /// Whether the guest could take an NMI now: nothing blocks it.
    #[must_use]
    pub fn takes_nmi(&self, block: &SharedPage) -> bool {
        !self.nmi_blocked && block.read_u64(vmcb::INTERRUPT_SHADOW) & 1 == 0
    }

    /// Writes the words that belong to the CPU and the space: ASID with flush command, table root,
    /// permission maps. All are physical addresses but the ASID.
    pub fn write_place(
        &mut self,
        block: &SharedPage,
        asid: u16,
        flush: u8,
        root: u64,
        ports: u64,
        msrs: u64,
    ) {
        let word = u64::from(asid) | u64::from(flush) << 32;
        self.set(block, vmcb::ASID_TLB, word, clean::ASID);
        self.set(block, vmcb::NESTED_CR3, root, clean::NESTED);
        self.set(block, vmcb::IOPM_BASE, ports, clean::PERMISSIONS);
        self.set(block, vmcb::MSRPM_BASE, msrs, clean::PERMISSIONS);
        block.write_u32(vmcb::CLEAN_BITS, self.clean);
        self.clean = clean::ALL;
    }

    /// Fields of these clean groups were written outside this module.
    pub fn touch(&mut self, groups: u32) {
        self.clean &= !groups;
    }

    /// Another CPU or another VMCB came between: nothing is clean.
    pub fn forget_clean(&mut self) {
        self.clean = 0;
    }

    /// Before VMRUN: a processor that refuses the state may leave its own, the host's, in the save area
    /// (QEMU 7.2 does), and the monitor must see neither the host's state nor lose the guest's. So a copy
    /// is kept whenever the monitor loaded something that can be refused; a guest cannot make its own
    /// state invalid. `exception` says that an exception is injected, which some modes refuse.
    pub fn keep_copy(&mut self, block: &SharedPage, exception: bool) {
        if self.doubtful || exception {
            self.copy = Some(core::array::from_fn(|i| block.word(SAVE_FIRST + i)));
        }
    }

    /// After VMRUN: forgets the copy, or puts it back if the state was `refused`.
    pub fn settle_copy(&mut self, block: &SharedPage, refused: bool) {
        if refused {
            self.forget_clean();
            for (i, word) in self.copy.take().iter().flatten().enumerate() {
                block.set_word(SAVE_FIRST + i, *word);
            }
        } else {
            self.doubtful = false;
            self.copy = None;
        }
    }

    /// The exit words as the hardware left them.
    #[must_use]
    pub fn raw(&mut self, block: &SharedPage, assists: bool, next_rip: bool) -> Raw {
        // An interrupt that the guest had no time to take is one that was on its way.
        let waits = block.read_u64(vmcb::VIRTUAL_INTERRUPT) & virtual_interrupt::IRQ != 0;
        let not_taken = self.carried.take().filter(|_| waits);
        let int_info = match not_taken {
            Some(vector) => u64::from(event::VALID | event::EXTERNAL | u32::from(vector)),
            None => block.read_u64(vmcb::EXIT_INT_INFO),
        };
        Raw {
            code: block.read_u64(vmcb::EXIT_CODE),
            info1: block.read_u64(vmcb::EXIT_INFO_1),
            info2: block.read_u64(vmcb::EXIT_INFO_2),
            int_info,
            rip: block.read_u64(vmcb::RIP),
            next_rip: if next_rip { block.read_u64(vmcb::NEXT_RIP) } else { 0 },
            dr6: block.read_u64(vmcb::DR6),
            assists,
        }
    }

    /// Tells the monitor the groups of `wanted` that live in the VMCB.
    #[inline]
    pub fn store(
        &mut self,
        block: &SharedPage,
        software: &mut Software,
        page: &SharedPage,
        wanted: Mtd,
        reason: u32,
    ) {
        if wanted.contains(Mtd::ACDB) {
            page.write_u64(offset::RAX, block.read_u64(vmcb::RAX));
        }
        for (to, from, group, _) in WORDS {
            if wanted.contains(group) {
                page.write_u64(to, block.read_u64(from));
            }
        }
        for (to, from, group, _) in SEGMENTS {
            if wanted.contains(group) {
                let raw = Segment::decode([block.read_u64(from), block.read_u64(from + 8)]);
                let mut segment = from_svm(raw);
                if from == vmcb::SS {
                    let level = u16::from(block.read_u8(vmcb::CPL) & 3);
                    segment.ar = segment.ar & !0x60 | level << 5;
                }
                let [first, base] = segment.encode();
                page.write_u64(to, first);
                page.write_u64(to + 8, base);
            }
        }
        for (to, from, group) in
            [(offset::GDTR, vmcb::GDTR, Mtd::GDTR), (offset::IDTR, vmcb::IDTR, Mtd::IDTR)]
        {
            if wanted.contains(group) {
                page.write_u64(to, block.read_u64(from) >> 32 << 32);
                page.write_u64(to + 8, block.read_u64(from + 8));
            }
        }
        if wanted.contains(Mtd::EFER_PAT) {
            page.write_u64(offset::EFER, block.read_u64(vmcb::EFER) & !EFER_SVME);
        }
        if wanted.contains(Mtd::TSC) {
            page.write_u64(offset::TSC_OFF, self.tsc_offset);
        }
        if wanted.contains(Mtd::STA) {
            page.write_u32(offset::INTR_STATE, self.blocking(block));
            page.write_u32(offset::ACTV_STATE, self.activity);
        }
        if wanted.contains(Mtd::PDPTE) {
            for (i, pdpte) in self.pdpte.iter().enumerate() {
                page.write_u64(offset::PDPTE + 8 * i, *pdpte);
            }
        }
        self.store_exit(software, page, wanted, reason);
    }

    fn store_exit(&mut self, software: &mut Software, page: &SharedPage, wanted: Mtd, reason: u32) {
        // A reason of the kernel's own (poke) has no words of the hardware.
        let report = if self.report.reason == reason { self.report } else { Report::default() };
        if wanted.contains(Mtd::RIP_LEN) {
            page.write_u64(offset::INST_LEN, u64::from(report.length));
        }
        if wanted.contains(Mtd::QUAL) {
            page.write_u64(offset::QUAL0, report.qualification);
            page.write_u64(offset::QUAL1, report.address);
        }
        if wanted.contains(Mtd::INJ) {
            let (info, error) = software.told_event(reason, report.event);
            page.write_u32(offset::INTR_INFO, info);
            page.write_u32(offset::INTR_ERROR, error);
            page.write_u32(offset::VECT_INFO, report.vectoring.0);
            page.write_u32(offset::VECT_ERROR, report.vectoring.1);
        }
        if reason == 0 && report.vectoring.0 & event::VALID != 0 {
            software.event = report.vectoring;
            software.event_length = 0;
        }
    }

    /// The interruptibility word: SVM has one shadow for STI and MOV SS, VMX wants them apart
    /// (27.3.1.5: STI blocking needs IF).
    fn blocking(&self, block: &SharedPage) -> u32 {
        let shadow = block.read_u64(vmcb::INTERRUPT_SHADOW) & 1 != 0;
        let enabled = block.read_u64(vmcb::RFLAGS) & RFLAGS_IF != 0;
        let nmi = if self.nmi_blocked { NMI_BLOCKED } else { 0 };
        match (shadow, enabled) {
            (true, true) => nmi | STI,
            (true, false) => nmi | MOV_SS,
            (false, _) => nmi,
        }
    }

    fn set(&mut self, block: &SharedPage, at: usize, value: u64, touched: u32) {
        if block.read_u64(at) != value {
            block.write_u64(at, value);
            self.clean &= !touched;
        }
    }
}

/// A segment of the state page as the VMCB holds it: "unusable" is "not present" (15.5.1).
#[must_use]
pub const fn to_svm(segment: Segment) -> Segment {
    let ar = if segment.ar & UNUSABLE != 0 { 0 } else { segment.ar & 0xfff };
    Segment { ar, ..segment }
}

/// A segment of the VMCB as the state page holds it. The granularity follows the limit, as VMX
/// demands of what it is given back (27.3.1.2).
#[must_use]
pub const fn from_svm(segment: Segment) -> Segment {
    if segment.ar & PRESENT == 0 {
        return Segment { ar: UNUSABLE, ..segment };
    }
    let granular = if segment.limit > 0xf_ffff { GRANULAR } else { 0 };
    Segment { ar: segment.ar & 0xfff & !GRANULAR | granular, ..segment }
}

#[cfg(test)]
#[path = "svm_state_tests.rs"]
mod tests;
