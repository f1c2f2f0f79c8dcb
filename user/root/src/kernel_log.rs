//! What the kernel tells while it runs, in words.

use abi::log::{FAULT, KILLED, LogRecord, REASONS, UNOWNED};
use alloc::format;
use alloc::string::String;

/// A record as a line.
#[must_use]
pub fn line(record: &LogRecord) -> String {
    let LogRecord { code, cpu, detail, value, .. } = *record;
    match code {
        UNOWNED => format!("CPU {cpu}: vector {detail:#x} arrived and nobody has asked for it"),
        KILLED => {
            let reason = REASONS.get(detail as usize).or(REASONS.first()).unwrap_or(&"");
            format!("CPU {cpu}: killed a thread: {reason}")
        }
        FAULT => format!("CPU {cpu}: event {detail:#x} at {value:#x} has no handler"),
        _ => format!("CPU {cpu}: record {code}, {detail:#x}, {value:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_makes_a_line() {
        let record =
            |code, detail, value| LogRecord { code, cpu: 1, detail, value, number: 0, tsc: 0 };
        for (record, want) in [
            (record(UNOWNED, 0x29, 0), "CPU 1: vector 0x29 arrived and nobody has asked for it"),
            (record(KILLED, 3, 0), "CPU 1: killed a thread: PT dead"),
            (record(KILLED, 99, 0), "CPU 1: killed a thread: another reason"),
            (record(FAULT, 6, 0x1000), "CPU 1: event 0x6 at 0x1000 has no handler"),
            (record(77, 1, 2), "CPU 1: record 77, 0x1, 0x2"),
        ] {
            assert_eq!(line(&record), want);
        }
    }
}
