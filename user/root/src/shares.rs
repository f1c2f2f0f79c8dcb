//! Memory that guests share: it belongs to none of them, so it stays when one of them goes.
//!
//! It is taken when the machine starts and never given back. The first guest that is created while no other has it finds
//! it full of zeros.
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// One piece of shared memory.
#[derive(Debug)]
struct Share {
    name: String,
    physical: u64,
    bytes: u64,
    /// Guests that have it now.
    users: Vec<String>,
}

/// All shared memory.
#[derive(Debug, Default)]
pub struct Shares {
    all: Vec<Share>,
}

impl Shares {
    /// Memory at a physical address becomes shared memory.
    pub fn add(&mut self, name: &str, physical: u64, bytes: u64) {
        self.all.push(Share { name: name.to_string(), physical, bytes, users: Vec::new() });
    }

    /// A guest gets what is shared under a name: its physical address and its bytes. If nobody has it, `scrub` cleans it
    /// first.
    ///
    /// # Errors
    /// There is none of this name or size, or it cannot be cleaned; nothing has changed.
    pub fn enter(
        &mut self,
        name: &str,
        guest: &str,
        scrub: impl FnOnce(u64, u64) -> Result<(), String>,
    ) -> Result<(u64, u64), String> {
        let share = self.all.iter_mut().find(|share| share.name == name);
        let share = share.ok_or_else(|| format!("there is no shared memory {name}"))?;
        if share.users.is_empty() {
            scrub(share.physical, share.bytes)?;
        }
        if !share.users.iter().any(|user| user == guest) {
            share.users.push(guest.to_string());
        }
        Ok((share.physical, share.bytes))
    }

    /// A guest has none of it any more.
    pub fn leave(&mut self, guest: &str) {
        self.all.iter_mut().for_each(|share| share.users.retain(|user| user != guest));
    }

    /// A line for each, with who has it.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.all.iter().map(|share| {
            let users = share.users.iter().flat_map(|user| [" ", user]).collect::<String>();
            let users = if users.is_empty() { " nobody" } else { &users };
            format!("{:15} {} KiB, shared by{users}", share.name, share.bytes >> 10)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_clean_when_nobody_had_it_and_kept_while_somebody_has() {
        let mut shares = Shares::default();
        shares.add("letters", 0x5000, 0x2000);
        let mut scrubbed = 0;
        for guest in ["one", "two"] {
            let place = shares.enter("letters", guest, |physical, bytes| {
                assert_eq!((physical, bytes), (0x5000, 0x2000));
                scrubbed += 1;
                Ok(())
            });
            assert_eq!(place, Ok((0x5000, 0x2000)));
        }
        assert_eq!(
            shares.lines().collect::<Vec<_>>(),
            ["letters         8 KiB, shared by one two"]
        );
        // One goes and comes again, and finds what the other has left there.
        shares.leave("one");
        assert!(shares.enter("letters", "one", |_, _| panic!("the other has it")).is_ok());
        shares.leave("one");
        shares.leave("two");
        assert_eq!(shares.lines().collect::<Vec<_>>(), ["letters         8 KiB, shared by nobody"]);
        let dirty = |_, _| Err("memory is not writable".to_string());
        assert_eq!(shares.enter("letters", "one", dirty), Err("memory is not writable".into()));
        assert!(shares.enter("postcards", "one", dirty).unwrap_err().contains("postcards"));
        assert_eq!((scrubbed, shares.all[0].users.len()), (1, 0));
    }
}
