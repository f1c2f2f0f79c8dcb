//! Byte offsets of the extension's fields in the page (`vcpu_run_ext`).

/// dr0; dr1 to dr3 follow.
pub const DR0: usize = 0x2a0;
/// dr6.
pub const DR6: usize = 0x2c0;
/// IA32_DEBUGCTL.
pub const DEBUGCTL: usize = 0x2c8;
/// Pending debug exceptions.
pub const PENDING_DEBUG: usize = 0x2d0;
/// Guest-linear address.
pub const GUEST_LINEAR: usize = 0x2d8;
/// VM-instruction error (32 bit).
pub const INSTRUCTION_ERROR: usize = 0x2e0;
/// VM-exit instruction information (32 bit).
pub const INSTRUCTION_INFO: usize = 0x2e4;
/// Raw exit code.
pub const RAW_EXIT: usize = 0x2e8;
/// Exit qualification or EXITINFO1.
pub const RAW_INFO1: usize = 0x2f0;
/// Guest-physical address or EXITINFO2.
pub const RAW_INFO2: usize = 0x2f8;
/// Interruption information or EXITINTINFO.
pub const RAW_INT_INFO: usize = 0x300;
/// Count byte, then fifteen instruction bytes.
pub const INSTRUCTION_BYTES: usize = 0x308;
