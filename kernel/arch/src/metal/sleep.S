# Leaves a CPU's stack as it is until the CPU has power again.
#
# The registers that a function must keep go on the stack; all others are the caller's loss anyway.

.text
# sleep_leave(place: *mut u64, last: extern "C" fn() -> !)
# Keeps RSP in *place and calls `last`; returns when somebody calls sleep_return with what is kept.
.global sleep_leave
sleep_leave:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    and rsp, -16
    call rsi
    ud2

# sleep_return(rsp: u64) -> !
.global sleep_return
sleep_return:
    mov rsp, rdi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
