//! create_pd, create_ec, create_sc, create_pt, create_sm, create_kp, create_vcpu (abi.md 10).

use abi::args::{CreateEc, CreateKp, CreatePd, CreatePt, CreateSc, CreateSm, CreateVcpu};
use abi::cap::{EC_ALL, EC_PT, EC_SC, KP_CT, PT_ALL, SC_CT, SM_ALL, USER_TOP, VCPU_CT};
use abi::{CrdKind, Selector, Status};
use logic::addr::PAGE_BITS;
use objects::{Cpu, Ec, Kind, Kp, NewSlot, Pd, Trust};
use sync::{AnyCounted, Token};

use crate::authority::{caller_ref, domain, domain_ref, free_selector, held};
use crate::{Outcome, Status::Success, Words, oom, revoke, transfer};

/// The slot for a new capability, and the tables it lacks: nothing is changed yet.
fn new_slot(pd: &Pd, selector: Selector) -> Result<NewSlot<'_>, Status> {
    pd.new_slot(selector).map_err(oom)
}

/// Fills a slot that was found free. Should another CPU have been faster, the new object just goes again.
fn place(slot: NewSlot<'_>, object: AnyCounted, permissions: u8) -> Outcome {
    match slot.fill(object, permissions) {
        Ok(()) => Ok(Success.into()),
        Err(_) => Err(Status::BadCap),
    }
}

/// 2: a protection domain. The object range of the caller's CRD goes to its selectors from 0 on, in steps; nobody
/// else can name the domain until then.
#[inline]
pub fn create_pd(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let CreatePd { sel, passthrough, parent, crd } = CreatePd::decode(words);
    let own = caller_ref(cpu, token)?;
    let permissions = own.objects.lookup(parent, token).map_or(0, |cap| cap.permissions);
    let parent = domain_ref(cpu, token, parent)?;
    free_selector(&own, sel)?;
    let slot = new_slot(&own, sel)?;
    let passthrough = passthrough && parent.trust.passthrough;
    let trust = Trust { privileged: false, passthrough };
    let begun = cpu.state().and_then(|state| state.making.take());
    let pd = match begun {
        Some(pd) => pd,
        None => {
            // It may be repeated because memory was short: the domain of the first attempt is gone.
            if let Some(state) = cpu.state() {
                state.cursor = 0;
            }
            cpu.kernel.make_pd(&parent.account, trust).map_err(oom)?
        }
    };
    pd.set_trust_group(parent.trust_group());
    if crd.kind() == CrdKind::Object {
        let mut cursor = cpu.state().map_or(0, |state| state.cursor);
        if !transfer::first_objects(&own, &pd, crd, token, &mut cursor)? {
            if let Some(state) = cpu.state() {
                state.making = Some(pd);
            }
            return revoke::again(cpu, Some(cursor));
        }
        if let Some(state) = cpu.state() {
            state.cursor = 0;
        }
    }
    place(slot, pd.erase(), permissions)
}

/// 3: an execution context.
#[inline]
pub fn create_ec(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let args = CreateEc::decode(words);
    if !cpu.kernel.is_online(args.cpu.into()) {
        return Err(Status::BadCpu);
    }
    let pd = domain(cpu, token, args.pd)?;
    if args.utcb >= USER_TOP || args.reserved != 0 {
        return Err(Status::BadPar);
    }
    let own = caller_ref(cpu, token)?;
    free_selector(&own, args.sel)?;
    let slot = new_slot(&own, args.sel)?;
    let kind = if args.global { Kind::Global } else { Kind::Local };
    let viewer = if args.utcb_in_caller { own.hold() } else { Some(pd.clone()) };
    let page = args.utcb >> PAGE_BITS;
    let mapping = viewer.filter(|_| page != 0).map(|viewer| (viewer, page));
    let account = pd.account.clone();
    let on = usize::from(args.cpu);
    let ec =
        cpu.make_ec(&account, pd, kind, on, args.event_base, args.stack, mapping).map_err(oom)?;
    let done = place(slot, ec.clone().erase(), EC_ALL)?;
    cpu.settle_ec(&ec);
    Ok(done)
}

/// 4: a scheduling context; its thread is ready at once.
#[inline]
pub fn create_sc(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let CreateSc { sel, owner, ec, priority, quantum_us } = CreateSc::decode(words);
    let owner = domain_ref(cpu, token, owner)?;
    let ec = held::<Ec>(cpu, token, ec, EC_SC)?;
    if ec.kind != Kind::Global {
        return Err(Status::BadCap);
    }
    if priority == 0 || priority > abi::cap::PRIORITY_MAX || quantum_us == 0 {
        return Err(Status::BadPar);
    }
    let own = caller_ref(cpu, token)?;
    free_selector(&own, sel)?;
    let slot = new_slot(&own, sel)?;
    let sc = cpu.make_sc(&owner.account, ec, priority, quantum_us).map_err(oom)?;
    let done = place(slot, sc.clone().erase(), SC_CT)?;
    cpu.start(sc);
    Ok(done)
}

/// 5: a portal into a local context.
#[inline]
pub fn create_pt(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let CreatePt { sel, owner, ec, mtd, entry } = CreatePt::decode(words);
    let owner = domain_ref(cpu, token, owner)?;
    let ec = held::<Ec>(cpu, token, ec, EC_PT)?;
    if ec.kind != Kind::Local {
        return Err(Status::BadCap);
    }
    let own = caller_ref(cpu, token)?;
    free_selector(&own, sel)?;
    let slot = new_slot(&own, sel)?;
    let pt = cpu.kernel.make_pt(&owner.account, ec, mtd, entry).map_err(oom)?;
    place(slot, pt.erase(), PT_ALL)
}

/// 6: a semaphore.
#[inline]
pub fn create_sm(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let CreateSm { sel, owner, count } = CreateSm::decode(words);
    let owner = domain_ref(cpu, token, owner)?;
    let own = caller_ref(cpu, token)?;
    free_selector(&own, sel)?;
    let slot = new_slot(&own, sel)?;
    let sm = cpu.kernel.make_sm(&owner.account, count).map_err(oom)?;
    place(slot, sm.erase(), SM_ALL)
}

/// 16: a kernel page.
#[inline]
pub fn create_kp(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let CreateKp { sel, owner } = CreateKp::decode(words);
    let owner = domain_ref(cpu, token, owner)?;
    let own = caller_ref(cpu, token)?;
    free_selector(&own, sel)?;
    let slot = new_slot(&own, sel)?;
    let kp = cpu.kernel.make_kp(&owner.account).map_err(oom)?;
    place(slot, kp.erase(), KP_CT)
}

/// 19: a virtual CPU, in the object space of its domain.
#[inline]
pub fn create_vcpu(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let args = CreateVcpu::decode(words);
    if !cpu.kernel.is_online(args.cpu.into()) {
        return Err(Status::BadCpu);
    }
    let pd = domain(cpu, token, args.parent)?;
    let state = held::<Kp>(cpu, token, args.state, KP_CT)?;
    let vlapic = held::<Kp>(cpu, token, args.vlapic, KP_CT)?;
    let fpu = held::<Kp>(cpu, token, args.fpu, KP_CT)?;
    free_selector(&pd, args.sel)?;
    if !objects::machine::can_run_guests() {
        return Err(Status::BadFtr);
    }
    let slot = new_slot(&pd, args.sel)?;
    let on = usize::from(args.cpu);
    let vcpu = cpu.make_vcpu(&pd.account, on, pd.clone(), state, vlapic, fpu).map_err(oom)?;
    place(slot, vcpu.erase(), VCPU_CT)
}
