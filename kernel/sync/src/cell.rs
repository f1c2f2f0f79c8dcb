//! State that belongs to one CPU.
//!
//! A thread's registers and its place in a call chain are touched by its home CPU only. [`CpuCell`] makes
//! that a type: opening it takes that CPU's [`CpuKey`] by `&mut`, so neither another CPU nor the same one
//! a second time can hold the contents. What others want from such an object they say through atomics.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::MAX_CPUS;

/// The one key of one CPU. A `Cpu` value owns it.
pub struct CpuKey {
    home: Home,
}

/// A CPU of one machine, as one word: opening a cell is one comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Home(u64);

impl Home {
    #[inline(always)]
    fn cpu(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// Which machine numbers exist; tests make many machines, a kernel makes one.
static MACHINES: AtomicU64 = AtomicU64::new(1);

impl CpuKey {
    /// The keys of a whole machine, one for each CPU, made once at start-up.
    pub fn machine() -> impl Iterator<Item = CpuKey> {
        let machine = MACHINES.fetch_add(1, Relaxed) << 32;
        (0..MAX_CPUS as u64).map(move |cpu| CpuKey { home: Home(machine | cpu) })
    }

    /// The number of the CPU that owns this key.
    #[inline(always)]
    pub fn cpu(&self) -> usize {
        self.home.cpu()
    }

    /// A closed cell for CPU `cpu` of the same machine.
    pub fn cell<T>(&self, cpu: usize, value: T) -> CpuCell<T> {
        let home = Home(self.home.0 >> 32 << 32 | cpu as u64 & 0xffff_ffff);
        CpuCell { home, value: UnsafeCell::new(value) }
    }
}

/// A value that only its home CPU opens.
pub struct CpuCell<T> {
    home: Home,
    value: UnsafeCell<T>,
}

// SAFETY: the contents are reached only through `open`, which takes `&mut` of the one key of the home CPU
// (keys cannot be copied or made twice), or through `&mut self`; so accesses never overlap.
unsafe impl<T: Send> Sync for CpuCell<T> {}

impl<T> CpuCell<T> {
    /// The home CPU.
    #[inline(always)]
    pub fn cpu(&self) -> usize {
        self.home.cpu()
    }

    /// The contents, if `key` is the home CPU's.
    #[inline(always)]
    pub fn open<'a>(&'a self, key: &'a mut CpuKey) -> Option<&'a mut T> {
        if key.home == self.home {
            // SAFETY: see the `Sync` argument; the borrow of the key lasts as long as the result.
            Some(unsafe { &mut *self.value.get() })
        } else {
            None
        }
    }

    /// Two different cells of one CPU at once; `None` if they are the same or of another CPU.
    #[expect(
        clippy::mut_from_ref,
        reason = "the key is borrowed mutably for as long as either result"
    )]
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "the key, borrowed as long as both, is what is exclusive"
    )]
    pub fn open_both<'a, 'b, 'k: 'a + 'b>(
        &'a self,
        other: &'b CpuCell<T>,
        key: &'k mut CpuKey,
    ) -> Option<(&'a mut T, &'b mut T)> {
        if core::ptr::eq(self, other) || other.home != key.home || self.home != key.home {
            return None;
        }
        // SAFETY: as `open`: the borrow of the key lasts as long as either result; the cells are distinct, so the
        // two references do not overlap.
        Some(unsafe { (&mut *self.value.get(), &mut *other.value.get()) })
    }

    /// The contents of a cell nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}
