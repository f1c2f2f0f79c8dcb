//! A list with room for `N` items, which counts what did not fit.

/// Up to `N` items in the order they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List<T, const N: usize> {
    items: [T; N],
    count: usize,
    /// Items that did not fit.
    pub lost: usize,
}

impl<T: Copy + Default, const N: usize> List<T, N> {
    /// Adds an item at the end, or counts it as lost.
    pub fn push(&mut self, item: T) {
        match self.items.get_mut(self.count) {
            Some(slot) => {
                *slot = item;
                self.count += 1;
            }
            None => self.lost += 1,
        }
    }

    /// The items.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        self.items.get(..self.count).unwrap_or(&[])
    }
}

impl<T: Copy + Default, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self { items: [T::default(); N], count: 0, lost: 0 }
    }
}
