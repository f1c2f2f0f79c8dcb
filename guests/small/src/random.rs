//! Numbers that look random and are the same each time.

/// Knuth's linear congruential numbers (MMIX): no need of better ones.
pub struct Random(pub u64);

impl Random {
    /// The next number, of 53 bits.
    pub fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 11
    }

    /// The next number below `end`, which is small and not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 20) % end
    }
}
