
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
