//! What is delivered to the guest at the next entry: an event, or the wish to hear of a window.
//!
//! Format of the words: abi.md 11.5, Intel SDM vol. 3, 25.8.3.
use abi::utcb::StatePage;

const VALID: u32 = 1 << 31;
const HAS_ERROR: u32 = 1 << 11;
const EXCEPTION: u32 = 3 << 8;
const NMI: u32 = 2 << 8;
/// Ask for an exit as soon as interrupts can be taken.
const WINDOW: u32 = 1 << 12;
/// Ask for an exit as soon as an NMI can be taken.
const NMI_WINDOW: u32 = 1 << 13;
/// Type, vector, error flag and validity: what may be given back to an entry.
const EVENT: u32 = VALID | 0xfff;

/// #UD.
pub const INVALID_OPCODE: u8 = 6;
/// #GP.
pub const GENERAL_PROTECTION: u8 = 13;
/// #PF.
pub const PAGE_FAULT: u8 = 14;

/// What other parts have to deliver to one processor.
pub trait Source {
    /// Whether an interrupt waits that the processor's priority lets through.
    fn pending(&mut self) -> bool;
    /// Takes its vector.
    fn take(&mut self) -> Option<u8>;
    /// Takes a non-maskable interrupt, if one waits.
    fn take_nmi(&mut self) -> bool;
}

/// Sets an exception for the next entry; it goes before interrupts.
pub fn exception(page: &mut StatePage, vector: u8, error: Option<u32>) {
    page.intr_info = VALID | EXCEPTION | u32::from(vector);
    page.intr_error = error.unwrap_or(0);
    if error.is_some() {
        page.intr_info |= HAS_ERROR;
    }
}

/// After an exit: an event whose delivery the exit cut short is delivered again, and the field
/// is empty otherwise. `kept` says that the field holds the not yet delivered entry value (255).
pub fn after_exit(page: &mut StatePage, kept: bool) {
    if page.vect_info & VALID != 0 {
        page.intr_info = page.vect_info & EVENT;
        page.intr_error = page.vect_error;
    } else if kept && page.intr_info & VALID != 0 {
        page.intr_info &= EVENT;
    } else {
        page.intr_info = 0;
    }
    page.vect_info = 0;
}

/// Whether an interrupt could be taken right now.
pub fn open(page: &StatePage) -> bool {
    page.rflags & (1 << 9) != 0 && page.intr_state & 3 == 0
}

/// Before an entry: delivers what can be delivered, asks for a window for the rest.
pub fn before_entry(page: &mut StatePage, source: &mut impl Source) {
    let busy = page.intr_info & VALID != 0;
    if !busy && page.intr_state & 0b1010 == 0 && source.take_nmi() {
        page.intr_info = VALID | NMI | 2;
        page.intr_error = 0;
        return before_entry(page, source);
    }
    if !source.pending() {
        return;
    }
    if busy || !open(page) {
        page.intr_info |= WINDOW;
        return;
    }
    if let Some(vector) = source.take() {
        page.intr_info = VALID | u32::from(vector);
        page.intr_error = 0;
        if source.pending() {
            page.intr_info |= WINDOW;
        }
    }
}

/// Asks to hear when the guest can take an NMI.
pub fn want_nmi_window(page: &mut StatePage) {
    page.intr_info |= NMI_WINDOW;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Queue(Vec<u8>, bool);

    impl Source for Queue {
        fn pending(&mut self) -> bool {
            !self.0.is_empty()
        }
        fn take(&mut self) -> Option<u8> {
            self.0.pop()
        }
        fn take_nmi(&mut self) -> bool {
            core::mem::take(&mut self.1)
        }
    }

    fn page() -> Box<StatePage> {
        let mut page = Box::new(StatePage::ZERO);
        page.rflags = 0x202;
        page
    }

    #[test]
    fn one_now_and_a_window_for_the_next() {
        let mut page = page();
        before_entry(&mut page, &mut Queue(vec![0x31, 0x30], false));
        assert_eq!(page.intr_info, VALID | WINDOW | 0x30);
    }

    #[test]
    fn closed_means_window_only() {
        let mut page = page();
        page.intr_state = 1;
        let mut queue = Queue(vec![0x30], false);
        before_entry(&mut page, &mut queue);
        assert_eq!((page.intr_info, queue.0.len()), (WINDOW, 1));
    }

    #[test]
    fn a_cut_delivery_is_done_again_with_its_error() {
        let mut page = page();
        page.intr_info = 0x123;
        page.vect_info = VALID | HAS_ERROR | EXCEPTION | 14;
        page.vect_error = 2;
        after_exit(&mut page, false);
        assert_eq!((page.intr_info, page.intr_error), (VALID | HAS_ERROR | EXCEPTION | 14, 2));
        after_exit(&mut page, false);
        assert_eq!(page.intr_info, 0);
    }

    #[test]
    fn exceptions_go_before_interrupts() {
        let mut page = page();
        exception(&mut page, GENERAL_PROTECTION, Some(0));
        let mut queue = Queue(vec![0x30], true);
        before_entry(&mut page, &mut queue);
        assert_eq!(page.intr_info, VALID | WINDOW | HAS_ERROR | EXCEPTION | 13);
        assert!(queue.1);
    }
}
