//! Judges live page tables as an emulator shows them from outside.
//!
//! The kernel is not asked. What it promises (docs/invariants.md): nothing of its own is both writable and
//! executable, nothing is mapped at its physical address, and no page of it is open to user mode.

/// Addresses from here on are the kernel's: the upper half.
const KERNEL: u64 = 1 << 63;
/// Where the image is linked, wherever it was loaded.
const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// One leaf entry, as a line of `info tlb`: `VIRTUAL: PHYSICAL XGPDACTUW`, a dash for each flag that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaf {
    address: u64,
    physical: u64,
    no_execute: bool,
    user: bool,
    writable: bool,
}

impl Leaf {
    fn read(line: &str) -> Option<Self> {
        let (address, rest) = line.split_once(": ")?;
        let (physical, flags) = rest.trim().split_once(' ')?;
        let [no_execute, .., user, writable] = flags.trim().as_bytes() else { return None };
        Some(Self {
            address: u64::from_str_radix(address.trim(), 16).ok()?,
            physical: u64::from_str_radix(physical, 16).ok()?,
            no_execute: *no_execute == b'X',
            user: *user == b'U',
            writable: *writable == b'W',
        })
    }

    /// What is wrong with it.
    fn fault(self) -> Option<&'static str> {
        let kernel = self.address >= KERNEL;
        match self {
            _ if kernel && self.user => Some("is the kernel's and open to user mode"),
            _ if !kernel && !self.user => {
                Some("is in the user's half and not the user's: left over")
            }
            _ if !self.user && self.address == self.physical => {
                Some("is mapped at its own address")
            }
            _ if kernel && self.writable && !self.no_execute => Some("is writable and executable"),
            _ => None,
        }
    }
}

/// What is wrong in the answer to `info tlb`; how many of the kernel's entries were looked at.
///
/// # Errors
/// The first few entries that break a promise, or that the dump is not one of a running kernel.
pub fn judge(dump: &str) -> Result<usize, String> {
    let leaves: Vec<_> = dump.lines().filter_map(Leaf::read).collect();
    let faults: Vec<_> = leaves
        .iter()
        .filter_map(|leaf| {
            let what = leaf.fault()?;
            Some(format!("{:#x} (physical {:#x}) {what}", leaf.address, leaf.physical))
        })
        .take(5)
        .collect();
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    let code = |leaf: &&Leaf| leaf.address == IMAGE && !leaf.no_execute && !leaf.writable;
    if !leaves.iter().any(|leaf| code(&leaf)) {
        return Err(format!("no code at {IMAGE:#x}: {} entries", leaves.len()));
    }
    Ok(leaves.iter().filter(|leaf| leaf.address >= KERNEL).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "ffffffff80000000: 0000000004000000 -G--A----\n";

    fn judged(line: &str) -> Result<usize, String> {
        judge(&format!("{CODE}{line}\n"))
    }

    #[test]
    fn a_sound_table_passes() {
        let user = "0000000000400000: 0000000004400000 ----A--U-\n";
        let data = "ffffff8000000000: 0000000004000000 XGPDA---W\n";
        assert_eq!(judge(&format!("{CODE}{user}{data}")), Ok(2));
    }

    #[test]
    fn each_broken_promise_is_named() {
        for (line, what) in [
            ("ffffff8000000000: 0000000004000000 -GPDA---W", "writable and executable"),
            ("ffffff8000000000: 0000000004000000 XGPDA--UW", "open to user mode"),
            ("0000000000000000: 0000000000000000 --P-----W", "left over"),
            ("ffffff8000000000: ffffff8000000000 XGPDA---W", "at its own address"),
        ] {
            assert!(judged(line).unwrap_err().contains(what), "{line}");
        }
    }

    #[test]
    fn nothing_at_all_is_no_proof() {
        assert!(judge("").unwrap_err().contains("no code"));
    }
}
