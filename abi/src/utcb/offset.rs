//! Byte offsets of the fields of the page.

/// Bits 15:0 count of message words, bits 31:16 count of typed items.
pub const ITEMS: usize = 0x000;
/// Descriptor of what may be translated into this domain.
pub const TRANSLATE_WINDOW: usize = 0x008;
/// Descriptor of where delegated things go.
pub const DELEGATE_WINDOW: usize = 0x010;
/// A word the kernel does not touch.
pub const TLS: usize = 0x018;
/// First message word.
pub const MESSAGE: usize = 0x020;
/// Register groups; the first message word.
pub const MTD: usize = 0x020;
/// Instruction length.
pub const INST_LEN: usize = 0x028;
/// Instruction pointer.
pub const RIP: usize = 0x030;
/// Flags.
pub const RFLAGS: usize = 0x038;
/// Interruptibility state (32 bit).
pub const INTR_STATE: usize = 0x040;
/// Activity state (32 bit).
pub const ACTV_STATE: usize = 0x044;
/// Event to inject or that exited (32 bit).
pub const INTR_INFO: usize = 0x048;
/// Its error code (32 bit).
pub const INTR_ERROR: usize = 0x04c;
/// Event that was being delivered (32 bit).
pub const VECT_INFO: usize = 0x050;
/// Its error code (32 bit).
pub const VECT_ERROR: usize = 0x054;
/// rax.
pub const RAX: usize = 0x058;
/// rcx.
pub const RCX: usize = 0x060;
/// rdx.
pub const RDX: usize = 0x068;
/// rbx.
pub const RBX: usize = 0x070;
/// rsp.
pub const RSP: usize = 0x078;
/// rbp.
pub const RBP: usize = 0x080;
/// rsi.
pub const RSI: usize = 0x088;
/// rdi.
pub const RDI: usize = 0x090;
/// r8; r9 to r15 follow.
pub const R8: usize = 0x098;
/// r15.
pub const R15: usize = 0x0d0;
/// Error code, or exit qualification.
pub const QUAL0: usize = 0x0d8;
/// CR2, or guest-physical address.
pub const QUAL1: usize = 0x0e0;
/// Primary processor-based controls (32 bit).
pub const CTRL0: usize = 0x0e8;
/// Secondary processor-based controls (32 bit).
pub const CTRL1: usize = 0x0ec;
/// xcr0.
pub const XCR0: usize = 0x0f0;
/// cr0.
pub const CR0: usize = 0x0f8;
/// cr2.
pub const CR2: usize = 0x100;
/// cr3.
pub const CR3: usize = 0x108;
/// cr4.
pub const CR4: usize = 0x110;
/// Four PAE page-directory-pointer entries.
pub const PDPTE: usize = 0x118;
/// cr8; never moved.
pub const CR8: usize = 0x138;
/// efer.
pub const EFER: usize = 0x140;
/// pat.
pub const PAT: usize = 0x148;
/// star.
pub const STAR: usize = 0x150;
/// lstar.
pub const LSTAR: usize = 0x158;
/// fmask.
pub const FMASK: usize = 0x160;
/// kernel_gs_base.
pub const KERNEL_GS_BASE: usize = 0x168;
/// dr7.
pub const DR7: usize = 0x170;
/// sysenter_cs.
pub const SYSENTER_CS: usize = 0x178;
/// sysenter_rsp.
pub const SYSENTER_RSP: usize = 0x180;
/// sysenter_rip.
pub const SYSENTER_RIP: usize = 0x188;
/// es.
pub const ES: usize = 0x190;
/// cs.
pub const CS: usize = 0x1a0;
/// ss.
pub const SS: usize = 0x1b0;
/// ds.
pub const DS: usize = 0x1c0;
/// fs.
pub const FS: usize = 0x1d0;
/// gs.
pub const GS: usize = 0x1e0;
/// ldtr.
pub const LDTR: usize = 0x1f0;
/// tr.
pub const TR: usize = 0x200;
/// gdtr; limit and base alone count.
pub const GDTR: usize = 0x210;
/// idtr; limit and base alone count.
pub const IDTR: usize = 0x220;
/// Host TSC at exit.
pub const TSC_VAL: usize = 0x230;
/// TSC offset of the guest.
pub const TSC_OFF: usize = 0x238;
/// TSC_AUX of the guest (32 bit).
pub const TSC_AUX: usize = 0x240;
/// Exceptions that exit (32 bit).
pub const EXC_BITMAP: usize = 0x244;
/// TPR threshold (32 bit).
pub const TPR_THRESHOLD: usize = 0x248;
/// Four words: which vectors' EOI exits.
pub const EOI_BITMAP: usize = 0x250;
/// Guest interrupt status (16 bit).
pub const VINTR_STATUS: usize = 0x270;
/// More bits of CR0 to watch.
pub const CR0_MON: usize = 0x278;
/// More bits of CR4 to watch.
pub const CR4_MON: usize = 0x280;
/// spec_ctrl.
pub const SPEC_CTRL: usize = 0x288;
/// TSC ticks until the guest's time-out.
pub const TSC_TIMEOUT: usize = 0x290;
/// The exit reason (32 bit).
pub const EXIT_REASON: usize = 0x298;
/// First byte of the extension.
pub const EXTENDED: usize = 0x2a0;
/// First byte after the extension.
pub const EXTENDED_END: usize = 0x400;
/// Typed item 0; item n lies at `TYPED - 16 * n`.
pub const TYPED: usize = 0xff0;
