//! Servants of two instructions and a bare fault: for measuring what the kernel costs and nothing
//! else.
//!
//! A servant that enters here needs no stack and keeps no register. It is an execution context
//! made by `create_ec` with any stack pointer; its portals enter at one of these addresses.

/// Entry of a servant that replies at once: the message goes back as it came.
#[must_use]
pub fn reply_entry() -> u64 {
    #[cfg(target_os = "none")]
    {
        machine::rt_bare_reply as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

/// Entry of a servant that replies with an empty message. The portal's identity must be the
/// address of the servant's message page.
#[must_use]
pub fn empty_reply_entry() -> u64 {
    #[cfg(target_os = "none")]
    {
        machine::rt_bare_empty as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

/// Entry of a servant that hears of [`undefined`] and lets the thread go on behind it. The
/// portal's identity must be the address of the servant's message page, its register groups RIP.
#[must_use]
pub fn skip_entry() -> u64 {
    #[cfg(target_os = "none")]
    {
        machine::rt_bare_skip as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

/// Executes UD2. The handler of the thread's exceptions must skip it.
#[inline]
pub fn undefined() {
    #[cfg(target_os = "none")]
    // SAFETY: UD2 changes nothing; a handler that skips its two bytes changes nothing but RIP, and
    // without a handler the thread ends here.
    unsafe {
        core::arch::asm!("ud2", options(nostack));
    }
}

#[cfg(target_os = "none")]
mod machine {
    use abi::utcb::offset;

    // Each fills RDI with the word of `reply`, which never returns.
    core::arch::global_asm!(
        ".global rt_bare_reply, rt_bare_empty, rt_bare_skip",
        "rt_bare_empty:",
        "mov qword ptr [rdi + {items}], 0",
        "jmp rt_bare_reply",
        "rt_bare_skip:",
        "add qword ptr [rdi + {rip}], 2",
        "rt_bare_reply:",
        "mov edi, {reply}",
        "syscall",
        "ud2",
        items = const offset::ITEMS,
        rip = const offset::RIP,
        reply = const crate::calls::reply_word(),
    );

    // SAFETY: defined above; entered by the kernel alone.
    unsafe extern "C" {
        pub(super) safe fn rt_bare_reply();
        pub(super) safe fn rt_bare_empty();
        pub(super) safe fn rt_bare_skip();
    }
}
