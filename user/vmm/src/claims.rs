//! Things worth a line once: unclaimed ports and memory, unknown registers.
use alloc::vec::Vec;

/// Most different things remembered; more are counted together.
const MOST: usize = 64;

/// Counts events by key and says which are new.
#[derive(Debug, Default)]
pub struct Seen {
    keys: Vec<(u64, u64)>,
    beyond: u64,
}

impl Seen {
    /// Counts `key`; true the first time. Beyond 64 keys nothing is new any more.
    pub fn first(&mut self, key: u64) -> bool {
        if let Some((_, count)) = self.keys.iter_mut().find(|(known, _)| *known == key) {
            *count = count.saturating_add(1);
            return false;
        }
        if self.keys.len() < MOST {
            self.keys.push((key, 1));
            return true;
        }
        self.beyond = self.beyond.saturating_add(1);
        false
    }

    /// All events counted.
    pub fn total(&self) -> u64 {
        self.keys.iter().map(|(_, count)| count).sum::<u64>().saturating_add(self.beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_each_and_bounded() {
        let mut seen = Seen::default();
        assert!(seen.first(5) && !seen.first(5));
        assert_eq!((0..1000).filter(|key| seen.first(*key)).count(), MOST - 1);
        assert!(seen.total() >= 1000);
    }
}
