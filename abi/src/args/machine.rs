//! Arguments of the calls about devices and the machine as a whole.

use super::{Words, field};
use crate::call::{self, Call};
use crate::cap::Selector;

/// `assign_pci`: give a device to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignPci {
    /// The domain.
    pub pd: Selector,
    /// Address of the device's configuration page in that domain.
    pub config: u64,
    /// Requester id to assume if the device does not say.
    pub hint: u64,
}

impl AssignPci {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        [Call::AssignPci.word(0, self.pd), self.config, self.hint, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self { pd: call::value(words[0]), config: words[1], hint: words[2] }
    }
}

/// `machine_ctrl`: suspend, load microcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineCtrl {
    /// Sub-operation 0: put the machine to sleep.
    Suspend {
        /// SLP_TYPa (bits 19:12); up to 7 is accepted.
        slp_typ_a: u8,
        /// SLP_TYPb (bits 27:20); up to 7 is accepted.
        slp_typ_b: u8,
    },
    /// Sub-operation 1: load microcode on every processor.
    UpdateMicrocode {
        /// Bytes with the header (20 bits).
        size: u32,
        /// Physical address of the header.
        physical: u64,
    },
    /// Sub-operations 2 and 3 do not exist.
    Unknown(u8),
}

impl MachineCtrl {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        match *self {
            Self::Suspend { slp_typ_a, slp_typ_b } => {
                let value = slp_typ_a as u64 | (slp_typ_b as u64) << 8;
                [Call::MachineCtrl.word(0, value), 0, 0, 0, 0]
            }
            Self::UpdateMicrocode { size, physical } => {
                [Call::MachineCtrl.word(1, size as u64 & 0xf_ffff), physical, 0, 0, 0]
            }
            Self::Unknown(sub) => [Call::MachineCtrl.word(sub & 3, 0), 0, 0, 0, 0],
        }
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        match call::sub(words[0]) {
            0 => Self::Suspend {
                slp_typ_a: field(words[0], 12, 8) as u8,
                slp_typ_b: field(words[0], 20, 8) as u8,
            },
            1 => Self::UpdateMicrocode { size: field(words[0], 12, 20) as u32, physical: words[1] },
            sub => Self::Unknown(sub),
        }
    }
}

/// `irq_ctrl`: route interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqCtrl {
    /// Sub-operation 0: what happens when a vector fires.
    ConfigureVector {
        /// The vector; below 192 is accepted.
        vector: u8,
        /// The processor.
        cpu: u16,
        /// Semaphore to raise.
        sm: Selector,
        /// Kernel page in which a bit is set.
        kp: Selector,
        /// Which bit (15 bits).
        bit: u16,
    },
    /// Sub-operation 1: send an I/O APIC pin to a vector.
    AssignIoapicPin {
        /// The vector.
        vector: u8,
        /// The processor.
        cpu: u16,
        /// Level triggered (bit 36), else edge.
        level: bool,
        /// Active low (bit 37), else high.
        active_low: bool,
        /// The I/O APIC (4 bits).
        ioapic: u8,
        /// Its pin.
        pin: u8,
    },
    /// Sub-operation 2: mask or unmask an I/O APIC pin.
    MaskIoapicPin {
        /// Mask (bit 12), else unmask.
        mask: bool,
        /// The I/O APIC (4 bits).
        ioapic: u8,
        /// Its pin.
        pin: u8,
    },
    /// Sub-operation 3: ask how a device shall signal a vector.
    AssignMsi {
        /// The vector.
        vector: u8,
        /// The processor.
        cpu: u16,
        /// Address of the device's page in the caller's domain, a multiple of
        /// 4096.
        device: u64,
    },
    /// Sub-operation 4: send a local interrupt source to a vector.
    AssignLvt {
        /// The vector.
        vector: u8,
        /// The source; 0 is the thermal sensor.
        lvt: u8,
    },
    /// Sub-operation 5: mask or unmask a local interrupt source.
    MaskLvt {
        /// Mask (bit 12), else unmask.
        mask: bool,
        /// The source.
        lvt: u8,
    },
    /// Sub-operations 6 to 15 do not exist.
    Unknown(u8),
}

impl IrqCtrl {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        match *self {
            Self::ConfigureVector { vector, cpu, sm, kp, bit } => {
                [target(0, vector, cpu), sm, kp, bit as u64 & 0x7fff, 0]
            }
            Self::AssignIoapicPin { vector, cpu, level, active_low, ioapic, pin } => {
                let mode = (level as u64) << 36 | (active_low as u64) << 37;
                [target(1, vector, cpu) | mode, encode_pin(ioapic, pin), 0, 0, 0]
            }
            Self::MaskIoapicPin { mask, ioapic, pin } => {
                [Call::IrqCtrl.word(2, mask as u64), encode_pin(ioapic, pin), 0, 0, 0]
            }
            Self::AssignMsi { vector, cpu, device } => {
                [target(3, vector, cpu), device & !super::LOW12, 0, 0, 0]
            }
            Self::AssignLvt { vector, lvt } => [target(4, vector, 0), lvt as u64, 0, 0, 0],
            Self::MaskLvt { mask, lvt } => {
                [Call::IrqCtrl.word(5, mask as u64), lvt as u64, 0, 0, 0]
            }
            Self::Unknown(sub) => [Call::IrqCtrl.word(sub, 0), 0, 0, 0, 0],
        }
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        let vector = field(words[0], 12, 8) as u8;
        let cpu = field(words[0], 20, 16) as u16;
        let mask = field(words[0], 12, 1) != 0;
        let ioapic = field(words[1], 0, 4) as u8;
        let pin = field(words[1], 4, 8) as u8;
        let lvt = field(words[1], 0, 8) as u8;
        match call::flags(words[0]) {
            0 => Self::ConfigureVector {
                vector,
                cpu,
                sm: words[1],
                kp: words[2],
                bit: field(words[3], 0, 15) as u16,
            },
            1 => Self::AssignIoapicPin {
                vector,
                cpu,
                level: field(words[0], 36, 1) != 0,
                active_low: field(words[0], 37, 1) != 0,
                ioapic,
                pin,
            },
            2 => Self::MaskIoapicPin { mask, ioapic, pin },
            3 => Self::AssignMsi { vector, cpu, device: words[1] & !super::LOW12 },
            4 => Self::AssignLvt { vector, lvt },
            5 => Self::MaskLvt { mask, lvt },
            sub => Self::Unknown(sub),
        }
    }
}

/// First word of the operations that name a vector and a processor.
const fn target(sub: u8, vector: u8, cpu: u16) -> u64 {
    Call::IrqCtrl.word(sub, vector as u64 | (cpu as u64) << 8)
}

/// Second word of the operations that name a pin.
const fn encode_pin(ioapic: u8, pin: u8) -> u64 {
    ioapic as u64 & 0xf | (pin as u64) << 4
}

/// `statistics`, ours: read a counter of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// The processor whose counter it is.
    pub cpu: u64,
    /// Which one: a constant of [`crate::log`].
    pub counter: u64,
}

impl Statistics {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        [Call::Statistics.word(0, self.cpu), self.counter, 0, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self { cpu: call::value(words[0]), counter: words[1] }
    }
}

/// `log`, ours: claim or read the kernel's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Sub-operation 0: the kernel leaves COM1 alone from now on, until it dies.
    Claim,
    /// Sub-operation 1: records into the caller's message.
    Read {
        /// Number of the first record wanted.
        from: u64,
    },
    /// Sub-operations 2 and 3 do not exist.
    Unknown(u8),
}

impl Log {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        match *self {
            Self::Claim => [Call::Log.word(0, 0), 0, 0, 0, 0],
            Self::Read { from } => [Call::Log.word(1, 0), from, 0, 0, 0],
            Self::Unknown(sub) => [Call::Log.word(sub & 3, 0), 0, 0, 0, 0],
        }
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        match call::sub(words[0]) {
            0 => Self::Claim,
            1 => Self::Read { from: words[1] },
            sub => Self::Unknown(sub),
        }
    }
}
