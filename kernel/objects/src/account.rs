//! Kernel memory by protection domain.
//!
//! Every domain has an account; a charge goes to it and up to the nearest account with a limit (a domain without a
//! limit draws on its creator's). Running out is `Oom` and changes nothing.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use logic::Oom;
use sync::Counted;
use sync::door::{self, Site};

/// Bytes of kernel memory used and allowed.
pub struct Account {
    used: AtomicU64,
    limit: AtomicU64,
    parent: Option<Counted<Account>>,
}

/// The limit of an account that has none of its own.
const UNLIMITED: u64 = u64::MAX;

impl Account {
    /// The account of the first domain, limited by the machine only.
    pub const fn root() -> Account {
        Account { used: AtomicU64::new(0), limit: AtomicU64::new(UNLIMITED), parent: None }
    }

    /// The account of a domain created by the owner of `parent`, without a limit of its own.
    pub const fn child(parent: Counted<Account>) -> Account {
        Account { used: AtomicU64::new(0), limit: AtomicU64::new(UNLIMITED), parent: Some(parent) }
    }

    /// Bytes in use and the limit (`u64::MAX`: the creator's).
    pub fn state(&self) -> (u64, u64) {
        (self.used.load(Relaxed), self.limit.load(Relaxed))
    }

    /// Sets the limit; what is used already stays.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Relaxed);
    }

    /// Takes `bytes`, here and at every creator up to the first with a limit.
    pub fn take(&self, bytes: u64) -> Result<(), Oom> {
        door::pass(Site::Charge)?;
        self.draw(bytes)
    }

    fn draw(&self, bytes: u64) -> Result<(), Oom> {
        let limit = self.limit.load(Relaxed);
        let used = self.used.fetch_add(bytes, Relaxed).wrapping_add(bytes);
        let above = match &self.parent {
            _ if used > limit => Err(Oom),
            Some(parent) if limit == UNLIMITED => parent.draw(bytes),
            _ => Ok(()),
        };
        if above.is_err() {
            self.used.fetch_sub(bytes, Relaxed);
        }
        above
    }

    /// Gives back what `take` took.
    pub fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
        if let Some(parent) = &self.parent
            && self.limit.load(Relaxed) == UNLIMITED
        {
            parent.give(bytes);
        }
    }

    /// Charges `bytes` for as long as the result lives.
    pub fn charge(account: &Counted<Account>, bytes: u64) -> Result<Charge, Oom> {
        account.take(bytes)?;
        Ok(Charge { account: account.clone(), bytes })
    }
}

/// Bytes charged to an account; given back when dropped.
#[must_use]
pub struct Charge {
    account: Counted<Account>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.give(self.bytes);
    }
}
