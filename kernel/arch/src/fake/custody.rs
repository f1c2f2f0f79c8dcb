//! Which CPU a guest's control block is active on, as VMX has it (Intel SDM vol. 3, 26.11.1): a block that was entered must
//! be cleared by the CPU that entered it, before it moves or its memory goes.

use super::machine::with;

/// The control block of one guest.
#[derive(Debug, Default)]
pub(super) struct Custody {
    active: Option<usize>,
}

impl Custody {
    /// The block is entered here.
    ///
    /// # Panics
    /// If it is active on another CPU.
    pub fn enter(&mut self) {
        let here = with(|state| state.current);
        assert!(self.active.is_none_or(|cpu| cpu == here), "a control block moved while active");
        self.active = Some(here);
    }

    /// The block is cleared here.
    ///
    /// # Panics
    /// If it is active on another CPU.
    pub fn clear(&mut self) {
        let here = with(|state| state.current);
        assert!(self.active.is_none_or(|cpu| cpu == here), "a control block cleared from afar");
        self.active = None;
    }
}

impl Drop for Custody {
    fn drop(&mut self) {
        // A test that fails drops its machine in the midst of things.
        if !std::thread::panicking() {
            assert!(self.active.is_none(), "the memory of an active control block was freed");
        }
    }
}
