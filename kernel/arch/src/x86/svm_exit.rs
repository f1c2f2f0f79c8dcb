//! What an SVM exit code means in the words of the state page, which are VMX's.
//!
//! Exit codes: AMD APM vol. 2, appendix C. Reasons and qualifications: Intel SDM vol. 3, appendix C
//! and 28.2. Any word may arrive; what is not known becomes [`UNKNOWN`] and keeps its raw form in the
//! extended words of the state page.

use super::event;

/// The reason for an exit code that has no counterpart on VMX.
pub const UNKNOWN: u32 = 254;

/// The words that the hardware left in the VMCB, and two registers that some of them need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// EXITCODE.
    pub code: u64,
    /// EXITINFO1.
    pub info1: u64,
    /// EXITINFO2.
    pub info2: u64,
    /// EXITINTINFO.
    pub int_info: u64,
    /// The guest's RIP.
    pub rip: u64,
    /// The following instruction, or 0 if the CPU does not save it.
    pub next_rip: u64,
    /// The guest's DR6.
    pub dr6: u64,
    /// The CPU has decode assists (CPUID 0x8000000a EDX bit 7).
    pub assists: bool,
}

/// An exit in the words of the state page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Exit reason.
    pub reason: u32,
    /// Exit qualification.
    pub qualification: u64,
    /// Guest-physical address.
    pub address: u64,
    /// Interruption information and error code.
    pub event: (u32, u32),
    /// Vectoring information and error code.
    pub vectoring: (u32, u32),
    /// Instruction length, 0 if not known.
    pub length: u32,
}

/// What the kernel does about an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A physical interrupt waits.
    Interrupt,
    /// A physical NMI waits.
    Nmi,
    /// An instruction that this machine does not have: the guest gets #UD.
    Undefined,
    /// The guest is about to execute IRET while the kernel keeps NMIs blocked.
    Iret,
    /// MOV to or from DR0 to DR3.
    DebugRegister(Report),
    /// Everything else is the monitor's.
    Report(Report),
}

impl Raw {
    /// Whether the hardware refused to enter: code -1, as 32 or as 64 bits.
    #[must_use]
    pub const fn refused(&self) -> bool {
        self.code == u64::MAX || self.code == u32::MAX as u64
    }

    /// The meaning of the exit.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        let code = match self.code {
            code if self.refused() => return self.report(abi::exit::INVALID_STATE).with_raw(code),
            code if code > 0xffff => return self.report(UNKNOWN).with_raw(code),
            code => code as u32,
        };
        match code {
            0x60 => Meaning::Interrupt,
            0x61 => Meaning::Nmi,
            0x74 => Meaning::Iret,
            // INVLPGA, VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT; RSM outside SMM.
            0x73 | 0x7a | 0x80 | 0x82..=0x86 => Meaning::Undefined,
            0x00..=0x1f => self.control_register(code),
            0x20..=0x3f => self.debug_register(code),
            0x40..=0x5f => self.exception(code - 0x40),
            0x65 => self.control_register(0x10),
            0x66 | 0x67 | 0x6a | 0x6b => self.instruction(46, 0),
            0x68 | 0x69 | 0x6c | 0x6d => self.instruction(47, 0),
            0x79 => self.instruction(14, if self.assists { self.info1 } else { 0 }),
            0x7b => self.port(),
            0x7c => self.instruction(if self.info1 & 1 == 0 { 31 } else { 32 }, 0),
            0x7d => self.task_switch(),
            0x88 => self.trap(1, event::PRIVILEGED),
            0x400 => self.nested_fault(),
            other => match simple(other) {
                Some(reason) if has_length(reason) => self.instruction(reason, 0),
                Some(reason) => Meaning::Report(self.report(reason)),
                None => self.report(UNKNOWN).with_raw(self.code),
            },
        }
    }

    fn report(&self, reason: u32) -> Report {
        Report { reason, vectoring: event::from_svm(self.int_info), ..Report::default() }
    }

    fn instruction(&self, reason: u32, qualification: u64) -> Meaning {
        let length = self.length_to(self.next_rip);
        Meaning::Report(Report { qualification, length, ..self.report(reason) })
    }

    /// Bytes from RIP to the next instruction, 0 if that cannot be an instruction's length.
    fn length_to(&self, next: u64) -> u32 {
        match next.wrapping_sub(self.rip) {
            length @ 1..=15 if next != 0 => length as u32,
            _ => 0,
        }
    }

    /// 28.2.1, table 28-3: number, direction, register.
    fn control_register(&self, code: u32) -> Meaning {
        let read = if code < 0x10 { 1 << 4 } else { 0 };
        let register = if self.assists { (self.info1 & 0xf) << 8 } else { 0 };
        self.instruction(28, u64::from(code & 0xf) | read | register)
    }

    /// 28.2.1, table 28-4. Only DR0 to DR3 are ever intercepted without the monitor asking.
    fn debug_register(&self, code: u32) -> Meaning {
        let read = if code < 0x30 { 1 << 4 } else { 0 };
        let register = if self.assists { (self.info1 & 0xf) << 8 } else { 0 };
        let qualification = u64::from(code & 7) | read | register;
        match self.instruction(29, qualification) {
            Meaning::Report(report) => Meaning::DebugRegister(report),
            other => other,
        }
    }

    fn exception(&self, vector: u32) -> Meaning {
        let kind = if vector == 3 || vector == 4 { event::SOFTWARE } else { event::HARDWARE };
        self.trap(vector, kind)
    }

    fn trap(&self, vector: u32, kind: u32) -> Meaning {
        let mut report = self.report(0);
        let code = if event::has_error_code(vector) { event::ERROR_CODE } else { 0 };
        report.event = (event::VALID | kind | code | vector, 0);
        if code != 0 {
            report.event.1 = self.info1 as u32;
        }
        report.qualification = match vector {
            1 => self.dr6 & 0x600f,
            14 => self.info2,
            _ => 0,
        };
        if kind != event::HARDWARE {
            report.length = self.length_to(self.next_rip);
        }
        Meaning::Report(report)
    }

    /// 28.2.1, table 28-5. EXITINFO2 is the address of the next instruction on every CPU.
    fn port(&self) -> Meaning {
        let size = match self.info1 >> 4 & 7 {
            1 => 0,
            2 => 1,
            _ => 3,
        };
        let direction = (self.info1 & 1) << 3;
        let string = (self.info1 >> 2 & 3) << 4;
        let port = self.info1 & 0xffff_0000;
        let length = self.length_to(self.info2);
        let qualification = size | direction | string | port;
        Meaning::Report(Report { qualification, length, ..self.report(30) })
    }

    /// 28.2.1, table 28-2; APM 15.14.1.
    fn task_switch(&self) -> Meaning {
        let source = match self.info2 {
            info if info & 1 << 36 != 0 => 1,
            info if info & 1 << 38 != 0 => 2,
            _ if self.int_info & u64::from(event::VALID) != 0 => 3,
            _ => 0,
        };
        self.instruction(9, self.info1 & 0xffff | source << 30)
    }

    /// 28.2.1, table 28-7; APM 15.25.6.
    fn nested_fault(&self) -> Meaning {
        let present = self.info1 & 1 != 0;
        let access = match self.info1 {
            info if info & 1 << 4 != 0 => 4,
            info if info & 1 << 1 != 0 => 2,
            _ => 1,
        };
        let rights = if present { 1 << 3 } else { 0 };
        let translated = (self.info1 >> 32 & 1) << 8;
        // A reserved bit in the kernel's own table is what VMX calls a misconfiguration.
        let reason = if self.info1 & 1 << 3 != 0 { 49 } else { 48 };
        let qualification = access | rights | translated;
        Meaning::Report(Report { qualification, address: self.info2, ..self.report(reason) })
    }
}

impl Report {
    fn with_raw(mut self, code: u64) -> Meaning {
        self.qualification = code;
        Meaning::Report(self)
    }
}

/// Codes whose reason is all there is to say.
const fn simple(code: u32) -> Option<u32> {
    Some(match code {
        0x63 => 3,
        0x64 => 7,
        0x6e => 16,
        0x6f => 15,
        0x72 => 10,
        0x76 => 13,
        0x77 => 40,
        0x78 => 12,
        0x7f => 2,
        0x81 => 18,
        0x87 => 51,
        0x89 => 54,
        0x8a => 39,
        0x8b | 0x8c => 36,
        0x8d => 55,
        0xa2 => 58,
        _ => return None,
    })
}

/// Whether a reason comes from an instruction.
const fn has_length(reason: u32) -> bool {
    !matches!(reason, 2 | 3 | 7)
}

#[cfg(test)]
#[path = "svm_exit_tests.rs"]
mod tests;
