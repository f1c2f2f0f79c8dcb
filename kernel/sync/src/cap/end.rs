//! The end of a capability space, in portions.
//!
//! Nobody can reach the space any more, so its pages go straight back to the pool. The slots of a leaf are unlinked
//! before it goes, like in `Drop`, which has nothing left to do afterwards.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::Relaxed;

use super::{CapSpace, SELECTORS};

/// What a leaf page costs, in table entries looked at.
const LEAF: usize = 64;

impl CapSpace {
    /// Frees the tables from selector `cursor` on, as far as `budget` table entries reach; whether all are gone.
    pub fn dismantle(&mut self, cursor: &mut u64, budget: usize) -> bool {
        *self.near.get_mut() = null_mut();
        let mut left = budget;
        while *cursor < SELECTORS && left > 0 {
            left = left.saturating_sub(1 + self.dismantle_at(cursor));
        }
        *cursor >= SELECTORS
    }

    /// Frees the leaf page at the cursor, and the tables that end with it; returns what that cost beyond a look.
    fn dismantle_at(&mut self, cursor: &mut u64) -> usize {
        let at = *cursor;
        let Some(door) = self.root.get((at >> 24) as usize) else {
            *cursor = SELECTORS;
            return 0;
        };
        let Some(top) = NonNull::new(door.load(Relaxed)) else {
            *cursor = ((at >> 24) + 1) << 24;
            return 0;
        };
        // SAFETY: `&mut self`: nobody else walks the tables, and a table is freed only below, its door closed at once.
        let middle_door = unsafe { &top.as_ref().0[(at >> 15) as usize & 511] };
        let mut cost = 0;
        if let Some(middle) = NonNull::new(middle_door.load(Relaxed)) {
            // SAFETY: as above.
            let leaf_door = unsafe { &middle.as_ref().0[(at >> 6) as usize & 511] };
            if let Some(leaf) = NonNull::new(leaf_door.load(Relaxed)) {
                // SAFETY: as above.
                unsafe { leaf.as_ref() }.0.iter().for_each(super::CapSlot::forget);
                self.free_table(leaf_door);
                cost = LEAF;
            }
            *cursor = ((at >> 6) + 1) << 6;
        } else {
            *cursor = ((at >> 15) + 1) << 15;
        }
        if cursor.trailing_zeros() >= 15 {
            self.free_table(middle_door);
        }
        if cursor.trailing_zeros() >= 24 {
            self.free_table(door);
        }
        cost
    }

    /// Closes a door and frees the table behind it, if there is one.
    fn free_table<T>(&self, door: &AtomicPtr<T>) {
        let table = door.swap(null_mut(), Relaxed);
        if let Some(table) = NonNull::new(table) {
            self.pool.free_raw(table.cast(), 0);
        }
    }
}
