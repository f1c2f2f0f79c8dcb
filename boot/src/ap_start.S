# Another processor (or the first one after resume): from 16-bit real mode to the same door.
#
# Copied to the first page of a low block (docs/memory-layout.md) by `arch`, which fills in the words
# at the end. Runs at any page below 1 MiB; the page table it loads maps 2 MiB 1:1 at 0 for it, and the
# kernel at its link address. Real mode to long mode in one step: AMD64 vol. 2, 14.6; Intel SDM vol. 3,
# 9.8.5. INIT leaves CS = page << 8, IP = 0 (Intel SDM vol. 3, 8.4.3).

.section .rodata.ap_start, "a", @progbits
.balign 16
.global ap_start, ap_start_end, ap_start_words
.code16
ap_start:
    cli
    cld
    mov ax, cs
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16                    # lgdtl [ap_gdt_pointer]
    .short ap_gdt_pointer - ap_start
    mov eax, 0xa0                                   # CR4: PAE, PGE
    mov cr4, eax
    .byte 0x66, 0xa1                                # mov eax, [ap_cr3]
    .short ap_cr3 - ap_start
    mov cr3, eax
    mov ecx, 0xc0000080                             # EFER: LME, NXE
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80010033                             # CR0: PG, WP, NE, ET, MP, PE
    mov cr0, eax
    .byte 0x66, 0xff, 0x2e                          # ljmpl *[ap_far]
    .short ap_far - ap_start

.code64
.global ap_long
ap_long:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov rsp, [rip + ap_stack]
    mov rdi, [rip + ap_argument]
    xor ebp, ebp
    push rbp
    push rbp
    mov rbp, rsp
    call [rip + ap_entry]
7:  hlt
    jmp 7b

.balign 8
ap_gdt:
    .quad 0
    .quad 0x00209b0000000000                        # 0x08: 64-bit code, ring 0
ap_start_words:
ap_gdt_pointer:
    .short 15
    .long ap_gdt - ap_start                         # plus the block's address
    .short 0
ap_far:
    .long ap_long - ap_start                        # plus the block's address
    .short 8
    .short 0
ap_cr3:
    .quad 0                                         # below 4 GiB
ap_stack:
    .quad 0
ap_entry:
    .quad 0
ap_argument:
    .quad 0
ap_start_end:
.text
