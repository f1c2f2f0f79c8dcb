//! revoke (abi.md 6.6), in steps.

use abi::args::Revoke;
use abi::cap::ALL;
use abi::{CrdKind, Status};
use logic::addr::{is_user_block, units};
use objects::{Cpu, EFFORT, Effort, Pd, Resume, Target};
use sync::{Mark, SELECTORS, Token};

use crate::authority::{caller_ref, domain_ref};
use crate::{Outcome, Verdict, Words};

/// Table entries visited in one step.
const BUDGET: u64 = 128;
/// The cursor of a call that only waits for the dead.
const END: u64 = 1 << 50;
/// Orders of ranges that are revoked from both tables in one step.
const SMALL: u8 = 6;
/// Ranges of so many ports are revoked in one step.
const NODES: u32 = 8;
/// Where the cursor says that the guest table is being cleared.
const GUEST_PART: u64 = 1 << 40;

/// 7.
#[inline]
pub fn revoke(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let Revoke { own, remote, crd, pd } = Revoke::decode(words);
    let pd = if remote { domain_ref(cpu, token, pd)?.get() } else { caller_ref(cpu, token)?.get() };
    let cursor = cpu.state().map_or(0, |state| state.cursor);
    if cpu.has_dying() {
        // The loop takes the dead apart; what they hold may be part of what is revoked here.
        return again(cpu, Some(cursor));
    }
    let next = match crd.kind() {
        CrdKind::Null => None,
        CrdKind::Memory => {
            if !is_user_block(crd.base(), crd.order()) {
                return Err(Status::BadPar);
            }
            memory(cpu, pd, crd.base(), crd.order(), cursor)?
        }
        CrdKind::Port => {
            let first = crd.base() & !(units(crd.order()) - 1);
            let (first, count) =
                (first.min(1 << 16) as u32, units(crd.order()).min(1 << 16) as u32);
            let mut tree = cpu.kernel.ports.lock();
            // One node in a step; in a small range the few that can be there.
            let mut left = if count <= NODES { NODES + 1 } else { 1 };
            while left > 0 && tree.revoke(pd.identity(), first, count, crd.perms(), own).is_some() {
                left -= 1;
            }
            (left == 0).then_some(0)
        }
        CrdKind::Object => {
            let mark = &cpu.current.as_ref().ok_or(Status::Abort)?.under(token).get().mark;
            let range = (crd.base(), crd.order());
            let next = objects(cpu, token, pd, range, crd.perms(), own, mark, cursor);
            if next.is_none() {
                mark.clear();
            }
            next
        }
    };
    // What died by this is taken apart before the call returns.
    let next = next.or_else(|| cpu.has_dying().then_some(END));
    again(cpu, next)
}

/// The call is over, or goes on at a cursor.
pub fn again(cpu: &mut Cpu, next: Option<u64>) -> Outcome {
    let Some(state) = cpu.state() else { return Ok(Verdict::Done) };
    match next {
        Some(cursor) => {
            state.cursor = cursor;
            state.resume = Resume::Restart;
            Ok(Verdict::Done)
        }
        None => {
            state.cursor = 0;
            Ok(Status::Success.into())
        }
    }
}

fn memory(
    cpu: &mut Cpu,
    pd: &Pd,
    page: u64,
    order: u8,
    cursor: u64,
) -> Result<Option<u64>, Status> {
    let host = cursor < GUEST_PART;
    let (target, base) = if host { (Target::Host, 0) } else { (Target::Guest, GUEST_PART) };
    let mut at = cursor - base;
    let progress = pd.memory.unmap(target, page, order, &mut at, BUDGET);
    cpu.settle(pd.identity(), &progress);
    if progress.oom {
        return Err(Status::Oom);
    }
    if !progress.done {
        return Ok(Some(base + at));
    }
    let guest_too = host && pd.memory.has_guest_root();
    if guest_too && order <= SMALL {
        // One table entry or a few: not worth a step of its own.
        return memory(cpu, pd, page, order, GUEST_PART);
    }
    Ok(guest_too.then_some(GUEST_PART))
}

#[allow(clippy::too_many_arguments, reason = "the arguments of revoke")]
#[inline(always)]
fn objects(
    cpu: &mut Cpu,
    token: &Token,
    pd: &Pd,
    (base, order): (u64, u8),
    permissions: u8,
    own: bool,
    mark: &Mark,
    cursor: u64,
) -> Option<u64> {
    let first = base & !(units(order) - 1);
    let end = first.saturating_add(units(order)).min(SELECTORS);
    let mut at = first.saturating_add(cursor);
    let mut left = EFFORT;
    while at < end {
        let (selector, count) = pd.objects.next_page(at)?;
        if selector >= end {
            return None;
        }
        if count == 0 {
            return Some(selector - first);
        }
        at = selector;
        if let Some(slot) = pd.objects.slot(selector) {
            loop {
                let effort = cpu.revoke_step(slot, permissions & ALL, own, mark, token);
                if effort != Effort::Capability {
                    left = left.saturating_sub(effort.cost() - 1);
                    break;
                }
                left -= 1;
                if left == 0 {
                    return Some(at - first);
                }
            }
        }
        at += 1;
        left = left.saturating_sub(1);
        if left == 0 && at < end {
            return Some(at - first);
        }
    }
    None
}
