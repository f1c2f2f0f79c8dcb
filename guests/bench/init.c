/*
 * The first and only program of the guest that `cargo xtask bench guest` measures, natively and under
 * Hematite. Prints `guestbench: ROW TICKS`, ticks of the time-stamp counter:
 *   boot            from the kernel's first instruction to this program's
 *   fork_exec       1000 children that execute this file and end
 *   serial_64k      64 KiB of text to the serial line, until the last byte has left
 *   ipi             100,000 interrupts to the other processor, each awaited (two processors only)
 * then `guestbench: done`, and sleeps: whoever measures may look around. An argument names the one row that is
 * wanted, beside `boot`.
 *
 * No C library: it is one file that any C compiler makes. System calls: man 2.
 */
#include <stdint.h>

enum {
    READ = 0, WRITE = 1, OPEN = 2, IOCTL = 16, PAUSE = 34, CLONE = 56, FORK = 57, EXECVE = 59,
    EXIT = 60, WAIT4 = 61, MOUNT = 165, SCHED_SETAFFINITY = 203, MEMBARRIER = 324,
};
enum { O_RDWR = 2, TCSBRK = 0x5409 };
/* Memory, files, signal handlers shared; a thread of the same process: man 2 clone. */
enum { THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 };
/* man 2 membarrier: every processor that runs a thread of this process is interrupted. */
enum { PRIVATE_EXPEDITED = 1 << 3, REGISTER_PRIVATE_EXPEDITED = 1 << 4 };
enum { CHILDREN = 1000, SERIAL_BYTES = 64 << 10, INTERRUPTS = 100000 };
/* Where in the boot parameters the kernel's first instruction left its time (xtask/src/bench_guest.rs). */
enum { FIRST_TICK = 0xcd0 };

static long call5(long number, long a, long b, long c, long d, long e)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

static long call3(long number, long a, long b, long c)
{
    return call5(number, a, b, c, 0, 0);
}

static uint64_t ticks(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static int console;

static void print(const char *text)
{
    long length = 0;
    while (text[length])
        length++;
    call3(WRITE, console, (long)text, length);
}

static void row(const char *name, uint64_t number)
{
    char digits[24];
    char *first = digits + sizeof digits;
    *--first = 0;
    *--first = '\n';
    do
        *--first = (char)('0' + number % 10);
    while (number /= 10);
    print("guestbench: ");
    print(name);
    print(" ");
    print(first);
}

static _Noreturn void stop(void)
{
    for (;;)
        call3(PAUSE, 0, 0, 0);
}

static void need(int well, const char *what)
{
    if (well)
        return;
    print("guestbench: FAILED ");
    print(what);
    print("\n");
    stop();
}

static uint64_t first_tick(void)
{
    static unsigned char parameters[4096];
    uint64_t first = 0;
    call5(MOUNT, (long)"sysfs", (long)"/sys", (long)"sysfs", 0, 0);
    long file = call3(OPEN, (long)"/sys/kernel/boot_params/data", 0, 0);
    need(call3(READ, file, (long)parameters, sizeof parameters) == sizeof parameters, "boot_params");
    for (int byte = 7; byte >= 0; byte--)
        first = first << 8 | parameters[FIRST_TICK + byte];
    need(first != 0, "no first tick");
    return first;
}

static void fork_exec(void)
{
    static const char *const arguments[] = { "child", 0 };
    static const char *const environment[] = { 0 };
    for (int i = 0; i < CHILDREN; i++) {
        long child = call3(FORK, 0, 0, 0);
        if (child == 0) {
            call3(EXECVE, (long)"/init", (long)arguments, (long)environment);
            call3(EXIT, 1, 0, 0);
        }
        int status = -1;
        need(child > 0 && call5(WAIT4, child, (long)&status, 0, 0, 0) == child && status == 0, "fork_exec");
    }
}

static void serial(void)
{
    static char line[64];
    for (unsigned i = 0; i < sizeof line; i++)
        line[i] = (char)('0' + i);
    line[sizeof line - 1] = '\n';
    for (unsigned sent = 0; sent < SERIAL_BYTES; sent += sizeof line)
        need(call3(WRITE, console, (long)line, sizeof line) == sizeof line, "serial_64k");
    /* Not a break: waits until all output has left (man 2 ioctl_tty). */
    call3(IOCTL, console, TCSBRK, 1);
}

static volatile int ready, over;

static long run_on(unsigned cpu)
{
    uint64_t mask = 1ull << cpu;
    return call3(SCHED_SETAFFINITY, 0, sizeof mask, (long)&mask);
}

static void spin(void)
{
    ready = run_on(1) == 0 ? 1 : -1;
    while (!over)
        __asm__ volatile("pause");
    call3(EXIT, 0, 0, 0);
}

static void interrupts(void)
{
    static long stack[512] __attribute__((aligned(16)));
    long *top = stack + 510;
    *top = (long)spin;
    long child;
    /* The new thread returns to `spin` on a stack of its own. */
    __asm__ volatile("syscall\n\ttest rax, rax\n\tjnz 1f\n\tret\n1:"
                     : "=a"(child) : "a"(CLONE), "D"(THREAD), "S"(top), "d"(0)
                     : "rcx", "r11", "memory");
    need(child > 0, "clone");
    while (!ready)
        __asm__ volatile("pause");
    need(ready == 1 && call3(MEMBARRIER, REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0, "membarrier");
    uint64_t begun = ticks();
    for (int i = 0; i < INTERRUPTS; i++)
        call3(MEMBARRIER, PRIVATE_EXPEDITED, 0, 0);
    row("ipi", ticks() - begun);
    over = 1;
}

static const char *only;

static int wanted(const char *row)
{
    const char *name = only;
    if (!name)
        return 1;
    while (*name && *name == *row)
        name++, row++;
    return *name == *row;
}

__attribute__((used)) static _Noreturn void begin(const long *stack)
{
    uint64_t begun = ticks();
    const char *name = (const char *)stack[1];
    if (stack[0] > 1)
        only = (const char *)stack[2];
    if (name && name[0] == 'c')
        call3(EXIT, 0, 0, 0);
    console = (int)call3(OPEN, (long)"/dev/console", O_RDWR, 0);
    row("boot", begun - first_tick());
    begun = ticks();
    if (wanted("fork_exec")) {
        fork_exec();
        row("fork_exec", ticks() - begun);
    }
    begun = ticks();
    if (wanted("serial_64k")) {
        serial();
        row("serial_64k", ticks() - begun);
    }
    /* A mask without a processor that is there is refused. */
    if (wanted("ipi") && run_on(1) == 0 && run_on(0) == 0)
        interrupts();
    print("guestbench: done\n");
    stop();
}

__asm__(".global _start\n_start:\n\tmov rdi, rsp\n\tand rsp, -16\n\tcall begin\n");
