//! The page as a structure, checked against the offsets.

use super::{ARCH_WORDS, MESSAGE_WORDS, Segment, extended_offset, offset};
use crate::Crd;
use core::mem::{offset_of, size_of};

/// The page as a structure. Field names are those of `docs/spec/utcb.md`.
///
/// The kernel reads and writes a shared page word by word and uses the
/// offsets; this type serves users and copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(4096))]
pub struct StatePage {
    /// Bits 15:0 count of message words, bits 31:16 count of typed items.
    pub items: u64,
    /// Descriptor of what may be translated into this domain.
    pub translate_window: Crd,
    /// Descriptor of where delegated things go.
    pub delegate_window: Crd,
    /// A word the kernel does not touch.
    pub tls: u64,
    /// Register groups ([`crate::Mtd`]); the first message word.
    pub mtd: u64,
    /// Instruction length.
    pub inst_len: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Interruptibility state.
    pub intr_state: u32,
    /// Activity state.
    pub actv_state: u32,
    /// Event to inject or that exited.
    pub intr_info: u32,
    /// Its error code.
    pub intr_error: u32,
    /// Event that was being delivered.
    pub vect_info: u32,
    /// Its error code.
    pub vect_error: u32,
    /// rax.
    pub rax: u64,
    /// rcx.
    pub rcx: u64,
    /// rdx.
    pub rdx: u64,
    /// rbx.
    pub rbx: u64,
    /// rsp.
    pub rsp: u64,
    /// rbp.
    pub rbp: u64,
    /// rsi.
    pub rsi: u64,
    /// rdi.
    pub rdi: u64,
    /// r8 to r15.
    pub r8_r15: [u64; 8],
    /// Error code and CR2, or exit qualification and guest-physical address.
    pub qual: [u64; 2],
    /// Primary and secondary processor-based controls.
    pub ctrl: [u32; 2],
    /// xcr0.
    pub xcr0: u64,
    /// cr0.
    pub cr0: u64,
    /// cr2.
    pub cr2: u64,
    /// cr3.
    pub cr3: u64,
    /// cr4.
    pub cr4: u64,
    /// PAE page-directory-pointer entries.
    pub pdpte: [u64; 4],
    /// cr8; never moved.
    pub cr8: u64,
    /// efer.
    pub efer: u64,
    /// pat.
    pub pat: u64,
    /// star.
    pub star: u64,
    /// lstar.
    pub lstar: u64,
    /// fmask.
    pub fmask: u64,
    /// kernel_gs_base.
    pub kernel_gs_base: u64,
    /// dr7.
    pub dr7: u64,
    /// sysenter_cs.
    pub sysenter_cs: u64,
    /// sysenter_rsp.
    pub sysenter_rsp: u64,
    /// sysenter_rip.
    pub sysenter_rip: u64,
    /// es.
    pub es: Segment,
    /// cs.
    pub cs: Segment,
    /// ss.
    pub ss: Segment,
    /// ds.
    pub ds: Segment,
    /// fs.
    pub fs: Segment,
    /// gs.
    pub gs: Segment,
    /// ldtr.
    pub ldtr: Segment,
    /// tr.
    pub tr: Segment,
    /// gdtr; limit and base alone count.
    pub gdtr: Segment,
    /// idtr; limit and base alone count.
    pub idtr: Segment,
    /// Host TSC at exit.
    pub tsc_val: u64,
    /// TSC offset of the guest.
    pub tsc_off: u64,
    /// TSC_AUX of the guest.
    pub tsc_aux: u32,
    /// Exceptions that exit.
    pub exc_bitmap: u32,
    /// TPR threshold.
    pub tpr_threshold: u32,
    /// Not used.
    pub reserved0: u32,
    /// Which vectors' EOI exits.
    pub eoi_bitmap: [u64; 4],
    /// Guest interrupt status.
    pub vintr_status: u16,
    /// Not used.
    pub reserved1: [u16; 3],
    /// More bits of CR0 to watch.
    pub cr0_mon: u64,
    /// More bits of CR4 to watch.
    pub cr4_mon: u64,
    /// spec_ctrl.
    pub spec_ctrl: u64,
    /// TSC ticks until the guest's time-out.
    pub tsc_timeout: u64,
    /// The exit reason ([`crate::exit::ExitReason`]).
    pub exit_reason: u32,
    /// Not used.
    pub reserved2: u32,
    /// Ours: what `vcpu_run_ext` adds.
    pub extended: Extended,
    /// The rest of the page: message words and typed items.
    pub rest: [u64; 384],
}

/// Ours, at 0x2a0 to 0x3ff of a state page: filled and loaded by
/// `vcpu_run_ext` alone. Offsets below are those in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Extended {
    /// 0x2a0: dr0 to dr3.
    pub dr: [u64; 4],
    /// 0x2c0: dr6.
    pub dr6: u64,
    /// 0x2c8: IA32_DEBUGCTL.
    pub debugctl: u64,
    /// 0x2d0: pending debug exceptions (Intel SDM vol. 3, 25.4.2).
    pub pending_debug: u64,
    /// 0x2d8: guest-linear address of the exit, if the exit has one.
    pub guest_linear: u64,
    /// 0x2e0: VM-instruction error number, or 0.
    pub instruction_error: u32,
    /// 0x2e4: VM-exit instruction information, or 0.
    pub instruction_info: u32,
    /// 0x2e8: the exit code as the hardware gave it (VMX exit reason or SVM
    /// EXITCODE).
    pub raw_exit: u64,
    /// 0x2f0: exit qualification or EXITINFO1.
    pub raw_info1: u64,
    /// 0x2f8: guest-physical address or EXITINFO2.
    pub raw_info2: u64,
    /// 0x300: interruption information and error code, or EXITINTINFO.
    pub raw_int_info: u64,
    /// 0x308: how many of `instruction_bytes` are valid, 0 to 15.
    pub instruction_byte_count: u8,
    /// 0x309: the bytes at the guest's instruction pointer, if the hardware
    /// tells them.
    pub instruction_bytes: [u8; 15],
    /// 0x318: not used.
    pub reserved: [u64; 29],
}

impl StatePage {
    /// A page of zeros.
    pub const ZERO: Self = Self {
        items: 0,
        translate_window: Crd::NULL,
        delegate_window: Crd::NULL,
        tls: 0,
        mtd: 0,
        inst_len: 0,
        rip: 0,
        rflags: 0,
        intr_state: 0,
        actv_state: 0,
        intr_info: 0,
        intr_error: 0,
        vect_info: 0,
        vect_error: 0,
        rax: 0,
        rcx: 0,
        rdx: 0,
        rbx: 0,
        rsp: 0,
        rbp: 0,
        rsi: 0,
        rdi: 0,
        r8_r15: [0; 8],
        qual: [0; 2],
        ctrl: [0; 2],
        xcr0: 0,
        cr0: 0,
        cr2: 0,
        cr3: 0,
        cr4: 0,
        pdpte: [0; 4],
        cr8: 0,
        efer: 0,
        pat: 0,
        star: 0,
        lstar: 0,
        fmask: 0,
        kernel_gs_base: 0,
        dr7: 0,
        sysenter_cs: 0,
        sysenter_rsp: 0,
        sysenter_rip: 0,
        es: Segment::ZERO,
        cs: Segment::ZERO,
        ss: Segment::ZERO,
        ds: Segment::ZERO,
        fs: Segment::ZERO,
        gs: Segment::ZERO,
        ldtr: Segment::ZERO,
        tr: Segment::ZERO,
        gdtr: Segment::ZERO,
        idtr: Segment::ZERO,
        tsc_val: 0,
        tsc_off: 0,
        tsc_aux: 0,
        exc_bitmap: 0,
        tpr_threshold: 0,
        reserved0: 0,
        eoi_bitmap: [0; 4],
        vintr_status: 0,
        reserved1: [0; 3],
        cr0_mon: 0,
        cr4_mon: 0,
        spec_ctrl: 0,
        tsc_timeout: 0,
        exit_reason: 0,
        reserved2: 0,
        extended: Extended::ZERO,
        rest: [0; 384],
    };
}

impl Segment {
    /// All zero.
    pub const ZERO: Self = Self { selector: 0, ar: 0, limit: 0, base: 0 };
}

impl Extended {
    /// All zero.
    pub const ZERO: Self = Self {
        dr: [0; 4],
        dr6: 0,
        debugctl: 0,
        pending_debug: 0,
        guest_linear: 0,
        instruction_error: 0,
        instruction_info: 0,
        raw_exit: 0,
        raw_info1: 0,
        raw_info2: 0,
        raw_int_info: 0,
        instruction_byte_count: 0,
        instruction_bytes: [0; 15],
        reserved: [0; 29],
    };
}

macro_rules! at {
    ($($field:ident = $offset:expr,)*) => {
        $(const _: () = assert!(offset_of!(StatePage, $field) == $offset);)*
    };
}

const _: () = assert!(size_of::<Segment>() == 16);
const _: () = assert!(size_of::<StatePage>() == 4096);
const _: () = assert!(offset::MESSAGE + 8 * MESSAGE_WORDS == 4096);
const _: () = assert!(offset::MESSAGE + 8 * ARCH_WORDS == offset::EXTENDED);
at! {
    items = offset::ITEMS,
    translate_window = offset::TRANSLATE_WINDOW,
    delegate_window = offset::DELEGATE_WINDOW,
    tls = offset::TLS,
    mtd = offset::MTD,
    inst_len = offset::INST_LEN,
    rip = offset::RIP,
    rflags = offset::RFLAGS,
    intr_state = offset::INTR_STATE,
    actv_state = offset::ACTV_STATE,
    intr_info = offset::INTR_INFO,
    intr_error = offset::INTR_ERROR,
    vect_info = offset::VECT_INFO,
    vect_error = offset::VECT_ERROR,
    rax = offset::RAX,
    rcx = offset::RCX,
    rdx = offset::RDX,
    rbx = offset::RBX,
    rsp = offset::RSP,
    rbp = offset::RBP,
    rsi = offset::RSI,
    rdi = offset::RDI,
    r8_r15 = offset::R8,
    qual = offset::QUAL0,
    ctrl = offset::CTRL0,
    xcr0 = offset::XCR0,
    cr0 = offset::CR0,
    cr2 = offset::CR2,
    cr3 = offset::CR3,
    cr4 = offset::CR4,
    pdpte = offset::PDPTE,
    cr8 = offset::CR8,
    efer = offset::EFER,
    pat = offset::PAT,
    star = offset::STAR,
    lstar = offset::LSTAR,
    fmask = offset::FMASK,
    kernel_gs_base = offset::KERNEL_GS_BASE,
    dr7 = offset::DR7,
    sysenter_cs = offset::SYSENTER_CS,
    sysenter_rsp = offset::SYSENTER_RSP,
    sysenter_rip = offset::SYSENTER_RIP,
    es = offset::ES,
    cs = offset::CS,
    ss = offset::SS,
    ds = offset::DS,
    fs = offset::FS,
    gs = offset::GS,
    ldtr = offset::LDTR,
    tr = offset::TR,
    gdtr = offset::GDTR,
    idtr = offset::IDTR,
    tsc_val = offset::TSC_VAL,
    tsc_off = offset::TSC_OFF,
    tsc_aux = offset::TSC_AUX,
    exc_bitmap = offset::EXC_BITMAP,
    tpr_threshold = offset::TPR_THRESHOLD,
    eoi_bitmap = offset::EOI_BITMAP,
    vintr_status = offset::VINTR_STATUS,
    cr0_mon = offset::CR0_MON,
    cr4_mon = offset::CR4_MON,
    spec_ctrl = offset::SPEC_CTRL,
    tsc_timeout = offset::TSC_TIMEOUT,
    exit_reason = offset::EXIT_REASON,
    extended = offset::EXTENDED,
    rest = offset::EXTENDED_END,
}

macro_rules! extended_at {
    ($($field:ident = $offset:ident,)*) => {
        $(const _: () = assert!(
            offset::EXTENDED + offset_of!(Extended, $field) == extended_offset::$offset
        );)*
    };
}

extended_at! {
    dr = DR0,
    dr6 = DR6,
    debugctl = DEBUGCTL,
    pending_debug = PENDING_DEBUG,
    guest_linear = GUEST_LINEAR,
    instruction_error = INSTRUCTION_ERROR,
    instruction_info = INSTRUCTION_INFO,
    raw_exit = RAW_EXIT,
    raw_info1 = RAW_INFO1,
    raw_info2 = RAW_INFO2,
    raw_int_info = RAW_INT_INFO,
    instruction_byte_count = INSTRUCTION_BYTES,
}
