//! Servants: threads without time of their own that answer messages.
//!
//! A servant's stack starts with two words, its handler and its UTCB. The
//! kernel does not reset a servant's stack pointer between messages: it is what
//! it was at the last `reply`, so the loop below restores it first.

use crate::utcb::Utcb;
use crate::{calls, memory, selectors};
use abi::args::{CreateEc, CreatePt};
use abi::{Mtd, Selector, Status};
use alloc::boxed::Box;

/// What a servant does with a message: the portal's identity word, and the
/// message page in which the answer goes back.
pub type Handler = Box<dyn FnMut(u64, &mut Utcb) + Send>;

/// Bytes of a servant's stack.
const STACK_SIZE: usize = 64 * 1024;

/// A servant on one processor. It lives as long as the program.
#[derive(Debug)]
pub struct Servant {
    ec: Selector,
    utcb: u64,
}

impl Servant {
    /// Makes a servant on processor `cpu`.
    ///
    /// # Errors
    /// What `create_ec` refuses; `OOM` without room.
    pub fn new(cpu: u16, handler: Handler) -> Result<Self, Status> {
        Self::with_events(cpu, 0, handler)
    }

    /// Makes a servant whose own exceptions go to the portals from
    /// `event_base`.
    ///
    /// # Errors
    /// What `create_ec` refuses; `OOM` without room.
    pub fn with_events(cpu: u16, event_base: u32, handler: Handler) -> Result<Self, Status> {
        Self::in_domain(crate::start::own_pd(), cpu, event_base, handler)
    }

    /// Makes a servant that runs in another domain, which must have the
    /// program's image and heap mapped at the same addresses
    /// ([`crate::start::image`]). The handler's system calls are that domain's.
    ///
    /// # Errors
    /// What `create_ec` refuses; `OOM` without room.
    pub fn in_domain(
        pd: Selector,
        cpu: u16,
        event_base: u32,
        handler: Handler,
    ) -> Result<Self, Status> {
        let utcb = memory::reserve_page()?;
        let handler = Box::into_raw(Box::new(handler)) as u64;
        let stack = stack(STACK_SIZE, handler, utcb);
        let ec = selectors::allocate();
        calls::create_ec(&CreateEc {
            sel: ec,
            global: false,
            reserved: 0,
            utcb_in_caller: false,
            pd,
            cpu,
            utcb,
            stack,
            event_base,
        })?;
        Ok(Self { ec, utcb })
    }

    /// Its execution context.
    #[must_use]
    pub const fn ec(&self) -> Selector {
        self.ec
    }

    /// The address of its message page.
    #[must_use]
    pub const fn utcb(&self) -> u64 {
        self.utcb
    }

    /// Makes a portal to it at selector `sel`.
    ///
    /// # Errors
    /// What `create_pt` and `pt_ctrl` refuse.
    pub fn portal(&self, sel: Selector, mtd: Mtd, id: u64) -> Result<(), Status> {
        let owner = crate::start::own_pd();
        calls::create_pt(&CreatePt { sel, owner, ec: self.ec, mtd, entry: entry() })?;
        calls::set_portal_id(sel, id)
    }

    /// Makes a portal to it at a free selector.
    ///
    /// # Errors
    /// What `create_pt` and `pt_ctrl` refuse.
    pub fn new_portal(&self, mtd: Mtd, id: u64) -> Result<Selector, Status> {
        let sel = selectors::allocate();
        self.portal(sel, mtd, id)?;
        Ok(sel)
    }

    /// Opens the servant's receive windows, so that messages may carry typed
    /// items.
    pub fn set_windows(&self, translate: abi::Crd, delegate: abi::Crd) {
        #[cfg(target_os = "none")]
        if let Some(page) = core::ptr::NonNull::new(self.utcb as *mut u64) {
            // SAFETY: create_ec has mapped the page at this address for good;
            // the two words belong to the servant's owner until a message
            // arrives.
            unsafe { Utcb::at(page) }.set_windows(translate, delegate);
        }
        #[cfg(not(target_os = "none"))]
        let _ = (translate, delegate);
    }
}

/// A stack for ever, with two words at its top: the stack pointer to start
/// with, a multiple of 16, is the address of the first.
pub(crate) fn stack(bytes: usize, first: u64, second: u64) -> u64 {
    let words = Box::leak(alloc::vec![[0u64; 2]; bytes / 16].into_boxed_slice());
    let pad = usize::from(!(words.as_ptr() as u64).is_multiple_of(16));
    let flat = words.as_flattened_mut();
    let top = flat.len() - 4 + pad;
    flat[top] = first;
    flat[top + 1] = second;
    &raw const flat[top] as u64
}

/// Where a portal's messages start.
#[must_use]
fn entry() -> u64 {
    #[cfg(target_os = "none")]
    {
        machine::rt_portal_entry as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

#[cfg(target_os = "none")]
mod machine {
    use super::Handler;
    use crate::utcb::Utcb;
    use core::ptr::NonNull;

    // RSP is the address of the two words here; RDI is the portal's identity.
    core::arch::global_asm!(
        ".global rt_portal_entry",
        "rt_portal_entry:",
        "mov rbx, rsp",
        "mov rsi, [rsp]",
        "mov rdx, [rsp + 8]",
        "xor ebp, ebp",
        "call {dispatch}",
        "mov rsp, rbx",
        "mov edi, {reply}",
        "syscall",
        "ud2",
        dispatch = sym dispatch,
        reply = const crate::calls::reply_word(),
    );

    // SAFETY: defined above; called by the kernel alone.
    unsafe extern "C" {
        pub(super) safe fn rt_portal_entry();
    }

    /// Hands one message to its handler.
    extern "C" fn dispatch(id: u64, handler: *mut Handler, utcb: u64) {
        crate::own_page::set(utcb);
        let Some(page) = NonNull::new(utcb as *mut u64) else { return };
        // SAFETY: `Servant::with_events` leaked the handler and gave it to this
        // servant alone, which serves one message at a time.
        let handler = unsafe { &mut *handler };
        // SAFETY: create_ec mapped the page for good; it is this thread's.
        let mut utcb = unsafe { Utcb::at(page) };
        handler(id, &mut utcb);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_start_with_their_words() {
        for bytes in [64, 4096, 65536] {
            let top = stack(bytes, 11, 22);
            assert_eq!(top % 16, 0);
            // SAFETY: `stack` leaked memory with two words at the address.
            assert_eq!(unsafe { *(top as *const [u64; 2]) }, [11, 22]);
        }
    }
}
