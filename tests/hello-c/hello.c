/* The smallest root program in C: says hello over COM1, then waits for ever. */
#include "hematite.h"

enum { COM1 = 0x3f8, LINE_STATUS = COM1 + 5, TRANSMITTER_EMPTY = 1 << 5, LOG2_PORTS = 3 };

static void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("out %1, %0" : : "a"(value), "Nd"(port));
}

static uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("in %0, %1" : "=a"(value) : "Nd"(port));
    return value;
}

static void print(const char *text)
{
    for (; *text; text++) {
        while (!(inb(LINE_STATUS) & TRANSMITTER_EMPTY)) {
        }
        outb(COM1, (uint8_t)*text);
    }
}

static void print_number(uint64_t number)
{
    if (number >= 10)
        print_number(number / 10);
    const char digit[] = {(char)('0' + number % 10), 0};
    print(digit);
}

/* The root program may take ports and memory from the kernel: a delegation to itself. */
static enum hem_status take_ports(uint64_t base, unsigned order)
{
    struct hem_words words = {
        .rdi = hem_word(HEM_PD_CTRL, 2, HEM_ROOT_PD),
        .rsi = HEM_ROOT_PD,
        .rdx = hem_crd(HEM_CRD_PORT, base, order, HEM_PORT_ACCESS),
        .rax = HEM_ITEM_DELEGATE | HEM_ITEM_FROM_KERNEL | base << HEM_PAGE_BITS,
        .r8 = hem_crd(HEM_CRD_PORT, base, order, HEM_ALL),
    };
    return hem_syscall(&words);
}

void hello(uint64_t cpu);

void hello(uint64_t cpu)
{
    const struct hem_hip *hip = (const struct hem_hip *)HEM_ROOT_HIP;
    take_ports(COM1, LOG2_PORTS);
    print("hello from C on cpu ");
    print_number(cpu);
    print(hip->signature == HEM_HIP_SIGNATURE ? ", interface " : ", no information page: ");
    print_number(hip->api_ver);
    struct hem_words unknown = {.rdi = 255};
    print(hem_syscall(&unknown) == HEM_BAD_HYP ? ", calls work\r\n" : ", calls do not work\r\n");
    struct hem_words make = {.rdi = hem_word(HEM_CREATE_SM, 0, HEM_ROOT_FREE), .rsi = HEM_ROOT_PD};
    hem_syscall(&make);
    for (;;) {
        struct hem_words wait = {.rdi = hem_word(HEM_SM_CTRL, 1, HEM_ROOT_FREE)};
        hem_syscall(&wait);
    }
}
