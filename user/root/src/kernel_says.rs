//! The kernel's log (docs/spec/log.md), which the console claims: the kernel leaves the serial line alone then.
use abi::log::{LOG_RECORDS, LogRecord, RECORD_WORDS};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use root::kernel_log::line;
use rt::{Boot, Utcb, calls};

/// The log, read so far.
pub struct KernelSays {
    /// The number of the next record; `None` if the kernel keeps its log to itself.
    next: Option<u64>,
}

impl KernelSays {
    /// Claims the log. What was told before stands on the serial line already.
    pub fn new(boot: &Boot) -> Self {
        let told = || calls::statistics(boot.cpu, LOG_RECORDS);
        Self { next: calls::log_claim().and_then(|()| told()).ok() }
    }

    /// What was told since the last look.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(from) = self.next else { return lines };
        let (Ok(out), Some(utcb)) = (calls::log_read(from), Utcb::current()) else { return lines };
        if out.rax > 0 {
            lines.push(format!("{} records were lost", out.rax));
        }
        for number in 0..out.rdx as usize {
            let words: [u64; RECORD_WORDS] =
                core::array::from_fn(|index| utcb.word(RECORD_WORDS * number + index));
            lines.push(line(&LogRecord::from_words(words)));
        }
        self.next = Some(out.rsi);
        lines
    }
}
