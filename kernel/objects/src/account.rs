//! Kernel memory by protection domain.
//!
//! Every domain has an account; a charge goes to it and to those of all its creators, so that the first domain's
//! says what all use, and a limit holds for a domain and all it created. Running out is `Oom` and changes nothing.

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

    /// Bytes in use, by the domain and those it created, and the limit (`u64::MAX`: the creator's alone).
    pub fn state(&self) -> (u64, u64) {
        (self.used.load(Relaxed), self.limit.load(Relaxed))
    }

    /// Sets the limit; what is used already stays.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Relaxed);
    }

    /// Takes `bytes`, here and at every creator: each of them may refuse.
    pub fn take(&self, bytes: u64) -> Result<(), Oom> {
        door::pass(Site::Charge)?;
        self.draw(bytes)
    }

    #[inline]
    fn draw(&self, bytes: u64) -> Result<(), Oom> {
        let mut account = self;
        loop {
            let used = account.used.fetch_add(bytes, Relaxed).wrapping_add(bytes);
            if used > account.limit.load(Relaxed) {
                self.give_up_to(account, bytes);
                return Err(Oom);
            }
            match &account.parent {
                Some(parent) => account = parent,
                None => return Ok(()),
            }
        }
    }

    /// Gives back what was drawn from here to `last`, which refused.
    #[cold]
    fn give_up_to(&self, last: &Account, bytes: u64) {
        let mut account = self;
        loop {
            account.used.fetch_sub(bytes, Relaxed);
            match &account.parent {
                Some(parent) if !core::ptr::eq(account, last) => account = parent,
                _ => return,
            }
        }
    }

    /// Gives back what `take` took. Whether there is a limit, now or then, makes no difference.
    pub fn give(&self, bytes: u64) {
        let mut account = self;
        loop {
            account.used.fetch_sub(bytes, Relaxed);
            match &account.parent {
                Some(parent) => account = parent,
                None => return,
            }
        }
    }

    /// Charges `bytes` for as long as the result lives.
    #[inline]
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
