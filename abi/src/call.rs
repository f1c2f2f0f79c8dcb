//! The numbers of the system calls, with the fields of the word that names one.
//!
//! RDI at entry holds the call number (bits 7:0), flags or a sub-operation
//! (bits 11:8) and a value, mostly a selector (bits 63:12).

/// A system call. The discriminant is the number in the low byte of RDI.
///
/// Numbers up to 20 are API version 10; from 64 up they are additions of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Call {
    /// Send a message through a portal and wait for the reply.
    Call = 0,
    /// Answer the message being served and wait for the next one.
    Reply = 1,
    /// Make a protection domain.
    CreatePd = 2,
    /// Make an execution context: a thread or a portal's servant.
    CreateEc = 3,
    /// Make a scheduling context: give a thread time.
    CreateSc = 4,
    /// Make a portal.
    CreatePt = 5,
    /// Make a semaphore.
    CreateSm = 6,
    /// Take back what was delegated.
    Revoke = 7,
    /// Look up, delegate, map the APIC access page, access an MSR.
    PdCtrl = 8,
    /// Recall an execution context.
    EcCtrl = 9,
    /// Read the time a scheduling context used.
    ScCtrl = 10,
    /// Set the identity word of a portal.
    PtCtrl = 11,
    /// Semaphore up and down.
    SmCtrl = 12,
    /// Give a PCI device to a domain.
    AssignPci = 13,
    /// Suspend the machine, load microcode.
    MachineCtrl = 15,
    /// Make a kernel page.
    CreateKp = 16,
    /// Map and unmap a kernel page.
    KpCtrl = 17,
    /// Route interrupts.
    IrqCtrl = 18,
    /// Make a virtual processor.
    CreateVcpu = 19,
    /// Run or poke a virtual processor.
    VcpuCtrl = 20,
    /// Ours: give kernel memory quota to a domain.
    QuotaGive = 64,
    /// Ours: read a domain's quota and use.
    QuotaRead = 65,
    /// Ours: run a virtual processor with an exit mask and the extended state page.
    VcpuRunExt = 66,
    /// Ours: exchange the guest space of a virtual processor.
    GuestSpace = 67,
    /// Ours: read the kernel's counters.
    Statistics = 68,
    /// Ours: claim or read the kernel's log.
    Log = 69,
    /// Ours: put a domain into a trust group.
    TrustGroup = 70,
}

impl Call {
    /// Every call, in the order of the numbers.
    pub const ALL: [Self; 27] = [
        Self::Call,
        Self::Reply,
        Self::CreatePd,
        Self::CreateEc,
        Self::CreateSc,
        Self::CreatePt,
        Self::CreateSm,
        Self::Revoke,
        Self::PdCtrl,
        Self::EcCtrl,
        Self::ScCtrl,
        Self::PtCtrl,
        Self::SmCtrl,
        Self::AssignPci,
        Self::MachineCtrl,
        Self::CreateKp,
        Self::KpCtrl,
        Self::IrqCtrl,
        Self::CreateVcpu,
        Self::VcpuCtrl,
        Self::QuotaGive,
        Self::QuotaRead,
        Self::VcpuRunExt,
        Self::GuestSpace,
        Self::Statistics,
        Self::Log,
        Self::TrustGroup,
    ];

    /// Which call the first argument word names.
    ///
    /// # Errors
    /// The low byte itself when no call has that number (the kernel answers
    /// `BAD_HYP`).
    pub const fn from_word(rdi: u64) -> Result<Self, u8> {
        let number = number(rdi);
        Ok(match number {
            0 => Self::Call,
            1 => Self::Reply,
            2 => Self::CreatePd,
            3 => Self::CreateEc,
            4 => Self::CreateSc,
            5 => Self::CreatePt,
            6 => Self::CreateSm,
            7 => Self::Revoke,
            8 => Self::PdCtrl,
            9 => Self::EcCtrl,
            10 => Self::ScCtrl,
            11 => Self::PtCtrl,
            12 => Self::SmCtrl,
            13 => Self::AssignPci,
            15 => Self::MachineCtrl,
            16 => Self::CreateKp,
            17 => Self::KpCtrl,
            18 => Self::IrqCtrl,
            19 => Self::CreateVcpu,
            20 => Self::VcpuCtrl,
            64 => Self::QuotaGive,
            65 => Self::QuotaRead,
            66 => Self::VcpuRunExt,
            67 => Self::GuestSpace,
            68 => Self::Statistics,
            69 => Self::Log,
            70 => Self::TrustGroup,
            _ => return Err(number),
        })
    }

    /// The first argument word of this call: `flags` go to bits 11:8 (only
    /// their low four bits count), `value` to bits 63:12 (its top twelve bits
    /// are lost).
    #[must_use]
    pub const fn word(self, flags: u8, value: u64) -> u64 {
        self as u64 | ((flags & 0xf) as u64) << FLAGS_SHIFT | value << VALUE_SHIFT
    }
}

/// Position of the flags or sub-operation in the first argument word.
pub const FLAGS_SHIFT: u32 = 8;
/// Position of the value, mostly a selector, in the first argument word.
pub const VALUE_SHIFT: u32 = 12;

/// The call number: bits 7:0 of the first argument word.
#[must_use]
pub const fn number(rdi: u64) -> u8 {
    (rdi & 0xff) as u8
}

/// The flags: bits 11:8 of the first argument word, 0 to 15.
#[must_use]
pub const fn flags(rdi: u64) -> u8 {
    (rdi >> FLAGS_SHIFT & 0xf) as u8
}

/// The two-bit sub-operation (bits 9:8) of `pd_ctrl`, `ec_ctrl`, `kp_ctrl`,
/// `machine_ctrl` and `vcpu_ctrl`.
#[must_use]
pub const fn sub(rdi: u64) -> u8 {
    (rdi >> FLAGS_SHIFT & 0x3) as u8
}

/// The value: bits 63:12 of the first argument word.
#[must_use]
pub const fn value(rdi: u64) -> u64 {
    rdi >> VALUE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_by_its_number() {
        for call in Call::ALL {
            assert_eq!(Call::from_word(call.word(0xf, u64::MAX)), Ok(call));
        }
        let known = (0..=255u64).filter(|n| Call::from_word(*n).is_ok()).count();
        assert_eq!(known, Call::ALL.len());
    }

    #[test]
    fn holes_are_refused_with_their_number() {
        for hole in [14u64, 21, 63, 71, 255] {
            assert_eq!(Call::from_word(hole | 0xabc00), Err(hole as u8));
        }
    }

    #[test]
    fn fields_of_the_first_word() {
        let word = Call::SmCtrl.word(0b0011, 0x1234);
        assert_eq!(word, 12 | 3 << 8 | 0x1234 << 12);
        assert_eq!((number(word), flags(word), sub(word), value(word)), (12, 3, 3, 0x1234));
    }
}
