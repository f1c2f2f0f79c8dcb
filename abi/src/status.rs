//! What a system call answers in the low byte of RDI.

use core::fmt;

/// The outcome of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// It was done.
    Success = 0,
    /// The deadline passed, or the other side is busy or gone.
    Timeout = 1,
    /// The other side died while it served the call.
    Abort = 2,
    /// No such call.
    BadHyp = 3,
    /// A selector holds no capability, one of another kind, or one without the
    /// permission; or the selector for a new object is taken.
    BadCap = 4,
    /// An argument has no meaning.
    BadPar = 5,
    /// A feature is missing. API version 10 never answers this; docs/compatibility.md says where ours does.
    BadFtr = 6,
    /// The processor does not exist, is not online, or is the wrong one.
    BadCpu = 7,
    /// The device does not exist or cannot be given away.
    BadDev = 8,
    /// Kernel memory or the domain's quota is used up.
    Oom = 9,
    /// The object is in use.
    Busy = 10,
}

impl Status {
    /// The status with this number; `None` above 10.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Success,
            1 => Self::Timeout,
            2 => Self::Abort,
            3 => Self::BadHyp,
            4 => Self::BadCap,
            5 => Self::BadPar,
            6 => Self::BadFtr,
            7 => Self::BadCpu,
            8 => Self::BadDev,
            9 => Self::Oom,
            10 => Self::Busy,
            _ => return None,
        })
    }

    /// The status in RDI after a call. Only the low byte counts: a successful
    /// `call` leaves the rest of RDI as it was.
    #[must_use]
    pub const fn from_word(rdi: u64) -> Option<Self> {
        Self::from_u8((rdi & 0xff) as u8)
    }

    /// `Ok(value)` for success, else the status as an error.
    ///
    /// # Errors
    /// The status itself, unless it is [`Status::Success`].
    pub fn ok<T>(self, value: T) -> Result<T, Self> {
        if self == Self::Success { Ok(value) } else { Err(self) }
    }

    /// The name used in the specification.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::Timeout => "TIMEOUT",
            Self::Abort => "ABORT",
            Self::BadHyp => "BAD_HYP",
            Self::BadCap => "BAD_CAP",
            Self::BadPar => "BAD_PAR",
            Self::BadFtr => "BAD_FTR",
            Self::BadCpu => "BAD_CPU",
            Self::BadDev => "BAD_DEV",
            Self::Oom => "OOM",
            Self::Busy => "BUSY",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for n in 0..=255u8 {
            match Status::from_u8(n) {
                Some(status) => assert_eq!(status as u8, n),
                None => assert!(n > 10),
            }
        }
        assert_eq!(Status::from_word(0xffff_ff04), Some(Status::BadCap));
        assert_eq!(Status::BadPar.to_string(), "BAD_PAR");
    }
}
