//! Memory types by physical address (MTRRs), for nested page tables (Intel SDM vol. 3, 11.11).

/// Memory types (table 11-2).
pub const UNCACHEABLE: u8 = 0;
/// See [`UNCACHEABLE`].
pub const WRITE_THROUGH: u8 = 4;
/// See [`UNCACHEABLE`].
pub const WRITE_BACK: u8 = 6;

/// The most variable ranges that are looked at.
pub const RANGES: usize = 16;
/// Fixed ranges: eight bytes in each of eleven registers, in the order of their addresses.
pub const FIXED: usize = 11 * 8;

/// A copy of a CPU's registers.
#[derive(Clone, Copy, Debug)]
pub struct Mtrrs {
    /// IA32_MTRR_DEF_TYPE.
    pub default: u64,
    /// Types of the first MiB by fixed ranges: 8 times 64 KiB, 16 times 16 KiB, 64 times 4 KiB.
    pub fixed: [u8; FIXED],
    /// Base and mask of each variable range.
    pub ranges: [(u64, u64); RANGES],
}

const ENABLED: u64 = 1 << 11;
const FIXED_ENABLED: u64 = 1 << 10;
const VALID: u64 = 1 << 11;
const MIB: u64 = 1 << 20;

impl Mtrrs {
    /// A CPU without MTRRs: everything is write-back, as far as they are concerned.
    pub const NONE: Self =
        Self { default: WRITE_BACK as u64 | ENABLED, fixed: [0; FIXED], ranges: [(0, 0); RANGES] };

    /// The one type of the `bytes` (a power of two) at `address` (aligned to it), or none if they have
    /// several.
    #[must_use]
    pub fn memory_type(&self, address: u64, bytes: u64) -> Option<u8> {
        if self.default & ENABLED == 0 {
            return Some(UNCACHEABLE);
        }
        if self.default & FIXED_ENABLED != 0 && address < MIB {
            return self.fixed_type(address, bytes);
        }
        let mut found: Option<u8> = None;
        for (base, mask) in self.ranges.iter().filter(|(_, mask)| mask & VALID != 0) {
            let size = 1 << (mask & !0xfff).trailing_zeros().min(63);
            let start = base & mask & !0xfff;
            let inside = address & mask & !0xfff == start;
            if bytes > size && start & !(bytes - 1) == address {
                return None;
            }
            if inside {
                found = Some(found.map_or(*base as u8, |other| overlap(other, *base as u8)));
            }
        }
        Some(found.unwrap_or(self.default as u8))
    }

    fn fixed_type(&self, address: u64, bytes: u64) -> Option<u8> {
        if bytes > MIB || address + bytes > MIB {
            return None;
        }
        let first = self.fixed_at(address)?;
        let same = (0..bytes.div_ceil(4096))
            .all(|page| self.fixed_at(address + page * 4096) == Some(first));
        same.then_some(first)
    }

    fn fixed_at(&self, address: u64) -> Option<u8> {
        let index = match address {
            0..0x8_0000 => address >> 16,
            0x8_0000..0xc_0000 => 8 + ((address - 0x8_0000) >> 14),
            _ => 24 + ((address - 0xc_0000) >> 12),
        };
        self.fixed.get(usize::try_from(index).ok()?).copied()
    }
}

/// Overlapping ranges: uncacheable wins, write-through beats write-back, all else is undefined (11.11.4.1).
fn overlap(one: u8, other: u8) -> u8 {
    match (one, other) {
        (a, b) if a == b => a,
        (WRITE_THROUGH, WRITE_BACK) | (WRITE_BACK, WRITE_THROUGH) => WRITE_THROUGH,
        _ => UNCACHEABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Default write-back, the last GiB below 4 GiB uncacheable: what firmware of small machines sets.
    fn machine() -> Mtrrs {
        let mut mtrrs = Mtrrs::NONE;
        mtrrs.default |= FIXED_ENABLED;
        mtrrs.ranges[0] = (0xc000_0000, 0xff_c000_0000 | VALID);
        mtrrs.fixed[..24].fill(WRITE_BACK);
        mtrrs
    }

    #[test]
    fn ranges_give_types() {
        let mtrrs = machine();
        assert_eq!(mtrrs.memory_type(0x1000_0000, 4096), Some(WRITE_BACK));
        assert_eq!(mtrrs.memory_type(0xfee0_0000, 4096), Some(UNCACHEABLE));
        assert_eq!(mtrrs.memory_type(0xc000_0000, 1 << 30), Some(UNCACHEABLE));
        assert_eq!(mtrrs.memory_type(0x8000_0000, 1 << 31), None);
        assert_eq!(mtrrs.memory_type(0x1_c000_0000, 4096), Some(WRITE_BACK));
    }

    #[test]
    fn the_first_mebibyte_is_fixed() {
        let mtrrs = machine();
        assert_eq!(mtrrs.memory_type(0, 0x8_0000), Some(WRITE_BACK));
        assert_eq!(mtrrs.memory_type(0xc_0000, 4096), Some(UNCACHEABLE));
        assert_eq!(mtrrs.memory_type(0, MIB), None);
        assert_eq!(mtrrs.memory_type(0, 2 * MIB), None);
    }

    #[test]
    fn off_means_uncacheable() {
        let off = Mtrrs { default: u64::from(WRITE_BACK), ..Mtrrs::NONE };
        assert_eq!(off.memory_type(0x1000, 4096), Some(UNCACHEABLE));
    }
}
