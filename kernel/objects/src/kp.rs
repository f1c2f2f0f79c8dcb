//! Kernel pages: one page that the kernel and a user program share.

use sync::{Counted, SharedPage, SpinLock};

use crate::{Charge, OwnedFrames, Pd};

/// A kernel page.
pub struct Kp {
    frames: OwnedFrames,
    /// Where user space sees it, if it does.
    pub mapped: SpinLock<Option<(Counted<Pd>, u64)>>,
    _charge: Charge,
}

impl Kp {
    /// A page of zeros, mapped nowhere.
    pub fn new(frames: OwnedFrames, charge: Charge) -> Kp {
        Kp { frames, mapped: SpinLock::new(None), _charge: charge }
    }

    /// Its contents.
    #[inline(always)]
    pub fn page(&self) -> &'static SharedPage {
        self.frames.page()
    }

    /// Its frame.
    #[inline(always)]
    pub fn frame(&self) -> logic::addr::Frame {
        self.frames.frame()
    }
}
