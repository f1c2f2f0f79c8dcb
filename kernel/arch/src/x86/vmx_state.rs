//! Moves a guest's state between the state page and its VMCS, with as few VMREADs and VMWRITEs as the
//! contents allow.
//!
//! A mirror keeps what the VMCS is known to hold, in the words of the state page; a group that is known
//! and unchanged costs no VMWRITE, one that the guest cannot change without an exit costs no VMREAD.
//! The VMCS itself is behind the trait [`Vmcs`]; the mirror never outlives an entry for anything that
//! the guest can write.

use abi::Mtd;
use abi::utcb::{Segment, offset};
use sync::SharedPage;

use super::event;
use super::guest_software::Software;
use super::vmx_controls::{Capabilities, guest_view, primary, secondary};
use super::vmx_fields as field;

/// The current VMCS. Writes to fields that the CPU does not have do nothing.
pub trait Vmcs {
    /// VMREAD of a field that the CPU has: all but a few have come with VMX, EPT or what
    /// [`Capabilities::missing`] demands; for the others the caller asks the capabilities first.
    fn read(&self, field: u32) -> u64;
    /// VMWRITE.
    fn write(&mut self, field: u32, value: u64);
    /// VMREAD of the four fields of segment number `INDEX` into the mirror, as the state page has them.
    ///
    /// The processor's own way stores each field over the upper half of the one before; this one says
    /// what must come out.
    #[inline(always)]
    fn read_segment<const INDEX: usize>(&self, mirror: &mut Mirror) {
        let step = 2 * INDEX as u32;
        let rights = self.read(field::GUEST_ES_RIGHTS + step);
        let first = self.read(field::GUEST_ES_SELECTOR + step)
            | (rights & 0xff) << 16
            | (rights & 0x1_f000) << 12
            | self.read(field::GUEST_ES_LIMIT + step) << 32;
        let base = self.read(field::GUEST_ES_BASE + step);
        let at = offset::ES / 8 + 2 * INDEX;
        if let Some([one, two]) = mirror.get_mut(at..at + 2) {
            (*one, *two) = (first, base);
        }
    }
}

/// Words of the state page that the mirror covers.
const MIRROR_WORDS: usize = offset::EXIT_REASON / 8;
/// What a VMCS is known to hold, where the state page has it.
pub type Mirror = [u64; MIRROR_WORDS];

/// Groups that a guest cannot change without an exit.
const STABLE: Mtd = Mtd(Mtd::SYSENTER.0 | Mtd::TSC.0 | Mtd::EOI.0 | Mtd::TPR.0);
/// Groups that a guest changes by instructions that can be made to exit. They are rare, and reading
/// these fields costs twelve VMREADs: so they exit while the fields are known.
pub(super) const TABLES: Mtd = Mtd(Mtd::GDTR.0 | Mtd::IDTR.0 | Mtd::LDTR.0 | Mtd::TR.0);

const EFER_SCE: u64 = 1 << 0;
pub(super) const EFER_LMA: u64 = 1 << 10;

/// One VMCS as software knows it.
#[derive(Clone, Debug)]
pub struct VmxState {
    pub(super) mirror: Mirror,
    pub(super) known: Mtd,
    pub(super) cr0_mask: u64,
    pub(super) cr0_shadow: u64,
    pub(super) cr4_mask: u64,
    pub(super) cr4_shadow: u64,
    entry_controls: u32,
    primary: u32,
    secondary: u32,
    exceptions: u32,
    /// Instructions on [`TABLES`] exit.
    watched: bool,
    /// The event that the last exit interrupted.
    pub vectoring: (u32, u32),
}

impl Default for VmxState {
    fn default() -> Self {
        Self {
            mirror: [0; MIRROR_WORDS],
            known: Mtd::NONE,
            cr0_mask: 0,
            cr0_shadow: 0,
            cr4_mask: 0,
            cr4_shadow: 0,
            entry_controls: 0,
            primary: 0,
            secondary: 0,
            exceptions: 0,
            watched: false,
            vectoring: (0, 0),
        }
    }
}

impl VmxState {
    /// Gives a fresh VMCS the values that do not come from the monitor.
    pub fn reset(&mut self, vmcs: &mut impl Vmcs, cpu: &Capabilities) {
        *self = Self::default();
        vmcs.write(field::PIN_CONTROLS, u64::from(cpu.pin_controls()));
        vmcs.write(field::EXIT_CONTROLS, u64::from(cpu.exit_controls()));
        vmcs.write(field::VMCS_LINK_POINTER, u64::MAX);
        for zero in [
            field::PAGE_FAULT_MASK,
            field::PAGE_FAULT_MATCH,
            field::CR3_TARGET_COUNT,
            field::EXIT_MSR_STORE_COUNT,
            field::EXIT_MSR_LOAD_COUNT,
            field::ENTRY_MSR_LOAD_COUNT,
            field::ENTRY_INTERRUPT_INFO,
            field::GUEST_DEBUGCTL,
            field::GUEST_PENDING_DEBUG,
        ] {
            vmcs.write(zero, 0);
        }
        self.write_masks(vmcs, cpu, 0, 0);
        self.write_cr(vmcs, cpu, 0, 0);
        self.write_efer(vmcs, cpu, 0);
        if cpu.secondary.allows(secondary::XSAVES) {
            vmcs.write(field::XSS_EXITING_BITMAP, u64::MAX);
        }
    }

    /// Whether the guest can execute SYSCALL: only then do STAR, LSTAR and FMASK matter, because reading
    /// them exits.
    #[inline(always)]
    #[must_use]
    pub fn syscall_enabled(&self) -> bool {
        self.at(offset::EFER) & EFER_SCE != 0
    }

    /// Loads the groups of `mtd` that live in the VMCS. `software` has loaded its own already.
    pub fn load(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &Software,
        page: &SharedPage,
        mtd: Mtd,
    ) {
        if mtd.contains(Mtd::RSP) {
            self.put(vmcs, page, Mtd::RSP, offset::RSP, field::GUEST_RSP);
        }
        if mtd.contains(Mtd::RIP_LEN) {
            self.put(vmcs, page, Mtd::RIP_LEN, offset::RIP, field::GUEST_RIP);
        }
        if mtd.contains(Mtd::RFLAGS) {
            self.put(vmcs, page, Mtd::RFLAGS, offset::RFLAGS, field::GUEST_RFLAGS);
        }
        if mtd.contains(Mtd::STA) {
            self.load_activity(vmcs, page);
        }
        self.known |= mtd & Mtd(Mtd::RSP.0 | Mtd::RIP_LEN.0 | Mtd::RFLAGS.0 | Mtd::STA.0);
        if mtd.0 & !COMMON.0 != 0 {
            self.load_rare(vmcs, cpu, software, page, mtd);
        }
    }

    fn load_rare(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &Software,
        page: &SharedPage,
        mtd: Mtd,
    ) {
        if mtd.contains(Mtd::DS_ES) {
            self.load_segment::<0>(vmcs, page, Mtd::DS_ES);
            self.load_segment::<3>(vmcs, page, Mtd::DS_ES);
        }
        if mtd.contains(Mtd::CS_SS) {
            self.load_segment::<1>(vmcs, page, Mtd::CS_SS);
            self.load_segment::<2>(vmcs, page, Mtd::CS_SS);
        }
        if mtd.contains(Mtd::FS_GS) {
            self.load_segment::<4>(vmcs, page, Mtd::FS_GS);
            self.load_segment::<5>(vmcs, page, Mtd::FS_GS);
        }
        if mtd.contains(Mtd::LDTR) {
            self.load_segment::<6>(vmcs, page, Mtd::LDTR);
        }
        if mtd.contains(Mtd::TR) {
            self.load_segment::<7>(vmcs, page, Mtd::TR);
        }
        if mtd.contains(Mtd::GDTR) {
            self.load_table(vmcs, page, Mtd::GDTR, offset::GDTR, 0);
        }
        if mtd.contains(Mtd::IDTR) {
            self.load_table(vmcs, page, Mtd::IDTR, offset::IDTR, 2);
        }
        if mtd.contains(Mtd::CTRL) {
            self.load_masks(vmcs, cpu, software);
        }
        if mtd.contains(Mtd::CR) {
            let (cr0, cr4) = (page.read_u64(offset::CR0), page.read_u64(offset::CR4));
            if !self.is_known(Mtd::CR, offset::CR0, cr0)
                || !self.is_known(Mtd::CR, offset::CR4, cr4)
            {
                self.write_cr(vmcs, cpu, cr0, cr4);
            }
            self.put(vmcs, page, Mtd::CR, offset::CR3, field::GUEST_CR3);
        }
        if mtd.contains(Mtd::DR) {
            self.put(vmcs, page, Mtd::DR, offset::DR7, field::GUEST_DR7);
        }
        if mtd.contains(Mtd::SYSENTER) {
            let fields =
                [field::GUEST_SYSENTER_CS, field::GUEST_SYSENTER_ESP, field::GUEST_SYSENTER_EIP];
            self.put_row(vmcs, page, Mtd::SYSENTER, offset::SYSENTER_CS, &fields);
        }
        if mtd.contains(Mtd::TSC) {
            self.put(vmcs, page, Mtd::TSC, offset::TSC_OFF, field::TSC_OFFSET);
        }
        if mtd.contains(Mtd::EFER_PAT) {
            let efer = page.read_u64(offset::EFER);
            if !self.is_known(Mtd::EFER_PAT, offset::EFER, efer) {
                self.write_efer(vmcs, cpu, efer);
            }
            self.put(vmcs, page, Mtd::EFER_PAT, offset::PAT, field::GUEST_PAT);
        }
        if mtd.contains(Mtd::PDPTE) {
            self.put_row(vmcs, page, Mtd::PDPTE, offset::PDPTE, &PDPTES);
        }
        if mtd.contains(Mtd::VINTR) && cpu.secondary.allows(secondary::VIRTUAL_INTERRUPT) {
            let status = u64::from(page.read_u16(offset::VINTR_STATUS));
            vmcs.write(field::GUEST_INTERRUPT_STATUS, status);
        }
        if mtd.contains(Mtd::EOI) && cpu.secondary.allows(secondary::VIRTUAL_INTERRUPT) {
            self.put_row(vmcs, page, Mtd::EOI, offset::EOI_BITMAP, &EOI_BITMAPS);
        }
        if mtd.contains(Mtd::TPR) && cpu.primary.allows(primary::TPR_SHADOW) {
            vmcs.write(field::TPR_THRESHOLD, u64::from(page.read_u32(offset::TPR_THRESHOLD)));
        }
        self.known |= mtd;
    }

    /// Writes the execution controls that changed. `mov_dr` adds an exit on debug registers that the
    /// monitor did not ask for.
    pub fn write_controls(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &Software,
        ports: bool,
        tagged: bool,
        mov_dr: bool,
    ) {
        let asked = &software.asked;
        let mut windows = 0;
        if software.interrupt_window {
            windows |= primary::INTERRUPT_WINDOW;
        }
        if software.nmi_window {
            windows |= primary::NMI_WINDOW;
        }
        let mov_dr = if mov_dr { primary::MOV_DR } else { 0 };
        let new = cpu.primary_controls(asked.primary | mov_dr, windows, ports);
        if new != self.primary {
            self.primary = new;
            vmcs.write(field::PRIMARY_CONTROLS, u64::from(new));
        }
        let watch = if self.watched { secondary::DESCRIPTOR_TABLE } else { 0 };
        let new = cpu.secondary_controls(asked.secondary | watch, tagged);
        if new != self.secondary {
            self.secondary = new;
            vmcs.write(field::SECONDARY_CONTROLS, u64::from(new));
        }
        let new = Capabilities::exceptions(asked.exceptions);
        if new != self.exceptions {
            self.exceptions = new;
            vmcs.write(field::EXCEPTION_BITMAP, u64::from(new));
        }
    }

    /// Writes the waiting event, if there is one.
    pub fn write_event(&self, vmcs: &mut impl Vmcs, software: &Software) {
        let (info, error) = software.event;
        if info & event::VALID == 0 {
            return;
        }
        vmcs.write(field::ENTRY_INTERRUPT_INFO, u64::from(info));
        if info & event::ERROR_CODE != 0 {
            vmcs.write(field::ENTRY_ERROR_CODE, u64::from(error));
        }
        if event::is_soft(info) {
            vmcs.write(field::ENTRY_INSTRUCTION_LENGTH, software.event_length & 0xffff_ffff);
        }
    }

    /// Decides whether the table registers are watched during the next entry; true if that changed and
    /// the controls must be written.
    #[inline(always)]
    pub fn choose_watch(&mut self, cpu: &Capabilities) -> bool {
        let watch =
            self.known.contains(TABLES) && cpu.secondary.allows(secondary::DESCRIPTOR_TABLE);
        core::mem::replace(&mut self.watched, watch) != watch
    }

    /// An exit on a table register: if nobody but us wanted it, the guest may go on unwatched.
    pub fn release_tables(&mut self, software: &Software) -> bool {
        let ours = software.asked.secondary & secondary::DESCRIPTOR_TABLE == 0;
        if ours {
            self.known = self.known & !TABLES;
        }
        ours
    }

    /// The guest has run: what it can change is known no more.
    #[inline(always)]
    pub fn entered(&mut self) {
        /// General detection: the #DB that it makes comes before the exit of MOV DR, and clears the bit.
        const GENERAL_DETECT: u64 = 1 << 13;
        let mut stable = if self.watched { STABLE.union(TABLES) } else { STABLE };
        if self.primary & primary::MOV_DR != 0 && self.at(offset::DR7) & GENERAL_DETECT == 0 {
            stable |= Mtd::DR;
        }
        self.known = self.known & stable;
    }

    fn load_activity(&mut self, vmcs: &mut impl Vmcs, page: &SharedPage) {
        let word = page.read_u64(offset::INTR_STATE);
        let old = self.at(offset::INTR_STATE);
        let known = self.known.contains(Mtd::STA);
        if !known || old as u32 != word as u32 {
            vmcs.write(field::GUEST_INTERRUPTIBILITY, word & 0xffff_ffff);
        }
        if !known || old >> 32 != word >> 32 {
            vmcs.write(field::GUEST_ACTIVITY, word >> 32);
        }
        self.note(offset::INTR_STATE, word);
    }

    #[inline(always)]
    fn load_segment<const INDEX: usize>(
        &mut self,
        vmcs: &mut impl Vmcs,
        page: &SharedPage,
        group: Mtd,
    ) {
        let at = offset::ES + 16 * INDEX;
        let words = [page.read_u64(at), page.read_u64(at + 8)];
        if !self.is_known(group, at, words[0]) || !self.is_known(group, at + 8, words[1]) {
            self.write_segment(vmcs, INDEX, words);
        }
    }

    #[inline(never)]
    fn write_segment(&mut self, vmcs: &mut impl Vmcs, index: usize, words: [u64; 2]) {
        let at = offset::ES + 16 * index;
        let segment = Segment::decode(words);
        let step = 2 * index as u32;
        vmcs.write(field::GUEST_ES_SELECTOR + step, u64::from(segment.selector));
        vmcs.write(field::GUEST_ES_LIMIT + step, u64::from(segment.limit));
        vmcs.write(field::GUEST_ES_RIGHTS + step, u64::from(segment.vmx_rights()));
        vmcs.write(field::GUEST_ES_BASE + step, segment.base);
        self.note(at, words[0]);
        self.note(at + 8, words[1]);
    }

    /// GDTR (`step` 0) or IDTR (2): limit in the upper half of the first word, base in the second.
    #[inline(always)]
    fn load_table(
        &mut self,
        vmcs: &mut impl Vmcs,
        page: &SharedPage,
        group: Mtd,
        at: usize,
        step: u32,
    ) {
        let words = [page.read_u64(at) >> 32 << 32, page.read_u64(at + 8)];
        if self.is_known(group, at, words[0]) && self.is_known(group, at + 8, words[1]) {
            return;
        }
        vmcs.write(field::GUEST_GDTR_LIMIT + step, words[0] >> 32);
        vmcs.write(field::GUEST_GDTR_BASE + step, words[1]);
        self.note(at, words[0]);
        self.note(at + 8, words[1]);
    }

    /// New watch bits: the shadow must first agree with what the guest sees now.
    fn load_masks(&mut self, vmcs: &mut impl Vmcs, cpu: &Capabilities, software: &Software) {
        let (cr0, cr4) = (software.asked.cr0, software.asked.cr4);
        if self.cr0_mask == cpu.cr0_owned() | cr0 && self.cr4_mask == cpu.cr4_owned() | cr4 {
            return;
        }
        let view0 = guest_view(vmcs.read(field::GUEST_CR0), self.cr0_shadow, self.cr0_mask);
        let view4 = guest_view(vmcs.read(field::GUEST_CR4), self.cr4_shadow, self.cr4_mask);
        self.write_masks(vmcs, cpu, cr0, cr4);
        self.write_cr(vmcs, cpu, view0, view4);
    }

    fn write_masks(&mut self, vmcs: &mut impl Vmcs, cpu: &Capabilities, cr0: u64, cr4: u64) {
        self.cr0_mask = cpu.cr0_owned() | cr0;
        self.cr4_mask = cpu.cr4_owned() | cr4;
        vmcs.write(field::CR0_MASK, self.cr0_mask);
        vmcs.write(field::CR4_MASK, self.cr4_mask);
    }

    #[inline(never)]
    fn write_cr(&mut self, vmcs: &mut impl Vmcs, cpu: &Capabilities, cr0: u64, cr4: u64) {
        self.cr0_shadow = cr0;
        self.cr4_shadow = cr4;
        vmcs.write(field::CR0_SHADOW, cr0);
        vmcs.write(field::CR4_SHADOW, cr4);
        vmcs.write(field::GUEST_CR0, cpu.real_cr0(cr0));
        vmcs.write(field::GUEST_CR4, cpu.real_cr4(cr4));
        self.note(offset::CR0, cr0);
        self.note(offset::CR4, cr4);
    }

    #[inline(never)]
    fn write_efer(&mut self, vmcs: &mut impl Vmcs, cpu: &Capabilities, efer: u64) {
        vmcs.write(field::GUEST_EFER, efer);
        self.note(offset::EFER, efer);
        // The hardware keeps this control's mode bit in step with the guest at each exit (28.1),
        // so the last value written here is no guide to what it holds now.
        self.entry_controls = cpu.entry_controls(efer & EFER_LMA != 0);
        vmcs.write(field::ENTRY_CONTROLS, u64::from(self.entry_controls));
    }

    #[inline(always)]
    fn put(&mut self, vmcs: &mut impl Vmcs, page: &SharedPage, group: Mtd, at: usize, field: u32) {
        let value = page.read_u64(at);
        if !self.is_known(group, at, value) {
            vmcs.write(field, value);
            self.note(at, value);
        }
    }

    #[inline(always)]
    fn put_row(
        &mut self,
        vmcs: &mut impl Vmcs,
        page: &SharedPage,
        group: Mtd,
        at: usize,
        fields: &[u32],
    ) {
        for (i, field) in fields.iter().enumerate() {
            self.put(vmcs, page, group, at + 8 * i, *field);
        }
    }

    #[inline(always)]
    fn is_known(&self, group: Mtd, at: usize, value: u64) -> bool {
        self.known.contains(group) && self.at(at) == value
    }

    #[inline(always)]
    pub(super) fn at(&self, at: usize) -> u64 {
        self.mirror.get(at / 8).copied().unwrap_or(0)
    }

    #[inline(always)]
    pub(super) fn note(&mut self, at: usize, value: u64) {
        if let Some(word) = self.mirror.get_mut(at / 8) {
            *word = value;
        }
    }
}

/// Groups that nearly every exit moves, and those that live in software: no walk through the others.
pub(super) const COMMON: Mtd = Mtd(Mtd::GPR.0
    | Mtd::RSP.0
    | Mtd::RIP_LEN.0
    | Mtd::RFLAGS.0
    | Mtd::STA.0
    | Mtd::QUAL.0
    | Mtd::INJ.0
    | Mtd::SYSCALL_SWAPGS.0
    | Mtd::TSC_TIMEOUT.0
    | Mtd::TLB.0
    | Mtd::FPU.0);
pub(super) const PDPTES: [u32; 4] =
    [field::GUEST_PDPTE_0, field::GUEST_PDPTE_1, field::GUEST_PDPTE_2, field::GUEST_PDPTE_3];
const EOI_BITMAPS: [u32; 4] = [
    field::EOI_EXIT_BITMAP_0,
    field::EOI_EXIT_BITMAP_1,
    field::EOI_EXIT_BITMAP_2,
    field::EOI_EXIT_BITMAP_3,
];

#[cfg(test)]
#[path = "vmx_state_tests.rs"]
mod tests;
