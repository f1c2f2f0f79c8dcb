//! Judges a Linux guest's log: what must never be there, and warnings nobody has allowed.

/// A line with one of these fails whatever the list says.
pub const NEVER: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Call Trace:",
    "unchecked MSR access",
    "soft lockup",
    "hard LOCKUP",
    "clocksource: Watchdog",
    "timekeeping watchdog",
];

/// The committed list.
pub const ALLOWED: &str = include_str!("../allow/linux-warnings.txt");

/// The command a story types to have all lines of level warning and above listed with their levels.
pub const LIST: &str = "dmesg -r | grep '^<[0-4]>'; echo listed-$((1+1))";

/// What comes when the list is complete.
pub const LISTED: &str = "listed-2";

/// Everything in a serial log that must not be there. Lines that `dmesg -r` wrote begin with their
/// level, `<4>[    1.032103] text`; levels 0 to 4 are looked up in the list.
#[must_use]
pub fn findings(log: &[u8], allowed: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(log);
    let patterns: Vec<_> = allowed
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(str::trim)
        .collect();
    let mut found = Vec::new();
    for line in text.lines().map(|line| line.trim_end_matches('\r')) {
        if NEVER.iter().any(|word| line.contains(word)) {
            found.push(line.to_string());
        } else if let Some(message) = warning(line)
            && !patterns.iter().any(|pattern| matches(pattern, message.trim()))
        {
            found.push(format!("not in the allow-list: {message}"));
        }
    }
    found.dedup();
    found
}

/// The message of a `dmesg -r` line of level warning or above.
fn warning(line: &str) -> Option<&str> {
    let (level, rest) = line.strip_prefix('<')?.split_once('>')?;
    let level: u32 = level.parse().ok()?;
    let (_, message) = rest.split_once("] ")?;
    (rest.starts_with('[') && level & 7 <= 4).then_some(message)
}

/// Whether `text` is the pattern, in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut ends_open = !pattern.contains('*') && rest.is_empty();
    for part in parts {
        ends_open = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    ends_open || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_messages() {
        assert!(matches("a * c", "a b c"));
        assert!(matches("a *", "a b c"));
        assert!(matches("plain", "plain"));
        assert!(!matches("plain", "plain and more"));
        assert!(!matches("a * c", "a b d"));
        assert!(!matches("b", "a b"));
    }

    #[test]
    fn what_nobody_allowed_is_found() {
        let log = b"<4>[    1.0] known thing\r\n<4>[    1.1] new thing\r\n<6>[    1.2] note\r\n";
        assert_eq!(findings(log, "# why\nknown *\n"), ["not in the allow-list: new thing"]);
        let bad = findings(b"[    2.0] WARNING: CPU: 0 PID: 1 at x\r\n", "*");
        assert_eq!(bad.len(), 1);
    }

    #[test]
    fn the_committed_list_takes_the_native_lines() {
        let log = b"<4>[    1.032259] mtrr: your CPUs had inconsistent variable MTRR settings\r\n\
            <4>[    2.685586]   \"trace_clock=local\"\r\n";
        assert!(findings(log, ALLOWED).is_empty());
    }
}
