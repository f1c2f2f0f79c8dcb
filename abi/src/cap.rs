//! Selectors, permission bits, and the places every program can rely on.

/// A place in a domain's object space. Valid below [`SELECTOR_COUNT`]; larger
/// values hold no capability.
pub type Selector = u64;

/// Selectors in an object space (HIP `sel_num`).
pub const SELECTOR_COUNT: u64 = 1 << 26;
/// Exception selectors of an EC (HIP `sel_exc`).
pub const EXCEPTION_SELECTORS: u64 = 32;
/// HIP `sel_vmi`.
pub const VM_SELECTORS: u64 = 256;
/// User interrupt vectors of a processor.
pub const USER_VECTORS: u32 = 192;
/// Most processors a machine may have.
pub const MAX_CPUS: usize = 128;

/// Lowest usable priority.
pub const PRIORITY_MIN: u8 = 1;
/// Highest usable priority.
pub const PRIORITY_MAX: u8 = 127;

/// First address that user mappings may not use.
pub const USER_TOP: u64 = 0x0000_7fff_ffff_f000;
/// Where the root program finds the HIP.
pub const ROOT_HIP: u64 = USER_TOP - 0x1000;
/// Where the root program finds its UTCB.
pub const ROOT_UTCB: u64 = USER_TOP - 0x2000;
/// The root program's stack pointer at entry: the end of its UTCB.
pub const ROOT_STACK: u64 = ROOT_HIP;

/// The root program's protection domain.
pub const ROOT_PD: Selector = 32;
/// The root program's execution context.
pub const ROOT_EC: Selector = 33;
/// The root program's scheduling context.
pub const ROOT_SC: Selector = 34;
/// First selector of the root program that the kernel leaves free.
pub const ROOT_FREE: Selector = 35;
/// Event base of the root EC.
pub const ROOT_EVENT_BASE: Selector = 0;
/// Priority of the root SC.
pub const ROOT_PRIORITY: u8 = 1;
/// Quantum of the root SC, in microseconds.
pub const ROOT_QUANTUM_US: u32 = 10_000;

/// Event of a new thread that runs for the first time.
pub const STARTUP: Selector = 30;
/// Event of a recalled execution context.
pub const RECALL: Selector = 31;

/// Memory: read.
pub const MEM_R: u8 = 1;
/// Memory: write.
pub const MEM_W: u8 = 2;
/// Memory: execute.
pub const MEM_X: u8 = 4;
/// Memory: read and write.
pub const MEM_RW: u8 = MEM_R | MEM_W;
/// Memory: everything.
pub const MEM_RWX: u8 = MEM_R | MEM_W | MEM_X;

/// Port: access.
pub const PORT_ACCESS: u8 = 1;
/// Permissions of the ports that the kernel delegates from.
pub const PORT_KERNEL: u8 = 7;

/// PD: may own new objects, and be source or destination of a transfer.
pub const PD_CREATE: u8 = 1;

/// EC: control (`ec_ctrl`).
pub const EC_CT: u8 = 1;
/// EC: may be given a scheduling context.
pub const EC_SC: u8 = 1 << 2;
/// EC: may be given portals.
pub const EC_PT: u8 = 1 << 3;
/// EC: what a new one has.
pub const EC_ALL: u8 = EC_CT | EC_SC | EC_PT;

/// SC: control (`sc_ctrl`).
pub const SC_CT: u8 = 1;

/// Portal: control (`pt_ctrl`).
pub const PT_CT: u8 = 1;
/// Portal: may be called.
pub const PT_CALL: u8 = 1 << 1;
/// Portal: what a new one has.
pub const PT_ALL: u8 = PT_CT | PT_CALL;

/// Semaphore: up.
pub const SM_UP: u8 = 1;
/// Semaphore: down.
pub const SM_DOWN: u8 = 1 << 1;
/// Semaphore: what a new one has.
pub const SM_ALL: u8 = SM_UP | SM_DOWN;

/// Kernel page: control (map, unmap, use for a vCPU or an interrupt).
pub const KP_CT: u8 = 1;

/// vCPU: control (run and poke).
pub const VCPU_CT: u8 = 1;

/// Every permission bit a descriptor can carry.
pub const ALL: u8 = 0x1f;
