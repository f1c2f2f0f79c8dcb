# Into a guest and back. The guest's general registers are in memory, all its other state is in the control
# block. Offsets are those of GuestRegisters: rax 0, rcx 8, rdx 16,
# rbx 24, rbp 40, rsi 48, rdi 56, r8 64 .. r15 120. The guest's flags and stack come from the block.

.section .text.entry, "ax", @progbits

.macro save_callee
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
.endm

.macro restore_callee
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
.endm

# vmx_enter: rdi: registers, rsi: launched, rdx: where the VMCS's HOST_RSP is remembered
# eax 0: the guest ran or was refused, EXIT_REASON says more. 1: the instruction itself failed. All other
# registers but RSP are lost.
.global vmx_enter, vmx_exit
.balign 16
vmx_enter:
    push rdi
    cmp [rdx], rsp
    je 1f
    mov [rdx], rsp
    mov eax, {HOST_RSP}
    vmwrite rax, rsp
1:  test rsi, rsi
    mov rax, [rdi]
    mov rcx, [rdi + 8]
    mov rdx, [rdi + 16]
    mov rbx, [rdi + 24]
    mov rbp, [rdi + 40]
    mov rsi, [rdi + 48]
    mov r8, [rdi + 64]
    mov r9, [rdi + 72]
    mov r10, [rdi + 80]
    mov r11, [rdi + 88]
    mov r12, [rdi + 96]
    mov r13, [rdi + 104]
    mov r14, [rdi + 112]
    mov r15, [rdi + 120]
    mov rdi, [rdi + 56]
    jz 2f
    vmresume
    jmp 3f
2:  vmlaunch
3:  mov eax, 1
    pop rdi
    ret

# HOST_RIP: the CPU lands here with the stack as at VMLAUNCH, flags 2, interrupts off.
.balign 16
vmx_exit:
    push rdi
    mov rdi, [rsp + 8]
    mov [rdi], rax
    mov [rdi + 8], rcx
    mov [rdi + 16], rdx
    mov [rdi + 24], rbx
    mov [rdi + 40], rbp
    mov [rdi + 48], rsi
    mov [rdi + 64], r8
    mov [rdi + 72], r9
    mov [rdi + 80], r10
    mov [rdi + 88], r11
    mov [rdi + 96], r12
    mov [rdi + 104], r13
    mov [rdi + 112], r14
    mov [rdi + 120], r15
    pop qword ptr [rdi + 56]
    pop rdi
    xor eax, eax
    ret

# void svm_enter(rdi: registers, rsi: physical address of the VMCB, rdx: of the host's save block)
# Between CLGI and STGI nothing interrupts the host; in the guest physical interrupts exit because the
# host's IF is set (AMD APM vol. 2, 15.21.1). VMSAVE and VMLOAD move FS, GS, TR, LDTR, the system-call
# MSRs and KERNEL_GS_BASE; RAX, RSP, RIP and flags are VMRUN's.
.global svm_enter
.balign 16
svm_enter:
    save_callee
    push rdi
    push rdx
    clgi
    mov rax, rdx
    vmsave rax
    mov rax, rsi
    vmload rax
    mov rcx, [rdi + 8]
    mov rdx, [rdi + 16]
    mov rbx, [rdi + 24]
    mov rbp, [rdi + 40]
    mov rsi, [rdi + 48]
    mov r8, [rdi + 64]
    mov r9, [rdi + 72]
    mov r10, [rdi + 80]
    mov r11, [rdi + 88]
    mov r12, [rdi + 96]
    mov r13, [rdi + 104]
    mov r14, [rdi + 112]
    mov r15, [rdi + 120]
    mov rdi, [rdi + 56]
    sti
    nop                 # QEMU lets the shadow of STI reach into the guest
    vmrun rax
    cli
    vmsave rax
    mov rax, [rsp + 8]
    mov [rax + 8], rcx
    mov [rax + 16], rdx
    mov [rax + 24], rbx
    mov [rax + 40], rbp
    mov [rax + 48], rsi
    mov [rax + 56], rdi
    mov [rax + 64], r8
    mov [rax + 72], r9
    mov [rax + 80], r10
    mov [rax + 88], r11
    mov [rax + 96], r12
    mov [rax + 104], r13
    mov [rax + 112], r14
    mov [rax + 120], r15
    pop rax
    vmload rax
    stgi
    pop rdi
    restore_callee
    ret
.text
