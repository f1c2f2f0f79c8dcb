# The kernel starts the root program with RDI = its processor and RSP at the end of the UTCB, so the first thing is
# a stack of our own (docs/spec/hip.md).
    .intel_syntax noprefix
    .section .text.start, "ax", @progbits
    .global _start
_start:
    lea rsp, [rip + stack_end]
    xor ebp, ebp
    call hello
    ud2

    .bss
    .balign 4096
    .skip 16384
stack_end:
    .section .note.GNU-stack, "", @progbits
