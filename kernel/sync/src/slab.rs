//! Objects of one kind in pool frames, and the references to them.
//!
//! ```text
//!   frame(s):  | node | node | node | ...        node: | header | value |
//!   header:    count, type, slab, three list links, the capability tree's lock
//! ```
//!
//! [`Counted<T>`] persists and costs a locked instruction to clone or drop; [`Ref`] is borrowed from the
//! [`Token`](crate::Token) and costs nothing. The last `Counted` does not free: it hands the node to RCU.
//! Nodes go back to their slab, and a frame without any object to the pool (`places.rs`).

use core::any::TypeId;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicPtr, AtomicU64};

use logic::Oom;

use crate::count::Count;
use crate::door::{self, Site};
use crate::{Pool, Rcu, SpinLock, Token};

mod places;

use places::Places;

/// What every node starts with. 32-byte aligned: a capability slot keeps permissions in the low bits.
#[repr(C, align(32))]
pub struct Header {
    count: Count,
    kind: TypeId,
    slab: &'static Base,
    pub(crate) links: [RawLink; 3],
    pub(crate) tree: SpinLock<()>,
}

/// Membership in one list; see `list.rs`.
pub(crate) struct RawLink {
    pub(crate) next: AtomicPtr<Header>,
    pub(crate) previous: AtomicPtr<Header>,
    /// Which list, 0 for none.
    pub(crate) list: AtomicU64,
}

impl RawLink {
    const fn new() -> Self {
        Self {
            next: AtomicPtr::new(null_mut()),
            previous: AtomicPtr::new(null_mut()),
            list: AtomicU64::new(0),
        }
    }
}

impl Header {
    /// # Safety
    /// The node is dead and only the caller holds it.
    pub(crate) unsafe fn dead_next(&self) -> *mut Header {
        self.links[0].next.load(Relaxed)
    }

    /// # Safety
    /// The node is dead and only the caller holds it.
    pub(crate) unsafe fn set_dead_next(&self, next: *mut Header) {
        self.links[0].next.store(next, Relaxed);
    }

    /// Takes a portion of the value apart; whether nothing large is left and it can be dropped.
    ///
    /// # Safety
    /// As for [`Header::free`], which must not have been called.
    pub(crate) unsafe fn dismantle(node: *mut Header) -> bool {
        // SAFETY: the caller's promise; the slab lives for ever.
        unsafe { (*node).slab.dismantle.is_none_or(|portion| portion(node)) }
    }

    /// Whether the value is taken apart in portions.
    ///
    /// # Safety
    /// As for [`Header::free`], which must not have been called.
    pub(crate) unsafe fn is_large(node: *mut Header) -> bool {
        // SAFETY: the caller's promise; the slab lives for ever.
        unsafe { (*node).slab.dismantle.is_some() }
    }

    /// Drops the value and returns the node to its slab.
    ///
    /// # Safety
    /// The node is dead and a grace period has passed.
    pub(crate) unsafe fn free(node: *mut Header) {
        // SAFETY: the caller's promise; the slab lives for ever.
        unsafe {
            let base = (*node).slab;
            (base.drop_value)(node);
            base.places.put(node);
        }
    }
}

#[repr(C)]
struct Node<T> {
    header: Header,
    value: MaybeUninit<T>,
}

struct Base {
    places: Places,
    rcu: &'static Rcu,
    drop_value: unsafe fn(*mut Header),
    dismantle: Option<unsafe fn(*mut Header) -> bool>,
}

/// A maker of objects of type `T`. Lives for ever, since every object points back to it.
pub struct Slab<T: 'static> {
    base: Base,
    kind: PhantomData<fn(T) -> T>,
}

impl<T: Send + Sync + 'static> Slab<T> {
    /// An empty slab over `pool`; dead objects wait in `rcu`.
    pub const fn new(pool: &'static Pool, rcu: &'static Rcu, site: Site) -> Self {
        Slab {
            base: Base {
                places: Places::new(pool, size_of::<Node<T>>(), site),
                rcu,
                drop_value: drop_value::<T>,
                dismantle: None,
            },
            kind: PhantomData,
        }
    }

    /// Bytes that one object takes (what a quota is charged).
    pub const fn object_bytes(&self) -> usize {
        self.base.places.node_bytes()
    }

    /// How many objects exist, dead ones that RCU still holds included.
    pub fn live(&self) -> usize {
        self.base.places.live()
    }

    /// Memory for one object, so that the part of a call that writes cannot fail.
    pub fn reserve(&'static self) -> Result<Reserved<T>, Oom> {
        door::pass(self.base.places.site())?;
        let node = self.base.places.take(|node| {
            let header = Header {
                count: Count::new(),
                kind: TypeId::of::<T>(),
                slab: &self.base,
                links: [const { RawLink::new() }; 3],
                tree: SpinLock::new(()),
            };
            // SAFETY: fresh memory for a `Node<T>`, aligned, which nobody else knows.
            unsafe { node.write(header) }
        })?;
        Ok(Reserved { node, kind: PhantomData })
    }
}

/// A value that holds so much that dropping it at once would take too long.
pub trait Dismantle {
    /// Takes a bounded portion of it apart: called before it is dropped, when nobody can reach it any more, until it
    /// says that nothing large is left.
    fn dismantle(&mut self) -> bool;
}

impl<T: Dismantle + Send + Sync + 'static> Slab<T> {
    /// The same slab, whose objects end in portions.
    pub const fn in_portions(mut self) -> Self {
        self.base.dismantle = Some(dismantle_value::<T>);
        self
    }
}

/// # Safety
/// `node` is a dead `Node<T>` with a value that nobody else can reach.
unsafe fn dismantle_value<T: Dismantle>(node: *mut Header) -> bool {
    // SAFETY: the caller's promise; `repr(C)` puts the header first.
    unsafe { (*node.cast::<Node<T>>()).value.assume_init_mut() }.dismantle()
}

/// # Safety
/// `node` is a dead `Node<T>` with a value.
unsafe fn drop_value<T>(node: *mut Header) {
    // SAFETY: the caller's promise; `repr(C)` puts the header first.
    unsafe { (*node.cast::<Node<T>>()).value.assume_init_drop() }
}

/// Memory for an object that does not exist yet; goes back when dropped.
#[must_use]
pub struct Reserved<T: 'static> {
    node: NonNull<Header>,
    kind: PhantomData<T>,
}

impl<T: 'static> Reserved<T> {
    /// Makes the object. Cannot fail.
    pub fn fill(self, value: T) -> Counted<T> {
        let node = self.node;
        core::mem::forget(self);
        // SAFETY: the node was reserved for a `T` and nobody else knows it.
        unsafe {
            let header = node.as_ref();
            for link in &header.links {
                link.next.store(null_mut(), Relaxed);
                link.previous.store(null_mut(), Relaxed);
            }
            header.count.begin();
            (*node.as_ptr().cast::<Node<T>>()).value.write(value);
        }
        Counted { node, kind: PhantomData }
    }
}

impl<T: 'static> Drop for Reserved<T> {
    fn drop(&mut self) {
        // SAFETY: reserved and never filled: back to the free list.
        unsafe { self.node.as_ref().slab.places.put(self.node.as_ptr()) }
    }
}

/// A reference to an object that persists across kernel entries.
pub struct Counted<T: 'static> {
    node: NonNull<Header>,
    kind: PhantomData<T>,
}

// SAFETY: like `Arc`: the value is shared, and dropped on whichever CPU collects.
unsafe impl<T: Send + Sync> Send for Counted<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Counted<T> {}

impl<T: 'static> Counted<T> {
    /// The same reference without its type.
    pub fn erase(self) -> AnyCounted {
        let any = AnyCounted { node: self.node };
        core::mem::forget(self);
        any
    }

    /// Whether both name one object.
    #[inline(always)]
    pub fn same(&self, other: &Counted<T>) -> bool {
        self.node == other.node
    }

    /// A borrowed reference, as long as this one and the token last.
    #[inline(always)]
    pub fn borrow<'t>(&'t self) -> Ref<'t, T> {
        Ref { node: self.node, life: PhantomData }
    }

    /// A borrowed reference that outlasts this one: were the last count dropped now, the node would stay until the
    /// token is gone.
    #[inline(always)]
    pub fn under<'t>(&self, _token: &'t Token) -> Ref<'t, T> {
        Ref { node: self.node, life: PhantomData }
    }

    /// Moves the reference into a place inside its own object (an idle thread keeps itself), or gives it back.
    #[inline(always)]
    pub fn park<'a>(
        self,
        place: impl FnOnce(&'a T) -> Option<&'a mut Option<Counted<T>>>,
    ) -> Result<(), Counted<T>> {
        // SAFETY: the object lives while this reference is held, and goes on living when the reference
        // is stored in `place`; the borrow that `place` returns ends before this function does.
        match place(unsafe { value_of::<'a, T>(self.node) }) {
            Some(place) if place.is_none() => {
                *place = Some(self);
                Ok(())
            }
            _ => Err(self),
        }
    }

    pub(crate) fn into_raw(self) -> NonNull<Header> {
        let node = self.node;
        core::mem::forget(self);
        node
    }

    /// # Safety
    /// `node` came from `into_raw` of a `Counted<T>` and is taken back once.
    pub(crate) unsafe fn from_raw(node: NonNull<Header>) -> Self {
        Counted { node, kind: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: counted nodes live.
        unsafe { self.node.as_ref() }
    }
}

#[inline(always)]
unsafe fn value_of<'a, T>(node: NonNull<Header>) -> &'a T {
    // SAFETY: callers hold a live `Node<T>`; the value was written by `fill`.
    unsafe { (*node.as_ptr().cast::<Node<T>>()).value.assume_init_ref() }
}

impl<T: 'static> Deref for Counted<T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: a counted node lives and is a `Node<T>`.
        unsafe { value_of(self.node) }
    }
}

impl<T: 'static> Clone for Counted<T> {
    fn clone(&self) -> Self {
        self.header().count.again();
        Counted { node: self.node, kind: PhantomData }
    }
}

impl<T: 'static> Drop for Counted<T> {
    fn drop(&mut self) {
        release(self.node);
    }
}

fn release(node: NonNull<Header>) {
    // SAFETY: the caller owned one count, so the node lived until now.
    let header = unsafe { node.as_ref() };
    if header.count.end() {
        header.slab.rcu.bury(node.as_ptr());
    }
}

/// A counted reference to an object of any kind.
pub struct AnyCounted {
    node: NonNull<Header>,
}

// SAFETY: only made from `Counted<T>` of `Send + Sync` objects (slabs take no others).
unsafe impl Send for AnyCounted {}
// SAFETY: as above.
unsafe impl Sync for AnyCounted {}

impl AnyCounted {
    /// The typed reference, or itself back if it is of another kind.
    pub fn downcast<T: 'static>(self) -> Result<Counted<T>, AnyCounted> {
        // SAFETY: counted nodes live.
        if unsafe { self.node.as_ref() }.kind == TypeId::of::<T>() {
            let node = self.node;
            core::mem::forget(self);
            Ok(Counted { node, kind: PhantomData })
        } else {
            Err(self)
        }
    }

    /// A borrowed reference as long as this one.
    #[inline(always)]
    pub fn borrow(&self) -> AnyRef<'_> {
        AnyRef { node: self.node, life: PhantomData }
    }

    pub(crate) fn into_raw(self) -> NonNull<Header> {
        let node = self.node;
        core::mem::forget(self);
        node
    }

    /// # Safety
    /// `node` came from an `into_raw` and is taken back once.
    pub(crate) unsafe fn from_raw(node: NonNull<Header>) -> Self {
        AnyCounted { node }
    }
}

impl Drop for AnyCounted {
    fn drop(&mut self) {
        release(self.node);
    }
}

/// A borrowed reference: free, and gone before the CPU leaves the kernel.
pub struct Ref<'t, T: 'static> {
    node: NonNull<Header>,
    life: PhantomData<&'t T>,
}

impl<T: 'static> Clone for Ref<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: 'static> Copy for Ref<'_, T> {}

impl<T: 'static> Deref for Ref<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the token (or counted reference) that `'t` borrows keeps the node from being freed.
        unsafe { value_of(self.node) }
    }
}

impl<'t, T: 'static> Ref<'t, T> {
    /// The value with the token's lifetime.
    #[inline(always)]
    pub fn get(self) -> &'t T {
        // SAFETY: as `deref`.
        unsafe { value_of(self.node) }
    }

    /// A reference that persists; `None` if the object's last count is already gone.
    #[inline(always)]
    pub fn hold(self) -> Option<Counted<T>> {
        hold(self.node).then_some(Counted { node: self.node, kind: PhantomData })
    }

    /// Whether both name one object.
    #[inline(always)]
    pub fn same(self, other: &Counted<T>) -> bool {
        self.node == other.node
    }
}

#[inline(always)]
fn hold(node: NonNull<Header>) -> bool {
    // SAFETY: callers hold a token, so the node is not freed.
    unsafe { node.as_ref() }.count.hold()
}

/// A borrowed reference to an object of any kind.
#[derive(Clone, Copy)]
pub struct AnyRef<'t> {
    node: NonNull<Header>,
    life: PhantomData<&'t ()>,
}

impl<'t> AnyRef<'t> {
    /// # Safety
    /// The node is kept from being freed for `'t`.
    #[inline(always)]
    pub(crate) unsafe fn new(node: NonNull<Header>, _token: &'t Token) -> Self {
        AnyRef { node, life: PhantomData }
    }

    /// The typed reference if the object is of that kind.
    #[inline(always)]
    pub fn downcast<T: 'static>(self) -> Option<Ref<'t, T>> {
        // SAFETY: the token keeps the node.
        (unsafe { self.node.as_ref() }.kind == TypeId::of::<T>())
            .then_some(Ref { node: self.node, life: PhantomData })
    }

    /// The typed reference if the object is one of `slab`'s: the shortest way to know its kind.
    #[inline(always)]
    pub fn of<T: 'static>(self, slab: &'static Slab<T>) -> Option<Ref<'t, T>> {
        // SAFETY: the token keeps the node; a slab of `T` makes nothing but `T`s.
        core::ptr::eq(unsafe { self.node.as_ref() }.slab, &slab.base)
            .then_some(Ref { node: self.node, life: PhantomData })
    }

    /// Whether both name one object.
    pub fn is(self, other: AnyRef<'_>) -> bool {
        self.node == other.node
    }

    /// A reference that persists; `None` if the object's last count is already gone.
    pub fn hold(self) -> Option<AnyCounted> {
        hold(self.node).then_some(AnyCounted { node: self.node })
    }

    pub(crate) fn node(self) -> NonNull<Header> {
        self.node
    }
}
