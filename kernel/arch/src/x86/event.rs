//! The word that describes an interrupt or exception on its way into a guest, in both vendors' forms.
//!
//! VMX: Intel SDM vol. 3, table 25-17 (entry), 25-19 (exit). SVM: AMD APM vol. 2, 15.20, EVENTINJ.
//! Both have vector in bits 7:0, type in 10:8, "error code" in 11, "valid" in 31; types differ.

/// The word says something.
pub const VALID: u32 = 1 << 31;
/// An error code goes with it.
pub const ERROR_CODE: u32 = 1 << 11;
/// Asks for an exit when the guest can take an interrupt; only in the state page (abi.md 11.5).
pub const INTERRUPT_WINDOW: u32 = 1 << 12;
/// Asks for an exit when the guest can take an NMI; only in the state page.
pub const NMI_WINDOW: u32 = 1 << 13;
/// The bits of the type.
pub const TYPE: u32 = 7 << 8;
/// Type: external interrupt.
pub const EXTERNAL: u32 = 0;
/// Type: NMI.
pub const NMI: u32 = 2 << 8;
/// Type: hardware exception.
pub const HARDWARE: u32 = 3 << 8;
/// Type: INT n.
pub const INT_N: u32 = 4 << 8;
/// Type: INT1.
pub const PRIVILEGED: u32 = 5 << 8;
/// Type: INT3 or INTO.
pub const SOFTWARE: u32 = 6 << 8;

/// Whether an exception pushes an error code.
#[must_use]
pub const fn has_error_code(vector: u32) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Whether the event is made by an instruction, whose length then counts.
#[must_use]
pub const fn is_soft(info: u32) -> bool {
    info & VALID != 0 && matches!(info & TYPE, INT_N | PRIVILEGED | SOFTWARE)
}

/// The vector of a well-formed external interrupt.
#[must_use]
pub const fn external(info: u32) -> Option<u8> {
    if info & !0xff == VALID | EXTERNAL { Some(info as u8) } else { None }
}

/// EXITINTINFO as vectoring information and error code; `(0, 0)` if nothing was on its way.
#[must_use]
pub const fn from_svm(word: u64) -> (u32, u32) {
    let info = word as u32;
    if info & VALID == 0 {
        return (0, 0);
    }
    let breakpoint = info & TYPE == HARDWARE && matches!(info & 0xff, 3 | 4);
    let kind = if breakpoint { SOFTWARE } else { info & TYPE };
    let error = if info & ERROR_CODE != 0 { (word >> 32) as u32 } else { 0 };
    (VALID | kind | info & (ERROR_CODE | 0xff), error)
}

/// What to do with an event of the monitor on SVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// Nothing to inject.
    None,
    /// Write this word to EVENTINJ; first move RIP on by so many bytes.
    Inject {
        /// The EVENTINJ word.
        word: u64,
        /// Bytes to add to RIP.
        advance: u64,
    },
    /// VMX would fail the entry instruction: reserved or contradictory (27.2.1.3).
    Refused,
}

/// The monitor's event as SVM takes it.
///
/// A soft event without a length is left to the guest, who executes the instruction again; with one,
/// RIP moves on first, because CPUs without next-RIP save push RIP as it stands.
#[must_use]
pub const fn to_svm(info: u32, error: u32, length: u64) -> Injection {
    if info & VALID == 0 {
        return Injection::None;
    }
    let vector = info & 0xff;
    let refused = match info & TYPE {
        EXTERNAL | INT_N | PRIVILEGED | SOFTWARE => info & ERROR_CODE != 0,
        NMI => vector != 2 || info & ERROR_CODE != 0,
        HARDWARE => vector > 31,
        _ => true,
    };
    if refused || info & 0x7fff_f000 != 0 || is_soft(info) && length > 15 {
        return Injection::Refused;
    }
    let kind = match info & TYPE {
        PRIVILEGED | SOFTWARE => HARDWARE,
        other => other,
    };
    if is_soft(info) && length == 0 {
        return Injection::None;
    }
    let advance = if is_soft(info) { length } else { 0 };
    let code = if info & ERROR_CODE != 0 { (error as u64) << 32 } else { 0 };
    Injection::Inject { word: (VALID | kind | info & (ERROR_CODE | 0xff)) as u64 | code, advance }
}

/// Whether an interrupted delivery must be done again by injection; otherwise the guest's own
/// instruction does it again (`INT n`, `INT3`, `INTO`: RIP still points at them on SVM).
#[must_use]
pub const fn must_repeat_on_svm(int_info: u64) -> bool {
    let (info, _) = from_svm(int_info);
    info & VALID != 0 && !is_soft(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back() {
        let page_fault = VALID | HARDWARE | ERROR_CODE | 14;
        let Injection::Inject { word, advance: 0 } = to_svm(page_fault, 7, 0) else {
            panic!("refused")
        };
        assert_eq!(from_svm(word), (page_fault, 7));
        assert_eq!(
            to_svm(VALID | EXTERNAL | 0x30, 0, 9),
            Injection::Inject { word: 0x8000_0030, advance: 0 }
        );
        assert_eq!(
            to_svm(VALID | SOFTWARE | 3, 0, 1),
            Injection::Inject { word: 0x8000_0303, advance: 1 }
        );
        assert_eq!(to_svm(VALID | INT_N | 0x80, 0, 0), Injection::None);
    }

    #[test]
    fn reserved_types_are_refused() {
        assert_eq!(to_svm(VALID | 1 << 8, 0, 0), Injection::Refused);
        assert_eq!(to_svm(VALID | 7 << 8, 0, 0), Injection::Refused);
        assert_eq!(to_svm(VALID | NMI | 3, 0, 0), Injection::Refused);
        assert_eq!(to_svm(7 << 8, 0, 0), Injection::None);
    }

    #[test]
    fn random_words_inject_only_well_formed_events() {
        let mut x = 7_u64;
        for _ in 0..1_000_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if let Injection::Inject { word, .. } = to_svm((x >> 32) as u32, x as u32, x & 15) {
                assert_eq!(word as u32 & 0x7fff_f000, 0);
                assert!(matches!(word as u32 & TYPE, EXTERNAL | NMI | HARDWARE | INT_N));
            }
            let (info, _) = from_svm(x);
            assert_eq!(info & 0x7fff_f000, 0);
        }
    }
}
