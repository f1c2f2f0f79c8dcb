//! Moving capabilities through windows: what pd_ctrl delegate and typed items share (abi.md 6).

use abi::crd::ItemMeta;
use abi::{Crd, CrdKind, ItemKind, Status};
use logic::addr::{is_user_block, units};
use logic::delegation::{Transfer, window};
use logic::page_table::Rights;
use objects::{Cpu, Memory, PORTS, Pd, PortNode, PortTree, Source, Target};
use sync::{Ref, SELECTORS, Token, Tree};

use crate::oom;

/// Table entries visited in one step.
const BUDGET: u64 = 64;
/// Capabilities given in one step.
const CAPABILITIES: usize = 8;
/// What a new page of selectors counts as: it has to be zeroed.
const NEW_PAGE: usize = 8;
/// Bit of a cursor: something was given.
const GIVEN: u64 = 1 << 63;
/// Bit of a cursor: this is not the first step.
const BEGUN: u64 = 1 << 62;
/// Where a cursor counts the pages of the guest table.
const GUEST_PART: u64 = 1 << 40;

/// Who gives: a domain, or (for the first domain only) the kernel itself.
pub struct Giver<'a> {
    /// The giving domain.
    pub pd: &'a Pd,
    /// It may name the kernel as source.
    pub privileged: bool,
}

/// How a step ended.
pub enum Step {
    /// Done: the result for the receiver.
    Done {
        /// What it received.
        crd: Crd,
        /// The item's flags.
        flags: u64,
    },
    /// More to do; call again with the cursor as it is now.
    More,
}

/// One step of moving `send` (with `meta`) from `giver` to `to` through the receiver's two windows.
#[allow(clippy::too_many_arguments, reason = "an item, its two ends and the cursor")]
#[inline(always)]
pub fn item(
    cpu: &mut Cpu,
    token: &Token,
    giver: &Giver<'_>,
    to: Ref<'_, Pd>,
    send: Crd,
    meta: ItemMeta,
    windows: (Crd, Crd),
    cursor: &mut u64,
) -> Result<Step, Status> {
    if to.is_dead() {
        return Err(Status::BadCap);
    }
    let (translate_window, delegate_window) = windows;
    let flags = meta.flags();
    let mut fell_back = 0;
    match meta.kind() {
        ItemKind::Invalid => return Ok(Step::Done { crd: Crd::NULL, flags }),
        ItemKind::Translate if send.kind() == CrdKind::Memory => {
            let same = translate_window.kind() == CrdKind::Memory;
            return Ok(Step::Done { crd: if same { send } else { Crd::NULL }, flags });
        }
        ItemKind::Translate => {
            let crd = translate(cpu, token, giver.pd, to.get(), send, translate_window);
            return Ok(Step::Done { crd, flags });
        }
        ItemKind::TranslateElseDelegate if *cursor == 0 => {
            let crd = translate(cpu, token, giver.pd, to.get(), send, translate_window);
            if !crd.is_null() {
                return Ok(Step::Done { crd, flags });
            }
            fell_back = 1;
        }
        ItemKind::TranslateElseDelegate => fell_back = 1,
        ItemKind::Delegate => {}
    }
    let flags = flags | fell_back;
    let Some(what) = window(send, delegate_window, meta.hotspot()) else {
        return Ok(Step::Done { crd: Crd::NULL, flags });
    };
    let kernel = giver.privileged && meta.contains(ItemMeta::FROM_KERNEL);
    let crd = match what.kind {
        CrdKind::Memory => match memory(cpu, giver.pd, kernel, to.get(), what, meta, cursor)? {
            Some(crd) => crd,
            None => return Ok(Step::More),
        },
        CrdKind::Object => match objects(giver.pd, to.get(), what, token, cursor)? {
            Some(crd) => crd,
            None => return Ok(Step::More),
        },
        CrdKind::Port => match ports(cpu, giver.pd, kernel, to, what, meta, cursor)? {
            Some(crd) => crd,
            None => return Ok(Step::More),
        },
        CrdKind::Null => Crd::NULL,
    };
    Ok(Step::Done { crd, flags })
}

#[inline(always)]
fn memory(
    cpu: &mut Cpu,
    from: &Pd,
    kernel: bool,
    to: &Pd,
    what: Transfer,
    meta: ItemMeta,
    cursor: &mut u64,
) -> Result<Option<Crd>, Status> {
    let Transfer { source, destination, order, perms, .. } = what;
    if kernel {
        if !objects::machine::has_physical(source.saturating_add(units(order))) {
            return Err(Status::BadPar);
        }
    } else if !is_user_block(source, order) {
        return Err(Status::BadPar);
    }
    if !is_user_block(destination, order) {
        return Err(Status::BadPar);
    }
    let (host, guest) = (!meta.contains(ItemMeta::NO_HOST), meta.contains(ItemMeta::GUEST));
    if *cursor == 0 && !host {
        *cursor = GUEST_PART;
    }
    if *cursor >= GUEST_PART && !guest {
        return Ok(Some(what.result()));
    }
    let (target, base) =
        if *cursor < GUEST_PART { (Target::Host, 0) } else { (Target::Guest, GUEST_PART) };
    let mut at = *cursor - base;
    let rights = Rights::from_bits(perms);
    let window = objects::Transfer { source, page: destination, order, rights };
    let source: Option<&Memory> = (!kernel).then_some(&from.memory);
    let progress = to.memory.delegate(cpu.kernel, source, target, window, &mut at, BUDGET);
    cpu.settle(to.identity(), &progress);
    if progress.oom {
        return Err(Status::Oom);
    }
    *cursor = base + at;
    if !progress.done {
        return Ok(None);
    }
    if target == Target::Host && guest {
        *cursor = GUEST_PART;
        return Ok(None);
    }
    Ok(Some(what.result()))
}

fn objects(
    from: &Pd,
    to: &Pd,
    what: Transfer,
    token: &Token,
    cursor: &mut u64,
) -> Result<Option<Crd>, Status> {
    let count = units(what.order);
    let mut steps = 0;
    let mut at = *cursor & !(GIVEN | BEGUN);
    while at < count {
        let next = from.objects.next_page(what.source.saturating_add(at));
        let Some((selector, slots)) = next else { break };
        at = selector.saturating_sub(what.source);
        if at >= count {
            break;
        }
        if slots == 0 {
            *cursor = *cursor & GIVEN | BEGUN | at;
            return Ok(None);
        }
        let occupied = from.objects.slot(selector).filter(|slot| !slot.is_free());
        let target = what.destination.saturating_add(at);
        at += 1;
        if let Some(slot) = occupied
            && target < SELECTORS
        {
            let pages = to.objects.pages();
            let place = to.slot(target).map_err(oom)?;
            steps += (to.objects.pages() - pages) * NEW_PAGE;
            if let Some(tree) = Tree::lock(slot, token)
                && tree.delegate(place, what.perms, &to.objects, target)
            {
                *cursor |= GIVEN;
            }
        }
        steps += 1;
        if steps >= CAPABILITIES && at < count {
            *cursor = *cursor & GIVEN | BEGUN | at;
            return Ok(None);
        }
    }
    Ok(Some(if *cursor & GIVEN != 0 { what.result() } else { Crd::NULL }))
}

/// One step of giving a range of objects to a new domain, from selector 0 on (create_pd); whether it is done.
pub fn first_objects(
    from: &Pd,
    to: &Pd,
    crd: Crd,
    token: &Token,
    cursor: &mut u64,
) -> Result<bool, Status> {
    let receive = Crd::objects(0, crd.order(), 0x1f);
    let Some(what) = window(crd, receive, 0) else { return Ok(true) };
    Ok(objects(from, to, what, token, cursor)?.is_some())
}

/// One step: prepares the receiver's bitmaps, or gives one of the giver's ranges.
fn ports(
    cpu: &mut Cpu,
    from: &Pd,
    kernel: bool,
    to: Ref<'_, Pd>,
    what: Transfer,
    meta: ItemMeta,
    cursor: &mut u64,
) -> Result<Option<Crd>, Status> {
    let (host, guest) = (!meta.contains(ItemMeta::NO_HOST), meta.contains(ItemMeta::GUEST));
    let giver = if kernel { 0 } else { from.identity() };
    let base = what.source.min(1 << 16) as u32;
    let count = units(what.order).min(u64::from((1u32 << 16) - base)) as u32;
    let after = (*cursor as u32).max(base);
    let mut tree = cpu.kernel.ports.lock();
    let found = tree.next_source(giver, to.identity(), base, count, after);
    let Some((source, holds_some)) = found else {
        return Ok(Some(if *cursor & GIVEN != 0 { what.result() } else { Crd::NULL }));
    };
    let end = source.first + source.count;
    let fresh = to.prepare_ports(cpu.kernel.pool, host, guest).map_err(oom)?;
    if let Some(entry) = fresh {
        drop(tree);
        cpu.hang_ports(&to, entry);
    } else if holds_some && tree.is_taken(to.identity(), source.first, source.count) {
        *cursor = *cursor & GIVEN | u64::from(end);
    } else if grant(cpu.kernel, &mut tree, to, (giver, source), what.perms, (host, guest))? {
        *cursor = GIVEN | u64::from(end);
    } else {
        *cursor = *cursor & GIVEN | u64::from(end);
    }
    if fresh.is_none() && end >= base + count {
        // Nothing can be left behind the range's end.
        return Ok(Some(if *cursor & GIVEN != 0 { what.result() } else { Crd::NULL }));
    }
    *cursor |= BEGUN;
    Ok(None)
}

/// Gives a part of one node of `giver`, which the receiver does not hold; whether there was anything to give.
#[inline(always)]
fn grant(
    kernel: &'static objects::Kernel,
    tree: &mut PortTree,
    to: Ref<'_, Pd>,
    (giver, source): (u64, Source),
    most: u8,
    (host, guest): (bool, bool),
) -> Result<bool, Status> {
    let Source { first, count, depth, permissions } = source;
    let permissions = permissions & most;
    if permissions == 0 {
        return Ok(false);
    }
    let bytes = kernel.port_nodes.object_bytes() as u64;
    let charge = objects::Account::charge(&to.account, bytes).map_err(oom)?;
    let place = kernel.port_nodes.reserve().map_err(oom)?;
    let pd = Some(to.hold().ok_or(Status::BadCap)?);
    let node = PortNode::new(pd, first, count, depth + 1, host, guest, permissions, Some(charge));
    tree.insert(giver, place.fill(node));
    Ok(true)
}

/// The receiver's own name for what the item means, or null (abi.md 6.3).
fn translate(cpu: &Cpu, token: &Token, from: &Pd, to: &Pd, send: Crd, receive: Crd) -> Crd {
    if send.kind() != receive.kind() {
        return Crd::NULL;
    }
    let inside = |base: u64| base.wrapping_sub(receive.base()) < units(receive.order());
    match send.kind() {
        CrdKind::Object => {
            let Some(slot) = from.objects.slot(send.base()) else { return Crd::NULL };
            let Some(tree) = Tree::lock(slot, token) else { return Crd::NULL };
            let permissions = tree.permissions();
            match tree.find_in(&to.objects) {
                Some(base)
                    if from.identity() == to.identity() && base == send.base() && inside(base) =>
                {
                    send
                }
                Some(base) if inside(base) => Crd::objects(base, 0, permissions),
                _ => Crd::NULL,
            }
        }
        CrdKind::Port => {
            let Some(port) = u32::try_from(send.base()).ok().filter(|port| *port < PORTS) else {
                return Crd::NULL;
            };
            let tree = cpu.kernel.ports.lock();
            if from.identity() == to.identity() {
                let is_there = tree.find(from.identity(), port).is_some();
                return if is_there && inside(send.base()) { send } else { Crd::NULL };
            }
            match tree.find_above(from.identity(), to.identity(), port) {
                Some((base, count, permissions)) if inside(base.into()) => {
                    let order = logic::addr::order_for(count.into()).min(receive.order());
                    Crd::ports(base.into(), order, permissions)
                }
                _ => Crd::NULL,
            }
        }
        CrdKind::Memory | CrdKind::Null => Crd::NULL,
    }
}
