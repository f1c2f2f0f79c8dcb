//! Reads the kernel's command line (abi.md 2.1, and our own words).
//!
//! Words it does not know are ignored: loaders put file names there.

/// How much the kernel says on its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what stops the machine or a thread.
    Error,
    /// Also what is strange.
    Warn,
    /// Also what was found and decided at boot.
    #[default]
    Info,
    /// Also each step.
    Debug,
    /// Everything.
    Trace,
}

/// What the words of the command line ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `serial`: the log goes to COM1.
    pub serial: bool,
    /// `novga`: the screen is left alone.
    pub no_vga: bool,
    /// `iommu`: use the IOMMU.
    pub iommu: bool,
    /// `nodl`: do not use the TSC-deadline timer.
    pub no_deadline: bool,
    /// `nopcid`: do not use address-space tags.
    pub no_pcid: bool,
    /// `novpid`: do not use tags for guests.
    pub no_vpid: bool,
    /// `clocks`: the clocks are measured a second time, and compared.
    pub compare_clocks: bool,
    /// `kmem=N`: bytes of kernel memory, image and pool. N counts MiB, or what a letter K, M or G
    /// behind it says.
    pub kernel_memory: Option<u64>,
    /// `loglevel=error|warn|info|debug|trace`, or 0 to 4.
    pub log_level: LogLevel,
}

impl Options {
    /// Reads a command line; the last of equal words counts. It ends at the first NUL.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        let line = line.split(|&byte| byte == 0).next().unwrap_or(line);
        let mut options = Self::default();
        line.split(u8::is_ascii_whitespace).for_each(|word| options.take(word));
        options
    }

    fn take(&mut self, word: &[u8]) {
        match word {
            b"serial" => self.serial = true,
            b"novga" => self.no_vga = true,
            b"iommu" => self.iommu = true,
            b"nodl" => self.no_deadline = true,
            b"nopcid" => self.no_pcid = true,
            b"clocks" => self.compare_clocks = true,
            b"novpid" => self.no_vpid = true,
            _ => {
                if let Some(size) = word.strip_prefix(b"kmem=") {
                    self.kernel_memory = bytes(size).or(self.kernel_memory);
                } else if let Some(name) = word.strip_prefix(b"loglevel=") {
                    self.log_level = level(name).unwrap_or(self.log_level);
                }
            }
        }
    }
}

/// A number with an optional unit; `None` when it is no number, 0, or too large.
fn bytes(text: &[u8]) -> Option<u64> {
    let (digits, shift) = match text.split_last()? {
        (b'k' | b'K', digits) => (digits, 10),
        (b'm' | b'M', digits) => (digits, 20),
        (b'g' | b'G', digits) => (digits, 30),
        _ => (text, 20),
    };
    let number: u64 = core::str::from_utf8(digits).ok()?.parse().ok()?;
    number.checked_mul(1 << shift).filter(|&bytes| bytes != 0)
}

const fn level(name: &[u8]) -> Option<LogLevel> {
    match name {
        b"error" | b"0" => Some(LogLevel::Error),
        b"warn" | b"1" => Some(LogLevel::Warn),
        b"info" | b"2" => Some(LogLevel::Info),
        b"debug" | b"3" => Some(LogLevel::Debug),
        b"trace" | b"4" => Some(LogLevel::Trace),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_found_among_others() {
        let options =
            Options::parse(b"/boot/hematite.elf64 serial\tnodl clocks kmem=64 what=ever\0novga");
        let expected = Options {
            serial: true,
            no_deadline: true,
            compare_clocks: true,
            kernel_memory: Some(64 << 20),
            ..Options::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn numbers_with_units() {
        let memory = |line: &[u8]| Options::parse(line).kernel_memory;
        assert_eq!(memory(b"kmem=2G"), Some(2 << 30));
        assert_eq!(memory(b"kmem=512k"), Some(512 << 10));
        assert_eq!(memory(b"kmem=512 kmem=x"), Some(512 << 20));
        assert_eq!(memory(b"kmem="), None);
        assert_eq!(memory(b"kmem=0"), None);
        assert_eq!(memory(b"kmem=99999999999999999999"), None);
        assert_eq!(memory(b"kmem=99999999999999G"), None);
    }

    #[test]
    fn levels_by_name_and_number() {
        assert_eq!(Options::parse(b"").log_level, LogLevel::Info);
        assert_eq!(Options::parse(b"loglevel=trace").log_level, LogLevel::Trace);
        assert_eq!(Options::parse(b"loglevel=0 loglevel=9").log_level, LogLevel::Error);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Options::parse(&line);
        }
    }
}
