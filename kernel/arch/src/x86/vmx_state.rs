//! Moves a guest's state between the state page and its VMCS, with as few VMREADs and VMWRITEs as the
//! contents allow.
//!
//! An [`Image`] keeps what the VMCS is known to hold, in the words of the state page; a group that is known
//! and unchanged costs no VMWRITE, one that the guest cannot change without an exit costs no VMREAD.
//! The VMCS itself is behind the trait [`Vmcs`]; no word of the image counts longer than an entry if the
//! guest can write what it says.

use abi::Mtd;
use abi::utcb::{Segment, offset};
use sync::SharedPage;

use super::event;
use super::guest_software::Software;
use super::image::Image;
use super::vmx_controls::{Capabilities, guest_view, primary, secondary};
use super::vmx_fields as field;

/// The current VMCS. Writes to fields that the CPU does not have do nothing.
pub trait Vmcs {
    /// VMREAD of a field that the CPU has: all but a few have come with VMX, EPT or what
    /// [`Capabilities::missing`] demands; for the others the caller asks the capabilities first.
    fn read(&self, field: u32) -> u64;
    /// VMWRITE.
    fn write(&mut self, field: u32, value: u64);
    /// VMREAD into the word of the image at byte offset `AT`.
    #[inline(always)]
    fn read_into<const AT: usize>(&self, field: u32, image: &mut Image) {
        image.set(AT, self.read(field));
    }
    /// VMREAD of the four fields of segment number `INDEX` into the image, as the state page has them.
    ///
    /// The processor's own way stores each field over the upper half of the one before; this one says
    /// what must come out.
    #[inline(always)]
    fn read_segment<const INDEX: usize>(&self, image: &mut Image) {
        let step = 2 * INDEX as u32;
        let rights = self.read(field::GUEST_ES_RIGHTS + step);
        let first = self.read(field::GUEST_ES_SELECTOR + step)
            | (rights & 0xff) << 16
            | (rights & 0x1_f000) << 12
            | self.read(field::GUEST_ES_LIMIT + step) << 32;
        image.set(offset::ES + 16 * INDEX, first);
        image.set(offset::ES + 16 * INDEX + 8, self.read(field::GUEST_ES_BASE + step));
    }
}

/// Groups that a guest cannot change without an exit.
const STABLE: Mtd = Mtd(Mtd::SYSENTER.0 | Mtd::TSC.0 | Mtd::EOI.0 | Mtd::TPR.0);
/// Groups that a guest changes by instructions that can be made to exit. They are rare, and reading
/// these fields costs twelve VMREADs: so they exit while the fields are known.
pub(super) const TABLES: Mtd = Mtd(Mtd::GDTR.0 | Mtd::IDTR.0 | Mtd::LDTR.0 | Mtd::TR.0);

const EFER_SCE: u64 = 1 << 0;
pub(super) const EFER_LMA: u64 = 1 << 10;

/// What a run loads that lies in fields of the VMCS and nowhere else. (PDPTEs, virtual interrupts and what only goes
/// in are apart.)
const FIELDS: Mtd = Mtd(Mtd::RSP.0
    | Mtd::RIP_LEN.0
    | Mtd::RFLAGS.0
    | Mtd::STA.0
    | Mtd::DS_ES.0
    | Mtd::FS_GS.0
    | Mtd::CS_SS.0
    | Mtd::CR.0
    | Mtd::DR.0
    | Mtd::SYSENTER.0
    | Mtd::TSC.0
    | Mtd::EFER_PAT.0
    | TABLES.0);

/// One VMCS as software knows it.
#[derive(Clone, Debug, Default)]
pub struct VmxState {
    /// Groups of which the image's words are true.
    pub(super) known: Mtd,
    /// Groups that stay so when the guest runs.
    stable: Mtd,
    pub(super) cr0_mask: u64,
    pub(super) cr0_shadow: u64,
    pub(super) cr4_mask: u64,
    pub(super) cr4_shadow: u64,
    entry_controls: u32,
    primary: u32,
    secondary: u32,
    exceptions: u32,
    /// Instructions on [`TABLES`] exit.
    pub(super) watched: bool,
    /// The monitor wants the translations under this tag forgotten.
    pub flush: bool,
}

impl VmxState {
    /// Gives a fresh VMCS the values that do not come from the monitor.
    pub fn reset(&mut self, vmcs: &mut impl Vmcs, cpu: &Capabilities, software: &mut Software) {
        *self = Self::default();
        software.news = true;
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
        self.write_cr(vmcs, cpu, &mut software.image, 0, 0);
        self.write_efer(vmcs, cpu, software, 0);
        if cpu.secondary.allows(secondary::XSAVES) {
            vmcs.write(field::XSS_EXITING_BITMAP, u64::MAX);
        }
    }

    /// Whether the guest can execute SYSCALL: only then do STAR, LSTAR and FMASK matter, because reading
    /// them exits.
    #[must_use]
    pub fn syscall_enabled(software: &Software) -> bool {
        software.image.at(offset::EFER) & EFER_SCE != 0
    }

    /// Loads the groups of `mtd` that live in the VMCS. `software` has loaded its own already.
    #[inline(always)]
    pub fn load(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &mut Software,
        page: &SharedPage,
        mtd: Mtd,
    ) {
        if mtd.0 & !(Mtd::RIP_LEN.0 | SOFTWARE.0) != 0 {
            self.load_more(vmcs, cpu, software, page, mtd);
        } else if mtd.contains(Mtd::RIP_LEN) {
            let image = &mut software.image;
            self.put(vmcs, image, page, Mtd::RIP_LEN, offset::RIP, field::GUEST_RIP);
            self.known |= Mtd::RIP_LEN;
        }
    }

    #[inline(never)]
    fn load_more(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &mut Software,
        page: &SharedPage,
        mtd: Mtd,
    ) {
        // A monitor that always loads everything mostly gives back what it was told.
        let same = mtd.contains(FIELDS) && self.known.contains(FIELDS);
        if !(same && fields_agree(&software.image, page)) {
            self.load_fields(vmcs, cpu, software, page, mtd);
        }
        let image = &mut software.image;
        if mtd.contains(Mtd::PDPTE) {
            self.put_row(vmcs, image, page, Mtd::PDPTE, offset::PDPTE, &PDPTES);
        }
        let delivery = cpu.secondary.allows(secondary::VIRTUAL_INTERRUPT);
        if mtd.contains(Mtd::VINTR) && delivery {
            let status = u64::from(page.read_u16(offset::VINTR_STATUS));
            vmcs.write(field::GUEST_INTERRUPT_STATUS, status);
        }
        if mtd.contains(Mtd::EOI) && delivery {
            self.put_row(vmcs, image, page, Mtd::EOI, offset::EOI_BITMAP, &EOI_BITMAPS);
        }
        if mtd.contains(Mtd::TPR) && cpu.primary.allows(primary::TPR_SHADOW) {
            vmcs.write(field::TPR_THRESHOLD, u64::from(page.read_u32(offset::TPR_THRESHOLD)));
        }
        if mtd.contains(Mtd::CTRL) {
            self.load_masks(vmcs, cpu, software);
        }
        if mtd.contains(Mtd::TLB) {
            (self.flush, software.news) = (true, true);
        }
        self.known |= mtd;
        software.news |= self.known.contains(TABLES) != self.watched;
    }

    fn load_fields(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &mut Software,
        page: &SharedPage,
        mtd: Mtd,
    ) {
        let image = &mut software.image;
        if mtd.contains(Mtd::RSP) {
            self.put(vmcs, image, page, Mtd::RSP, offset::RSP, field::GUEST_RSP);
        }
        if mtd.contains(Mtd::RIP_LEN) {
            self.put(vmcs, image, page, Mtd::RIP_LEN, offset::RIP, field::GUEST_RIP);
        }
        if mtd.contains(Mtd::RFLAGS) {
            self.put(vmcs, image, page, Mtd::RFLAGS, offset::RFLAGS, field::GUEST_RFLAGS);
        }
        if mtd.contains(Mtd::STA) {
            self.load_activity(vmcs, image, page);
        }
        if mtd.0 & RARE.0 != 0 {
            self.load_rare(vmcs, cpu, software, page, mtd);
        }
    }

    #[inline(never)]
    fn load_rare(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &mut Software,
        page: &SharedPage,
        mtd: Mtd,
    ) {
        let image = &mut software.image;
        for (index, group) in SEGMENTS.into_iter().enumerate() {
            if mtd.contains(group) {
                self.load_segment(vmcs, image, page, group, index);
            }
        }
        if mtd.contains(Mtd::GDTR) {
            self.load_table(vmcs, image, page, Mtd::GDTR, offset::GDTR, 0);
        }
        if mtd.contains(Mtd::IDTR) {
            self.load_table(vmcs, image, page, Mtd::IDTR, offset::IDTR, 2);
        }
        if mtd.contains(Mtd::CR) {
            let (cr0, cr4) = (page.read_u64(offset::CR0), page.read_u64(offset::CR4));
            if !self.is_known(image, Mtd::CR, offset::CR0, cr0)
                || !self.is_known(image, Mtd::CR, offset::CR4, cr4)
            {
                self.write_cr(vmcs, cpu, image, cr0, cr4);
            }
            self.put(vmcs, image, page, Mtd::CR, offset::CR3, field::GUEST_CR3);
        }
        if mtd.contains(Mtd::DR) {
            self.put(vmcs, image, page, Mtd::DR, offset::DR7, field::GUEST_DR7);
            software.news = true;
        }
        if mtd.contains(Mtd::SYSENTER) {
            let fields =
                [field::GUEST_SYSENTER_CS, field::GUEST_SYSENTER_ESP, field::GUEST_SYSENTER_EIP];
            self.put_row(vmcs, image, page, Mtd::SYSENTER, offset::SYSENTER_CS, &fields);
        }
        if mtd.contains(Mtd::TSC) {
            self.put(vmcs, image, page, Mtd::TSC, offset::TSC_OFF, field::TSC_OFFSET);
        }
        if mtd.contains(Mtd::EFER_PAT) {
            self.put(vmcs, image, page, Mtd::EFER_PAT, offset::PAT, field::GUEST_PAT);
            let efer = page.read_u64(offset::EFER);
            if !self.is_known(image, Mtd::EFER_PAT, offset::EFER, efer) {
                self.write_efer(vmcs, cpu, software, efer);
            }
        }
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
        self.choose_stable(software);
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
    pub fn choose_watch(&mut self, cpu: &Capabilities) -> bool {
        let watch =
            self.known.contains(TABLES) && cpu.secondary.allows(secondary::DESCRIPTOR_TABLE);
        core::mem::replace(&mut self.watched, watch) != watch
    }

    /// Decides what a guest that runs with the present controls cannot change.
    fn choose_stable(&mut self, software: &Software) {
        /// General detection: the #DB that it makes comes before the exit of MOV DR, and clears the bit.
        const GENERAL_DETECT: u64 = 1 << 13;
        let mut stable = if self.watched { STABLE.union(TABLES) } else { STABLE };
        let detected = software.image.at(offset::DR7) & GENERAL_DETECT != 0;
        if self.primary & primary::MOV_DR != 0 && !detected {
            stable |= Mtd::DR;
        }
        self.stable = stable;
    }

    /// An exit on a table register: if nobody but us wanted it, the guest may go on unwatched.
    pub fn release_tables(&mut self, software: &mut Software) -> bool {
        let ours = software.asked.secondary & secondary::DESCRIPTOR_TABLE == 0;
        if ours {
            self.known = self.known & !TABLES;
            software.news = true;
        }
        ours
    }

    /// The guest has run: what it can change is known no more.
    #[inline(always)]
    pub fn entered(&mut self) {
        self.known = self.known & self.stable;
    }

    fn load_activity(&mut self, vmcs: &mut impl Vmcs, image: &mut Image, page: &SharedPage) {
        let word = page.read_u64(offset::INTR_STATE);
        let old = image.at(offset::INTR_STATE);
        let known = self.known.contains(Mtd::STA);
        if !known || old as u32 != word as u32 {
            vmcs.write(field::GUEST_INTERRUPTIBILITY, word & 0xffff_ffff);
        }
        if !known || old >> 32 != word >> 32 {
            vmcs.write(field::GUEST_ACTIVITY, word >> 32);
        }
        image.set(offset::INTR_STATE, word);
    }

    fn load_segment(
        &mut self,
        vmcs: &mut impl Vmcs,
        image: &mut Image,
        page: &SharedPage,
        group: Mtd,
        index: usize,
    ) {
        let at = offset::ES + 16 * index;
        let words = [page.read_u64(at), page.read_u64(at + 8)];
        if self.is_known(image, group, at, words[0])
            && self.is_known(image, group, at + 8, words[1])
        {
            return;
        }
        let segment = Segment::decode(words);
        let step = 2 * index as u32;
        vmcs.write(field::GUEST_ES_SELECTOR + step, u64::from(segment.selector));
        vmcs.write(field::GUEST_ES_LIMIT + step, u64::from(segment.limit));
        vmcs.write(field::GUEST_ES_RIGHTS + step, u64::from(segment.vmx_rights()));
        vmcs.write(field::GUEST_ES_BASE + step, segment.base);
        image.set(at, words[0]);
        image.set(at + 8, words[1]);
    }

    /// GDTR (`step` 0) or IDTR (2): limit in the upper half of the first word, base in the second.
    fn load_table(
        &mut self,
        vmcs: &mut impl Vmcs,
        image: &mut Image,
        page: &SharedPage,
        group: Mtd,
        at: usize,
        step: u32,
    ) {
        let words = [page.read_u64(at) >> 32 << 32, page.read_u64(at + 8)];
        if self.is_known(image, group, at, words[0])
            && self.is_known(image, group, at + 8, words[1])
        {
            return;
        }
        vmcs.write(field::GUEST_GDTR_LIMIT + step, words[0] >> 32);
        vmcs.write(field::GUEST_GDTR_BASE + step, words[1]);
        image.set(at, words[0]);
        image.set(at + 8, words[1]);
    }

    /// New watch bits: the shadow must first agree with what the guest sees now.
    fn load_masks(&mut self, vmcs: &mut impl Vmcs, cpu: &Capabilities, software: &mut Software) {
        let (cr0, cr4) = (software.asked.cr0, software.asked.cr4);
        if self.cr0_mask == cpu.cr0_owned() | cr0 && self.cr4_mask == cpu.cr4_owned() | cr4 {
            return;
        }
        let view0 = guest_view(vmcs.read(field::GUEST_CR0), self.cr0_shadow, self.cr0_mask);
        let view4 = guest_view(vmcs.read(field::GUEST_CR4), self.cr4_shadow, self.cr4_mask);
        self.write_masks(vmcs, cpu, cr0, cr4);
        self.write_cr(vmcs, cpu, &mut software.image, view0, view4);
    }

    fn write_masks(&mut self, vmcs: &mut impl Vmcs, cpu: &Capabilities, cr0: u64, cr4: u64) {
        self.cr0_mask = cpu.cr0_owned() | cr0;
        self.cr4_mask = cpu.cr4_owned() | cr4;
        vmcs.write(field::CR0_MASK, self.cr0_mask);
        vmcs.write(field::CR4_MASK, self.cr4_mask);
    }

    #[inline(never)]
    fn write_cr(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        image: &mut Image,
        cr0: u64,
        cr4: u64,
    ) {
        self.cr0_shadow = cr0;
        self.cr4_shadow = cr4;
        vmcs.write(field::CR0_SHADOW, cr0);
        vmcs.write(field::CR4_SHADOW, cr4);
        vmcs.write(field::GUEST_CR0, cpu.real_cr0(cr0));
        vmcs.write(field::GUEST_CR4, cpu.real_cr4(cr4));
        image.set(offset::CR0, cr0);
        image.set(offset::CR4, cr4);
    }

    #[inline(never)]
    fn write_efer(
        &mut self,
        vmcs: &mut impl Vmcs,
        cpu: &Capabilities,
        software: &mut Software,
        efer: u64,
    ) {
        vmcs.write(field::GUEST_EFER, efer);
        software.image.set(offset::EFER, efer);
        software.news = true;
        // The hardware keeps this control's mode bit in step with the guest at each exit (28.1),
        // so the last value written here is no guide to what it holds now.
        self.entry_controls = cpu.entry_controls(efer & EFER_LMA != 0);
        vmcs.write(field::ENTRY_CONTROLS, u64::from(self.entry_controls));
    }

    #[inline(always)]
    fn put(
        &self,
        vmcs: &mut impl Vmcs,
        image: &mut Image,
        page: &SharedPage,
        group: Mtd,
        at: usize,
        field: u32,
    ) {
        let value = page.read_u64(at);
        if !self.is_known(image, group, at, value) {
            vmcs.write(field, value);
            image.set(at, value);
        }
    }

    fn put_row(
        &self,
        vmcs: &mut impl Vmcs,
        image: &mut Image,
        page: &SharedPage,
        group: Mtd,
        at: usize,
        fields: &[u32],
    ) {
        for (i, field) in fields.iter().enumerate() {
            self.put(vmcs, image, page, group, at + 8 * i, *field);
        }
    }

    #[inline(always)]
    fn is_known(&self, image: &Image, group: Mtd, at: usize, value: u64) -> bool {
        self.known.contains(group) && image.at(at) == value
    }
}

/// Whether all words of [`FIELDS`] are on the page as the image has them.
#[inline(always)]
fn fields_agree(image: &Image, page: &SharedPage) -> bool {
    image.agrees::<{ offset::RIP }, 3>(page)
        && image.agrees::<{ offset::RSP }, 1>(page)
        && image.agrees::<{ offset::CR0 }, 1>(page)
        && image.agrees::<{ offset::CR3 }, 2>(page)
        && image.agrees::<{ offset::EFER }, 2>(page)
        // DR7, SYSENTER, segments and tables.
        && image.agrees::<{ offset::DR7 }, { (offset::TSC_VAL - offset::DR7) / 8 }>(page)
        && image.agrees::<{ offset::TSC_OFF }, 1>(page)
}

/// The groups of the eight segments as the state page has them.
const SEGMENTS: [Mtd; 8] =
    [Mtd::DS_ES, Mtd::CS_SS, Mtd::CS_SS, Mtd::DS_ES, Mtd::FS_GS, Mtd::FS_GS, Mtd::LDTR, Mtd::TR];

/// Groups of [`FIELDS`] that a run seldom changes: no walk through them.
const RARE: Mtd = Mtd(FIELDS.0 & !(Mtd::RSP.0 | Mtd::RIP_LEN.0 | Mtd::RFLAGS.0 | Mtd::STA.0));
/// Groups that no field of the VMCS holds.
const SOFTWARE: Mtd = Mtd(Mtd::GPR.0
    | Mtd::QUAL.0
    | Mtd::INJ.0
    | Mtd::SYSCALL_SWAPGS.0
    | Mtd::TSC_TIMEOUT.0
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
