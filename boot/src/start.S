# First processor: from a Multiboot loader in 32-bit mode to `kernel_main` at its link address.
#
# Runs wherever the loader put the image (any 2 MiB boundary below 1 GiB): every address is the load
# base plus a distance that linker.ld computes. Leaves a page table with three things in it: 2 MiB 1:1
# around this code, 2 MiB 1:1 at 0, and the image at its link address. `arch` replaces it.
#
# Multiboot 1 (3.2) and 2 (3.3) promise: EAX magic, EBX information, paging off, no stack, A20 on.

.section .boot, "ax", @progbits

# Multiboot 2 header (specification 2.0, 3.1).
.balign 8
multiboot2_header:
    .long 0xe85250d6
    .long 0                                         # i386, 32-bit protected mode
    .long multiboot2_end - multiboot2_header
    .long 0x100000000 - 0xe85250d6 - (multiboot2_end - multiboot2_header)
    # relocatable (3.1.11): from, to, alignment, prefer the lowest address
    .short 10, 0
    .long 24, 0x200000, 0x40000000, 0x200000, 1
    # modules on page boundaries (3.1.9): the root task is mapped in place
    .short 6, 0
    .long 8
    # frame buffer (3.1.10), if there is one: 1024 by 768 pixels of 32 bits, for the log
    .short 5, 1
    .long 20, 1024, 768, 32
    .balign 8
    # end
    .short 0, 0
    .long 8
multiboot2_end:

# Multiboot 1 header (0.6.96, 3.1): modules on page boundaries, memory information.
.balign 4
multiboot1_header:
    .long 0x1badb002
    .long 3
    .long 0x100000000 - 0x1badb002 - 3

.balign 8
boot_gdt:
    .quad 0
    .quad 0x00209b0000000000                        # 0x08: 64-bit code, ring 0

# Distances from the load base (this section opens the image).
.set to_base, multiboot2_header - boot_here
.set at_no_long_mode, no_long_mode - multiboot2_header
.set at_no_execute_disable, no_execute_disable - multiboot2_header
.set at_boot_gdt, boot_gdt - multiboot2_header
.set at_boot_long, boot_long - multiboot2_header

.code32
.global boot_start
boot_start:
    cli
    cld
    mov edi, eax                                    # the magic number, for kernel_main
    # There is no stack yet and no way to read EIP without one: borrow one word of the loader's
    # information block and give it back.
    mov edx, [ebx]
    lea esp, [ebx + 4]
    call boot_here
boot_here:
    pop ebp
    mov [ebx], edx
    lea ebp, [ebp + to_base]                        # EBP: load base
    lea esp, [ebp + boot_stack_top_offset]
    push ebx

    # Long mode and no-execute pages, or a last word on COM1.
    lea esi, [ebp + at_no_long_mode]
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb boot_refuse
    mov eax, 0x80000001
    cpuid
    bt edx, 29                                      # LM
    jnc boot_refuse
    lea esi, [ebp + at_no_execute_disable]
    bt edx, 20                                      # NX
    jnc boot_refuse

    # Tables (zeroed with the rest of .bss by the loader).
    lea eax, [ebp + boot_low_pdpt_offset + 3]
    mov [ebp + boot_pml4_offset], eax
    lea eax, [ebp + boot_high_pdpt_offset + 3]
    mov [ebp + boot_pml4_offset + 511 * 8], eax
    lea eax, [ebp + boot_low_pd_offset + 3]
    mov [ebp + boot_low_pdpt_offset], eax
    lea eax, [ebp + boot_high_pd_offset + 3]
    mov [ebp + boot_high_pdpt_offset + 510 * 8], eax
    # 2 MiB 1:1 at 0 and around this code: present, writable, large.
    mov dword ptr [ebp + boot_low_pd_offset], 0x83
    mov eax, ebp
    shr eax, 21
    lea edx, [ebp + 0x83]
    mov [ebp + eax * 8 + boot_low_pd_offset], edx
    # The image at its link address.
    xor ecx, ecx
2:  mov [ebp + ecx * 8 + boot_high_pd_offset], edx
    add edx, 0x200000
    inc ecx
    cmp ecx, offset boot_large_pages
    jb 2b

    mov eax, 0xa0                                   # CR4: PAE, PGE
    mov cr4, eax
    lea eax, [ebp + boot_pml4_offset]
    mov cr3, eax
    mov ecx, 0xc0000080                             # EFER: LME, NXE
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80010033                             # CR0: PG, WP, NE, ET, MP, PE
    mov cr0, eax

    pop ebx
    lea eax, [ebp + at_boot_gdt]
    push 0
    push eax
    push 15 << 16                                   # limit: two descriptors
    lgdt [esp + 2]
    lea eax, [ebp + at_boot_long]
    push 8
    push eax
    retf

# ESI: text. Says it on COM1 (8 bits, no parity) and stops.
boot_refuse:
    mov dx, 0x3fb
    mov al, 3
    out dx, al
3:  lodsb
    test al, al
    jz 5f
    mov ah, al
    mov dx, 0x3fd
    mov ecx, 100000
4:  in al, dx
    test al, 0x20
    loopz 4b
    mov al, ah
    mov dx, 0x3f8
    out dx, al
    jmp 3b
5:  hlt
    jmp 5b

no_long_mode:
    .asciz "hematite: this processor has no 64-bit mode\r\n"
no_execute_disable:
    .asciz "hematite: this processor has no no-execute pages (or firmware hides them)\r\n"

.code64
boot_long:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset boot_stack_top
    mov esi, ebx                                    # rdi: magic, rsi: information, rdx: load base
    mov edi, edi
    mov edx, ebp
    xor ebp, ebp                                    # the backtrace ends here
    push rbp
    push rbp
    mov rbp, rsp
    mov rax, offset kernel_main
    call rax
6:  hlt
    jmp 6b

# The page below the stack stays unmapped once `arch` has built the final tables.
.section .bss.page, "aw", @nobits
.balign 4096
.global boot_stack_guard
boot_stack_guard:
    .skip 4096
    .skip 0x20000
.global boot_stack_top
boot_stack_top:
.global boot_pml4, boot_low_pdpt, boot_low_pd, boot_high_pdpt, boot_high_pd
boot_pml4:
    .skip 4096
boot_low_pdpt:
    .skip 4096
boot_low_pd:
    .skip 4096
boot_high_pdpt:
    .skip 4096
boot_high_pd:
    .skip 4096
.text
