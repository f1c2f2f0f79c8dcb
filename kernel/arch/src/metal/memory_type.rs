//! Reads the MTRRs once; nested page tables ask for the type of each page they map.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use logic::addr::{Frame, PAGE_SIZE, units};
use sync::SpinLock;

use super::msr::read_msr;
use crate::x86::mtrr::{FIXED, Mtrrs, RANGES};

static MTRRS: SpinLock<Mtrrs> = SpinLock::new(Mtrrs::NONE);
/// The last block of 2^[`BLOCK`] frames that was asked for and has one type: its number, and the type in bits 7:0.
static LAST: AtomicU64 = AtomicU64::new(NOTHING);
const BLOCK: u8 = 9;
const NOTHING: u64 = u64::MAX;

const CAPABILITY: u32 = 0xfe;
const DEFAULT: u32 = 0x2ff;
const FIRST_RANGE: u32 = 0x200;
const FIXED_MSRS: [u32; 11] =
    [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// Copies the calling CPU's registers; all CPUs of a machine have the same (Intel SDM vol. 3, 11.11.8).
pub fn read() {
    let (Ok(capability), Ok(default)) = (read_msr(CAPABILITY), read_msr(DEFAULT)) else { return };
    let mut mtrrs = Mtrrs { default, fixed: [0; FIXED], ..Mtrrs::NONE };
    for (msr, types) in FIXED_MSRS.into_iter().zip(mtrrs.fixed.chunks_exact_mut(8)) {
        types.copy_from_slice(&read_msr(msr).unwrap_or(0).to_le_bytes());
    }
    let count = (capability & 0xff) as usize;
    for (number, range) in (0..).zip(mtrrs.ranges.iter_mut().take(count.min(RANGES))) {
        let msr = FIRST_RANGE + 2 * number;
        *range = (read_msr(msr).unwrap_or(0), read_msr(msr + 1).unwrap_or(0));
    }
    // A default of 0 with MTRRs off and none counted is an emulator that has none.
    if count != 0 || default != 0 {
        *MTRRS.lock() = mtrrs;
        LAST.store(NOTHING, Relaxed);
    }
}

/// The one memory type of the 2^`order` frames at `frame`, or none if they have several.
#[must_use]
#[inline]
pub fn memory_type(frame: Frame, order: u8) -> Option<u8> {
    let last = LAST.load(Relaxed);
    if order <= BLOCK && last >> 8 == frame.0 >> BLOCK {
        return Some(last as u8);
    }
    look_up(frame, order)
}

/// What the registers say of a block that was not the last one asked for.
#[inline(never)]
fn look_up(frame: Frame, order: u8) -> Option<u8> {
    let block = frame.0 >> BLOCK;
    let mtrrs = MTRRS.lock();
    if order <= BLOCK
        && let Some(one) = mtrrs.memory_type(Frame(block << BLOCK).address(), PAGE_SIZE << BLOCK)
    {
        LAST.store(block << 8 | u64::from(one), Relaxed);
        return Some(one);
    }
    mtrrs.memory_type(frame.address(), units(order).saturating_mul(PAGE_SIZE))
}
