//! Making objects: everything is charged and reserved first, then filled, so that a refusal leaves nothing behind.

use abi::Mtd;
use logic::Oom;
use logic::addr::PAGE_SIZE;
use sync::{Counted, Site, Slab};

use crate::{
    Account, Charge, Cpu, Ec, EcState, Kernel, Kind, Kp, OwnedFrames, Pd, PortNode, Pt, Resume, Sc,
    ScState, Sm, Trust, Vcpu, VcpuState,
};

/// What the first domain, thread and time are made of.
pub struct RootParts {
    /// The domain, privileged and passthrough.
    pub pd: Counted<Pd>,
    /// Its thread, not yet running.
    pub ec: Counted<Ec>,
    /// Its time.
    pub sc: Counted<Sc>,
}

fn pay<T: Send + Sync>(slab: &Slab<T>, account: &Counted<Account>) -> Result<Charge, Oom> {
    Account::charge(account, slab.object_bytes() as u64)
}

impl Kernel {
    /// A semaphore.
    #[inline]
    pub fn make_sm(
        &'static self,
        account: &Counted<Account>,
        count: u64,
    ) -> Result<Counted<Sm>, Oom> {
        let charge = pay(&self.sms, account)?;
        Ok(self.sms.reserve()?.fill(Sm::new(count, charge)))
    }

    /// A portal into a local context.
    pub fn make_pt(
        &'static self,
        account: &Counted<Account>,
        ec: Counted<Ec>,
        mtd: Mtd,
        entry: u64,
    ) -> Result<Counted<Pt>, Oom> {
        let charge = pay(&self.pts, account)?;
        Ok(self.pts.reserve()?.fill(Pt::new(ec, mtd, entry, charge)))
    }

    /// A kernel page of zeros.
    #[inline]
    pub fn make_kp(&'static self, account: &Counted<Account>) -> Result<Counted<Kp>, Oom> {
        let charge = pay(&self.kps, account)?;
        let frames = OwnedFrames::new(self.pool, account, 0, Site::KernelPage)?;
        Ok(self.kps.reserve()?.fill(Kp::new(frames, charge)))
    }

    /// A domain under the account of its creator.
    pub fn make_pd(
        &'static self,
        creator: &Counted<Account>,
        trust: Trust,
    ) -> Result<Counted<Pd>, Oom> {
        let charge = pay(&self.pds, creator)?;
        let account = self.accounts.reserve()?.fill(Account::child(creator.clone()));
        let place = self.pds.reserve()?;
        Ok(place.fill(Pd::new(self.pool, account, trust, charge)?))
    }

    /// The kernel's own node in the tree of ports.
    pub fn own_ports(&'static self) -> Result<(), Oom> {
        let node = PortNode::new(None, 0, crate::PORTS, 0, true, true, 7, None);
        let node = self.port_nodes.reserve()?.fill(node);
        self.ports.lock().own_all(node);
        Ok(())
    }
}

impl Cpu {
    /// A context on CPU `cpu`. `mapping`: the domain and page where its UTCB is seen; map it before, with the result's
    /// frame, if that can fail.
    #[allow(clippy::too_many_arguments, reason = "the arguments of create_ec")]
    pub fn make_ec(
        &mut self,
        account: &Counted<Account>,
        pd: Counted<Pd>,
        kind: Kind,
        cpu: usize,
        event_base: u32,
        stack: u64,
        mapping: Option<(Counted<Pd>, u64)>,
    ) -> Result<Counted<Ec>, Oom> {
        let kernel = self.kernel;
        let charge = pay(&kernel.ecs, account)?;
        let utcb = OwnedFrames::new(kernel.pool, account, 0, Site::Utcb)?;
        let fpu = OwnedFrames::unscrubbed(kernel.pool, account, arch::fpu_order(), Site::Fpu)?;
        arch::fpu_fresh(fpu.page());
        let place = kernel.ecs.reserve()?;
        if let Some((pd, page)) = &mapping {
            let rights = logic::page_table::Rights::READ.or(logic::page_table::Rights::WRITE);
            self.map_kernel_page(pd, *page, utcb.frame(), rights)?;
        }
        let resume = if kind == Kind::Global { Resume::Startup } else { Resume::User };
        let cell = self.key.cell(cpu, EcState::new(resume, stack));
        let ec = Ec::new(pd, kind, event_base, mapping, utcb, fpu, cell, charge);
        Ok(place.fill(ec))
    }

    /// Makes a finished context able to run: it holds itself until it is killed, and its domain knows it.
    /// Its home CPU must be this one, or it must not be reachable by anybody else yet.
    pub fn settle_ec(&mut self, ec: &Counted<Ec>) {
        let _ = ec.pd.ecs.lock().push_back(ec.clone());
        if ec.pd.is_dead() {
            // The domain's contexts may have been killed before this one was among them.
            return self.kill_ec(ec.clone());
        }
        if ec.cpu() == self.id {
            self.adopt(ec);
        } else if let Some(remote) = self.kernel.remotes.get(ec.cpu()) {
            let cpu = ec.cpu();
            remote.leave(|work| drop(work.new_ecs.push_back(ec.clone())));
            self.tell(cpu);
        }
    }

    /// The home CPU's part of `settle_ec`.
    pub(crate) fn adopt(&mut self, ec: &Counted<Ec>) {
        if ec.is_dead() {
            return;
        }
        let key = &mut self.key;
        let _ = ec.clone().park(|ec| {
            let kind = ec.kind;
            let state = ec.cell.open(key)?;
            Some(if kind == Kind::Local { &mut state.parked } else { &mut state.top })
        });
    }

    /// A scheduling context; start it with [`Cpu::start`].
    pub fn make_sc(
        &mut self,
        account: &Counted<Account>,
        ec: Counted<Ec>,
        priority: u8,
        quantum_us: u32,
    ) -> Result<Counted<Sc>, Oom> {
        let kernel = self.kernel;
        let charge = pay(&kernel.scs, account)?;
        let quantum = (u64::from(quantum_us) * arch::tsc_khz() / 1000).max(1);
        let state = ScState { left: quantum, waiting: None };
        let cell = self.key.cell(ec.cpu(), state);
        let sc = Sc {
            ec,
            priority,
            quantum,
            dead: false.into(),
            wake_status: 0.into(),
            due: crate::Due::never(),
            used: 0.into(),
            cell,
            charge,
        };
        Ok(kernel.scs.reserve()?.fill(sc))
    }

    /// A virtual CPU on CPU `cpu`; its pages are made ready for the first entry.
    pub fn make_vcpu(
        &mut self,
        account: &Counted<Account>,
        cpu: usize,
        pd: Counted<Pd>,
        state: Counted<Kp>,
        vlapic: Counted<Kp>,
        fpu: Counted<Kp>,
    ) -> Result<Counted<Vcpu>, Oom> {
        let kernel = self.kernel;
        let charge = pay(&kernel.vcpus, account)?;
        let blocks = Account::charge(account, PAGE_SIZE * arch::Guest::FRAMES)?;
        let place = kernel.vcpus.reserve()?;
        let access = pd.spare_access_page(kernel.pool)?;
        let guest = arch::Guest::new(kernel.pool)?;
        // The last thing that can fail; the access page is there by then.
        let place_of = |table| pd.keep_access_page(access).map(|page| (table, page));
        let Some((table, apic_access)) = pd.memory.guest_root().ok().and_then(place_of) else {
            guest.free(kernel.pool);
            return Err(Oom);
        };
        arch::fpu_init(fpu.page());
        let cell = self.key.cell(cpu, VcpuState::new(guest));
        let charges = [charge, blocks];
        let frames = arch::GuestPlace { table, vlapic: vlapic.frame(), apic_access };
        Ok(place.fill(Vcpu::new(pd, state, vlapic, fpu, frames, cell, charges)))
    }

    /// The first domain, thread and time of the machine, on this CPU.
    pub fn make_root(&mut self, utcb_page: u64, entry: u64, stack: u64) -> Result<RootParts, Oom> {
        let kernel = self.kernel;
        kernel.own_ports()?;
        let account = kernel.accounts.reserve()?.fill(Account::root());
        let pd = kernel.make_pd(&account, Trust { privileged: true, passthrough: true })?;
        let mapping = Some((pd.clone(), utcb_page));
        let ec = self.make_ec(&account, pd.clone(), Kind::Global, self.id, 0, stack, mapping)?;
        if let Some(state) = ec.cell.open(&mut self.key) {
            state.resume = Resume::User;
            state.thread.registers.rip = entry;
            state.thread.registers.rdi = self.id as u64;
        }
        self.settle_ec(&ec);
        let sc = self.make_sc(&account, ec.clone(), 1, 10_000)?;
        Ok(RootParts { pd, ec, sc })
    }
}
