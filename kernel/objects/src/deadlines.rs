//! Who waits until when on one CPU, found and changed in a bounded number of steps however many wait.
//!
//! ```text
//!   bucket by the highest bit in which a deadline differs from the moment it was sorted:
//!     [ 0..4 ticks ] [ 4..16 ] [ 16..64 ] ...                each with the least deadline that came into it
//!   due bucket ──► sorting ──► those whose time has come, the others into nearer buckets
//! ```
//!
//! The least deadline of a bucket is exact until one is taken out; then it may be too early, never too late: the timer
//! fires once for nothing, and the bucket is sorted anew.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU8, AtomicU64};

use sync::{Counted, List};

/// What the list keeps in its elements.
pub struct Due {
    /// Absolute TSC value at which waiting ends; 0 for never. Only its CPU writes it.
    pub at: AtomicU64,
    bucket: AtomicU8,
}

/// Something with a deadline.
pub trait HasDue {
    /// Its deadline.
    fn due(&self) -> &Due;
}

/// Two bits of a deadline for each.
const BUCKETS: usize = 32;

/// The deadlines of a CPU; elements are linked by link 1.
pub struct Deadlines<T: HasDue + 'static> {
    buckets: [List<T, 1>; BUCKETS],
    /// The least deadline in each, or an earlier one; `u64::MAX` in an empty one.
    least: [u64; BUCKETS],
    /// A bit for each bucket that is not empty.
    filled: u32,
    /// A due bucket that is being taken apart.
    sorting: List<T, 1>,
    /// When that began: what buckets are counted from.
    base: u64,
}

impl Due {
    /// Never.
    pub const fn never() -> Self {
        Self { at: AtomicU64::new(0), bucket: AtomicU8::new(0) }
    }
}

impl<T: HasDue + 'static> Default for Deadlines<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: HasDue + 'static> Deadlines<T> {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self {
            buckets: [const { List::new() }; BUCKETS],
            least: [u64::MAX; BUCKETS],
            filled: 0,
            sorting: List::new(),
            base: 0,
        }
    }

    /// Somebody waits until `deadline`, which is not 0.
    pub fn insert(&mut self, element: Counted<T>, deadline: u64) {
        element.due().at.store(deadline, Relaxed);
        let bucket = ((deadline ^ self.base) | 1).ilog2() as usize / 2;
        element.due().bucket.store(bucket as u8, Relaxed);
        if let (Some(list), Some(least)) =
            (self.buckets.get_mut(bucket), self.least.get_mut(bucket))
        {
            *least = deadline.min(*least);
            self.filled |= 1 << bucket;
            let _ = list.push_back(element);
        }
    }

    /// Somebody waits no longer.
    pub fn remove(&mut self, element: &Counted<T>) {
        element.due().at.store(0, Relaxed);
        let bucket = usize::from(element.due().bucket.load(Relaxed));
        let Some(list) = self.buckets.get_mut(bucket) else { return };
        if list.remove(element).is_none() {
            let _ = self.sorting.remove(element);
        } else if list.is_empty() {
            self.emptied(bucket);
        }
    }

    fn emptied(&mut self, bucket: usize) {
        self.filled &= !(1 << bucket);
        if let Some(least) = self.least.get_mut(bucket) {
            *least = u64::MAX;
        }
    }

    /// The next moment to look at [`Deadlines::expired`]; not later than the least deadline.
    #[inline(always)]
    pub fn next(&self) -> Option<u64> {
        if self.filled == 0 && self.sorting.is_empty() { None } else { Some(self.soonest()) }
    }

    #[inline(never)]
    fn soonest(&self) -> u64 {
        if !self.sorting.is_empty() {
            return self.base;
        }
        let (mut soonest, mut left) = (u64::MAX, self.filled);
        while left != 0 {
            let least = self.least.get(left.trailing_zeros() as usize);
            soonest = soonest.min(least.copied().unwrap_or(u64::MAX));
            left &= left - 1;
        }
        soonest
    }

    /// Somebody whose time has come by `now`, with no deadline any more. Each call takes one from `effort` for every
    /// element it looks at; when there is none left it answers `None`, too.
    pub fn expired(&mut self, now: u64, effort: &mut usize) -> Option<Counted<T>> {
        while *effort > 0 {
            if self.sorting.is_empty() {
                let due = self.least.iter().position(|least| *least <= now)?;
                self.sorting = core::mem::take(self.buckets.get_mut(due)?);
                self.emptied(due);
                self.base = now;
            }
            *effort -= 1;
            let element = self.sorting.pop_front()?;
            let deadline = element.due().at.load(Relaxed);
            if deadline <= now {
                element.due().at.store(0, Relaxed);
                return Some(element);
            }
            self.insert(element, deadline);
        }
        None
    }

    /// Whether every element is where it should be, and `fits` (host only).
    #[cfg(not(target_os = "none"))]
    pub(crate) fn is_sound(&self, mut fits: impl FnMut(&T) -> bool) -> bool {
        let mut sound = true;
        self.sorting.each(|one| sound &= fits(one) && one.due().at.load(Relaxed) != 0);
        for (number, list) in self.buckets.iter().enumerate() {
            sound &= list.is_empty() == (self.filled >> number & 1 == 0);
            list.each(|one| {
                let at = one.due().at.load(Relaxed);
                sound &= fits(one)
                    && at != 0
                    && at >= self.least.get(number).copied().unwrap_or(u64::MAX);
            });
        }
        sound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sync::{Pool, Rcu, Site, Slab};

    struct Waiter(Due);

    impl HasDue for Waiter {
        fn due(&self) -> &Due {
            &self.0
        }
    }

    fn slab() -> &'static Slab<Waiter> {
        let pool = Pool::leaked(logic::addr::Frame(0x100), 512).unwrap();
        Box::leak(Box::new(Slab::new(pool, Box::leak(Box::new(Rcu::new())), Site::Boot)))
    }

    /// Against a plain list: everybody comes out at the first look after the deadline, none before it and none twice,
    /// and the timer is never set too late.
    #[test]
    fn agrees_with_a_plain_list() {
        let slab = slab();
        let mut list = Deadlines::new();
        let mut model: Vec<(u64, Counted<Waiter>)> = Vec::new();
        let (mut now, mut seed, mut most) = (1_u64 << 40, 1_u64, 0);
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        for _ in 0..20_000 {
            match random() % 8 {
                0..=3 => {
                    let ahead = 1 + random() % (1 << (random() % 31));
                    let one = slab.reserve().unwrap().fill(Waiter(Due::never()));
                    list.insert(one.clone(), now + ahead);
                    model.push((now + ahead, one));
                }
                4 if !model.is_empty() => {
                    let (_, one) = model.swap_remove(random() as usize % model.len());
                    list.remove(&one);
                    assert_eq!(one.0.at.load(Relaxed), 0);
                }
                _ => now += random() % (1 << (random() % 28)),
            }
            most = most.max(model.len());
            let least = model.iter().map(|(at, _)| *at).min();
            match (list.next(), least) {
                (next, Some(least)) => assert!(next.is_some_and(|next| next <= least)),
                (None, None) => {}
                (Some(_), None) => assert!(!list.sorting.is_empty() || list.filled != 0),
            }
            loop {
                let mut effort = 4;
                while let Some(one) = list.expired(now, &mut effort) {
                    let at = model.iter().position(|(_, other)| other.same(&one)).unwrap();
                    assert!(model.swap_remove(at).0 <= now);
                }
                if effort > 0 {
                    break;
                }
            }
            assert!(model.iter().all(|(at, _)| *at > now));
            assert!(list.is_sound(|_| true));
        }
        assert!(most > 10, "{most} waited at once");
    }

    /// A look costs what it is allowed to, however many wait.
    #[test]
    fn a_look_is_bounded() {
        let slab = slab();
        let mut list = Deadlines::new();
        for number in 0..3000 {
            let one = slab.reserve().unwrap().fill(Waiter(Due::never()));
            list.insert(one, 0x10_0000 + number);
        }
        let (mut looks, mut woken) = (0, 0);
        while woken < 1500 {
            let mut effort = 8;
            while list.expired(0x10_0000 + 1499, &mut effort).is_some() {
                woken += 1;
            }
            looks += 1;
            assert!(looks < 1000, "{woken}");
        }
        assert!(list.next().is_some_and(|next| next <= 0x10_0000 + 1500));
    }
}
