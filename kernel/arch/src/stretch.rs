//! How long this kernel keeps interrupts off: an instrument that only a kernel built with the feature `stretch` has.
//!
//! A stretch begins where the CPU comes into the kernel, or closes a window for interrupts in the middle of long work;
//! it ends where the CPU leaves, idles, or opens such a window. It belongs to what the kernel is busy with: a call,
//! by its number, or one of the labels below. Kept is the longest of each, over all CPUs. Without the feature every
//! function here is empty, and no kernel pays for it.

pub use abi::log::{STRETCH_EXCEPTION, STRETCH_GUEST, STRETCH_INTERRUPT, STRETCH_LABELS};

#[cfg(feature = "stretch")]
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[cfg(feature = "stretch")]
use crate::MAX_CPUS;

/// The stretch that a CPU is in.
#[cfg(feature = "stretch")]
struct Running {
    /// TSC at its beginning, 0 for none.
    since: AtomicU64,
    label: AtomicU64,
}

#[cfg(feature = "stretch")]
static RUNNING: [Running; MAX_CPUS] =
    [const { Running { since: AtomicU64::new(0), label: AtomicU64::new(NOTHING) } }; MAX_CPUS];

/// Label of what is not measured: the time before the first program runs.
#[cfg(feature = "stretch")]
const NOTHING: u64 = u64::MAX;

#[cfg(feature = "stretch")]
static LONGEST: [AtomicU64; STRETCH_LABELS] = [const { AtomicU64::new(0) }; STRETCH_LABELS];

/// Interrupts are off from here on, for the sake of `label`.
#[inline(always)]
pub fn begin(label: u8) {
    #[cfg(feature = "stretch")]
    {
        let mine = &RUNNING[crate::cpu_number() % MAX_CPUS];
        mine.label.store(label.into(), Relaxed);
        mine.since.store(crate::now(), Relaxed);
    }
    #[cfg(not(feature = "stretch"))]
    let _ = label;
}

/// The same stretch is about something else: the call that is repeated, not the interrupt that came in between.
#[inline(always)]
pub fn relabel(label: u8) {
    #[cfg(feature = "stretch")]
    RUNNING[crate::cpu_number() % MAX_CPUS].label.store(label.into(), Relaxed);
    #[cfg(not(feature = "stretch"))]
    let _ = label;
}

/// Interrupts are let in here.
#[inline(always)]
pub fn end() {
    #[cfg(feature = "stretch")]
    {
        let mine = &RUNNING[crate::cpu_number() % MAX_CPUS];
        let since = mine.since.swap(0, Relaxed);
        let longest = LONGEST.get(mine.label.load(Relaxed) as usize);
        if since != 0
            && let Some(longest) = longest
        {
            longest.fetch_max(crate::now().wrapping_sub(since), Relaxed);
        }
    }
}

/// The window is closed again: a new stretch of the same work.
#[inline(always)]
pub fn again() {
    #[cfg(feature = "stretch")]
    RUNNING[crate::cpu_number() % MAX_CPUS].since.store(crate::now(), Relaxed);
}

/// The longest stretch of a label so far, in TSC ticks; `None` where nothing is measured.
#[must_use]
pub fn longest(label: u64) -> Option<u64> {
    #[cfg(feature = "stretch")]
    return LONGEST.get(usize::try_from(label).ok()?).map(|longest| longest.load(Relaxed));
    #[cfg(not(feature = "stretch"))]
    {
        let _ = label;
        None
    }
}
