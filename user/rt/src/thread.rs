//! Threads: execution contexts with time of their own.
//!
//! A new thread sends a start-up message before its first instruction. One
//! servant for each processor, made when first needed, answers it with the
//! address of the code below; the same servant hears of the thread's
//! exceptions (`last_words`).

use crate::last_words;
use crate::portal::{Servant, stack};
use crate::sync::Mutex;
use crate::utcb::Utcb;
use crate::{calls, memory, selectors};
use abi::args::{CreateEc, CreateSc};
use abi::cap::{EXCEPTION_SELECTORS, RECALL, STARTUP};
use abi::utcb::offset;
use abi::{Mtd, Selector, Status};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bytes of a thread's stack.
const STACK_SIZE: usize = 128 * 1024;

/// Quantum that [`spawn`] gives, in microseconds.
pub const QUANTUM_US: u32 = 10_000;

/// Event base for each processor that has a servant for start-up.
static EVENTS: Mutex<Vec<(u16, u32)>> = Mutex::new(Vec::new());

/// A running thread. Dropping the handle does not stop it.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// Its execution context.
    pub ec: Selector,
    /// Its scheduling context.
    pub sc: Selector,
    /// The address of its message page.
    pub utcb: u64,
}

/// Starts a thread on processor `cpu` with this priority (1 to 127).
///
/// # Errors
/// What `create_ec`, `create_pt` and `create_sc` refuse; `OOM` without room.
pub fn spawn(
    cpu: u16,
    priority: u8,
    body: impl FnOnce() + Send + 'static,
) -> Result<Thread, Status> {
    spawn_with(cpu, priority, QUANTUM_US, body)
}

/// The same with a quantum of so many microseconds.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_with(
    cpu: u16,
    priority: u8,
    quantum_us: u32,
    body: impl FnOnce() + Send + 'static,
) -> Result<Thread, Status> {
    let event_base = events(cpu)?;
    let utcb = memory::reserve_page()?;
    let body: Box<dyn FnOnce() + Send> = Box::new(body);
    let body = Box::into_raw(Box::new(body));
    let (ec, sc) = (selectors::allocate(), selectors::allocate());
    let pd = crate::start::own_pd();
    calls::create_ec(&CreateEc {
        sel: ec,
        global: true,
        reserved: 0,
        utcb_in_caller: false,
        pd,
        cpu,
        utcb,
        stack: stack(STACK_SIZE, body as u64, utcb),
        event_base,
    })?;
    calls::create_sc(&CreateSc { sel: sc, owner: pd, ec, priority, quantum_us })?;
    Ok(Thread { ec, sc, utcb })
}

/// The event base for threads on a processor.
///
/// # Errors
/// What `create_ec` and `create_pt` refuse; `OOM` without room.
pub fn events(cpu: u16) -> Result<u32, Status> {
    let mut events = EVENTS.lock();
    if let Some((_, base)) = events.iter().find(|(known, _)| *known == cpu) {
        return Ok(*base);
    }
    let base = selectors::allocate_block(5);
    let servant = Servant::new(cpu, Box::new(first_message))?;
    for event in (0..EXCEPTION_SELECTORS).filter(|event| *event != RECALL) {
        let mtd = if event == STARTUP { Mtd::RSP } else { last_words::MTD };
        servant.portal(base + event, mtd, event)?;
    }
    let base = u32::try_from(base).map_err(|_| Status::BadPar)?;
    events.push((cpu, base));
    Ok(base)
}

/// Answers a thread's start-up message, or its exception.
fn first_message(event: u64, utcb: &mut Utcb) {
    if event == STARTUP {
        utcb.set(offset::RIP, entry());
        utcb.set_mtd(Mtd::RIP_LEN);
    } else {
        last_words::report(event, utcb);
    }
}

/// Where a new thread starts.
fn entry() -> u64 {
    #[cfg(target_os = "none")]
    {
        machine::rt_thread_entry as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

#[cfg(target_os = "none")]
mod machine {
    use alloc::boxed::Box;

    // RSP is the address of the two words here.
    core::arch::global_asm!(
        ".global rt_thread_entry",
        "rt_thread_entry:",
        "mov rdi, [rsp]",
        "mov rsi, [rsp + 8]",
        "xor ebp, ebp",
        "call {main}",
        "ud2",
        main = sym main,
    );

    // SAFETY: defined above; reached through the start-up message alone.
    unsafe extern "C" {
        pub(super) safe fn rt_thread_entry();
    }

    /// The first Rust function of a thread.
    extern "C" fn main(body: *mut Box<dyn FnOnce() + Send>, utcb: u64) -> ! {
        crate::own_page::set(utcb);
        // SAFETY: `spawn` leaked the box for this thread alone, which gets here
        // once.
        let body = unsafe { Box::from_raw(body) };
        body();
        crate::sync::stop()
    }
}
