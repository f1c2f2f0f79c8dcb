//! One function per system call.
//!
//! Every function encodes its arguments with `abi::args`, executes the call
//! and turns the status into a `Result`. What each call means, and what it
//! refuses in which order, is in `docs/spec`.

use crate::stub::syscall;
use abi::args::{
    AssignPci, CallPortal, CreateEc, CreateKp, CreatePd, CreatePt, CreateSc, CreateSm, CreateVcpu,
    EcCtrl, IrqCtrl, KpCtrl, Log, MachineCtrl, PdCtrl, PtCtrl, Reply, Revoke, ScCtrl, SmCtrl,
    Statistics, VcpuCtrl, VcpuRunExt, Words,
};
use abi::crd::ItemMeta;
use abi::{Call, Crd, Mtd, Selector, Status, TypedItem};

/// The registers after a successful call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// RSI.
    pub rsi: u64,
    /// RDX.
    pub rdx: u64,
    /// RAX.
    pub rax: u64,
}

/// Executes any call.
///
/// # Errors
/// The status, unless it is success. A status that no version of the
/// interface knows is reported as `BAD_FTR`.
#[inline]
pub fn invoke(words: Words) -> Result<Out, Status> {
    let [rdi, rsi, rdx, rax, _] = syscall(words);
    match Status::from_word(rdi) {
        Some(status) => status.ok(Out { rsi, rdx, rax }),
        None => Err(Status::BadFtr),
    }
}

/// Executes a call that has no output.
#[inline]
fn act(words: Words) -> Result<(), Status> {
    invoke(words).map(|_| ())
}

/// Sends the message in this thread's UTCB through `portal`, waits for the
/// reply.
///
/// # Errors
/// See `docs/spec/call.md`.
pub fn call(portal: Selector) -> Result<(), Status> {
    act(CallPortal { portal, nonblocking: false }.encode())
}

/// Like [`call`], but answers `TIMEOUT` at once if the servant is busy.
///
/// # Errors
/// See `docs/spec/call.md`.
pub fn call_nonblocking(portal: Selector) -> Result<(), Status> {
    act(CallPortal { portal, nonblocking: true }.encode())
}

/// The word a servant puts into RDI to answer; the servant loop does it in
/// assembly.
#[must_use]
pub const fn reply_word() -> u64 {
    Reply { semaphore: 0 }.encode()[0]
}

/// Makes a domain that cannot use machine calls.
///
/// # Errors
/// See `docs/spec/create_pd.md`.
pub fn create_pd(sel: Selector, parent: Selector, crd: Crd) -> Result<(), Status> {
    act(CreatePd { sel, passthrough: false, parent, crd }.encode())
}

/// Makes a domain that can use machine calls, if the caller's can.
///
/// # Errors
/// See `docs/spec/create_pd.md`.
pub fn create_pd_passthrough(sel: Selector, parent: Selector, crd: Crd) -> Result<(), Status> {
    act(CreatePd { sel, passthrough: true, parent, crd }.encode())
}

/// Makes a thread or a servant.
///
/// # Errors
/// See `docs/spec/create_ec.md`.
pub fn create_ec(args: &CreateEc) -> Result<(), Status> {
    act(args.encode())
}

/// Gives a thread time.
///
/// # Errors
/// See `docs/spec/create_sc.md`.
pub fn create_sc(args: &CreateSc) -> Result<(), Status> {
    act(args.encode())
}

/// Makes a portal.
///
/// # Errors
/// See `docs/spec/create_pt.md`.
pub fn create_pt(args: &CreatePt) -> Result<(), Status> {
    act(args.encode())
}

/// Makes a semaphore.
///
/// # Errors
/// See `docs/spec/create_sm.md`.
pub fn create_sm(sel: Selector, owner: Selector, count: u64) -> Result<(), Status> {
    act(CreateSm { sel, owner, count }.encode())
}

/// Makes a kernel page.
///
/// # Errors
/// See `docs/spec/create_kp.md`.
pub fn create_kp(sel: Selector, owner: Selector) -> Result<(), Status> {
    act(CreateKp { sel, owner }.encode())
}

/// Makes a virtual processor.
///
/// # Errors
/// See `docs/spec/create_vcpu.md`.
pub fn create_vcpu(args: &CreateVcpu) -> Result<(), Status> {
    act(args.encode())
}

/// Takes back what was delegated from the caller's range, and not the range
/// itself.
///
/// # Errors
/// See `docs/spec/revoke.md`.
pub fn revoke_children(crd: Crd) -> Result<(), Status> {
    act(Revoke { own: false, remote: false, crd, pd: 0 }.encode())
}

/// Takes back a range from the caller and everybody who got it from there.
///
/// # Errors
/// See `docs/spec/revoke.md`.
pub fn revoke(crd: Crd) -> Result<(), Status> {
    act(Revoke { own: true, remote: false, crd, pd: 0 }.encode())
}

/// Takes back a range from another domain and everybody who got it from there.
///
/// # Errors
/// See `docs/spec/revoke.md`.
pub fn revoke_from(pd: Selector, crd: Crd) -> Result<(), Status> {
    act(Revoke { own: true, remote: true, crd, pd }.encode())
}

/// What the caller has at the base of `crd`; null if nothing.
///
/// # Errors
/// See `docs/spec/pd_ctrl.md`.
pub fn lookup(crd: Crd) -> Result<Crd, Status> {
    invoke(PdCtrl::Lookup { crd }.encode()).map(|out| Crd(out.rsi))
}

/// Maps the APIC access page into the caller's guest space.
///
/// # Errors
/// See `docs/spec/pd_ctrl.md`.
pub fn map_access_page(crd: Crd) -> Result<(), Status> {
    act(PdCtrl::MapAccessPage { crd }.encode())
}

/// Transfers capabilities from one domain to another; what arrived comes back.
///
/// # Errors
/// See `docs/spec/pd_ctrl.md`.
pub fn delegate(
    source: Selector,
    destination: Selector,
    item: TypedItem,
    window: Crd,
) -> Result<TypedItem, Status> {
    let TypedItem { crd, meta } = item;
    let out = invoke(PdCtrl::Delegate { source, destination, crd, meta, window }.encode())?;
    Ok(TypedItem { crd: Crd(out.rdx), meta: ItemMeta(out.rax) })
}

/// Reads a model-specific register.
///
/// # Errors
/// See `docs/spec/pd_ctrl.md`.
pub fn read_msr(msr: u32) -> Result<u64, Status> {
    invoke(PdCtrl::MsrAccess { write: false, msr, value: 0 }.encode()).map(|out| out.rsi)
}

/// Writes a model-specific register.
///
/// # Errors
/// See `docs/spec/pd_ctrl.md`.
pub fn write_msr(msr: u32, value: u64) -> Result<(), Status> {
    act(PdCtrl::MsrAccess { write: true, msr, value }.encode())
}

/// Makes a thread report to its recall portal.
///
/// # Errors
/// See `docs/spec/ec_ctrl.md`.
pub fn recall(ec: Selector) -> Result<(), Status> {
    act(EcCtrl::Recall { ec }.encode())
}

/// Time used by a scheduling context, in microseconds.
///
/// # Errors
/// See `docs/spec/sc_ctrl.md`.
pub fn sc_time_us(sc: Selector) -> Result<u64, Status> {
    invoke(ScCtrl { sc }.encode()).map(|out| out.rsi << 32 | out.rdx)
}

/// Sets what the servant of a portal finds in RDI.
///
/// # Errors
/// See `docs/spec/pt_ctrl.md`.
pub fn set_portal_id(pt: Selector, id: u64) -> Result<(), Status> {
    act(PtCtrl { pt, id }.encode())
}

/// Semaphore up.
///
/// # Errors
/// See `docs/spec/sm_ctrl.md`.
pub fn sm_up(sm: Selector) -> Result<(), Status> {
    act(SmCtrl::Up { sm }.encode())
}

/// Semaphore down; `deadline` is an absolute TSC value, 0 for none.
///
/// # Errors
/// See `docs/spec/sm_ctrl.md`.
pub fn sm_down(sm: Selector, deadline: u64) -> Result<(), Status> {
    act(SmCtrl::Down { sm, zero: false, deadline }.encode())
}

/// Semaphore down that takes the whole count.
///
/// # Errors
/// See `docs/spec/sm_ctrl.md`.
pub fn sm_down_all(sm: Selector, deadline: u64) -> Result<(), Status> {
    act(SmCtrl::Down { sm, zero: true, deadline }.encode())
}

/// Gives a PCI device to a domain.
///
/// # Errors
/// See `docs/spec/assign_pci.md`.
pub fn assign_pci(pd: Selector, config: u64, hint: u64) -> Result<(), Status> {
    act(AssignPci { pd, config, hint }.encode())
}

/// Suspend or update microcode; RSI of the answer (the waking vector's
/// address) comes back.
///
/// # Errors
/// See `docs/spec/machine_ctrl.md`.
pub fn machine_ctrl(args: MachineCtrl) -> Result<u64, Status> {
    invoke(args.encode()).map(|out| out.rsi)
}

/// Maps a kernel page.
///
/// # Errors
/// See `docs/spec/kp_ctrl.md`.
pub fn map_kp(kp: Selector, pd: Selector, address: u64) -> Result<(), Status> {
    act(KpCtrl::Map { kp, pd, address }.encode())
}

/// Unmaps a kernel page.
///
/// # Errors
/// See `docs/spec/kp_ctrl.md`.
pub fn unmap_kp(kp: Selector) -> Result<(), Status> {
    act(KpCtrl::Unmap { kp }.encode())
}

/// Routes interrupts; the address and data of an MSI come back.
///
/// # Errors
/// See `docs/spec/irq_ctrl.md`.
pub fn irq_ctrl(args: IrqCtrl) -> Result<(u64, u64), Status> {
    invoke(args.encode()).map(|out| (out.rsi, out.rdx))
}

/// Runs a virtual processor until it exits.
///
/// # Errors
/// See `docs/spec/vcpu_ctrl.md`.
pub fn run_vcpu(vcpu: Selector, mtd: Mtd) -> Result<(), Status> {
    act(VcpuCtrl::Run { vcpu, mtd }.encode())
}

/// Makes a virtual processor exit.
///
/// # Errors
/// See `docs/spec/vcpu_ctrl.md`.
pub fn poke_vcpu(vcpu: Selector) -> Result<(), Status> {
    act(VcpuCtrl::Poke { vcpu }.encode())
}

/// Ours: runs a virtual processor until it exits, and says what to tell then.
///
/// # Errors
/// See `docs/spec/vcpu_run_ext.md`.
pub fn run_vcpu_ext(args: &VcpuRunExt) -> Result<(), Status> {
    act(args.encode())
}

/// Ours: limits the kernel memory of a domain to so many bytes.
///
/// # Errors
/// See `docs/spec/quota_give.md`.
pub fn quota_give(pd: Selector, bytes: u64) -> Result<(), Status> {
    act([Call::QuotaGive.word(0, pd), bytes, 0, 0, 0])
}

/// Ours: the kernel memory charged to a domain and its limit, in bytes; a limit of all ones is none of its own.
///
/// # Errors
/// See `docs/spec/quota_read.md`.
pub fn quota_read(pd: Selector) -> Result<(u64, u64), Status> {
    invoke([Call::QuotaRead.word(0, pd), 0, 0, 0, 0]).map(|out| (out.rsi, out.rdx))
}

/// Ours: a counter of the kernel's, of those in [`abi::log`].
///
/// # Errors
/// See `docs/spec/statistics.md`.
pub fn statistics(cpu: u16, counter: u64) -> Result<u64, Status> {
    invoke(Statistics { cpu: cpu.into(), counter }.encode()).map(|out| out.rsi)
}

/// Ours: from now on the kernel writes nothing to COM1 until it dies.
///
/// # Errors
/// See `docs/spec/log.md`.
pub fn log_claim() -> Result<(), Status> {
    act(Log::Claim.encode())
}

/// Ours: records of the kernel's log from number `from` on, into this thread's message. RSI of the answer is the number
/// to ask for next, RDX how many came, RAX how many were lost before them.
///
/// # Errors
/// See `docs/spec/log.md`.
pub fn log_read(from: u64) -> Result<Out, Status> {
    invoke(Log::Read { from }.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_kernel_on_a_host() {
        assert_eq!(create_sm(1, 2, 3), Err(Status::BadHyp));
        assert_eq!(lookup(Crd::ALL_OBJECTS), Err(Status::BadHyp));
        assert_eq!(reply_word(), 1);
    }
}
