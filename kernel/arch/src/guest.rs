//! What a guest is to the kernel's loop: the words that both vendors' back ends and the fake share.

use logic::addr::Frame;
use sync::{Pool, SharedPage};

/// Which virtualization the machine has on all its CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum GuestVendor {
    /// None: a plain microkernel.
    #[default]
    None = 0,
    /// Intel's.
    Vmx = 1,
    /// AMD's.
    Svm = 2,
}

/// Frames that a guest uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPlace {
    /// Root of the guest space: an EPT on VMX, a nested page table on SVM.
    pub table: Frame,
    /// The virtual APIC page.
    pub vlapic: Frame,
    /// The APIC access page.
    pub apic_access: Frame,
}

/// Between whom speculation must carry nothing over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolate {
    /// A domain of another trust group runs next.
    Domain,
    /// A guest of another domain than the last guest's runs next.
    Guest,
}

/// What a guest needs from its surroundings for one entry. All may change between entries.
#[derive(Clone, Copy)]
pub struct GuestEnv<'a> {
    /// Where frames become pages.
    pub pool: &'a Pool,
    /// Frames that change only together with the tag.
    pub place: &'a GuestPlace,
    /// Tag of the guest's translations, 1 to [`crate::guest_tags`]; ignored if that is 0.
    pub tag: u16,
    /// Forget all translations under this tag first: the guest space changed or the tag is new here.
    pub flush_tag: bool,
    /// The first of two neighbouring frames with the guest's port permissions (bit set: exits); 0 for
    /// none. On SVM, whose map is one piece of 12 KiB, the next frame must be all ones.
    pub ports: Frame,
    /// The guest's FPU state in the standard XSAVE format.
    pub fpu: &'a SharedPage,
    /// Where the state of the thread that runs the guest is kept meanwhile.
    pub monitor: &'a SharedPage,
    /// When this CPU must be back in the kernel, in TSC ticks.
    pub host_deadline: Option<u64>,
    /// The vCPU was poked: the guest is entered once, so that state and events are consumed, and comes
    /// back at once. Keep it set until an [`GuestEvent::Exit`] comes.
    pub pending_poke: bool,
}

/// Why a guest came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// A host interrupt, acknowledged; the receiver ends it. (A vector, in the width of a reason: so the pair
    /// stays in two registers.)
    Interrupt(u32),
    /// The host's deadline has come, without an interrupt so far.
    HostTimer,
    /// The monitor's: an exit reason word (abi.md 11.2).
    Exit(u32),
    /// Settled; enter again.
    Nothing,
}
