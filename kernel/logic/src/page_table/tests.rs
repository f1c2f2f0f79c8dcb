//! Page tables against naive models, with a memory that checks each single write.

use super::*;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const D: u64 = HostFormat::DELEGATABLE;

type Translation = Option<(u64, u8, u64)>;

/// Tables in a vector; knows which are in use, and looks at chosen pages after every write.
struct Memory {
    tables: RefCell<Vec<[u64; ENTRIES]>>,
    free: RefCell<Vec<u64>>,
    /// Tables that may still be allocated.
    left: Cell<usize>,
    /// A root, and for pages below it what they may be mapped to just now.
    watch: RefCell<Vec<(Frame, u64, [Translation; 2])>>,
    is_ept: Cell<bool>,
    accesses: Cell<usize>,
}

impl Memory {
    fn new(left: usize) -> Self {
        Self {
            tables: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
            left: Cell::new(left),
            watch: RefCell::new(Vec::new()),
            is_ept: Cell::new(false),
            accesses: Cell::new(0),
        }
    }

    fn in_use(&self) -> usize {
        self.tables.borrow().len() - self.free.borrow().len()
    }

    fn at(&self, root: Frame, page: u64) -> Translation {
        let found = if self.is_ept.get() {
            lookup::<EptFormat>(self, root, page)
        } else {
            lookup::<HostFormat>(self, root, page)
        };
        found.map(|mapping| (mapping.frame.0, mapping.rights.bits(), mapping.attributes))
    }

    fn check_watched(&self) {
        for (root, page, allowed) in &*self.watch.borrow() {
            let now = self.at(*root, *page);
            assert!(allowed.contains(&now), "page {page:#x} is {now:x?}, not of {allowed:x?}");
        }
    }
}

/// A table whose every access is checked.
#[derive(Clone, Copy)]
struct Watched<'a>(&'a Memory, Frame);

impl Table for Watched<'_> {
    fn read(self, index: usize) -> u64 {
        let Self(memory, table) = self;
        assert!(!memory.free.borrow().contains(&table.0), "read of a released table");
        memory.accesses.set(memory.accesses.get() + 1);
        memory.tables.borrow()[table.0 as usize - 1][index]
    }

    fn write(self, index: usize, value: u64) {
        let Self(memory, table) = self;
        memory.accesses.set(memory.accesses.get() + 1);
        memory.tables.borrow_mut()[table.0 as usize - 1][index] = value;
        memory.check_watched();
    }

    fn exchange(self, index: usize, old: u64, new: u64) -> Result<(), u64> {
        let now = self.read(index);
        if now != old {
            return Err(now);
        }
        self.write(index, new);
        Ok(())
    }
}

impl TableMemory for Memory {
    type Table<'a> = Watched<'a>;

    fn table(&self, frame: Frame) -> Watched<'_> {
        Watched(self, frame)
    }

    fn allocate(&self) -> Result<Frame, Oom> {
        self.left.set(self.left.get().checked_sub(1).ok_or(Oom)?);
        if let Some(frame) = self.free.borrow_mut().pop() {
            self.tables.borrow_mut()[frame as usize - 1] = [0; ENTRIES];
            return Ok(Frame(frame));
        }
        self.tables.borrow_mut().push([0; ENTRIES]);
        Ok(Frame(self.tables.borrow().len() as u64))
    }

    fn release(&self, table: Frame) {
        assert!(!self.free.borrow().contains(&table.0), "released twice");
        self.left.set(self.left.get() + 1);
        self.free.borrow_mut().push(table.0);
    }
}

/// The history of a space, newest last: what a page is mapped to follows from it, slowly.
#[derive(Clone, Default)]
struct Model(Vec<(u64, u64, Deed)>);

#[derive(Clone)]
enum Deed {
    Map { frame: u64, rights: u8, attributes: u64 },
    Copy { source: Rc<Model>, from: u64, rights: u8, attributes: u64 },
    Identity { frame: u64, rights: u8, attributes: u64 },
}

/// Physical memory as the identity tests see it: frames 0x300 to 0x4ff are the kernel's, except
/// one page that may be read.
fn physical(frame: Frame) -> (Rights, u64) {
    match frame.0 {
        0..0x300 => (Rights::ALL, 0x300 - frame.0),
        0x380 => (Rights::READ, 1),
        0x300..0x380 => (Rights::NONE, 0x380 - frame.0),
        0x381..0x500 => (Rights::NONE, 0x500 - frame.0),
        _ => (Rights::ALL, u64::MAX),
    }
}

impl Model {
    fn at(&self, page: u64) -> Translation {
        let (start, _, deed) =
            self.0.iter().rev().find(|(start, count, _)| page.wrapping_sub(*start) < *count)?;
        let offset = page - start;
        let (frame, rights, attributes) = match deed {
            Deed::Map { frame, rights, attributes } => (frame + offset, *rights, *attributes),
            Deed::Copy { source, from, rights, attributes } => {
                let (frame, source_rights, source_attributes) = source.at(from + offset)?;
                let is_hole = source_attributes & D == 0;
                (frame, if is_hole { 0 } else { rights & source_rights }, *attributes)
            }
            Deed::Identity { frame, rights, attributes } => {
                let frame = frame + offset;
                (frame, rights & physical(Frame(frame)).0.bits(), *attributes)
            }
        };
        (rights != 0).then_some((frame, rights | 1, attributes))
    }

    fn with(&self, page: u64, order: u8, deed: Deed) -> Self {
        let mut next = self.clone();
        next.0.push((page, units(order), deed));
        next
    }
}

#[derive(Clone, Debug)]
enum Action {
    Map { page: u64, frame: u64, order: u8, rights: u8, attributes: u64 },
    Unmap { page: u64, order: u8 },
    Clear { page: u64, order: u8 },
    Copy { from: u64, page: u64, order: u8, rights: u8, is_self: bool },
    Identity { frame: u64, page: u64, order: u8, rights: u8 },
}

/// Page numbers and orders that meet often, near the borders of tables of all levels.
fn place() -> impl Strategy<Value = (u64, u8)> {
    let page = prop_oneof![0..0x20_u64, 0x1f0..0x210_u64, 0x3_fe00..0x4_0400_u64, 0..0xa_0000_u64];
    let order = prop_oneof![0..4_u8, 8..11_u8, 17..20_u8];
    (page, order)
}

fn action() -> impl Strategy<Value = Action> {
    let attributes = prop_oneof![Just(D), Just(0)];
    let down = |page: u64, order| page & !(units(order) - 1);
    prop_oneof![
        (place(), place(), 0..8_u8, attributes).prop_map(
            |((page, order), (frame, _), rights, attributes)| {
                Action::Map { page, frame, order, rights, attributes }
            }
        ),
        place().prop_map(|(page, order)| Action::Unmap { page, order }),
        place().prop_map(move |(page, order)| Action::Clear { page: down(page, order), order }),
        (place(), place(), 0..8_u8, any::<bool>()).prop_map(
            move |((from, _), (page, order), rights, is_self)| Action::Copy {
                from: down(from, order),
                page: down(page, order),
                order,
                rights,
                is_self
            }
        ),
        (place(), place(), 0..8_u8).prop_map(move |((frame, _), (page, order), rights)| {
            Action::Identity { frame: down(frame, order), page: down(page, order), order, rights }
        }),
    ]
}

/// Repeats bounded steps to the end.
fn steps(mut step: impl FnMut(&mut u64) -> Result<Step, Oom>) -> Result<Flush, Oom> {
    let (mut cursor, mut flush) = (0, Flush::None);
    loop {
        let before = cursor;
        let result = step(&mut cursor)?;
        flush = flush.and(result.flush);
        if result.done {
            return Ok(flush);
        }
        assert!(cursor > before, "a step without progress");
    }
}

/// Two spaces with their histories; the second may be a guest's.
struct World {
    memory: Memory,
    trees: [Tree; 2],
    models: [Model; 2],
}

impl World {
    fn new(left: usize, largest_leaf: u8) -> Self {
        let memory = Memory::new(left + 2);
        let trees = [(); 2].map(|()| Tree::new(memory.allocate().unwrap(), largest_leaf));
        Self { memory, trees, models: Default::default() }
    }

    /// Does one action in space 1 (or 0 for self copies), every write watched at `probes`.
    fn act(&mut self, action: &Action, probes: &[u64], budget: u64) -> Result<Flush, Oom> {
        let attributes = D;
        let space = usize::from(!matches!(action, Action::Copy { is_self: true, .. }));
        let (old, tree) = (self.models[space].clone(), self.trees[space]);
        let unmapped = Deed::Map { frame: 0, rights: 0, attributes: 0 };
        let new = match *action {
            Action::Map { page, frame, order, rights, attributes } => {
                old.with(page, order, Deed::Map { frame, rights, attributes })
            }
            Action::Unmap { page, order } | Action::Clear { page, order } => {
                old.with(page, order, unmapped)
            }
            Action::Copy { from, page, order, rights, .. } => {
                let source = Rc::new(self.models[0].clone());
                old.with(page, order, Deed::Copy { source, from, rights, attributes })
            }
            Action::Identity { frame, page, order, rights } => {
                old.with(page, order, Deed::Identity { frame, rights, attributes })
            }
        };
        let memory = &self.memory;
        *memory.watch.borrow_mut() =
            probes.iter().map(|&page| (tree.root, page, [old.at(page), new.at(page)])).collect();
        let host = &mut |_: Frame, _: u8| Some(D);
        let result = match *action {
            Action::Map { page, frame, order, rights, attributes } => {
                let rights = Rights::from_bits(rights);
                map::<HostFormat>(memory, tree, page, Frame(frame), order, rights, attributes)
            }
            Action::Unmap { page, order } => unmap::<HostFormat>(memory, tree, page, order),
            Action::Clear { page, order } => {
                steps(|cursor| clear::<HostFormat>(memory, tree, page, order, cursor, budget))
            }
            Action::Copy { from, page, order, rights, .. } => steps(|cursor| {
                let (source, rights) = (self.trees[0].root, Rights::from_bits(rights));
                copy::<HostFormat>(
                    memory, source, from, tree, page, order, rights, host, cursor, budget,
                )
            }),
            Action::Identity { frame, page, order, rights } => steps(|cursor| {
                let (frame, rights) = (Frame(frame), Rights::from_bits(rights));
                let allowed = &mut physical;
                map_identity::<HostFormat>(
                    memory, frame, tree, page, order, rights, allowed, host, cursor, budget,
                )
            }),
        };
        memory.watch.borrow_mut().clear();
        if result.is_ok() {
            let changed = |&page: &u64| old.at(page).is_some() && old.at(page) != new.at(page);
            if probes.iter().any(changed) {
                assert_eq!(result, Ok(Flush::Needed), "{action:x?}");
            }
            for &page in probes {
                assert_eq!(memory.at(tree.root, page), new.at(page), "{page:#x} {action:x?}");
            }
            self.models[space] = new;
        }
        result
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every page is mapped as the history says, after each action and, at each single write
    /// within it, as before or after the action.
    #[test]
    fn tables_agree_with_their_history(
        actions in prop::collection::vec(action(), 1..12),
        more in prop::collection::vec(0..0xa_0000_u64, 10),
        budget in prop_oneof![1..4_u64, 100..600_u64, Just(u64::MAX)],
        largest_leaf in 0..3_u8,
    ) {
        let largest_leaf = if largest_leaf == 0 { 1 } else { largest_leaf };
        let mut world = World::new(100_000, largest_leaf);
        let mut probes = vec![0, 1, 7, 0x1f3, 0x1ff, 0x200, 0x201, 0x3_ffff, 0x4_0000, 0x4_01ff];
        probes.extend(more);
        for action in &actions {
            let (page, order) = match *action {
                Action::Map { page, order, .. } | Action::Unmap { page, order }
                | Action::Clear { page, order } | Action::Copy { page, order, .. }
                | Action::Identity { page, order, .. } => (page, order),
            };
            probes.extend([page, page.saturating_sub(1), page + units(order) - 1, page + units(order)]);
        }
        for action in &actions {
            prop_assert!(world.act(action, &probes, budget).is_ok());
        }
        for tree in world.trees {
            release_all::<HostFormat>(&world.memory, tree.root);
        }
        prop_assert_eq!(world.memory.in_use(), 0, "tables leaked");
    }

    /// Without memory an action stops between two states, and nothing leaks.
    #[test]
    fn refusals_leave_old_or_new(
        actions in prop::collection::vec(action(), 1..8),
        left in 0..8_usize,
        probes in prop::collection::vec(0..0xa_0000_u64, 10),
    ) {
        let mut world = World::new(left, 2);
        for action in &actions {
            if world.act(action, &probes, 50).is_err() {
                break;
            }
        }
        for tree in world.trees {
            release_all::<HostFormat>(&world.memory, tree.root);
        }
        prop_assert_eq!(world.memory.in_use(), 0, "tables leaked");
    }
}

#[test]
fn clearing_a_whole_space_frees_all_tables_but_the_root() {
    let mut world = World::new(1000, 2);
    for page in [0, 0x1ff, 0x200, 0x4_0000, 0x800_0000, 0x7_ffff_fffe] {
        let deed = Action::Map { page, frame: page, order: 0, rights: 7, attributes: D };
        let _ = world.act(&deed, &[page], 1).unwrap();
    }
    assert!(world.memory.in_use() > 12);
    let tree = world.trees[1];
    let flush = steps(|cursor| clear::<HostFormat>(&world.memory, tree, 0, 35, cursor, 100));
    assert_eq!(flush, Ok(Flush::Needed));
    assert_eq!(world.memory.in_use(), 2);
}

#[test]
fn delegation_spares_the_page_below_the_hole() {
    let world = World::new(1000, 2);
    let (memory, tree) = (&world.memory, world.trees[0]);
    let last = USER_TOP_PAGE - 1;
    let host = &mut |_: Frame, _: u8| Some(D);
    let flush = steps(|cursor| {
        let (all, allowed) = (Rights::ALL, &mut physical);
        let (frame, page) = (Frame(0x600), last - 1);
        map_identity::<HostFormat>(memory, frame, tree, page, 2, all, allowed, host, cursor, 9)
    });
    assert_eq!(flush, Ok(Flush::None));
    assert!(lookup::<HostFormat>(memory, tree.root, last).is_some());
    assert_eq!(lookup::<HostFormat>(memory, tree.root, last + 1), None);
}

const USER_TOP_PAGE: u64 = crate::addr::USER_TOP >> crate::addr::PAGE_BITS;

#[test]
fn guest_leaves_shrink_where_the_memory_type_changes() {
    let memory = Memory::new(100);
    let [host, guest] = [(); 2].map(|()| Tree::new(memory.allocate().unwrap(), 2));
    let _ = map::<HostFormat>(&memory, host, 0x200, Frame(0x400), 10, Rights::ALL, D).unwrap();
    // Frames 0x400 to 0x4ff are write-back, the rest uncacheable.
    let mut memory_type = |frame: Frame, order: u8| {
        let end = frame.0 + units(order);
        let kind = if end <= 0x500 { 6 } else { 0 };
        (frame.0 >= 0x500 || end <= 0x500).then_some(EptFormat::memory_type(kind))
    };
    let flush = steps(|cursor| {
        let types = &mut memory_type;
        copy::<EptFormat>(
            &memory,
            host.root,
            0x200,
            guest,
            0x200,
            9,
            Rights::ALL,
            types,
            cursor,
            50,
        )
    });
    assert_eq!(flush, Ok(Flush::None));
    memory.is_ept.set(true);
    assert_eq!(memory.at(guest.root, 0x2ff), Some((0x4ff, 7, 6 << 3)));
    assert_eq!(memory.at(guest.root, 0x300), Some((0x500, 7, 0)));
    let flush = steps(|cursor| {
        let types = &mut memory_type;
        copy::<EptFormat>(
            &memory,
            host.root,
            0x400,
            guest,
            0x400,
            9,
            Rights::ALL,
            types,
            cursor,
            50,
        )
    });
    assert_eq!(flush, Ok(Flush::None));
    assert_eq!(lookup::<EptFormat>(&memory, guest.root, 0x5ff).unwrap().order, 9);
}

#[test]
fn five_hundred_pages_take_one_walk() {
    let memory = Memory::new(100);
    let [source, target] = [(); 2].map(|()| Tree::new(memory.allocate().unwrap(), 1));
    for page in 0..512 {
        let _ =
            map::<HostFormat>(&memory, source, page, Frame(page ^ 5), 0, Rights::ALL, D).unwrap();
    }
    memory.accesses.set(0);
    let host = &mut |_: Frame, _: u8| Some(D);
    let step = copy::<HostFormat>(
        &memory,
        source.root,
        0,
        target,
        512,
        9,
        Rights::READ,
        host,
        &mut 0,
        1000,
    );
    assert_eq!(step, Ok(Step { done: true, flush: Flush::None }));
    let accesses = memory.accesses.get();
    assert!(accesses < 3 * 512 + 30, "{accesses} accesses");
}

/// A leaf of 1 GiB whose pages need single entries in the destination, where another one has to be split over 512
/// tables for them: each step makes few tables and touches few entries, however large the whole is.
#[test]
fn a_gib_is_split_in_small_steps() {
    const BUDGET: u64 = 64;
    let memory = Memory::new(2000);
    let [source, target] = [(); 2].map(|()| Tree::new(memory.allocate().unwrap(), 2));
    for (tree, frame) in [(source, 1 << 18), (target, 2 << 18)] {
        let _ = map::<HostFormat>(&memory, tree, 0, Frame(frame), 18, Rights::ALL, D).unwrap();
    }
    let (mut cursor, mut passes) = (0, 0);
    loop {
        memory.accesses.set(0);
        let tables = memory.in_use();
        let step = copy::<HostFormat>(
            &memory,
            source.root,
            0,
            target,
            0,
            18,
            Rights::READ,
            &mut |_, order| (order == 0).then_some(D),
            &mut cursor,
            BUDGET,
        )
        .unwrap();
        passes += 1;
        assert!(memory.in_use() - tables <= 2, "{} tables", memory.in_use() - tables);
        let accesses = memory.accesses.get();
        assert!(accesses < 2 * ENTRIES + 8 * BUDGET as usize, "{accesses} accesses");
        if step.done {
            break;
        }
    }
    assert_eq!(memory.in_use(), 2 * 2 + 1 + 512, "two of each, and those of the target's split");
    assert!(passes >= 512);
    assert_eq!(memory.at(target.root, 0x3_ffff), Some((0x7_ffff, 1, D)));
    // And back: a page taken out of each 2 MiB of a leaf that is whole.
    let whole = Tree::new(memory.allocate().unwrap(), 2);
    let _ = map::<HostFormat>(&memory, whole, 0, Frame(1 << 18), 18, Rights::ALL, D).unwrap();
    for page in (0..1 << 18).step_by(512) {
        memory.accesses.set(0);
        let done = clear::<HostFormat>(&memory, whole, page, 0, &mut 0, BUDGET);
        assert_eq!(done, Ok(Step { done: true, flush: Flush::Needed }));
        assert!(memory.accesses.get() < 3 * ENTRIES, "{}", memory.accesses.get());
    }
}
