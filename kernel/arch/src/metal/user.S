# To user mode and back. A system call costs what is between `syscall_entry` and `ret`, and between
# `leave_by_sysret` and SYSRET; nothing is copied: registers go straight into and out of the Thread.
# (`run` in user.rs pushes RBX and RBP and calls; all other registers it declares as lost.)

.section .text.entry, "ax", @progbits

# SYSCALL: RCX is the return address, R11 the flags, RSP still the user's (Intel SDM vol. 2, SYSCALL).
# The stack pointer goes to the end of the thread's registers (below SS, which is never read after this).
.global syscall_entry
.balign 16
syscall_entry:
    swapgs
    mov gs:[{USER_RSP}], rsp
    mov rsp, gs:[{FRAME_END}]
    push qword ptr gs:[{USER_RSP}]
    mov r11d, 0x202
    push r11
    mov [rsp - 16], rcx                             # RIP; CS and the error code are not needed
    sub rsp, 24
    push {SYSCALL}
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rsp, gs:[{KERNEL_RSP}]
    ret

# RDI: the thread.
.global leave_by_sysret
.balign 16
leave_by_sysret:
    mov gs:[{KERNEL_RSP}], rsp
    mov rsp, rdi
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    mov rcx, [rsp + 16]
    mov r11d, 0x202
    mov rsp, [rsp + 40]
    swapgs
    sysretq

# RDI: the thread.
.global leave_by_iret
.balign 16
leave_by_iret:
    mov gs:[{KERNEL_RSP}], rsp
    mov rsp, rdi
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    swapgs
    iretq
.text
