//! Arguments of the calls that control objects, with `revoke`.

use super::Words;
use crate::call::{self, Call};
use crate::cap::Selector;
use crate::crd::ItemMeta;
use crate::{Crd, Mtd};

/// `revoke`: take back what was delegated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoke {
    /// Take it from the target domain too, not only from its children (bit 8).
    pub own: bool,
    /// The target is `pd`, not the caller's domain (bit 9).
    pub remote: bool,
    /// What to take, and which permissions.
    pub crd: Crd,
    /// The target domain, if `remote`.
    pub pd: Selector,
}

impl Revoke {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        let flags = self.own as u8 | (self.remote as u8) << 1;
        [Call::Revoke.word(flags, 0), self.crd.0, self.pd, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        let flags = call::flags(words[0]);
        Self { own: flags & 1 != 0, remote: flags & 2 != 0, crd: Crd(words[1]), pd: words[2] }
    }
}

/// `pd_ctrl`: four operations on domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PdCtrl {
    /// Sub-operation 0: what does the caller have at the base of `crd`?
    Lookup {
        /// Kind and base to look for.
        crd: Crd,
    },
    /// Sub-operation 1: map the APIC access page into the caller's guest space.
    MapAccessPage {
        /// Memory, order 0, permissions 3.
        crd: Crd,
    },
    /// Sub-operation 2: transfer capabilities between two domains.
    Delegate {
        /// The domain that has them.
        source: Selector,
        /// The domain that gets them.
        destination: Selector,
        /// What is sent.
        crd: Crd,
        /// Kind, flags, hotspot.
        meta: ItemMeta,
        /// The receive window, for delegation and translation.
        window: Crd,
    },
    /// Sub-operation 3: read or write a model-specific register.
    MsrAccess {
        /// Write (bit 10) instead of read.
        write: bool,
        /// Index of the register (low 32 bits of the value field).
        msr: u32,
        /// What to write.
        value: u64,
    },
}

impl PdCtrl {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        match *self {
            Self::Lookup { crd } => [Call::PdCtrl.word(0, 0), crd.0, 0, 0, 0],
            Self::MapAccessPage { crd } => [Call::PdCtrl.word(1, 0), crd.0, 0, 0, 0],
            Self::Delegate { source, destination, crd, meta, window } => {
                [Call::PdCtrl.word(2, source), destination, crd.0, meta.0, window.0]
            }
            Self::MsrAccess { write, msr, value } => {
                [Call::PdCtrl.word(3 | (write as u8) << 2, msr as u64), value, 0, 0, 0]
            }
        }
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        match call::sub(words[0]) {
            0 => Self::Lookup { crd: Crd(words[1]) },
            1 => Self::MapAccessPage { crd: Crd(words[1]) },
            2 => Self::Delegate {
                source: call::value(words[0]),
                destination: words[1],
                crd: Crd(words[2]),
                meta: ItemMeta(words[3]),
                window: Crd(words[4]),
            },
            _ => Self::MsrAccess {
                write: call::flags(words[0]) & 4 != 0,
                msr: (call::value(words[0]) & 0xffff_ffff) as u32,
                value: words[1],
            },
        }
    }
}

/// `ec_ctrl`: make a thread report to its recall portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EcCtrl {
    /// Sub-operation 0: recall.
    Recall {
        /// The execution context.
        ec: Selector,
    },
    /// Sub-operations 1 to 3 do not exist.
    Unknown(u8),
}

impl EcCtrl {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        match *self {
            Self::Recall { ec } => [Call::EcCtrl.word(0, ec), 0, 0, 0, 0],
            Self::Unknown(sub) => [Call::EcCtrl.word(sub & 3, 0), 0, 0, 0, 0],
        }
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        match call::sub(words[0]) {
            0 => Self::Recall { ec: call::value(words[0]) },
            sub => Self::Unknown(sub),
        }
    }
}

/// `sc_ctrl`: read the time used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScCtrl {
    /// The scheduling context.
    pub sc: Selector,
}

impl ScCtrl {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        [Call::ScCtrl.word(0, self.sc), 0, 0, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self { sc: call::value(words[0]) }
    }
}

/// `pt_ctrl`: set the identity word of a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PtCtrl {
    /// The portal.
    pub pt: Selector,
    /// What its servant finds in RDI.
    pub id: u64,
}

impl PtCtrl {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        [Call::PtCtrl.word(0, self.pt), self.id, 0, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self { pt: call::value(words[0]), id: words[1] }
    }
}

/// `sm_ctrl`: semaphore up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmCtrl {
    /// Bit 8 clear: release a waiter or add one.
    Up {
        /// The semaphore.
        sm: Selector,
    },
    /// Bit 8 set: take, or wait.
    Down {
        /// The semaphore.
        sm: Selector,
        /// Take the whole count (bit 9).
        zero: bool,
        /// Absolute TSC value at which to give up; 0 for never.
        deadline: u64,
    },
}

impl SmCtrl {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        match *self {
            Self::Up { sm } => [Call::SmCtrl.word(0, sm), 0, 0, 0, 0],
            Self::Down { sm, zero, deadline } => {
                let word = Call::SmCtrl.word(1 | (zero as u8) << 1, sm);
                [word, deadline >> 32, deadline & 0xffff_ffff, 0, 0]
            }
        }
    }

    /// From registers. The deadline is RSI shifted by 32, or-ed with all of RDX.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        let flags = call::flags(words[0]);
        let sm = call::value(words[0]);
        if flags & 1 == 0 {
            Self::Up { sm }
        } else {
            Self::Down { sm, zero: flags & 2 != 0, deadline: words[1] << 32 | words[2] }
        }
    }
}

/// `kp_ctrl`: map and unmap a kernel page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KpCtrl {
    /// Sub-operation 0: map it.
    Map {
        /// The kernel page.
        kp: Selector,
        /// The domain in which to map it.
        pd: Selector,
        /// Address, a multiple of 4096 below `USER_TOP`.
        address: u64,
    },
    /// Sub-operation 1: unmap it.
    Unmap {
        /// The kernel page.
        kp: Selector,
    },
    /// Sub-operations 2 and 3 do not exist.
    Unknown(u8),
}

impl KpCtrl {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        match *self {
            Self::Map { kp, pd, address } => [Call::KpCtrl.word(0, kp), pd, address, 0, 0],
            Self::Unmap { kp } => [Call::KpCtrl.word(1, kp), 0, 0, 0, 0],
            Self::Unknown(sub) => [Call::KpCtrl.word(sub & 3, 0), 0, 0, 0, 0],
        }
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        let kp = call::value(words[0]);
        match call::sub(words[0]) {
            0 => Self::Map { kp, pd: words[1], address: words[2] },
            1 => Self::Unmap { kp },
            sub => Self::Unknown(sub),
        }
    }
}

/// `vcpu_ctrl`: run and poke a virtual processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuCtrl {
    /// Sub-operation 0: run until an exit.
    Run {
        /// The virtual processor.
        vcpu: Selector,
        /// Which fields of its state page to load.
        mtd: Mtd,
    },
    /// Sub-operation 1: make it exit.
    Poke {
        /// The virtual processor.
        vcpu: Selector,
    },
    /// Sub-operations 2 and 3 do not exist.
    Unknown(u8),
}

impl VcpuCtrl {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        match *self {
            Self::Run { vcpu, mtd } => [Call::VcpuCtrl.word(0, vcpu), mtd.0 as u64, 0, 0, 0],
            Self::Poke { vcpu } => [Call::VcpuCtrl.word(1, vcpu), 0, 0, 0, 0],
            Self::Unknown(sub) => [Call::VcpuCtrl.word(sub & 3, 0), 0, 0, 0, 0],
        }
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        let vcpu = call::value(words[0]);
        match call::sub(words[0]) {
            0 => Self::Run { vcpu, mtd: Mtd((words[1] & 0xffff_ffff) as u32) },
            1 => Self::Poke { vcpu },
            sub => Self::Unknown(sub),
        }
    }
}

/// `vcpu_run_ext`, ours: run a virtual processor and say what to tell at its exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuRunExt {
    /// The virtual processor.
    pub vcpu: Selector,
    /// Which fields of its state page to load.
    pub load: Mtd,
    /// Which groups to write there at the exit, of those that an exit writes.
    pub tell: Mtd,
    /// Load the extended words as well.
    pub load_extended: bool,
    /// Write them as well.
    pub tell_extended: bool,
    /// Bits 11:10 of the first word; the kernel takes 0 only.
    pub reserved: u8,
}

impl VcpuRunExt {
    const LOAD_EXTENDED: u8 = 1 << 0;
    const TELL_EXTENDED: u8 = 1 << 1;

    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        let load = if self.load_extended { Self::LOAD_EXTENDED } else { 0 };
        let tell = if self.tell_extended { Self::TELL_EXTENDED } else { 0 };
        let flags = load | tell | (self.reserved & 3) << 2;
        [Call::VcpuRunExt.word(flags, self.vcpu), self.load.0 as u64, self.tell.0 as u64, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        let flags = call::flags(words[0]);
        Self {
            vcpu: call::value(words[0]),
            load: Mtd((words[1] & 0xffff_ffff) as u32),
            tell: Mtd((words[2] & 0xffff_ffff) as u32),
            load_extended: flags & Self::LOAD_EXTENDED != 0,
            tell_extended: flags & Self::TELL_EXTENDED != 0,
            reserved: flags >> 2,
        }
    }
}
