//! One guest, whatever the vendor: the door that the kernel's loop uses.
//!
//! Everything with a vendor's name lies in `vmx` and `svm`; everything that can be decided without the
//! machine in `x86`.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::Mtd;
use logic::Oom;
use logic::addr::Frame;
use sync::{Pool, SharedPage, Site};

use super::guest_switch;
use super::svm::{self, Svm};
use super::vmx::Vmx;
use super::vmx_enable as vmx;
use super::{cpu_number, now};
use crate::x86::guest_software::Software;
use crate::x86::optional::Without;
use crate::x86::vmx_fields;
use crate::{GuestEnv, GuestEvent, GuestVendor, MAX_CPUS};

global_asm!(include_str!("guest_asm.S"), HOST_RSP = const vmx_fields::HOST_RSP);

static VENDOR: AtomicU8 = AtomicU8::new(GuestVendor::None as u8);
/// What is masked by the command line: a [`Without`].
static WITHOUT: AtomicU32 = AtomicU32::new(0);
/// CPUs that could not be enabled: one is enough to have no guests at all.
static REFUSED: AtomicU8 = AtomicU8::new(0);
/// The time-out that no guest lives to see, where the hardware sets no limit.
const NO_LIMIT: u64 = u64::MAX;

/// What each CPU gives to its virtualization: physical frames, 0 for none.
pub(super) struct Place {
    /// VMXON region, or host save area.
    pub area: AtomicU64,
    /// SVM: the host's FS, GS, TR, LDTR and system-call MSRs.
    pub block: AtomicU64,
}

static PLACES: [Place; MAX_CPUS] =
    [const { Place { area: AtomicU64::new(0), block: AtomicU64::new(0) } }; MAX_CPUS];

/// The calling CPU's place.
#[inline(always)]
pub(super) fn place() -> &'static Place {
    &PLACES[cpu_number() % MAX_CPUS]
}

/// Which virtualization all CPUs have; final once every CPU went through [`guest_enable_cpu`].
#[inline]
pub fn guest_vendor() -> GuestVendor {
    if REFUSED.load(Relaxed) != 0 {
        return GuestVendor::None;
    }
    match VENDOR.load(Relaxed) {
        1 => GuestVendor::Vmx,
        2 => GuestVendor::Svm,
        _ => GuestVendor::None,
    }
}

/// Masks the optional ability `name` for all guests; false if there is none of that name. Before any CPU's
/// [`guest_enable_cpu`].
pub fn guest_without(name: &[u8]) -> bool {
    let named = Without::named(name);
    WITHOUT.fetch_or(named.unwrap_or_default().0, Relaxed);
    named.is_some()
}

/// What is masked.
pub(super) fn without() -> Without {
    Without(WITHOUT.load(Relaxed))
}

/// The capability words of the CPUs by name, for the report; 0 for those that they do not have.
#[must_use]
pub fn guest_words() -> [(&'static str, u64); 11] {
    let vmx = vmx::capabilities();
    let [revision, asids, features] = super::svm_words().map(u64::from);
    [
        ("VMX basic", vmx.basic),
        ("VMX pin", vmx.pin.0),
        ("VMX primary", vmx.primary.0),
        ("VMX secondary", vmx.secondary.0),
        ("VMX exit", vmx.exit.0),
        ("VMX entry", vmx.entry.0),
        ("VMX EPT and VPID", vmx.ept_vpid),
        ("VMX miscellaneous", vmx.misc),
        ("SVM revision", revision),
        ("SVM address-space identifiers", asids),
        ("SVM features", features),
    ]
}

/// How many tags the CPU has for guests' translations: tags 1 to this number; 0 if it has none.
pub fn guest_tags() -> u16 {
    match guest_vendor() {
        GuestVendor::Vmx => vmx::tags(),
        GuestVendor::Svm => svm::tags(),
        GuestVendor::None => 0,
    }
}

/// The HIP's word about secondary controls (abi.md 3); 0 without VMX.
pub fn guest_secondary_controls() -> u64 {
    if guest_vendor() == GuestVendor::Vmx { vmx::hip_word() } else { 0 }
}

/// Makes the calling CPU ready for guests: part of every CPU's bring-up, first boot and resume, after
/// its system-call MSRs, XCR0 and descriptor tables are set.
///
/// # Errors
/// The reason, for the boot log. One refusing CPU takes guests from the whole machine.
pub fn guest_enable_cpu(pool: &Pool) -> Result<(), &'static str> {
    let vendor = enable(pool).inspect_err(|_| REFUSED.store(1, Relaxed))?;
    guest_switch::note_host();
    VENDOR.store(vendor as u8, Relaxed);
    Ok(())
}

fn enable(pool: &Pool) -> Result<GuestVendor, &'static str> {
    if vmx::present() {
        vmx::enable(pool)?;
        Ok(GuestVendor::Vmx)
    } else if svm::present() {
        svm::enable(pool)?;
        Ok(GuestVendor::Svm)
    } else {
        Err("the CPU has neither VMX nor SVM")
    }
}

/// A frame kept for ever in `place`; the same one when the CPU comes up again.
pub(super) fn keep(place: &AtomicU64, pool: &Pool, order: u8) -> Result<Frame, &'static str> {
    let known = place.load(Relaxed);
    if known != 0 {
        return Ok(Frame(known));
    }
    let frame =
        pool.alloc_zeroed(order, Site::Boot).map_err(|Oom| "no memory for the CPU's areas")?;
    place.store(frame.0, Relaxed);
    Ok(frame)
}

/// The control block and registers of one guest. Bound to the CPU that loads it first.
pub struct Guest {
    software: Software,
    back: Back,
}

#[expect(clippy::large_enum_variant, reason = "a machine has guests of one kind only")]
enum Back {
    Vmx(Vmx),
    Svm(Svm),
}

impl Guest {
    /// Frames of kernel memory that one guest is charged: the most that either vendor's blocks take.
    pub const FRAMES: u64 = 1;

    /// A guest with all state zero; may be made on any CPU.
    ///
    /// # Errors
    /// No memory, or a machine without virtualization.
    pub fn new(pool: &Pool) -> Result<Self, Oom> {
        let (back, longest) = match guest_vendor() {
            GuestVendor::Vmx => (Back::Vmx(Vmx::new(pool)?), vmx::longest_timeout()),
            GuestVendor::Svm => (Back::Svm(Svm::new(pool)?), NO_LIMIT),
            GuestVendor::None => return Err(Oom),
        };
        Ok(Self { software: Software::new(longest), back })
    }

    /// Takes the guest off its CPU, so that its memory can go: on the home CPU, before [`Self::free`].
    pub fn retire(&mut self) {
        if let Back::Vmx(vmx) = &mut self.back {
            vmx.retire();
        }
    }

    /// Gives the memory back; on any CPU.
    pub fn free(self, pool: &Pool) {
        match self.back {
            Back::Vmx(vmx) => vmx.free(pool),
            Back::Svm(svm) => svm.free(pool),
        }
    }

    /// The start of a run: loads the groups of `mtd` from the state page (and with `extended` the words of our own run
    /// call), and enters as [`Self::enter`] does. (`surround` is asked in each back end's own way, so that on VMX the
    /// words stay in registers.)
    #[inline(always)]
    pub fn start<'a>(
        &mut self,
        page: &SharedPage,
        mtd: Mtd,
        extended: bool,
        surround: impl FnOnce() -> GuestEnv<'a>,
    ) -> GuestEvent {
        self.software.load(page, mtd);
        match &mut self.back {
            Back::Vmx(vmx) => {
                vmx.activate(&mut self.software);
                vmx.load(&mut self.software, page, mtd);
                if extended {
                    self.software.load_extended(page);
                    vmx.load_extended(&mut self.software, page);
                }
                vmx.enter(&mut self.software, surround())
            }
            Back::Svm(svm) => {
                let env = surround();
                svm.load(env.pool, &self.software, page, mtd);
                if extended {
                    self.software.load_extended(page);
                    svm.load_extended(env.pool, page);
                }
                svm.enter(&mut self.software, env)
            }
        }
    }

    /// Runs the guest until something happens. Interrupts are off before and after. The monitor's FPU state is
    /// saved and comes back. A poked guest is entered, too, and comes back at once: after that its own VMCS is the current
    /// one, from which [`Self::store`] reads, and what `env` orders to be forgotten is forgotten.
    #[inline(never)]
    pub fn enter(&mut self, env: GuestEnv) -> GuestEvent {
        match &mut self.back {
            Back::Vmx(vmx) => {
                vmx.activate(&mut self.software);
                vmx.enter(&mut self.software, env)
            }
            Back::Svm(svm) => svm.enter(&mut self.software, env),
        }
    }

    /// Tells the monitor the groups of `wanted`, as far as an exit tells them (abi.md 11.1): the end of a run, right
    /// after [`Self::enter`].
    #[inline(always)]
    pub fn store(&mut self, pool: &Pool, page: &SharedPage, reason: u32, wanted: Mtd) {
        let wanted = wanted & self.software.told;
        match &mut self.back {
            Back::Vmx(vmx) => vmx.store(&mut self.software, page, wanted, reason),
            Back::Svm(svm) => svm.store(pool, &mut self.software, page, wanted, reason),
        }
        if reason == TIMED_OUT {
            self.software.forget_timeout();
        }
    }

    /// Fills bytes 0x2a0 to 0x3ff of the state page, for our own run call.
    pub fn store_extended(&self, pool: &Pool, page: &SharedPage, reason: u32) {
        use abi::utcb::extended_offset as at;
        for (i, value) in self.software.dr.iter().enumerate() {
            page.write_u64(at::DR0 + 8 * i, *value);
        }
        match &self.back {
            Back::Vmx(vmx) => vmx.store_extended(&self.software, page, reason),
            Back::Svm(svm) => svm.store_extended(pool, page),
        }
    }
}

/// The exit reason of the monitor's time-out.
pub(super) const TIMED_OUT: u32 = 52;
