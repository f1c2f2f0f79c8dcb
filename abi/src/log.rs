//! What the kernel tells about itself: the records of its log (call 69) and its counters (call 68).

/// A record of the kernel's log, as it lies in the message: four words.
///
/// ```text
///   number     from 0 on, without a gap but where records were lost
///   tsc        when
///   what       code (15:0), processor (31:16), detail (63:32)
///   value
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRecord {
    /// Its number.
    pub number: u64,
    /// Time stamp counter when it was written.
    pub tsc: u64,
    /// What happened: [`UNOWNED`], [`KILLED`], [`FAULT`], or something newer.
    pub code: u16,
    /// The processor it happened on.
    pub cpu: u16,
    /// More about it.
    pub detail: u32,
    /// Most about it.
    pub value: u64,
}

/// An interrupt came that nobody asked for; `detail` is its vector.
pub const UNOWNED: u16 = 1;
/// A thread was killed; `detail` is the place of the reason in [`REASONS`].
pub const KILLED: u16 = 2;
/// A thread had no handler for an event; `detail` is the event, `value` the instruction pointer.
pub const FAULT: u16 = 3;

/// Why the kernel kills threads; the first for what has no place of its own.
pub const REASONS: [&str; 8] = [
    "another reason",
    "PT not found",
    "PT wrong CPU",
    "PT dead",
    "Livelock",
    "reply without a caller",
    "it ran without a reply",
    "its capability was revoked",
];

/// Words of a record in a message.
pub const RECORD_WORDS: usize = 4;
/// Most records in one answer: what a message holds.
pub const RECORDS: usize = crate::utcb::MESSAGE_WORDS / RECORD_WORDS;

/// Counter of a processor: interrupts that nobody asked for.
pub const UNOWNED_INTERRUPTS: u64 = 0;
/// Counter of a processor: shoot-downs that it did for others.
pub const SHOOTDOWNS: u64 = 1;
/// Counter of the machine: frames of kernel memory that are free, of 4096 bytes.
pub const FREE_FRAMES: u64 = 2;
/// Counter of the machine: records written to the log.
pub const LOG_RECORDS: u64 = 3;
/// First of the counters of the machine that only a kernel built to measure has (others answer `BAD_PAR`): the longest
/// time that interrupts were off for a call, by its number, in TSC ticks; then the labels below.
pub const STRETCHES: u64 = 0x100;
/// What stretches are told apart by: 128 call numbers and the labels below.
pub const STRETCH_LABELS: usize = 131;
/// Label of a stretch: an exception of a thread.
pub const STRETCH_EXCEPTION: u8 = 128;
/// Label of a stretch: an interrupt, or the end of idling.
pub const STRETCH_INTERRUPT: u8 = 129;
/// Label of a stretch: an exit of a guest, and the way back into it.
pub const STRETCH_GUEST: u8 = 130;

impl LogRecord {
    /// As words.
    #[must_use]
    pub const fn words(&self) -> [u64; RECORD_WORDS] {
        let what = self.code as u64 | (self.cpu as u64) << 16 | (self.detail as u64) << 32;
        [self.number, self.tsc, what, self.value]
    }

    /// From words.
    #[must_use]
    pub const fn from_words([number, tsc, what, value]: [u64; RECORD_WORDS]) -> Self {
        Self {
            number,
            tsc,
            code: (what & 0xffff) as u16,
            cpu: (what >> 16 & 0xffff) as u16,
            detail: (what >> 32) as u32,
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_back(number: u64, tsc: u64, what: u64, value: u64) {
            let words = [number, tsc, what, value];
            prop_assert_eq!(LogRecord::from_words(words).words(), words);
        }
    }
}
