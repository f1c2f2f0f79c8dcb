//! Interrupt messages between I/O APIC, local APICs and processors (Intel SDM vol. 3, 11.6.1 and
//! 11.11; 82093AA data sheet, 3.2.4).

/// What a message asks of its targets: the three-bit delivery mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Set the vector in the request register of every target.
    Fixed,
    /// The same, on the target that runs at the lowest priority.
    Lowest,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// Reset the processor, leave it waiting for a start-up message.
    Init,
    /// Start a waiting processor at page `vector` in real mode. Only sent by local APICs.
    StartUp,
    /// Take the vector from the 8259 pair.
    External,
}

impl Mode {
    /// Decodes the three-bit field; `None` for the reserved value 3.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::Lowest,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::External,
            _ => return None,
        })
    }
}

/// How an interrupt was triggered; a level one is told to the I/O APICs at its EOI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// By a rising edge.
    Edge,
    /// By an asserted wire.
    Level,
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The local APIC with this identifier.
    Physical(u32),
    /// The local APICs whose logical identifier matches this mask.
    Logical(u32),
    /// The sender.
    Itself,
    /// Everyone, the sender too.
    All,
    /// Everyone but the sender.
    Others,
}

impl Destination {
    /// A destination field of 8 bits: 0xff is everyone.
    #[must_use]
    pub fn from_byte(byte: u8, logical: bool) -> Self {
        match (byte, logical) {
            (0xff, _) => Self::All,
            (_, true) => Self::Logical(byte.into()),
            (_, false) => Self::Physical(byte.into()),
        }
    }
}

/// An interrupt message on its way: from an I/O APIC pin, or an interprocessor interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The vector; for [`Mode::StartUp`] the page number of the first instruction.
    pub vector: u8,
    /// What to do.
    pub mode: Mode,
    /// Edge or level.
    pub trigger: Trigger,
    /// To whom.
    pub destination: Destination,
}
