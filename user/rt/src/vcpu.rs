//! Virtual processors: kernel pages, creation, running.

use crate::memory::{Window, reserve_page};
use crate::start::own_pd;
use crate::{calls, selectors};
use abi::args::{CreateVcpu, VcpuRunExt};
use abi::cap::MEM_RW;
use abi::exit::ExitReason;
use abi::utcb::{Segment, StatePage};
use abi::{Mtd, PAGE_SIZE, Selector, Status};
use core::ptr::NonNull;

/// A virtual processor whose guest memory is the guest space of this program's
/// domain. Only threads on its processor can run it.
#[derive(Debug)]
pub struct Vcpu {
    sel: Selector,
    state: NonNull<StatePage>,
    vlapic: Window,
    fpu: Window,
}

// SAFETY: the state page belongs to this value alone; the kernel writes it only
// inside `run`, which borrows the value.
unsafe impl Send for Vcpu {}

impl Vcpu {
    /// Makes one on processor `cpu`.
    ///
    /// # Errors
    /// What `create_kp`, `kp_ctrl` and `create_vcpu` refuse.
    pub fn new(cpu: u16) -> Result<Self, Status> {
        let (state_kp, state) = kernel_page()?;
        let (vlapic_kp, vlapic) = kernel_page()?;
        let (fpu_kp, fpu) = kernel_page()?;
        let sel = selectors::allocate();
        calls::create_vcpu(&CreateVcpu {
            sel,
            cpu,
            parent: own_pd(),
            state: state_kp,
            vlapic: vlapic_kp,
            fpu: fpu_kp,
        })?;
        Ok(Self { sel, state: state.cast(), vlapic: window(vlapic), fpu: window(fpu) })
    }

    /// Its selector, with which any thread may poke it.
    #[must_use]
    pub const fn selector(&self) -> Selector {
        self.sel
    }

    /// Its state between two runs.
    pub fn state(&mut self) -> &mut StatePage {
        // SAFETY: `new` mapped the page for good at this address, and every bit
        // pattern is a `StatePage`; the kernel writes it in `run` alone.
        unsafe { self.state.as_mut() }
    }

    /// Its virtual-APIC page.
    #[must_use]
    pub const fn vlapic(&self) -> &Window {
        &self.vlapic
    }

    /// Its FPU page, in XSAVE format.
    #[must_use]
    pub const fn fpu(&self) -> &Window {
        &self.fpu
    }

    /// Loads the groups of `mtd` and runs it until it exits.
    ///
    /// # Errors
    /// What `vcpu_ctrl` refuses.
    #[inline]
    pub fn run(&mut self, mtd: Mtd) -> Result<ExitReason, Status> {
        calls::run_vcpu(self.sel, mtd)?;
        Ok(ExitReason::from_word(self.state().exit_reason))
    }

    /// Ours: as [`Self::run`], but only the groups of `tell` are written at the exit; the others keep
    /// what was in the page. With `extended` the extended words are loaded and written, too.
    ///
    /// # Errors
    /// What `vcpu_run_ext` refuses.
    pub fn run_telling(
        &mut self,
        load: Mtd,
        tell: Mtd,
        extended: bool,
    ) -> Result<ExitReason, Status> {
        calls::run_vcpu_ext(&VcpuRunExt {
            vcpu: self.sel,
            load,
            tell,
            load_extended: extended,
            tell_extended: extended,
            reserved: 0,
        })?;
        Ok(ExitReason::from_word(self.state().exit_reason))
    }

    /// Makes it exit.
    ///
    /// # Errors
    /// What `vcpu_ctrl` refuses.
    pub fn poke(&self) -> Result<(), Status> {
        calls::poke_vcpu(self.sel)
    }
}

/// A kernel page, mapped: its selector and where it is.
///
/// # Errors
/// What `create_kp` and `kp_ctrl` refuse.
pub fn kernel_page() -> Result<(Selector, NonNull<u8>), Status> {
    let kp = selectors::allocate();
    calls::create_kp(kp, own_pd())?;
    let address = reserve_page()?;
    calls::map_kp(kp, own_pd(), address)?;
    let page = NonNull::new(address as *mut u8).ok_or(Status::BadPar)?;
    Ok((kp, page))
}

/// A mapped kernel page as a window.
fn window(page: NonNull<u8>) -> Window {
    // SAFETY: `kernel_page` mapped it, readable and writable, for good, at an
    // address that `reserve` gave to nobody else.
    unsafe { Window::at(page, PAGE_SIZE as usize, MEM_RW) }
}

/// The state of a processor in real mode at `rip` of the first 64 KiB, a stack below 0x1000: what a guest of a few
/// instructions begins with.
pub fn real_mode(state: &mut StatePage, rip: u64) {
    let data = Segment { selector: 0, ar: 0x93, limit: 0xffff, base: 0 };
    for segment in [&mut state.es, &mut state.ss, &mut state.ds, &mut state.fs, &mut state.gs] {
        *segment = data;
    }
    state.cs = Segment { ar: 0x9b, ..data };
    state.ldtr = Segment { ar: 0x82, ..data };
    state.tr = Segment { ar: 0x8b, ..data };
    state.gdtr = Segment { limit: 0xffff, ..Segment::ZERO };
    state.idtr = Segment { limit: 0xffff, ..Segment::ZERO };
    state.rip = rip;
    state.rsp = 0x1000;
    state.rflags = 2;
    state.cr0 = 0x10;
    state.xcr0 = 1;
    state.dr7 = 0x400;
    state.pat = 0x0007_0406_0007_0406;
    state.tsc_timeout = u64::MAX;
}
