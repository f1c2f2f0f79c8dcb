//! What guests can do without: each can be masked by a kernel word, so that a machine without it is seen on one with it.

use super::vmx_controls::{Allowed, Capabilities, primary, secondary};

/// Where an optional ability shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// VMX, primary processor-based controls.
    Primary(u32),
    /// VMX, secondary processor-based controls.
    Secondary(u32),
    /// SVM, EDX of CPUID leaf 8000_000A.
    Svm(u32),
}

/// The word behind `without=`, and what it takes away.
const OPTIONAL: [(&str, Place); 16] = [
    ("vpid", Place::Secondary(secondary::VPID)),
    ("tpr-shadow", Place::Primary(primary::TPR_SHADOW)),
    ("io-bitmaps", Place::Primary(primary::IO_BITMAPS)),
    ("mov-dr", Place::Primary(primary::MOV_DR)),
    ("monitor", Place::Primary(primary::MONITOR)),
    ("pause", Place::Primary(primary::PAUSE)),
    ("virtual-apic", Place::Secondary(secondary::VIRTUAL_APIC)),
    ("descriptor-table", Place::Secondary(secondary::DESCRIPTOR_TABLE)),
    ("rdtscp", Place::Secondary(secondary::RDTSCP)),
    ("wbinvd", Place::Secondary(secondary::WBINVD)),
    ("virtual-interrupt", Place::Secondary(secondary::VIRTUAL_INTERRUPT)),
    ("xsaves", Place::Secondary(secondary::XSAVES)),
    // AMD64 vol. 3, appendix E.4.9.
    ("next-rip", Place::Svm(1 << 3)),
    ("clean-bits", Place::Svm(1 << 5)),
    ("flush-by-asid", Place::Svm(1 << 6)),
    ("decode-assists", Place::Svm(1 << 7)),
];

/// Names of what is masked, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without(pub u32);

impl Without {
    /// The set with `name` alone; `None` when there is no such word.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        let place = OPTIONAL.iter().position(|(known, _)| known.as_bytes() == name)?;
        Some(Self(1 << place))
    }

    fn places(self) -> impl Iterator<Item = Place> {
        let all = OPTIONAL.iter().enumerate();
        all.filter(move |(bit, _)| self.0 >> bit & 1 != 0).map(|(_, (_, place))| *place)
    }

    /// VMX capabilities less what is masked. What the CPU demands stays.
    #[must_use]
    pub fn vmx(self, mut cpu: Capabilities) -> Capabilities {
        let less = |word: Allowed, bits: u32| {
            let masked = bits & !word.required();
            Allowed(word.0 & !(u64::from(masked) << 32))
        };
        for place in self.places() {
            match place {
                Place::Primary(bits) => cpu.primary = less(cpu.primary, bits),
                Place::Secondary(bits) => cpu.secondary = less(cpu.secondary, bits),
                Place::Svm(_) => {}
            }
        }
        cpu
    }

    /// SVM features less what is masked.
    #[must_use]
    pub fn svm(self, features: u32) -> u32 {
        self.places().fold(features, |features, place| match place {
            Place::Svm(bits) => features & !bits,
            _ => features,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_ability_is_gone_and_nothing_else() {
        let cpu = Capabilities {
            primary: Allowed(u64::from(u32::MAX) << 32),
            secondary: Allowed(u64::from(u32::MAX) << 32 | u64::from(secondary::WBINVD)),
            ..Capabilities::default()
        };
        let masked = |name: &[u8]| Without::named(name).unwrap().vmx(cpu);
        assert_eq!(masked(b"vpid").secondary.possible(), !secondary::VPID);
        assert_eq!(masked(b"vpid").primary, cpu.primary);
        assert_eq!(masked(b"tpr-shadow").primary.possible(), !primary::TPR_SHADOW);
        assert_eq!(masked(b"wbinvd"), cpu, "what the CPU demands stays");
        assert_eq!(masked(b"next-rip"), cpu);
        assert_eq!(Without::default().vmx(cpu), cpu);
    }

    #[test]
    fn words_are_known_or_not() {
        assert_eq!(Without::named(b"vpi"), None);
        assert_eq!(Without::named(b""), None);
        let svm =
            Without(Without::named(b"clean-bits").unwrap().0 | Without::named(b"vpid").unwrap().0);
        assert_eq!(svm.svm(u32::MAX), !(1 << 5));
    }
}
