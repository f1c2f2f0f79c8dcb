//! The door of kernel memory: whoever takes some says first what it is for.
//!
//! [`pass`] stands before every frame taken from the pool, every object reserved in a slab and every charge to an
//! account. In the kernel it is nothing. On the host a test plans that the n-th allocation fails ([`Faults`]), so
//! every way out for lack of memory can be walked, and it can ask what each frame is used for
//! ([`Pool::frames_of`](crate::Pool::frames_of)).

use logic::Oom;

/// What memory is wanted for. A site is a purpose, not a line of code: two callers that want the same share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Site {
    /// Before the first program runs: pages of the machine, areas of a CPU, tests of this room.
    Boot,
    /// A charge to an account: no memory by itself, but it can be refused.
    Charge,
    /// Tables and leaves of an object space.
    CapTable,
    /// Tables of host and guest spaces.
    PageTable,
    /// The message page of a context.
    Utcb,
    /// The FPU registers of a context.
    Fpu,
    /// The frame of a kernel page.
    KernelPage,
    /// The page behind a guest's local APIC.
    AccessPage,
    /// Port bitmaps of a domain and the tables that lead to them.
    PortMap,
    /// The control block of a virtual CPU and what belongs to it.
    GuestBlock,
    /// Slab: accounts.
    Account,
    /// Slab: domains.
    Pd,
    /// Slab: execution contexts.
    Ec,
    /// Slab: scheduling contexts.
    Sc,
    /// Slab: portals.
    Pt,
    /// Slab: semaphores.
    Sm,
    /// Slab: kernel pages.
    Kp,
    /// Slab: virtual CPUs.
    Vcpu,
    /// Slab: ranges of ports.
    PortNode,
    /// Slab: interrupt tables.
    IrqTable,
}

impl Site {
    /// All of them, in the order of their numbers.
    pub const ALL: [Site; 20] = [
        Site::Boot,
        Site::Charge,
        Site::CapTable,
        Site::PageTable,
        Site::Utcb,
        Site::Fpu,
        Site::KernelPage,
        Site::AccessPage,
        Site::PortMap,
        Site::GuestBlock,
        Site::Account,
        Site::Pd,
        Site::Ec,
        Site::Sc,
        Site::Pt,
        Site::Sm,
        Site::Kp,
        Site::Vcpu,
        Site::PortNode,
        Site::IrqTable,
    ];
}

/// Lets an allocation through.
///
/// # Errors
/// Never in the kernel; on the host when a test planned so.
#[cfg(target_os = "none")]
#[inline(always)]
pub fn pass(_site: Site) -> Result<(), Oom> {
    Ok(())
}

/// Lets an allocation through.
///
/// # Errors
/// When a test planned so ([`Faults::fail`]).
#[cfg(not(target_os = "none"))]
#[inline]
pub fn pass(site: Site) -> Result<(), Oom> {
    plan::pass(site)
}

#[cfg(not(target_os = "none"))]
pub use plan::Faults;

#[cfg(not(target_os = "none"))]
mod plan {
    use std::cell::Cell;
    use std::thread_local;

    use logic::Oom;

    use super::Site;

    const SITES: usize = Site::ALL.len();

    thread_local! {
        /// Allocations until the one that fails; 0 for none.
        static LEFT: Cell<u64> = const { Cell::new(0) };
        /// All after that one fail, too.
        static FOR_GOOD: Cell<bool> = const { Cell::new(false) };
        static FAILED: Cell<Option<Site>> = const { Cell::new(None) };
        static REACHED: Cell<[u64; SITES]> = const { Cell::new([0; SITES]) };
    }

    /// What a test plans for the allocations of its thread.
    pub struct Faults;

    impl Faults {
        /// The `nth` allocation from now on fails (1: the next one); 0 takes the plan back.
        pub fn fail(nth: u64) {
            LEFT.set(nth);
            FOR_GOOD.set(false);
            FAILED.set(None);
        }

        /// The `nth` allocation from now on fails, and all after it until the plan is taken back.
        pub fn fail_from(nth: u64) {
            Self::fail(nth);
            FOR_GOOD.set(true);
        }

        /// Where the (first) planned failure happened, if it did.
        #[must_use]
        pub fn failed() -> Option<Site> {
            FAILED.get()
        }

        /// How often a site was passed or refused in this thread so far.
        #[must_use]
        pub fn reached(site: Site) -> u64 {
            REACHED.get().get(site as usize).copied().unwrap_or(0)
        }
    }

    pub(super) fn pass(site: Site) -> Result<(), Oom> {
        let mut reached = REACHED.get();
        if let Some(count) = reached.get_mut(site as usize) {
            *count += 1;
        }
        REACHED.set(reached);
        match LEFT.get() {
            0 => Ok(()),
            1 => {
                LEFT.set(FOR_GOOD.get().into());
                FAILED.set(FAILED.get().or(Some(site)));
                Err(Oom)
            }
            left => {
                LEFT.set(left - 1);
                Ok(())
            }
        }
    }
}
