//! Arguments of `call` and `reply`.

use super::Words;
use crate::call::{self, Call};
use crate::cap::Selector;

/// `call`: send a message through a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPortal {
    /// The portal.
    pub portal: Selector,
    /// Answer `TIMEOUT` at once if the servant is busy (bit 8).
    pub nonblocking: bool,
}

impl CallPortal {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        [Call::Call.word(self.nonblocking as u8, self.portal), 0, 0, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self { portal: call::value(words[0]), nonblocking: call::flags(words[0]) & 1 != 0 }
    }
}

/// `reply`: answer the message being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0, or a semaphore on which the caller shall wait before it repeats its
    /// call.
    pub semaphore: Selector,
}

impl Reply {
    /// As registers.
    #[must_use]
    pub const fn encode(&self) -> Words {
        [Call::Reply.word(0, self.semaphore), 0, 0, 0, 0]
    }

    /// From registers.
    #[must_use]
    pub const fn decode(words: Words) -> Self {
        Self { semaphore: call::value(words[0]) }
    }
}
