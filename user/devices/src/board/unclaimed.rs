//! A bounded record of accesses that no device claims.

use alloc::vec::Vec;

/// Distinct accesses remembered; later ones are only counted.
pub const REMEMBERED: usize = 64;

/// One of the two address spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// I/O ports.
    Port,
    /// Guest-physical memory.
    Memory,
}

/// An access nobody claimed: it read all ones or its write was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclaimed {
    /// Where.
    pub space: Space,
    /// Port number or guest-physical address.
    pub address: u64,
    /// Bytes.
    pub size: u8,
    /// A write, else a read.
    pub write: bool,
}

/// The record.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    seen: Vec<Unclaimed>,
    reported: usize,
    total: u64,
}

impl Log {
    pub fn note(&mut self, access: Unclaimed) {
        self.total = self.total.saturating_add(1);
        if self.seen.len() < REMEMBERED && !self.seen.contains(&access) {
            self.seen.push(access);
        }
    }

    pub fn take(&mut self) -> Option<Unclaimed> {
        let access = self.seen.get(self.reported).copied()?;
        self.reported += 1;
        Some(access)
    }

    pub fn total(&self) -> u64 {
        self.total
    }
}
