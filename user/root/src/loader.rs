//! Pages into another domain: fresh memory, a program's segments, shared pages.
use abi::cap::{MEM_R, MEM_RW, MEM_RWX, MEM_W, MEM_X, PORT_ACCESS};
use abi::crd::ItemMeta;
use abi::{Crd, PAGE_BITS, PAGE_SIZE, Selector, Status, TypedItem};
use alloc::format;
use alloc::string::String;
use root::pool::Pool;
use root::program::{self, Segment};
use root::taken::Taken;
use rt::memory::{Window, blocks};
use rt::start::own_pd;

/// Which of a domain's tables a page goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// The program's.
    Host,
    /// Its guests'.
    Guest,
}

/// Gives physical memory to a domain at an address of one of its spaces; all page aligned.
///
/// # Errors
/// A sentence with the kernel's answer.
pub fn give(
    pd: Selector,
    physical: u64,
    bytes: u64,
    address: u64,
    rights: u8,
    space: Space,
) -> Result<(), String> {
    let flags = match space {
        Space::Host => ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL,
        Space::Guest => {
            ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL | ItemMeta::GUEST | ItemMeta::NO_HOST
        }
    };
    let (from, to) = (physical >> PAGE_BITS, address >> PAGE_BITS);
    for (done, order) in blocks(from, to, bytes.div_ceil(PAGE_SIZE)) {
        let item =
            TypedItem { crd: Crd::memory(from + done, order, rights), meta: flags.at(to + done) };
        let window = Crd::memory(to + done, order, MEM_RWX);
        rt::calls::delegate(own_pd(), pd, item, window)
            .map_err(|status| format!("memory at {address:#x}: {status}"))?;
    }
    Ok(())
}

/// Gives the machine's ports from `first` to `last` to a domain.
///
/// # Errors
/// A sentence with the kernel's answer.
pub fn give_ports(pd: Selector, first: u16, last: u16) -> Result<(), String> {
    let count = u64::from(last.saturating_sub(first)) + 1;
    for (done, order) in blocks(first.into(), first.into(), count) {
        let crd = Crd::ports(u64::from(first) + done, order, PORT_ACCESS);
        let meta = (ItemMeta::DELEGATE | ItemMeta::FROM_KERNEL).at(u64::from(first) + done);
        let window = Crd::ports(u64::from(first) + done, order, abi::cap::ALL);
        rt::calls::delegate(own_pd(), pd, TypedItem { crd, meta }, window)
            .map_err(|status| format!("port {first:#x}: {status}"))?;
    }
    Ok(())
}

/// Takes zeroed memory and keeps a window to it.
///
/// # Errors
/// A sentence.
pub fn fresh(pool: &mut Pool, bytes: u64) -> Result<(u64, Window), String> {
    let bytes = bytes.next_multiple_of(PAGE_SIZE);
    let physical = pool.take(bytes, PAGE_SIZE).ok_or("the machine has no memory left")?;
    let window = Window::physical(physical, bytes, MEM_RW)
        .map_err(|status| format!("cannot map {physical:#x}: {status}"))?;
    window.fill(0).ok_or("a window is not writable")?;
    Ok((physical, window))
}

/// Fills memory that nobody uses with zeros.
///
/// # Errors
/// A sentence.
pub fn scrub(physical: u64, bytes: u64) -> Result<(), String> {
    let window = Window::physical(physical, bytes, MEM_RW).map_err(refused)?;
    let filled = window.fill(0);
    window.close().map_err(refused)?;
    filled.ok_or("memory is not writable".into())
}

/// Gives an object to a domain, at a selector of its.
///
/// # Errors
/// A sentence with the kernel's answer.
pub fn give_object(pd: Selector, object: Selector, at: Selector, rights: u8) -> Result<(), String> {
    let item = TypedItem::delegate(Crd::objects(object, 0, rights), at);
    let window = Crd::objects(at, 0, abi::cap::ALL);
    rt::calls::delegate(own_pd(), pd, item, window).map(|_| ()).map_err(refused)
}

/// A sentence for the kernel's answer.
pub fn refused(status: Status) -> String {
    format!("the kernel answers {status}")
}

/// Loads an ELF file into a domain; the address of its first instruction. The memory is added to
/// `taken`.
///
/// # Errors
/// A sentence.
pub fn load(pool: &mut Pool, taken: &mut Taken, pd: Selector, file: &[u8]) -> Result<u64, String> {
    let program = program::parse(file, vmm::control::CONTROL)?;
    for segment in &program.segments {
        load_segment(pool, taken, pd, file, segment)?;
    }
    Ok(program.entry)
}

fn load_segment(
    pool: &mut Pool,
    taken: &mut Taken,
    pd: Selector,
    file: &[u8],
    segment: &Segment,
) -> Result<(), String> {
    let (physical, window) = fresh(pool, segment.size)?;
    taken.add(physical, segment.size.next_multiple_of(PAGE_SIZE));
    let start = segment.file_offset as usize;
    let bytes = file.get(start..start + segment.file_size as usize).ok_or("a segment is cut")?;
    window.copy_in(segment.skip as usize, bytes).ok_or("a segment is larger than its pages")?;
    let mut rights = MEM_R;
    if segment.write {
        rights |= MEM_W;
    }
    if segment.execute {
        rights |= MEM_X;
    }
    give(pd, physical, segment.size, segment.address, rights, Space::Host)?;
    window.close().map_err(refused)
}
