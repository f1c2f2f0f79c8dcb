//! The one door from a selector to an object: kind and permission are checked together.

use abi::{Selector, Status};
use objects::{Cpu, Pd};
use sync::{Counted, Ref, SELECTORS, Token};

/// The object behind a selector of the calling domain, if it is a `T` and has all of `permissions`.
#[inline(always)]
pub fn object<'t, T: 'static>(
    cpu: &Cpu,
    token: &'t Token,
    selector: Selector,
    permissions: u8,
) -> Result<Ref<'t, T>, Status> {
    let current = cpu.current.as_ref().ok_or(Status::BadCap)?;
    let cap = current.pd.objects.lookup(selector, token).ok_or(Status::BadCap)?;
    if cap.permissions & permissions != permissions {
        return Err(Status::BadCap);
    }
    cap.object.downcast::<T>().ok_or(Status::BadCap)
}

/// As [`object`], as a reference that persists.
pub fn held<T: 'static>(
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

/// As [`domain`], for as long as this kernel entry lasts.
#[inline(always)]
pub fn domain_ref<'t>(
    cpu: &Cpu,
    token: &'t Token,
    selector: Selector,
) -> Result<(Ref<'t, Pd>, u8), Status> {
    let current = cpu.current.as_ref().ok_or(Status::BadCap)?;
    let cap = current.pd.objects.lookup(selector, token).ok_or(Status::BadCap)?;
    let pd = cap.object.downcast::<Pd>().ok_or(Status::BadCap)?;
    if cap.permissions & abi::cap::PD_CREATE == 0 || pd.is_dead() {
        return Err(Status::BadCap);
    }
    Ok((pd, cap.permissions))
}

/// The domain behind a selector with the right to act for it, and the permissions of the capability used.
pub fn domain(cpu: &Cpu, token: &Token, selector: Selector) -> Result<(Counted<Pd>, u8), Status> {
    let (pd, permissions) = domain_ref(cpu, token, selector)?;
    Ok((pd.hold().ok_or(Status::BadCap)?, permissions))
}

/// Refuses a selector that is in use or does not exist, for a new capability.
pub fn free_selector(pd: &Pd, selector: Selector) -> Result<(), Status> {
    let free = pd.objects.slot(selector).is_none_or(|slot| slot.is_free());
    if selector < SELECTORS && free { Ok(()) } else { Err(Status::BadCap) }
}
