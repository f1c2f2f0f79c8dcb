//! NMI blocking across an IRET that exits.
//!
//! An IRET ends the blocking of NMIs even when it then faults or violates the EPT, and the exit says so in one bit. The
//! guest will execute that IRET again, so until then NMIs must be blocked as before, or its NMI handler is
//! entered twice (Intel SDM vol. 3, 28.2.3 and table 28-7, "NMI unblocking due to IRET").

use super::event;
use super::vmx_fields as field;
use super::vmx_state::Vmcs;

/// "NMI unblocking due to IRET" in the exit's interruption information or qualification.
const UNBLOCKED: u64 = 1 << 12;
/// Blocking by NMI in the interruptibility word (25.4.2).
const NMI_BLOCKED: u64 = 1 << 3;
/// The double fault's vector: the bit means nothing there.
const DOUBLE_FAULT: u64 = 8;

/// Whether this qualification (of an EPT violation or a full log) is that of an IRET that unblocked NMIs.
#[inline(always)]
#[must_use]
pub const fn was_unblocked(qualification: u64) -> bool {
    qualification & UNBLOCKED != 0
}

/// Blocks NMIs again if this exit comes from an IRET that has to be repeated.
pub fn block_again(vmcs: &mut impl Vmcs, reason: u32) {
    let word = match reason {
        0 => vmcs.read(field::EXIT_INTERRUPT_INFO),
        48 | 62 => vmcs.read(field::EXIT_QUALIFICATION),
        _ => return,
    };
    let means_nothing = reason == 0 && word & 0xff == DOUBLE_FAULT;
    if word & UNBLOCKED == 0 || means_nothing {
        return;
    }
    // During the delivery of an event the bit means nothing either.
    if vmcs.read(field::VECTORING_INFO) & u64::from(event::VALID) == 0 {
        let blocking = vmcs.read(field::GUEST_INTERRUPTIBILITY);
        vmcs.write(field::GUEST_INTERRUPTIBILITY, blocking | NMI_BLOCKED);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use abi::Mtd;
    use abi::utcb::offset;

    use super::*;
    use crate::x86::guest_software::Software;
    use crate::x86::guest_software::tests::page;
    use crate::x86::vmx_controls::Capabilities;
    use crate::x86::vmx_state::VmxState;

    #[derive(Default)]
    struct Fields(HashMap<u32, u64>);

    impl Fields {
        fn of(fields: &[(u32, u64)]) -> Self {
            Self(fields.iter().copied().collect())
        }
    }

    impl Vmcs for Fields {
        fn read(&self, field: u32) -> u64 {
            self.0.get(&field).copied().unwrap_or(0)
        }
        fn write(&mut self, field: u32, value: u64) {
            self.0.insert(field, value);
        }
    }

    #[test]
    fn nmis_stay_blocked_across_an_iret_that_exits() {
        const VALID: u64 = 1 << 31;
        let blocked = |reason, fields: &[(u32, u64)]| {
            let mut vmcs = Fields::of(fields);
            block_again(&mut vmcs, reason);
            vmcs.read(field::GUEST_INTERRUPTIBILITY) == NMI_BLOCKED
        };
        let page_fault = (field::EXIT_INTERRUPT_INFO, VALID | 0xb0e | UNBLOCKED);
        assert!(blocked(0, &[page_fault]));
        assert!(blocked(48, &[(field::EXIT_QUALIFICATION, UNBLOCKED | 0x81)]));
        assert!(!blocked(48, &[(field::EXIT_QUALIFICATION, 0x81)]));
        assert!(!blocked(0, &[(field::EXIT_INTERRUPT_INFO, VALID | 0xb08 | UNBLOCKED)]));
        assert!(!blocked(0, &[page_fault, (field::VECTORING_INFO, VALID | 0x20e)]));
        assert!(!blocked(30, &[(field::EXIT_QUALIFICATION, UNBLOCKED)]), "a port number");
    }

    /// INT n of two bytes is on its way when the guest faults: it waits again with the length of the
    /// instruction, or the guest would return to the wrong place.
    #[test]
    fn an_exit_in_a_delivery_is_injected_again_with_its_instruction_length() {
        const SOFT: u64 = 1 << 31 | 4 << 8 | 0x80;
        for length in [1, 2, 5] {
            let mut vmcs = Fields::of(&[
                (field::EXIT_INTERRUPT_INFO, 1 << 31 | 0xb0e),
                (field::VECTORING_INFO, SOFT),
                (field::EXIT_INSTRUCTION_LENGTH, length),
            ]);
            let mut state = VmxState::default();
            let mut software = Software::new(u64::MAX);
            let to = page();
            let cpu = Capabilities::default();
            state.store(&mut vmcs, &cpu, &mut software, &to, Mtd::INJ, 0, 0);
            assert_eq!(to.read_u64(offset::VECT_INFO), SOFT);
            state.write_event(&mut vmcs, &software);
            assert_eq!(vmcs.read(field::ENTRY_INTERRUPT_INFO), SOFT);
            assert_eq!(vmcs.read(field::ENTRY_INSTRUCTION_LENGTH), length);
        }
    }
}
