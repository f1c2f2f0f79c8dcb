//! Arguments of the calls that make objects.

use super::{LOW12, Words, field};
use crate::call::{self, Call};
use crate::cap::Selector;
use crate::{Crd, Mtd};

/// `create_pd`: make a protection domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatePd {
    /// Where the new capability goes.
    pub sel: Selector,
    /// Ask for access to machine calls (bit 8); only a domain that has it can
    /// pass it on.
    pub passthrough: bool,
    /// The parent domain.
    pub parent: Selector,
    /// Objects of the caller to delegate to selector 0 of the new domain.
    pub crd: Crd,
}

impl CreatePd {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        let word = Call::CreatePd.word(self.passthrough as u8, self.sel);
        [word, self.parent, self.crd.0, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self {
            sel: call::value(words[0]),
            passthrough: call::flags(words[0]) & 1 != 0,
            parent: words[1],
            crd: Crd(words[2]),
        }
    }
}

/// `create_ec`: make an execution context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateEc {
    /// Where the new capability goes.
    pub sel: Selector,
    /// A thread (set) or the servant of portals (clear): bit 8.
    pub global: bool,
    /// Bits 9 and 10 of the word (in bits 0 and 1 here); must be 0.
    pub reserved: u8,
    /// Map the UTCB into the caller's domain instead of `pd` (bit 11).
    pub utcb_in_caller: bool,
    /// The domain it runs in.
    pub pd: Selector,
    /// Its processor, 0 to 4095.
    pub cpu: u16,
    /// Address of its UTCB, a multiple of 4096; 0 for none.
    pub utcb: u64,
    /// Initial stack pointer.
    pub stack: u64,
    /// First of its 32 event selectors.
    pub event_base: u32,
}

impl CreateEc {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        let flags = self.global as u8 | (self.reserved & 3) << 1 | (self.utcb_in_caller as u8) << 3;
        [
            Call::CreateEc.word(flags, self.sel),
            self.pd,
            self.utcb & !LOW12 | self.cpu as u64 & LOW12,
            self.stack,
            self.event_base as u64,
        ]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        let flags = call::flags(words[0]);
        Self {
            sel: call::value(words[0]),
            global: flags & 1 != 0,
            reserved: flags >> 1 & 3,
            utcb_in_caller: flags >> 3 & 1 != 0,
            pd: words[1],
            cpu: (words[2] & LOW12) as u16,
            utcb: words[2] & !LOW12,
            stack: words[3],
            event_base: field(words[4], 0, 32) as u32,
        }
    }
}

/// `create_sc`: give a thread time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateSc {
    /// Where the new capability goes.
    pub sel: Selector,
    /// The domain that owns it.
    pub owner: Selector,
    /// The thread.
    pub ec: Selector,
    /// Priority; 1 to 127 is accepted.
    pub priority: u8,
    /// Quantum in microseconds; 0 is refused.
    pub quantum_us: u32,
}

impl CreateSc {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        let qpd = self.priority as u64 | (self.quantum_us as u64) << 12;
        [Call::CreateSc.word(0, self.sel), self.owner, self.ec, qpd, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self {
            sel: call::value(words[0]),
            owner: words[1],
            ec: words[2],
            priority: field(words[3], 0, 8) as u8,
            quantum_us: field(words[3], 12, 32) as u32,
        }
    }
}

/// `create_pt`: make a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatePt {
    /// Where the new capability goes.
    pub sel: Selector,
    /// The domain that owns it.
    pub owner: Selector,
    /// The servant, a local EC.
    pub ec: Selector,
    /// What an exception message through it carries.
    pub mtd: Mtd,
    /// Where the servant starts.
    pub entry: u64,
}

impl CreatePt {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        let word = Call::CreatePt.word(0, self.sel);
        [word, self.owner, self.ec, self.mtd.0 as u64, self.entry]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self {
            sel: call::value(words[0]),
            owner: words[1],
            ec: words[2],
            mtd: Mtd(field(words[3], 0, 32) as u32),
            entry: words[4],
        }
    }
}

/// `create_sm`: make a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateSm {
    /// Where the new capability goes.
    pub sel: Selector,
    /// The domain that owns it.
    pub owner: Selector,
    /// Initial count.
    pub count: u64,
}

impl CreateSm {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        [Call::CreateSm.word(0, self.sel), self.owner, self.count, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self { sel: call::value(words[0]), owner: words[1], count: words[2] }
    }
}

/// `create_kp`: make a kernel page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateKp {
    /// Where the new capability goes.
    pub sel: Selector,
    /// The domain that owns it.
    pub owner: Selector,
}

impl CreateKp {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        [Call::CreateKp.word(0, self.sel), self.owner, 0, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self { sel: call::value(words[0]), owner: words[1] }
    }
}

/// `create_vcpu`: make a virtual processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateVcpu {
    /// Where the new capability goes, in the parent's object space.
    pub sel: Selector,
    /// Its processor, 0 to 4095.
    pub cpu: u16,
    /// The parent domain (52 bits).
    pub parent: Selector,
    /// Kernel page with its state.
    pub state: Selector,
    /// Kernel page that is its virtual-APIC page.
    pub vlapic: Selector,
    /// Kernel page with its FPU registers.
    pub fpu: Selector,
}

impl CreateVcpu {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        [
            Call::CreateVcpu.word(0, self.sel),
            self.cpu as u64 & LOW12 | self.parent << 12,
            self.state,
            self.vlapic,
            self.fpu,
        ]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self {
            sel: call::value(words[0]),
            cpu: (words[1] & LOW12) as u16,
            parent: words[1] >> 12,
            state: words[2],
            vlapic: words[3],
            fpu: words[4],
        }
    }
}
