//! Counting what holds and saying what does not.

use core::fmt::Debug;

/// The counts.
#[derive(Debug, Default)]
pub struct Tally {
    family: &'static str,
    passed: u32,
    failed: u32,
    ours: bool,
}

impl Tally {
    /// Nothing checked; `ours` says whether the kernel is ours.
    pub const fn new(ours: bool) -> Self {
        Self { family: "start", passed: 0, failed: 0, ours }
    }

    /// The checks from here on belong to this family.
    pub fn family(&mut self, name: &'static str) {
        self.family = name;
    }

    /// A condition that must hold.
    pub fn holds(&mut self, name: &str, condition: bool) {
        self.equal(name, condition, true);
    }

    /// A value that must be another.
    pub fn equal<T: PartialEq + Debug>(&mut self, name: &str, got: T, want: T) {
        if got == want {
            self.passed += 1;
            rt::println!("suite: {}.{name} ok", self.family);
        } else {
            self.failed += 1;
            rt::println!("suite: {}.{name} FAIL got {got:x?} want {want:x?}", self.family);
        }
    }

    /// A value that must be another on this kernel of ours; left out on others.
    pub fn ours<T: PartialEq + Debug>(&mut self, name: &str, got: T, want: T) {
        if self.ours {
            self.equal(name, got, want);
        }
    }

    /// A remark.
    pub fn skip(&self, name: &str, why: &str) {
        rt::println!("suite: {}.{name} skipped: {why}", self.family);
    }

    /// The last line.
    pub fn end(&self) {
        rt::println!("suite: {} passed, {} failed", self.passed, self.failed);
    }
}
