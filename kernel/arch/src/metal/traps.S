# Where the CPU lands on an exception or an interrupt.
#
#   from user mode    RSP0 points into the current Thread: what is pushed is already where it belongs;
#                     then back to `run`, by the stack that `run` remembered
#   from the kernel   vector >= 32: `idle` or `take_interrupt` allowed it; note it and go on, interrupts off
#                     vector < 32: a fix-up (metal/msr.rs, fpu.rs), or the fatal dump
#
# NMI, double fault and machine check have stacks of their own (IST) and need neither GS nor the thread:
# they may come between any two instructions, also here. No debug register is ever armed for the host,
# so #DB cannot come at a stack switch.

# A stub per vector, 16 bytes each: push what the CPU did not, and the vector.
.altmacro
.macro trap_stub number
    .balign 16
    .if (\number == 8) || ((\number >= 10) && (\number <= 14)) || (\number == 17) || (\number == 21) || (\number == 29) || (\number == 30)
    push \number
    jmp trap_with_error
    .else
    push 0
    push \number
    jmp trap_entry
    .endif
.endm

.section .text.entry, "ax", @progbits
.global trap_stubs
.balign 16
trap_stubs:
.set trap_number, 0
.rept 256
    trap_stub %trap_number
    .set trap_number, trap_number + 1
.endr

# The CPU aligns the stack to 16 bytes and then pushes five words, or six with an error code: so the
# stack tells whether an error code was pushed. An interrupt on an exception vector pushes none.
.balign 16
trap_with_error:
    test spl, 8
    jnz trap_entry
    push [rsp]
    mov qword ptr [rsp + 8], 0
    or dword ptr [rsp], {NO_ERROR_PUSHED}
    jmp trap_fatal

trap_entry:
    test byte ptr [rsp + 24], 3
    jz trap_in_kernel
    swapgs
    push_registers
    mov rsp, gs:[{KERNEL_RSP}]
    push 2                                          # direction, alignment check and trap flag off
    popfq
    mov eax, 1
    ret

trap_in_kernel:
    cmp qword ptr [rsp], 32
    jb trap_fatal
    push rax
    mov eax, [rsp + 8]
    mov gs:[{INTERRUPT}], rax
    and dword ptr [rsp + 40], 0xfffffdff            # interrupts stay off when it returns
    pop rax
    add rsp, 16
    iretq

trap_fatal:
    push_registers
    mov rdi, rsp
    mov rbx, rsp
    and rsp, -16
    cld
    call kernel_exception
    mov rsp, rbx
    pop_registers
    add rsp, 16
    iretq

.global double_fault_entry, nmi_entry, machine_check_entry
double_fault_entry:
    push 8
    jmp trap_fatal

# Another CPU asks for silence, or a stray one: absorbed.
nmi_entry:
    cmp byte ptr [rip + nmi_means_stop], 0
    jne 1f
    iretq
1:  cli
    hlt
    jmp 1b

machine_check_entry:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    cld
    call machine_check
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    iretq
.text
