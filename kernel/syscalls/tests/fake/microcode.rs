//! Microcode reaches every processor in one piece, in steps that are short.

use abi::Status;
use abi::args::{MachineCtrl, Words};
use arch::{Deed, Machine, with_physical};
use logic::Frame;
use sync::Site;

use crate::world::{World, revoke, status_of};

/// Where the processor is told of it (Intel SDM vol. 3, 10.11.6), and the bytes before its data.
const TRIGGER: u32 = 0x79;
const HEADER: u64 = 48;
const FRAMES: usize = 1024;

fn update(size: u32, physical: u64) -> Words {
    MachineCtrl::UpdateMicrocode { size, physical }.encode()
}

/// What every CPU was told, in the order of the CPUs.
fn triggers() -> Vec<(usize, u64)> {
    let mut told: Vec<_> = Machine::take_deeds()
        .into_iter()
        .filter_map(|(cpu, deed)| match deed {
            Deed::WriteMsr(TRIGGER, address) => Some((cpu, address)),
            _ => None,
        })
        .collect();
    told.sort_unstable();
    told
}

#[test]
fn machine_ctrl_loads_microcode_on_every_processor() {
    let world = World::new(4, FRAMES);
    let (physical, pages) = (0x30_0800, 5);
    for page in 0..pages {
        with_physical(Frame(0x300 + page), &mut |bytes| {
            (0..512).for_each(|word| bytes.set_word(word, page << 32 | word as u64));
        });
    }
    let (free, used) = (world.free_frames(), world.root.pd.account.state());
    let _ = Machine::take_deeds();
    world.must(update(4 * 4096, physical));
    let told = triggers();
    assert_eq!(told.iter().map(|one| one.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let address = told[0].1;
    assert!(told.iter().all(|one| one.1 == address));
    assert_eq!(address & 0xfff, 0x800 + HEADER, "the data, behind its header");
    // Nobody has used the frames since.
    let (first, count) = world.pool.range();
    let at = |frame: u64| world.pool.virtual_address(Frame(frame));
    let copy = (first.0..first.0 + count).find(|frame| at(*frame) == address & !0xfff).unwrap();
    for page in 0..pages {
        let bytes = world.pool.page(Frame(copy + page));
        assert!((0..512).all(|word| bytes.word(word) == page << 32 | word as u64), "page {page}");
    }
    assert_eq!((world.free_frames(), world.root.pd.account.state()), (free, used));
}

#[test]
fn machine_ctrl_answers_success_whatever_the_processor_thinks() {
    let world = World::new(1, FRAMES);
    let _ = Machine::take_deeds();
    // Smaller than a header, and beyond all memory: nothing is tried.
    for words in
        [update(0, 0x1000), update(48, 0x1000), update(64, u64::MAX - 4), update(64, 1 << 45)]
    {
        assert_eq!(world.status(words), Status::Success);
        assert_eq!(triggers(), []);
    }
    assert_eq!(world.status(update(0xf_ffff, 0x1000)), Status::Success, "the most there can be");
    assert_eq!(triggers().len(), 1);
    assert_eq!(world.pool.frames_of(Site::KernelPage), 0);
}

#[test]
fn machine_ctrl_loads_one_update_at_a_time() {
    let world = World::new(2, FRAMES);
    let other = world.other();
    let _ = Machine::take_deeds();
    world.terminal.order(update(0x4000, 0x1000));
    (0..3).for_each(|_| world.step(0));
    other.order(update(0x4000, 0x1000));
    let refused = (0..20).find_map(|_| {
        world.step(1);
        other.result()
    });
    assert_eq!(refused.map(|back| status_of(&back)), Some(Status::BadPar));
    world.steps(40);
    assert_eq!(world.terminal.result().map(|back| status_of(&back)), Some(Status::Success));
    assert_eq!(triggers().len(), 2);
    other.order(update(0x4000, 0x1000));
    world.steps(60);
    assert_eq!(other.result().map(|back| status_of(&back)), Some(Status::Success));
}

/// A loader that died halfway holds nobody up.
#[test]
fn machine_ctrl_goes_on_after_a_loader_that_died() {
    let world = World::new(2, FRAMES);
    let other = world.other();
    other.order(update(0x4000, 0x1000));
    (0..3).for_each(|_| world.step(1));
    world.must(revoke(110, 1));
    assert_eq!(world.pool.frames_of(Site::KernelPage), 4, "its copy");
    assert_eq!(world.status(update(0x1000, 0x1000)), Status::Success);
    world.settle();
    assert_eq!(world.pool.frames_of(Site::KernelPage), 0);
}
