//! Which VMCS a CPU holds: each must be cleared before the CPU loses power (Intel SDM vol. 3, 25.11.1).
//!
//! A CPU that clears all of them begins a new epoch. Whose VMCS is of an older one launches it anew.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{percpu, vmx_host};
use crate::MAX_CPUS;

/// How many are held before all are cleared.
const ROOM: usize = 32;

/// Frames of the VMCSs that each CPU holds, 0 for none; only that CPU uses its row.
static HELD: [[AtomicU64; ROOM]; MAX_CPUS] =
    [const { [const { AtomicU64::new(0) }; ROOM] }; MAX_CPUS];
static EPOCHS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(1) }; MAX_CPUS];

fn held() -> &'static [AtomicU64; ROOM] {
    &HELD[percpu::cpu_number() % MAX_CPUS]
}

/// The calling CPU's epoch; never 0.
pub fn epoch() -> u64 {
    EPOCHS[percpu::cpu_number() % MAX_CPUS].load(Relaxed)
}

/// The calling CPU is about to hold the VMCS in `frame`.
pub fn hold(frame: u64) {
    let free = || held().iter().find(|slot| slot.load(Relaxed) == 0);
    let slot = free().or_else(|| {
        clear_all();
        free()
    });
    if let Some(slot) = slot {
        slot.store(frame, Relaxed);
    }
}

/// The VMCS in `frame` was cleared on the calling CPU.
pub fn forget(frame: u64) {
    for slot in held().iter().filter(|slot| slot.load(Relaxed) == frame) {
        slot.store(0, Relaxed);
    }
}

/// Clears all that the calling CPU holds; none is current afterwards.
pub fn clear_all() {
    for slot in held() {
        let frame = slot.swap(0, Relaxed);
        if frame != 0 {
            vmx_host::vmclear(frame << 12);
        }
    }
    percpu::local().vmcs.store(0, Relaxed);
    EPOCHS[percpu::cpu_number() % MAX_CPUS].fetch_add(1, Relaxed);
}
