/* The binary interface of Hematite: API version 10 and our additions from call 64 up.
 *
 * Made by `cargo xtask header` from the crate `abi`; do not edit. The meaning of each call and field is in docs/spec.
 * C11, C++11 or newer; a 64-bit x86 compiler with GNU inline assembly for hem_syscall.
 */
#ifndef HEMATITE_H
#define HEMATITE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define HEM_ASSERT static_assert
extern "C" {
#else
#define HEM_ASSERT _Static_assert
#endif

/* The calls (docs/spec/index.md). */
enum hem_call {
    HEM_CALL = 0,
    HEM_REPLY = 1,
    HEM_CREATE_PD = 2,
    HEM_CREATE_EC = 3,
    HEM_CREATE_SC = 4,
    HEM_CREATE_PT = 5,
    HEM_CREATE_SM = 6,
    HEM_REVOKE = 7,
    HEM_PD_CTRL = 8,
    HEM_EC_CTRL = 9,
    HEM_SC_CTRL = 10,
    HEM_PT_CTRL = 11,
    HEM_SM_CTRL = 12,
    HEM_ASSIGN_PCI = 13,
    HEM_MACHINE_CTRL = 15,
    HEM_CREATE_KP = 16,
    HEM_KP_CTRL = 17,
    HEM_IRQ_CTRL = 18,
    HEM_CREATE_VCPU = 19,
    HEM_VCPU_CTRL = 20,
    HEM_QUOTA_GIVE = 64,
    HEM_QUOTA_READ = 65,
    HEM_VCPU_RUN_EXT = 66,
    HEM_GUEST_SPACE = 67,
    HEM_STATISTICS = 68,
    HEM_LOG = 69,
    HEM_TRUST_GROUP = 70,
};

/* What a call answers, in the low byte of RDI. */
enum hem_status {
    HEM_SUCCESS = 0,
    HEM_TIMEOUT = 1,
    HEM_ABORT = 2,
    HEM_BAD_HYP = 3,
    HEM_BAD_CAP = 4,
    HEM_BAD_PAR = 5,
    HEM_BAD_FTR = 6,
    HEM_BAD_CPU = 7,
    HEM_BAD_DEV = 8,
    HEM_OOM = 9,
    HEM_BUSY = 10,
};

/* Why a virtual processor stopped. */
enum hem_exit {
    HEM_EXIT_EXCEPTION = 0,
    HEM_EXIT_EXTERNAL_INTERRUPT = 1,
    HEM_EXIT_TRIPLE_FAULT = 2,
    HEM_EXIT_INIT = 3,
    HEM_EXIT_SIPI = 4,
    HEM_EXIT_INTERRUPT_WINDOW = 7,
    HEM_EXIT_NMI_WINDOW = 8,
    HEM_EXIT_TASK_SWITCH = 9,
    HEM_EXIT_CPUID = 10,
    HEM_EXIT_GETSEC = 11,
    HEM_EXIT_HLT = 12,
    HEM_EXIT_INVD = 13,
    HEM_EXIT_INVLPG = 14,
    HEM_EXIT_RDPMC = 15,
    HEM_EXIT_RDTSC = 16,
    HEM_EXIT_RSM = 17,
    HEM_EXIT_VMCALL = 18,
    HEM_EXIT_VMCLEAR = 19,
    HEM_EXIT_VMLAUNCH = 20,
    HEM_EXIT_VMPTRLD = 21,
    HEM_EXIT_VMPTRST = 22,
    HEM_EXIT_VMREAD = 23,
    HEM_EXIT_VMRESUME = 24,
    HEM_EXIT_VMWRITE = 25,
    HEM_EXIT_VMXOFF = 26,
    HEM_EXIT_VMXON = 27,
    HEM_EXIT_CONTROL_REGISTER = 28,
    HEM_EXIT_DEBUG_REGISTER = 29,
    HEM_EXIT_IO = 30,
    HEM_EXIT_RDMSR = 31,
    HEM_EXIT_WRMSR = 32,
    HEM_EXIT_MWAIT = 36,
    HEM_EXIT_MONITOR_TRAP = 37,
    HEM_EXIT_MONITOR = 39,
    HEM_EXIT_PAUSE = 40,
    HEM_EXIT_MACHINE_CHECK = 41,
    HEM_EXIT_TPR_BELOW_THRESHOLD = 43,
    HEM_EXIT_APIC_ACCESS = 44,
    HEM_EXIT_VIRTUAL_EOI = 45,
    HEM_EXIT_GDTR_IDTR = 46,
    HEM_EXIT_LDTR_TR = 47,
    HEM_EXIT_EPT_VIOLATION = 48,
    HEM_EXIT_EPT_MISCONFIGURATION = 49,
    HEM_EXIT_INVEPT = 50,
    HEM_EXIT_RDTSCP = 51,
    HEM_EXIT_PREEMPTION_TIMER = 52,
    HEM_EXIT_INVVPID = 53,
    HEM_EXIT_WBINVD = 54,
    HEM_EXIT_XSETBV = 55,
    HEM_EXIT_APIC_WRITE = 56,
    HEM_EXIT_RDRAND = 57,
    HEM_EXIT_INVPCID = 58,
    HEM_EXIT_VMFUNC = 59,
    HEM_EXIT_ENCLS = 60,
    HEM_EXIT_RDSEED = 61,
    HEM_EXIT_PML_FULL = 62,
    HEM_EXIT_XSAVES = 63,
    HEM_EXIT_XRSTORS = 64,
    HEM_EXIT_ENTRY_FAILED = 253,
    HEM_EXIT_POKED = 255,
};

/* abi/src/lib.rs */
#define HEM_API_VERSION 0x2710u
#define HEM_PAGE_SIZE 0x1000ull
#define HEM_PAGE_BITS 0xcu

/* abi/src/call.rs */
#define HEM_CALL_FLAGS_SHIFT 0x8u
#define HEM_CALL_VALUE_SHIFT 0xcu

/* abi/src/cap.rs */
#define HEM_SELECTOR_COUNT 0x4000000ull
#define HEM_EXCEPTION_SELECTORS 0x20ull
#define HEM_VM_SELECTORS 0x100ull
#define HEM_USER_VECTORS 0xc0u
#define HEM_MAX_CPUS 0x80u
#define HEM_PRIORITY_MIN 0x1u
#define HEM_PRIORITY_MAX 0x7fu
#define HEM_USER_TOP 0x7ffffffff000ull
#define HEM_ROOT_HIP 0x7fffffffe000ull
#define HEM_ROOT_UTCB 0x7fffffffd000ull
#define HEM_ROOT_STACK 0x7fffffffe000ull
#define HEM_ROOT_PD 0x20ull
#define HEM_ROOT_EC 0x21ull
#define HEM_ROOT_SC 0x22ull
#define HEM_ROOT_FREE 0x23ull
#define HEM_ROOT_EVENT_BASE 0x0ull
#define HEM_ROOT_PRIORITY 0x1u
#define HEM_ROOT_QUANTUM_US 0x2710u
#define HEM_STARTUP 0x1eull
#define HEM_RECALL 0x1full
#define HEM_MEM_R 0x1u
#define HEM_MEM_W 0x2u
#define HEM_MEM_X 0x4u
#define HEM_MEM_RW 0x3u
#define HEM_MEM_RWX 0x7u
#define HEM_PORT_ACCESS 0x1u
#define HEM_PORT_KERNEL 0x7u
#define HEM_PD_CREATE 0x1u
#define HEM_EC_CT 0x1u
#define HEM_EC_SC 0x4u
#define HEM_EC_PT 0x8u
#define HEM_EC_ALL 0xdu
#define HEM_SC_CT 0x1u
#define HEM_PT_CT 0x1u
#define HEM_PT_CALL 0x2u
#define HEM_PT_ALL 0x3u
#define HEM_SM_UP 0x1u
#define HEM_SM_DOWN 0x2u
#define HEM_SM_ALL 0x3u
#define HEM_KP_CT 0x1u
#define HEM_VCPU_CT 0x1u
#define HEM_ALL 0x1fu

/* abi/src/mtd.rs */
#define HEM_MTD_NONE 0x0u
#define HEM_MTD_ACDB 0x1u
#define HEM_MTD_BSD 0x2u
#define HEM_MTD_RSP 0x4u
#define HEM_MTD_RIP_LEN 0x8u
#define HEM_MTD_RFLAGS 0x10u
#define HEM_MTD_DS_ES 0x20u
#define HEM_MTD_FS_GS 0x40u
#define HEM_MTD_CS_SS 0x80u
#define HEM_MTD_TR 0x100u
#define HEM_MTD_LDTR 0x200u
#define HEM_MTD_GDTR 0x400u
#define HEM_MTD_IDTR 0x800u
#define HEM_MTD_CR 0x1000u
#define HEM_MTD_DR 0x2000u
#define HEM_MTD_SYSENTER 0x4000u
#define HEM_MTD_QUAL 0x8000u
#define HEM_MTD_CTRL 0x10000u
#define HEM_MTD_INJ 0x20000u
#define HEM_MTD_STA 0x40000u
#define HEM_MTD_TSC 0x80000u
#define HEM_MTD_EFER_PAT 0x100000u
#define HEM_MTD_PDPTE 0x200000u
#define HEM_MTD_R8_R15 0x400000u
#define HEM_MTD_SYSCALL_SWAPGS 0x800000u
#define HEM_MTD_TSC_TIMEOUT 0x1000000u
#define HEM_MTD_VINTR 0x4000000u
#define HEM_MTD_EOI 0x8000000u
#define HEM_MTD_TPR 0x10000000u
#define HEM_MTD_TLB 0x40000000u
#define HEM_MTD_FPU 0x80000000u
#define HEM_MTD_GPR 0x400003u
#define HEM_MTD_EXCEPTION 0x8040801fu
#define HEM_MTD_VCPU_EXIT 0x23ffffffu
#define HEM_MTD_VCPU_EXIT_VINTR 0x27ffffffu

/* abi/src/utcb.rs */
#define HEM_UTCB_MESSAGE_WORDS 0x1fcu
#define HEM_UTCB_ARCH_WORDS 0x50u
#define HEM_UTCB_MAX_TYPED 0xfeu

/* abi/src/utcb/offset.rs */
#define HEM_AT_ITEMS 0x0u
#define HEM_AT_TRANSLATE_WINDOW 0x8u
#define HEM_AT_DELEGATE_WINDOW 0x10u
#define HEM_AT_TLS 0x18u
#define HEM_AT_MESSAGE 0x20u
#define HEM_AT_MTD 0x20u
#define HEM_AT_INST_LEN 0x28u
#define HEM_AT_RIP 0x30u
#define HEM_AT_RFLAGS 0x38u
#define HEM_AT_INTR_STATE 0x40u
#define HEM_AT_ACTV_STATE 0x44u
#define HEM_AT_INTR_INFO 0x48u
#define HEM_AT_INTR_ERROR 0x4cu
#define HEM_AT_VECT_INFO 0x50u
#define HEM_AT_VECT_ERROR 0x54u
#define HEM_AT_RAX 0x58u
#define HEM_AT_RCX 0x60u
#define HEM_AT_RDX 0x68u
#define HEM_AT_RBX 0x70u
#define HEM_AT_RSP 0x78u
#define HEM_AT_RBP 0x80u
#define HEM_AT_RSI 0x88u
#define HEM_AT_RDI 0x90u
#define HEM_AT_R8 0x98u
#define HEM_AT_R15 0xd0u
#define HEM_AT_QUAL0 0xd8u
#define HEM_AT_QUAL1 0xe0u
#define HEM_AT_CTRL0 0xe8u
#define HEM_AT_CTRL1 0xecu
#define HEM_AT_XCR0 0xf0u
#define HEM_AT_CR0 0xf8u
#define HEM_AT_CR2 0x100u
#define HEM_AT_CR3 0x108u
#define HEM_AT_CR4 0x110u
#define HEM_AT_PDPTE 0x118u
#define HEM_AT_CR8 0x138u
#define HEM_AT_EFER 0x140u
#define HEM_AT_PAT 0x148u
#define HEM_AT_STAR 0x150u
#define HEM_AT_LSTAR 0x158u
#define HEM_AT_FMASK 0x160u
#define HEM_AT_KERNEL_GS_BASE 0x168u
#define HEM_AT_DR7 0x170u
#define HEM_AT_SYSENTER_CS 0x178u
#define HEM_AT_SYSENTER_RSP 0x180u
#define HEM_AT_SYSENTER_RIP 0x188u
#define HEM_AT_ES 0x190u
#define HEM_AT_CS 0x1a0u
#define HEM_AT_SS 0x1b0u
#define HEM_AT_DS 0x1c0u
#define HEM_AT_FS 0x1d0u
#define HEM_AT_GS 0x1e0u
#define HEM_AT_LDTR 0x1f0u
#define HEM_AT_TR 0x200u
#define HEM_AT_GDTR 0x210u
#define HEM_AT_IDTR 0x220u
#define HEM_AT_TSC_VAL 0x230u
#define HEM_AT_TSC_OFF 0x238u
#define HEM_AT_TSC_AUX 0x240u
#define HEM_AT_EXC_BITMAP 0x244u
#define HEM_AT_TPR_THRESHOLD 0x248u
#define HEM_AT_EOI_BITMAP 0x250u
#define HEM_AT_VINTR_STATUS 0x270u
#define HEM_AT_CR0_MON 0x278u
#define HEM_AT_CR4_MON 0x280u
#define HEM_AT_SPEC_CTRL 0x288u
#define HEM_AT_TSC_TIMEOUT 0x290u
#define HEM_AT_EXIT_REASON 0x298u
#define HEM_AT_EXTENDED 0x2a0u
#define HEM_AT_EXTENDED_END 0x400u
#define HEM_AT_TYPED 0xff0u

/* abi/src/utcb/extended_offset.rs */
#define HEM_AT_DR0 0x2a0u
#define HEM_AT_DR6 0x2c0u
#define HEM_AT_DEBUGCTL 0x2c8u
#define HEM_AT_PENDING_DEBUG 0x2d0u
#define HEM_AT_GUEST_LINEAR 0x2d8u
#define HEM_AT_INSTRUCTION_ERROR 0x2e0u
#define HEM_AT_INSTRUCTION_INFO 0x2e4u
#define HEM_AT_RAW_EXIT 0x2e8u
#define HEM_AT_RAW_INFO1 0x2f0u
#define HEM_AT_RAW_INFO2 0x2f8u
#define HEM_AT_RAW_INT_INFO 0x300u
#define HEM_AT_INSTRUCTION_BYTES 0x308u

/* abi/src/hip.rs */
#define HEM_HIP_SIGNATURE 0x4e524448u
#define HEM_HIP_FLAG_IOMMU 0x1u
#define HEM_HIP_FLAG_VMX 0x2u
#define HEM_HIP_FLAG_SVM 0x4u
#define HEM_HIP_FLAG_UEFI 0x8u
#define HEM_HIP_CPU_USABLE 0x1u
#define HEM_HIP_MEMORY_RAM 0x1u
#define HEM_HIP_MEMORY_HYPERVISOR 0xffffffffu
#define HEM_HIP_MEMORY_MODULE 0xfffffffeu
#define HEM_HIP_CPU_COUNT 0x80u
#define HEM_HIP_IOAPIC_COUNT 0x10u
#define HEM_HIP_CPU_OFFSET 0x90u
#define HEM_HIP_IOAPIC_OFFSET 0x490u
#define HEM_HIP_MEMORY_OFFSET 0x590u
#define HEM_HIP_MEMORY_MAX 0x64u
#define HEM_HIP_OUR_BLOCK 0xf00u
#define HEM_HIP_OUR_MAGIC 0x45544954414d4548ull
#define HEM_HIP_OUR_VERSION 0x1u
#define HEM_HIP_VENDOR_OTHER 0x0u
#define HEM_HIP_VENDOR_INTEL 0x1u
#define HEM_HIP_VENDOR_AMD 0x2u

/* abi/src/exit.rs */
#define HEM_EXIT_ENTRY_FAILURE_BIT 0x80000000u
#define HEM_EXIT_INVALID_STATE 0x80000021u

/* abi/src/log.rs */
#define HEM_LOG_UNOWNED 0x1u
#define HEM_LOG_KILLED 0x2u
#define HEM_LOG_FAULT 0x3u
#define HEM_LOG_RECORD_WORDS 0x4u
#define HEM_LOG_RECORDS 0x7fu
#define HEM_LOG_UNOWNED_INTERRUPTS 0x0ull
#define HEM_LOG_SHOOTDOWNS 0x1ull
#define HEM_LOG_FREE_FRAMES 0x2ull
#define HEM_LOG_LOG_RECORDS 0x3ull
#define HEM_LOG_STRETCHES 0x100ull
#define HEM_LOG_STRETCH_LABELS 0x83u
#define HEM_LOG_STRETCH_EXCEPTION 0x80u
#define HEM_LOG_STRETCH_INTERRUPT 0x81u
#define HEM_LOG_STRETCH_GUEST 0x82u

/* What a message moves (docs/spec/crd.md). */
struct hem_typed_item {
    uint64_t crd;
    uint64_t meta;
};
HEM_ASSERT(sizeof(struct hem_typed_item) == 0x10, "size of hem_typed_item");
HEM_ASSERT(offsetof(struct hem_typed_item, crd) == 0x0, "hem_typed_item.crd");
HEM_ASSERT(offsetof(struct hem_typed_item, meta) == 0x8, "hem_typed_item.meta");

/* A segment register in the state page. */
struct hem_segment {
    uint16_t selector;
    uint16_t ar;
    uint32_t limit;
    uint64_t base;
};
HEM_ASSERT(sizeof(struct hem_segment) == 0x10, "size of hem_segment");
HEM_ASSERT(offsetof(struct hem_segment, selector) == 0x0, "hem_segment.selector");
HEM_ASSERT(offsetof(struct hem_segment, ar) == 0x2, "hem_segment.ar");
HEM_ASSERT(offsetof(struct hem_segment, limit) == 0x4, "hem_segment.limit");
HEM_ASSERT(offsetof(struct hem_segment, base) == 0x8, "hem_segment.base");

/* Ours, at 0x2a0 of a state page (docs/spec/utcb.md). */
struct hem_extended {
    uint64_t dr[4];
    uint64_t dr6;
    uint64_t debugctl;
    uint64_t pending_debug;
    uint64_t guest_linear;
    uint32_t instruction_error;
    uint32_t instruction_info;
    uint64_t raw_exit;
    uint64_t raw_info1;
    uint64_t raw_info2;
    uint64_t raw_int_info;
    uint8_t instruction_byte_count;
    uint8_t instruction_bytes[15];
    uint64_t reserved[29];
};
HEM_ASSERT(sizeof(struct hem_extended) == 0x160, "size of hem_extended");
HEM_ASSERT(offsetof(struct hem_extended, dr) == 0x0, "hem_extended.dr");
HEM_ASSERT(offsetof(struct hem_extended, dr6) == 0x20, "hem_extended.dr6");
HEM_ASSERT(offsetof(struct hem_extended, debugctl) == 0x28, "hem_extended.debugctl");
HEM_ASSERT(offsetof(struct hem_extended, pending_debug) == 0x30, "hem_extended.pending_debug");
HEM_ASSERT(offsetof(struct hem_extended, guest_linear) == 0x38, "hem_extended.guest_linear");
HEM_ASSERT(offsetof(struct hem_extended, instruction_error) == 0x40, "hem_extended.instruction_error");
HEM_ASSERT(offsetof(struct hem_extended, instruction_info) == 0x44, "hem_extended.instruction_info");
HEM_ASSERT(offsetof(struct hem_extended, raw_exit) == 0x48, "hem_extended.raw_exit");
HEM_ASSERT(offsetof(struct hem_extended, raw_info1) == 0x50, "hem_extended.raw_info1");
HEM_ASSERT(offsetof(struct hem_extended, raw_info2) == 0x58, "hem_extended.raw_info2");
HEM_ASSERT(offsetof(struct hem_extended, raw_int_info) == 0x60, "hem_extended.raw_int_info");
HEM_ASSERT(offsetof(struct hem_extended, instruction_byte_count) == 0x68, "hem_extended.instruction_byte_count");
HEM_ASSERT(offsetof(struct hem_extended, instruction_bytes) == 0x69, "hem_extended.instruction_bytes");
HEM_ASSERT(offsetof(struct hem_extended, reserved) == 0x78, "hem_extended.reserved");

/* The page of messages and of a virtual processor's state; on a page of its own (docs/spec/utcb.md). */
struct hem_utcb {
    uint64_t items;
    uint64_t translate_window;
    uint64_t delegate_window;
    uint64_t tls;
    uint64_t mtd;
    uint64_t inst_len;
    uint64_t rip;
    uint64_t rflags;
    uint32_t intr_state;
    uint32_t actv_state;
    uint32_t intr_info;
    uint32_t intr_error;
    uint32_t vect_info;
    uint32_t vect_error;
    uint64_t rax;
    uint64_t rcx;
    uint64_t rdx;
    uint64_t rbx;
    uint64_t rsp;
    uint64_t rbp;
    uint64_t rsi;
    uint64_t rdi;
    uint64_t r8_r15[8];
    uint64_t qual[2];
    uint32_t ctrl[2];
    uint64_t xcr0;
    uint64_t cr0;
    uint64_t cr2;
    uint64_t cr3;
    uint64_t cr4;
    uint64_t pdpte[4];
    uint64_t cr8;
    uint64_t efer;
    uint64_t pat;
    uint64_t star;
    uint64_t lstar;
    uint64_t fmask;
    uint64_t kernel_gs_base;
    uint64_t dr7;
    uint64_t sysenter_cs;
    uint64_t sysenter_rsp;
    uint64_t sysenter_rip;
    struct hem_segment es;
    struct hem_segment cs;
    struct hem_segment ss;
    struct hem_segment ds;
    struct hem_segment fs;
    struct hem_segment gs;
    struct hem_segment ldtr;
    struct hem_segment tr;
    struct hem_segment gdtr;
    struct hem_segment idtr;
    uint64_t tsc_val;
    uint64_t tsc_off;
    uint32_t tsc_aux;
    uint32_t exc_bitmap;
    uint32_t tpr_threshold;
    uint32_t reserved0;
    uint64_t eoi_bitmap[4];
    uint16_t vintr_status;
    uint16_t reserved1[3];
    uint64_t cr0_mon;
    uint64_t cr4_mon;
    uint64_t spec_ctrl;
    uint64_t tsc_timeout;
    uint32_t exit_reason;
    uint32_t reserved2;
    struct hem_extended extended;
    uint64_t rest[384];
};
HEM_ASSERT(sizeof(struct hem_utcb) == 0x1000, "size of hem_utcb");
HEM_ASSERT(offsetof(struct hem_utcb, items) == 0x0, "hem_utcb.items");
HEM_ASSERT(offsetof(struct hem_utcb, translate_window) == 0x8, "hem_utcb.translate_window");
HEM_ASSERT(offsetof(struct hem_utcb, delegate_window) == 0x10, "hem_utcb.delegate_window");
HEM_ASSERT(offsetof(struct hem_utcb, tls) == 0x18, "hem_utcb.tls");
HEM_ASSERT(offsetof(struct hem_utcb, mtd) == 0x20, "hem_utcb.mtd");
HEM_ASSERT(offsetof(struct hem_utcb, inst_len) == 0x28, "hem_utcb.inst_len");
HEM_ASSERT(offsetof(struct hem_utcb, rip) == 0x30, "hem_utcb.rip");
HEM_ASSERT(offsetof(struct hem_utcb, rflags) == 0x38, "hem_utcb.rflags");
HEM_ASSERT(offsetof(struct hem_utcb, intr_state) == 0x40, "hem_utcb.intr_state");
HEM_ASSERT(offsetof(struct hem_utcb, actv_state) == 0x44, "hem_utcb.actv_state");
HEM_ASSERT(offsetof(struct hem_utcb, intr_info) == 0x48, "hem_utcb.intr_info");
HEM_ASSERT(offsetof(struct hem_utcb, intr_error) == 0x4c, "hem_utcb.intr_error");
HEM_ASSERT(offsetof(struct hem_utcb, vect_info) == 0x50, "hem_utcb.vect_info");
HEM_ASSERT(offsetof(struct hem_utcb, vect_error) == 0x54, "hem_utcb.vect_error");
HEM_ASSERT(offsetof(struct hem_utcb, rax) == 0x58, "hem_utcb.rax");
HEM_ASSERT(offsetof(struct hem_utcb, rcx) == 0x60, "hem_utcb.rcx");
HEM_ASSERT(offsetof(struct hem_utcb, rdx) == 0x68, "hem_utcb.rdx");
HEM_ASSERT(offsetof(struct hem_utcb, rbx) == 0x70, "hem_utcb.rbx");
HEM_ASSERT(offsetof(struct hem_utcb, rsp) == 0x78, "hem_utcb.rsp");
HEM_ASSERT(offsetof(struct hem_utcb, rbp) == 0x80, "hem_utcb.rbp");
HEM_ASSERT(offsetof(struct hem_utcb, rsi) == 0x88, "hem_utcb.rsi");
HEM_ASSERT(offsetof(struct hem_utcb, rdi) == 0x90, "hem_utcb.rdi");
HEM_ASSERT(offsetof(struct hem_utcb, r8_r15) == 0x98, "hem_utcb.r8_r15");
HEM_ASSERT(offsetof(struct hem_utcb, qual) == 0xd8, "hem_utcb.qual");
HEM_ASSERT(offsetof(struct hem_utcb, ctrl) == 0xe8, "hem_utcb.ctrl");
HEM_ASSERT(offsetof(struct hem_utcb, xcr0) == 0xf0, "hem_utcb.xcr0");
HEM_ASSERT(offsetof(struct hem_utcb, cr0) == 0xf8, "hem_utcb.cr0");
HEM_ASSERT(offsetof(struct hem_utcb, cr2) == 0x100, "hem_utcb.cr2");
HEM_ASSERT(offsetof(struct hem_utcb, cr3) == 0x108, "hem_utcb.cr3");
HEM_ASSERT(offsetof(struct hem_utcb, cr4) == 0x110, "hem_utcb.cr4");
HEM_ASSERT(offsetof(struct hem_utcb, pdpte) == 0x118, "hem_utcb.pdpte");
HEM_ASSERT(offsetof(struct hem_utcb, cr8) == 0x138, "hem_utcb.cr8");
HEM_ASSERT(offsetof(struct hem_utcb, efer) == 0x140, "hem_utcb.efer");
HEM_ASSERT(offsetof(struct hem_utcb, pat) == 0x148, "hem_utcb.pat");
HEM_ASSERT(offsetof(struct hem_utcb, star) == 0x150, "hem_utcb.star");
HEM_ASSERT(offsetof(struct hem_utcb, lstar) == 0x158, "hem_utcb.lstar");
HEM_ASSERT(offsetof(struct hem_utcb, fmask) == 0x160, "hem_utcb.fmask");
HEM_ASSERT(offsetof(struct hem_utcb, kernel_gs_base) == 0x168, "hem_utcb.kernel_gs_base");
HEM_ASSERT(offsetof(struct hem_utcb, dr7) == 0x170, "hem_utcb.dr7");
HEM_ASSERT(offsetof(struct hem_utcb, sysenter_cs) == 0x178, "hem_utcb.sysenter_cs");
HEM_ASSERT(offsetof(struct hem_utcb, sysenter_rsp) == 0x180, "hem_utcb.sysenter_rsp");
HEM_ASSERT(offsetof(struct hem_utcb, sysenter_rip) == 0x188, "hem_utcb.sysenter_rip");
HEM_ASSERT(offsetof(struct hem_utcb, es) == 0x190, "hem_utcb.es");
HEM_ASSERT(offsetof(struct hem_utcb, cs) == 0x1a0, "hem_utcb.cs");
HEM_ASSERT(offsetof(struct hem_utcb, ss) == 0x1b0, "hem_utcb.ss");
HEM_ASSERT(offsetof(struct hem_utcb, ds) == 0x1c0, "hem_utcb.ds");
HEM_ASSERT(offsetof(struct hem_utcb, fs) == 0x1d0, "hem_utcb.fs");
HEM_ASSERT(offsetof(struct hem_utcb, gs) == 0x1e0, "hem_utcb.gs");
HEM_ASSERT(offsetof(struct hem_utcb, ldtr) == 0x1f0, "hem_utcb.ldtr");
HEM_ASSERT(offsetof(struct hem_utcb, tr) == 0x200, "hem_utcb.tr");
HEM_ASSERT(offsetof(struct hem_utcb, gdtr) == 0x210, "hem_utcb.gdtr");
HEM_ASSERT(offsetof(struct hem_utcb, idtr) == 0x220, "hem_utcb.idtr");
HEM_ASSERT(offsetof(struct hem_utcb, tsc_val) == 0x230, "hem_utcb.tsc_val");
HEM_ASSERT(offsetof(struct hem_utcb, tsc_off) == 0x238, "hem_utcb.tsc_off");
HEM_ASSERT(offsetof(struct hem_utcb, tsc_aux) == 0x240, "hem_utcb.tsc_aux");
HEM_ASSERT(offsetof(struct hem_utcb, exc_bitmap) == 0x244, "hem_utcb.exc_bitmap");
HEM_ASSERT(offsetof(struct hem_utcb, tpr_threshold) == 0x248, "hem_utcb.tpr_threshold");
HEM_ASSERT(offsetof(struct hem_utcb, reserved0) == 0x24c, "hem_utcb.reserved0");
HEM_ASSERT(offsetof(struct hem_utcb, eoi_bitmap) == 0x250, "hem_utcb.eoi_bitmap");
HEM_ASSERT(offsetof(struct hem_utcb, vintr_status) == 0x270, "hem_utcb.vintr_status");
HEM_ASSERT(offsetof(struct hem_utcb, reserved1) == 0x272, "hem_utcb.reserved1");
HEM_ASSERT(offsetof(struct hem_utcb, cr0_mon) == 0x278, "hem_utcb.cr0_mon");
HEM_ASSERT(offsetof(struct hem_utcb, cr4_mon) == 0x280, "hem_utcb.cr4_mon");
HEM_ASSERT(offsetof(struct hem_utcb, spec_ctrl) == 0x288, "hem_utcb.spec_ctrl");
HEM_ASSERT(offsetof(struct hem_utcb, tsc_timeout) == 0x290, "hem_utcb.tsc_timeout");
HEM_ASSERT(offsetof(struct hem_utcb, exit_reason) == 0x298, "hem_utcb.exit_reason");
HEM_ASSERT(offsetof(struct hem_utcb, reserved2) == 0x29c, "hem_utcb.reserved2");
HEM_ASSERT(offsetof(struct hem_utcb, extended) == 0x2a0, "hem_utcb.extended");
HEM_ASSERT(offsetof(struct hem_utcb, rest) == 0x400, "hem_utcb.rest");

/* An ACPI generic address. */
struct hem_generic_address {
    uint8_t space;
    uint8_t bit_width;
    uint8_t bit_offset;
    uint8_t access_size;
    uint32_t address[2];
};
HEM_ASSERT(sizeof(struct hem_generic_address) == 0xc, "size of hem_generic_address");
HEM_ASSERT(offsetof(struct hem_generic_address, space) == 0x0, "hem_generic_address.space");
HEM_ASSERT(offsetof(struct hem_generic_address, bit_width) == 0x1, "hem_generic_address.bit_width");
HEM_ASSERT(offsetof(struct hem_generic_address, bit_offset) == 0x2, "hem_generic_address.bit_offset");
HEM_ASSERT(offsetof(struct hem_generic_address, access_size) == 0x3, "hem_generic_address.access_size");
HEM_ASSERT(offsetof(struct hem_generic_address, address) == 0x4, "hem_generic_address.address");

/* The information page begins with this (docs/spec/hip.md). */
struct hem_hip {
    uint32_t signature;
    uint16_t checksum;
    uint16_t length;
    uint16_t cpu_offset;
    uint16_t cpu_size;
    uint16_t ioapic_offset;
    uint16_t ioapic_size;
    uint16_t mem_offset;
    uint16_t mem_size;
    uint32_t api_flg;
    uint32_t api_ver;
    uint32_t sel_num;
    uint32_t sel_exc;
    uint32_t sel_vmi;
    uint32_t num_user_vectors;
    uint32_t cfg_page;
    uint32_t cfg_utcb;
    uint32_t freq_tsc;
    uint32_t freq_bus;
    uint32_t pci_bus_start;
    uint64_t mcfg_base;
    uint64_t mcfg_size;
    uint64_t dmar_table;
    uint64_t hpet_base;
    uint64_t cap_vmx_sec_exec;
    uint64_t xsdt_rsdt;
    struct hem_generic_address pm1a_cnt;
    struct hem_generic_address pm1b_cnt;
    uint32_t bsp_lapic_svr;
    uint32_t bsp_lapic_lint0;
};
HEM_ASSERT(sizeof(struct hem_hip) == 0x90, "size of hem_hip");
HEM_ASSERT(offsetof(struct hem_hip, signature) == 0x0, "hem_hip.signature");
HEM_ASSERT(offsetof(struct hem_hip, checksum) == 0x4, "hem_hip.checksum");
HEM_ASSERT(offsetof(struct hem_hip, length) == 0x6, "hem_hip.length");
HEM_ASSERT(offsetof(struct hem_hip, cpu_offset) == 0x8, "hem_hip.cpu_offset");
HEM_ASSERT(offsetof(struct hem_hip, cpu_size) == 0xa, "hem_hip.cpu_size");
HEM_ASSERT(offsetof(struct hem_hip, ioapic_offset) == 0xc, "hem_hip.ioapic_offset");
HEM_ASSERT(offsetof(struct hem_hip, ioapic_size) == 0xe, "hem_hip.ioapic_size");
HEM_ASSERT(offsetof(struct hem_hip, mem_offset) == 0x10, "hem_hip.mem_offset");
HEM_ASSERT(offsetof(struct hem_hip, mem_size) == 0x12, "hem_hip.mem_size");
HEM_ASSERT(offsetof(struct hem_hip, api_flg) == 0x14, "hem_hip.api_flg");
HEM_ASSERT(offsetof(struct hem_hip, api_ver) == 0x18, "hem_hip.api_ver");
HEM_ASSERT(offsetof(struct hem_hip, sel_num) == 0x1c, "hem_hip.sel_num");
HEM_ASSERT(offsetof(struct hem_hip, sel_exc) == 0x20, "hem_hip.sel_exc");
HEM_ASSERT(offsetof(struct hem_hip, sel_vmi) == 0x24, "hem_hip.sel_vmi");
HEM_ASSERT(offsetof(struct hem_hip, num_user_vectors) == 0x28, "hem_hip.num_user_vectors");
HEM_ASSERT(offsetof(struct hem_hip, cfg_page) == 0x2c, "hem_hip.cfg_page");
HEM_ASSERT(offsetof(struct hem_hip, cfg_utcb) == 0x30, "hem_hip.cfg_utcb");
HEM_ASSERT(offsetof(struct hem_hip, freq_tsc) == 0x34, "hem_hip.freq_tsc");
HEM_ASSERT(offsetof(struct hem_hip, freq_bus) == 0x38, "hem_hip.freq_bus");
HEM_ASSERT(offsetof(struct hem_hip, pci_bus_start) == 0x3c, "hem_hip.pci_bus_start");
HEM_ASSERT(offsetof(struct hem_hip, mcfg_base) == 0x40, "hem_hip.mcfg_base");
HEM_ASSERT(offsetof(struct hem_hip, mcfg_size) == 0x48, "hem_hip.mcfg_size");
HEM_ASSERT(offsetof(struct hem_hip, dmar_table) == 0x50, "hem_hip.dmar_table");
HEM_ASSERT(offsetof(struct hem_hip, hpet_base) == 0x58, "hem_hip.hpet_base");
HEM_ASSERT(offsetof(struct hem_hip, cap_vmx_sec_exec) == 0x60, "hem_hip.cap_vmx_sec_exec");
HEM_ASSERT(offsetof(struct hem_hip, xsdt_rsdt) == 0x68, "hem_hip.xsdt_rsdt");
HEM_ASSERT(offsetof(struct hem_hip, pm1a_cnt) == 0x70, "hem_hip.pm1a_cnt");
HEM_ASSERT(offsetof(struct hem_hip, pm1b_cnt) == 0x7c, "hem_hip.pm1b_cnt");
HEM_ASSERT(offsetof(struct hem_hip, bsp_lapic_svr) == 0x88, "hem_hip.bsp_lapic_svr");
HEM_ASSERT(offsetof(struct hem_hip, bsp_lapic_lint0) == 0x8c, "hem_hip.bsp_lapic_lint0");

/* A processor; its place is its number. */
struct hem_cpu_desc {
    uint8_t flags;
    uint8_t thread;
    uint8_t core;
    uint8_t package;
    uint8_t acpi_id;
    uint8_t apic_id;
    uint8_t reserved[2];
};
HEM_ASSERT(sizeof(struct hem_cpu_desc) == 0x8, "size of hem_cpu_desc");
HEM_ASSERT(offsetof(struct hem_cpu_desc, flags) == 0x0, "hem_cpu_desc.flags");
HEM_ASSERT(offsetof(struct hem_cpu_desc, thread) == 0x1, "hem_cpu_desc.thread");
HEM_ASSERT(offsetof(struct hem_cpu_desc, core) == 0x2, "hem_cpu_desc.core");
HEM_ASSERT(offsetof(struct hem_cpu_desc, package) == 0x3, "hem_cpu_desc.package");
HEM_ASSERT(offsetof(struct hem_cpu_desc, acpi_id) == 0x4, "hem_cpu_desc.acpi_id");
HEM_ASSERT(offsetof(struct hem_cpu_desc, apic_id) == 0x5, "hem_cpu_desc.apic_id");
HEM_ASSERT(offsetof(struct hem_cpu_desc, reserved) == 0x6, "hem_cpu_desc.reserved");

/* An I/O APIC. */
struct hem_ioapic_desc {
    uint32_t id;
    uint32_t version;
    uint32_t gsi_base;
    uint32_t base;
};
HEM_ASSERT(sizeof(struct hem_ioapic_desc) == 0x10, "size of hem_ioapic_desc");
HEM_ASSERT(offsetof(struct hem_ioapic_desc, id) == 0x0, "hem_ioapic_desc.id");
HEM_ASSERT(offsetof(struct hem_ioapic_desc, version) == 0x4, "hem_ioapic_desc.version");
HEM_ASSERT(offsetof(struct hem_ioapic_desc, gsi_base) == 0x8, "hem_ioapic_desc.gsi_base");
HEM_ASSERT(offsetof(struct hem_ioapic_desc, base) == 0xc, "hem_ioapic_desc.base");

/* A range of physical memory. */
struct hem_mem_desc {
    uint64_t addr;
    uint64_t size;
    uint32_t kind;
    uint32_t aux;
};
HEM_ASSERT(sizeof(struct hem_mem_desc) == 0x18, "size of hem_mem_desc");
HEM_ASSERT(offsetof(struct hem_mem_desc, addr) == 0x0, "hem_mem_desc.addr");
HEM_ASSERT(offsetof(struct hem_mem_desc, size) == 0x8, "hem_mem_desc.size");
HEM_ASSERT(offsetof(struct hem_mem_desc, kind) == 0x10, "hem_mem_desc.kind");
HEM_ASSERT(offsetof(struct hem_mem_desc, aux) == 0x14, "hem_mem_desc.aux");

/* Our block at HEM_HIP_OUR_BLOCK of the information page. */
struct hem_ours {
    uint64_t magic;
    uint32_t version;
    uint32_t vendor;
    uint32_t svm_revision;
    uint32_t svm_asids;
    uint32_t svm_features;
    uint32_t reserved0;
    uint32_t cpu_signature;
    uint32_t cpus_online;
    uint64_t xcr0;
    uint32_t last_call;
    uint32_t reserved1;
    uint64_t reserved2;
};
HEM_ASSERT(sizeof(struct hem_ours) == 0x40, "size of hem_ours");
HEM_ASSERT(offsetof(struct hem_ours, magic) == 0x0, "hem_ours.magic");
HEM_ASSERT(offsetof(struct hem_ours, version) == 0x8, "hem_ours.version");
HEM_ASSERT(offsetof(struct hem_ours, vendor) == 0xc, "hem_ours.vendor");
HEM_ASSERT(offsetof(struct hem_ours, svm_revision) == 0x10, "hem_ours.svm_revision");
HEM_ASSERT(offsetof(struct hem_ours, svm_asids) == 0x14, "hem_ours.svm_asids");
HEM_ASSERT(offsetof(struct hem_ours, svm_features) == 0x18, "hem_ours.svm_features");
HEM_ASSERT(offsetof(struct hem_ours, reserved0) == 0x1c, "hem_ours.reserved0");
HEM_ASSERT(offsetof(struct hem_ours, cpu_signature) == 0x20, "hem_ours.cpu_signature");
HEM_ASSERT(offsetof(struct hem_ours, cpus_online) == 0x24, "hem_ours.cpus_online");
HEM_ASSERT(offsetof(struct hem_ours, xcr0) == 0x28, "hem_ours.xcr0");
HEM_ASSERT(offsetof(struct hem_ours, last_call) == 0x30, "hem_ours.last_call");
HEM_ASSERT(offsetof(struct hem_ours, reserved1) == 0x34, "hem_ours.reserved1");
HEM_ASSERT(offsetof(struct hem_ours, reserved2) == 0x38, "hem_ours.reserved2");

/* Kinds of a range, for hem_crd. */
enum hem_crd_kind { HEM_CRD_NULL = 0, HEM_CRD_MEMORY = 1, HEM_CRD_PORT = 2, HEM_CRD_OBJECT = 3 };

/* Kinds and flags of a typed item, for its second word. */
enum hem_item {
    HEM_ITEM_TRANSLATE = 0,
    HEM_ITEM_DELEGATE = 1,
    HEM_ITEM_TRANSLATE_ELSE_DELEGATE = 2,
    HEM_ITEM_NO_HOST = 1 << 8,
    HEM_ITEM_DEVICE = 1 << 9,
    HEM_ITEM_GUEST = 1 << 10,
    HEM_ITEM_FROM_KERNEL = 1 << 11,
};

/* 2^order pages, ports or selectors from base on. */
static inline uint64_t hem_crd(enum hem_crd_kind kind, uint64_t base, unsigned order, unsigned permissions)
{
    return (uint64_t)kind | (uint64_t)(permissions & 0x1f) << 2 | (uint64_t)(order & 0x1f) << 7 | base << HEM_PAGE_BITS;
}

/* The first word of a call: flags or sub-operation, and a value, mostly a selector. */
static inline uint64_t hem_word(enum hem_call call, unsigned flags, uint64_t value)
{
    return (uint64_t)call | (uint64_t)(flags & 0xf) << HEM_CALL_FLAGS_SHIFT | value << HEM_CALL_VALUE_SHIFT;
}

/* RDI, RSI, RDX, RAX, R8, in and out. */
struct hem_words {
    uint64_t rdi, rsi, rdx, rax, r8;
};

/* Makes a call; the status is the low byte of the RDI that comes back. */
static inline enum hem_status hem_syscall(struct hem_words *words)
{
    register uint64_t r8 __asm__("r8") = words->r8;
    __asm__ volatile("syscall"
                     : "+D"(words->rdi), "+S"(words->rsi), "+d"(words->rdx), "+a"(words->rax), "+r"(r8)
                     :
                     : "rcx", "r11", "memory", "cc");
    words->r8 = r8;
    return (enum hem_status)(words->rdi & 0xff);
}

#ifdef __cplusplus
}
#endif

#endif
