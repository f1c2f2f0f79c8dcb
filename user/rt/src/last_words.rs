//! What a program says when one of its threads faults.

use crate::log::print_now;
use crate::portal::Servant;
use crate::sync::Mutex;
use crate::utcb::Utcb;
use abi::cap::{RECALL, ROOT_EVENT_BASE, STARTUP};
use abi::utcb::offset;
use abi::{Mtd, Status};
use alloc::boxed::Box;

/// What the exception portals ask for.
pub const MTD: Mtd = Mtd(Mtd::GPR.0 | Mtd::RSP.0 | Mtd::RIP_LEN.0 | Mtd::RFLAGS.0 | Mtd::QUAL.0);

/// Names of the exceptions (Intel SDM vol. 3, table 6-1).
const NAMES: [&str; 22] = [
    "#DE divide error",
    "#DB debug",
    "NMI",
    "#BP breakpoint",
    "#OF overflow",
    "#BR bound",
    "#UD invalid opcode",
    "#NM no device",
    "#DF double fault",
    "coprocessor overrun",
    "#TS invalid TSS",
    "#NP not present",
    "#SS stack fault",
    "#GP general protection",
    "#PF page fault",
    "reserved",
    "#MF x87",
    "#AC alignment",
    "#MC machine check",
    "#XM SIMD",
    "#VE virtualization",
    "#CP control protection",
];

/// What else is done once a thread of this program has stopped.
static AFTERWARDS: Mutex<Option<fn()>> = Mutex::new(None);

/// From now on `act` is called after the last words of a thread that faulted or panicked; it may run on
/// any thread, must not wait, and must not take a lock that others hold.
pub fn afterwards(act: fn()) {
    *AFTERWARDS.lock() = Some(act);
}

/// A thread of this program has stopped and said why.
pub(crate) fn ended() {
    let act = AFTERWARDS.try_lock().and_then(|act| *act);
    if let Some(act) = act {
        act();
    }
}

/// The name of an exception.
#[must_use]
pub fn name(vector: u64) -> &'static str {
    usize::try_from(vector).ok().and_then(|index| NAMES.get(index)).copied().unwrap_or("event")
}

/// Makes the first thread report its exceptions: portals at its event base.
///
/// # Errors
/// What `create_ec` and `create_pt` refuse.
pub fn install(cpu: u16) -> Result<(), Status> {
    let servant = Servant::new(cpu, Box::new(report))?;
    for event in (0..STARTUP).filter(|event| *event != RECALL) {
        servant.portal(ROOT_EVENT_BASE + event, MTD, event)?;
    }
    Ok(())
}

/// Prints an exception message, and answers so that the thread, one of this program, stops.
pub fn report(event: u64, utcb: &mut Utcb) {
    describe(event, utcb);
    ended();
    let halt: extern "C" fn() -> ! = halt;
    utcb.set(offset::RIP, halt as *const () as u64);
    // A stack pointer as after a call instruction; the frames above are lost
    // with the thread.
    let stack = utcb.get(offset::RSP) & !0xf;
    utcb.set(offset::RSP, stack.wrapping_sub(8));
    utcb.set_mtd(Mtd::RIP_LEN | Mtd::RSP);
}

/// Prints an exception message; the thread may be another program's.
pub fn describe(event: u64, utcb: &Utcb) {
    let at = |field| utcb.get(field);
    print_now(format_args!(
        "\nthread stopped: {} at rip {:#x} rsp {:#x} error {:#x} cr2 {:#x}\n\
         rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} rsi {:#x} rdi {:#x} rbp {:#x}\n",
        name(event),
        at(offset::RIP),
        at(offset::RSP),
        at(offset::QUAL0),
        at(offset::QUAL1),
        at(offset::RAX),
        at(offset::RBX),
        at(offset::RCX),
        at(offset::RDX),
        at(offset::RSI),
        at(offset::RDI),
        at(offset::RBP),
    ));
}

/// Where a faulted thread goes.
extern "C" fn halt() -> ! {
    crate::sync::stop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_name() {
        assert_eq!(name(14), "#PF page fault");
        assert_eq!(name(21), "#CP control protection");
        assert_eq!(name(u64::MAX), "event");
    }

    #[test]
    fn somebody_hears_of_a_thread_that_stopped() {
        static HEARD: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);
        ended();
        afterwards(|| {
            HEARD.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        });
        ended();
        assert_eq!(HEARD.load(core::sync::atomic::Ordering::Relaxed), 1);
    }
}
