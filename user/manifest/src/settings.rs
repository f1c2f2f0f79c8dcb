//! What is about the machine as a whole: `/host` and `/vmm`.
use crate::fields::{cpus, only, text, within};
use crate::{Guest, Refusal, SILENT_S};
use alloc::format;
use alloc::string::String;
use dtoolkit::Node;
use dtoolkit::fdt::FdtNode;

/// How long a monitor may take to hold its guest, in milliseconds.
pub const STOP_MS: core::ops::RangeInclusive<u64> = 100..=60_000;

/// What `/host` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Processors that no virtual processor may be put on, bit by bit.
    pub kept: u64,
}

/// What `/vmm` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vmm {
    /// The guest that has the terminal at first, empty for the prompt; nothing if the usual rule decides.
    pub console: Option<String>,
    /// After so many seconds of silence those guests are reported that do not say it themselves, in [`SILENT_S`]; 0 for
    /// never.
    pub silent_s: u32,
    /// So long a monitor may take to hold its guest before it counts as one that does not answer, in [`STOP_MS`].
    pub stop_ms: u32,
}

/// `/host`, which may be missing.
pub fn host(root: &FdtNode) -> Result<Host, Refusal> {
    let Some(node) = root.child("host") else { return Ok(Host::default()) };
    only(&node, "/host", &["cpus"], &[])?;
    Ok(Host { kept: cpus(&node, "/host")? })
}

/// `/vmm`, which may be missing.
pub fn vmm(root: &FdtNode) -> Result<Vmm, Refusal> {
    let mut vmm = Vmm { console: None, silent_s: 0, stop_ms: 1000 };
    let Some(node) = root.child("vmm") else { return Ok(vmm) };
    only(&node, "/vmm", &["console", "silent-s", "stop-ms"], &[])?;
    vmm.console = text(&node, "/vmm", "console")?;
    vmm.silent_s = within(&node, "/vmm", "silent-s", SILENT_S)?.unwrap_or(0) as u32;
    if let Some(stop_ms) = within(&node, "/vmm", "stop-ms", STOP_MS)? {
        vmm.stop_ms = stop_ms as u32;
    }
    Ok(vmm)
}

/// Refuses a terminal for a guest that does not start at boot, and guests on processors that are kept.
pub fn check(host: Host, vmm: &Vmm, guests: &[Guest]) -> Result<(), Refusal> {
    if let Some(console) = vmm.console.as_deref().filter(|name| !name.is_empty())
        && !guests.iter().any(|guest| guest.autostart && guest.name == console)
    {
        let why = format!("console is \"{console}\", and no guest of this name starts at boot");
        return Err(Refusal::new("/vmm", "console", why));
    }
    for guest in guests {
        if let Some(cpu) = (guest.vcpus.cpus & host.kept).checked_ilog2() {
            let why = format!("cpus names CPU {cpu}, which /host keeps for the root task");
            return Err(Refusal::new(&format!("/guests/{}/vcpus", guest.name), "cpus", why));
        }
    }
    Ok(())
}

impl Host {
    /// Whether a machine with so many processors has those that are kept, and others.
    ///
    /// # Errors
    /// It has not.
    pub fn fits(self, cpus: u64) -> Result<(), Refusal> {
        let all = 1_u64.checked_shl(cpus as u32).map_or(u64::MAX, |bit| bit - 1);
        if let Some(cpu) = (self.kept & !all).checked_ilog2() {
            let why = format!("cpus names CPU {cpu}; the machine has {cpus}");
            return Err(Refusal::new("/host", "cpus", why));
        }
        if self.kept == all {
            let why = format!("cpus keeps all {cpus} of the machine: guests have none");
            return Err(Refusal::new("/host", "cpus", why));
        }
        Ok(())
    }
}
