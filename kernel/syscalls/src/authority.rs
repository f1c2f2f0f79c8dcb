//! The one door from a selector to an object: kind and permission are checked together.

use abi::{Selector, Status};
use objects::{Cpu, Ec, Kept, Kernel, Pd};
use sync::{Counted, Ref, SELECTORS, Token};

/// The object behind a selector of `current`'s domain, if it is a `T` and has all of `permissions`: as [`object`],
/// for calls that are at work on the running thread's state.
#[inline(always)]
pub fn named<'t, T: Kept>(
    current: &Ec,
    kernel: &'static Kernel,
    token: &'t Token,
    selector: Selector,
    permissions: u8,
) -> Option<Ref<'t, T>> {
    current.pd.objects.find(selector, token, permissions, T::slab(kernel))
}

/// The object behind a selector of the calling domain, if it is a `T` and has all of `permissions`.
#[inline(always)]
pub fn object<'t, T: Kept>(
    cpu: &Cpu,
    token: &'t Token,
    selector: Selector,
    permissions: u8,
) -> Result<Ref<'t, T>, Status> {
    let current = cpu.current.as_ref().ok_or(Status::BadCap)?;
    named(current, cpu.kernel, token, selector, permissions).ok_or(Status::BadCap)
}

/// As [`object`], as a reference that persists.
pub fn held<T: Kept>(
    cpu: &Cpu,
    token: &Token,
    selector: Selector,
    permissions: u8,
) -> Result<Counted<T>, Status> {
    object::<T>(cpu, token, selector, permissions)?.hold().ok_or(Status::BadCap)
}

/// The calling domain.
pub fn caller(cpu: &Cpu) -> Result<Counted<Pd>, Status> {
    cpu.current.as_ref().map(|current| current.pd.clone()).ok_or(Status::BadCap)
}

/// The calling domain, for as long as this kernel entry lasts.
#[inline(always)]
pub fn caller_ref<'t>(cpu: &Cpu, token: &'t Token) -> Result<Ref<'t, Pd>, Status> {
    cpu.current.as_ref().map(|current| current.pd.under(token)).ok_or(Status::BadCap)
}

/// The domain behind a selector with the right to act for it, for as long as this kernel entry lasts.
#[inline(always)]
pub fn domain_ref<'t>(
    cpu: &Cpu,
    token: &'t Token,
    selector: Selector,
) -> Result<Ref<'t, Pd>, Status> {
    let pd = object::<Pd>(cpu, token, selector, abi::cap::PD_CREATE)?;
    if pd.is_dead() { Err(Status::BadCap) } else { Ok(pd) }
}

/// As [`domain_ref`], as a reference that persists.
#[inline]
pub fn domain(cpu: &Cpu, token: &Token, selector: Selector) -> Result<Counted<Pd>, Status> {
    domain_ref(cpu, token, selector)?.hold().ok_or(Status::BadCap)
}

/// Refuses a selector that is in use or does not exist, for a new capability.
#[inline]
pub fn free_selector(pd: &Pd, selector: Selector) -> Result<(), Status> {
    let free = pd.objects.slot(selector).is_none_or(|slot| slot.is_free());
    if selector < SELECTORS && free { Ok(()) } else { Err(Status::BadCap) }
}
