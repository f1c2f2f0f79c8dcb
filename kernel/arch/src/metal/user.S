# To user mode and back. A system call costs what is between `syscall_entry` and `ret`, and between
# `leave_by_sysret` and SYSRET; nothing is copied: registers go straight into and out of the Thread.
# (`run` in user.rs pushes RBX and RBP and calls; all other registers it declares as lost. RAX tells it who
# came back: 0 a system call, 1 a trap, 2 a system call that is settled.)

.section .text.entry, "ax", @progbits

# SYSCALL: RCX is the return address, R11 the flags, RSP still the user's (Intel SDM vol. 2, SYSCALL).
# RCX and R11 are lost for the program, so neither is stored: the way back makes them anew.
.global syscall_entry
.balign 16
syscall_entry:
    swapgs
    mov r11, gs:[{THREAD}]
    mov [r11 + {RSP}], rsp
    mov [r11 + {RIP}], rcx
    mov rsp, gs:[{KERNEL_RSP}]
    mov [r11 + {RAX}], rax
    mov [r11 + {RDX}], rdx
    mov [r11 + {RSI}], rsi
    mov [r11 + {RDI}], rdi
    mov [r11 + {R8}], r8
    mov [r11 + {R9}], r9
    mov [r11 + {R10}], r10
    mov eax, {QUICK_CALLS}
    bt eax, edi                                     # modulo 32
    jc quick_call
come_back_slowly:
    xor eax, eax
come_back:
    mov [r11 + {RBX}], rbx
    mov [r11 + {RBP}], rbp
    mov [r11 + {R12}], r12
    mov [r11 + {R13}], r13
    mov [r11 + {R14}], r14
    mov [r11 + {R15}], r15
    ret                                             # RDI is still the call's first word

# A call that the host may settle at once. It keeps RBX, RBP and R12 to R15, so they are not stored, and the
# loop does not go round: who wants this CPU to look after something interrupts it, and interrupts come as soon
# as the thread goes on. The stack is aligned: `run` called with it aligned, so here it is 8 off.
quick_call:
    shr rcx, 47                                     # SYSRET must not see such an address (`run`)
    jnz come_back_slowly
    cmp dil, {VCPU_CTRL}
    je quick_vcpu_ctrl
    mov byte ptr [r11 + {EXIT}], 0
    push r11
    mov rdi, gs:[{SEAT}]
    call [rdi]
quick_settled:
    pop r11
    mov rdi, [r11 + {RDI}]
    cmp eax, {QUICK_DONE}
    jne come_back
    mov rsp, [r11 + {RSP}]
    mov rcx, [r11 + {RIP}]
    mov rax, [r11 + {RAX}]
    mov rdx, [r11 + {RDX}]
    mov rsi, [r11 + {RSI}]
    mov r8, [r11 + {R8}]
    mov r9, [r11 + {R9}]
    mov r10, [r11 + {R10}]
    mov r11d, 0x202
    swapgs
    sysretq

# A virtual processor is run the long way; a poke has a door of its own.
quick_vcpu_ctrl:
    test edi, {SUB_OPERATION}
    jz come_back_slowly
    mov byte ptr [r11 + {EXIT}], 0
    push r11
    mov rdi, gs:[{SEAT}]
    call [rdi + 8]
    jmp quick_settled

# RDI: the thread.
.global leave_by_sysret
.balign 16
leave_by_sysret:
    mov gs:[{KERNEL_RSP}], rsp
    mov rsp, [rdi + {RSP}]
    mov rcx, [rdi + {RIP}]
    mov rax, [rdi + {RAX}]
    mov rdx, [rdi + {RDX}]
    mov rbx, [rdi + {RBX}]
    mov rbp, [rdi + {RBP}]
    mov rsi, [rdi + {RSI}]
    mov r8, [rdi + {R8}]
    mov r9, [rdi + {R9}]
    mov r10, [rdi + {R10}]
    mov r12, [rdi + {R12}]
    mov r13, [rdi + {R13}]
    mov r14, [rdi + {R14}]
    mov r15, [rdi + {R15}]
    mov rdi, [rdi + {RDI}]
    mov r11d, 0x202
    swapgs
    sysretq

# RDI: the thread.
.global leave_by_iret
.balign 16
leave_by_iret:
    mov gs:[{KERNEL_RSP}], rsp
    mov rsp, rdi
    pop_registers
    add rsp, 16
    swapgs
    iretq
.text
