//! Where the objects of a slab lie, and how their frames come and go.
//!
//! ```text
//!   block of frames:  | Block: neighbours, first free node, used | node | node | node | ...
//!   slab ──► block with room ◄──► block with room ◄──► ...          (full ones are in no list)
//! ```
//!
//! A block whose last node is given back returns to the pool at once: a slab is never larger than its objects need.

use core::ptr::{NonNull, null_mut};

use logic::Oom;

use super::Header;
use crate::door::Site;
use crate::{Pool, SpinLock};

/// What a block of frames begins with.
#[repr(C, align(32))]
pub(super) struct Block {
    next: *mut Block,
    previous: *mut Block,
    free: *mut Header,
    used: usize,
}

/// The places of one slab.
pub(super) struct Places {
    pool: &'static Pool,
    state: SpinLock<State>,
    /// Bytes of a node.
    size: usize,
    /// Where the first one lies in its block.
    first: usize,
    /// Nodes of a block.
    fit: usize,
    /// log2 of the frames of a block.
    order: u8,
    site: Site,
}

struct State {
    /// Blocks with at least one free and one used node.
    with_room: *mut Block,
    live: usize,
}

// SAFETY: a list of blocks that only the lock's holder touches.
unsafe impl Send for State {}

impl Places {
    /// None yet; nodes of `N`'s size and alignment.
    pub const fn new<N>(pool: &'static Pool, site: Site) -> Self {
        let size = size_of::<N>();
        let first = size_of::<Block>().next_multiple_of(align_of::<N>());
        // Small objects share a frame; large ones get as many frames as one of them needs.
        let frames = (first + size).div_ceil(4096);
        let mut order = 0;
        while (1 << order) < frames {
            order += 1;
        }
        // Divided here, where the size is known: on a call's way a division could panic.
        let fit = ((4096usize << order) - first) / size;
        let state = State { with_room: null_mut(), live: 0 };
        Self { pool, state: SpinLock::new(state), size, first, fit, order, site }
    }

    /// Bytes of a node.
    pub const fn node_bytes(&self) -> usize {
        self.size
    }

    /// What the nodes are for.
    pub fn site(&self) -> Site {
        self.site
    }

    /// How many nodes are in use.
    pub fn live(&self) -> usize {
        self.state.lock().live
    }

    /// A node; `make` writes the header of a fresh one.
    pub fn take(&self, make: impl Fn(NonNull<Header>)) -> Result<NonNull<Header>, Oom> {
        let mut state = self.state.lock();
        if state.with_room.is_null() {
            state.with_room = self.fresh(make)?.as_ptr();
        }
        // SAFETY: blocks in the list have a free node, and are ours to change while the lock is held.
        let node = unsafe {
            let block = state.with_room;
            let node = NonNull::new((*block).free).ok_or(Oom)?;
            (*block).free = node.as_ref().dead_next();
            (*block).used += 1;
            if (*block).free.is_null() {
                state.unlink(block);
            }
            node
        };
        state.live += 1;
        Ok(node)
    }

    /// A block of free nodes.
    fn fresh(&self, make: impl Fn(NonNull<Header>)) -> Result<NonNull<Block>, Oom> {
        let memory = self.pool.alloc_unscrubbed(self.order, self.site)?;
        let mut free = null_mut();
        for number in 0..self.fit {
            // SAFETY: fresh memory, aligned to a frame, with room for the block's head and `fit` nodes from `first` on,
            // which like the size is a multiple of their alignment; `make` writes the header before it is used.
            unsafe {
                let at = memory.add(self.first + number * self.size).cast::<Header>();
                make(at);
                at.as_ref().set_dead_next(free);
                free = at.as_ptr();
            }
        }
        let block = memory.cast::<Block>();
        // SAFETY: as above; nobody else knows the block yet.
        unsafe {
            block.write(Block { next: null_mut(), previous: null_mut(), free, used: 0 });
        }
        Ok(block)
    }

    /// Takes a node back.
    ///
    /// # Safety
    /// The node is of these places, and nobody uses it or its value any more.
    pub unsafe fn put(&self, node: *mut Header) {
        let Some(node) = NonNull::new(node) else { return };
        let mut state = self.state.lock();
        let block = self.pool.block_of(node.cast(), self.order).cast::<Block>();
        // SAFETY: the node lies in a block of ours, which is ours to change while the lock is held.
        let is_empty = unsafe {
            let block = block.as_ptr();
            let was_full = (*block).free.is_null();
            node.as_ref().set_dead_next((*block).free);
            (*block).free = node.as_ptr();
            (*block).used = (*block).used.saturating_sub(1);
            let is_empty = (*block).used == 0;
            match (was_full, is_empty) {
                (true, false) => state.link(block),
                (false, true) => state.unlink(block),
                _ => {}
            }
            is_empty
        };
        state.live = state.live.saturating_sub(1);
        drop(state);
        if is_empty {
            self.pool.free_raw(block.cast(), self.order);
        }
    }
}

impl State {
    /// # Safety
    /// The block is in no list.
    unsafe fn link(&mut self, block: *mut Block) {
        // SAFETY: blocks are ours to change while the lock is held.
        unsafe {
            (*block).previous = null_mut();
            (*block).next = self.with_room;
            if let Some(next) = self.with_room.as_mut() {
                next.previous = block;
            }
        }
        self.with_room = block;
    }

    /// # Safety
    /// The block is in the list.
    unsafe fn unlink(&mut self, block: *mut Block) {
        // SAFETY: as `link`; neighbours are in the list, too.
        unsafe {
            let (next, previous) = ((*block).next, (*block).previous);
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => self.with_room = next,
            }
            if let Some(next) = next.as_mut() {
                next.previous = previous;
            }
            (*block).next = null_mut();
            (*block).previous = null_mut();
        }
    }
}
