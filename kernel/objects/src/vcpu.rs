//! Virtual CPUs: a guest's processor, run by whichever thread calls.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use abi::Mtd;
use arch::{Guest, GuestPlace};
use sync::{Counted, CpuCell};

use crate::{Charge, Kp, Pd};

/// A virtual CPU. Lists link 0: those its CPU must retire.
pub struct Vcpu {
    /// Whose guest memory and ports it sees.
    pub pd: Counted<Pd>,
    /// The page its monitor reads and writes.
    pub state: Counted<Kp>,
    /// The virtual-APIC page.
    pub vlapic: Counted<Kp>,
    /// FPU registers in XSAVE format.
    pub fpu: Counted<Kp>,
    /// Its guest table, virtual-APIC page and the page behind its local APIC; they stay while its domain does.
    pub place: GuestPlace,
    /// Somebody poked it.
    pub poked: AtomicBool,
    /// What its CPU alone knows.
    pub cell: CpuCell<VcpuState>,
    dead: AtomicBool,
    _charges: [Charge; 2],
}

/// What the home CPU knows of a virtual CPU.
pub struct VcpuState {
    /// The control block; gone once retired.
    pub guest: Option<Guest>,
    /// A thread's run of it goes on through the loop.
    pub busy: bool,
    /// What it knows of its translations.
    pub translations: Translations,
    /// What the present run tells its monitor.
    pub tell: Mtd,
    /// It tells the extended words, too.
    pub tell_extended: bool,
}

/// Under which tag a virtual CPU's translations are kept, and which changes of its guest space they include.
#[derive(Default)]
pub struct Translations {
    /// The tag.
    pub tag: u16,
    /// In which round of tags it was taken.
    pub round: u64,
    /// The guest-mapping generation that was seen last.
    pub generation: u64,
}

impl VcpuState {
    /// Never ran.
    pub fn new(guest: Guest) -> VcpuState {
        VcpuState {
            guest: Some(guest),
            busy: false,
            translations: Translations::default(),
            tell: Mtd::NONE,
            tell_extended: false,
        }
    }
}

impl Vcpu {
    /// A virtual CPU that has never run.
    pub fn new(
        pd: Counted<Pd>,
        state: Counted<Kp>,
        vlapic: Counted<Kp>,
        fpu: Counted<Kp>,
        place: GuestPlace,
        cell: CpuCell<VcpuState>,
        charges: [Charge; 2],
    ) -> Vcpu {
        Vcpu {
            pd,
            state,
            vlapic,
            fpu,
            place,
            poked: AtomicBool::new(false),
            cell,
            dead: AtomicBool::new(false),
            _charges: charges,
        }
    }

    /// The CPU it belongs to.
    #[inline(always)]
    pub fn cpu(&self) -> usize {
        self.cell.cpu()
    }

    /// Marks it dead; whether it was alive.
    pub fn kill(&self) -> bool {
        !self.dead.swap(true, Relaxed)
    }

    /// Whether its creator's capability is gone.
    #[inline(always)]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }
}
