//! What the root program finds: information page, capabilities, registers.

use crate::world::{EC, PD, World, held};
use abi::cap::{ROOT_FREE, ROOT_SC};
use abi::hip::{HipView, MEMORY_OFFSET, MemoryKind};
use rt::{Crd, Utcb};

/// Checks that must come before anything is made.
pub fn untouched(world: &mut World) {
    let tally = &mut world.tally;
    let zero = Utcb::current().map(|utcb| (0..512).all(|word| utcb.get(8 * word) == 0));
    tally.equal("utcb is zero", zero, Some(true));
    tally.equal("selector 32 is the domain", held(PD), Crd::objects(PD, 0, 0x01));
    tally.equal("selector 33 is the thread", held(EC), Crd::objects(EC, 0, 0x0d));
    tally.equal("selector 34 is its time", held(ROOT_SC), Crd::objects(ROOT_SC, 0, 0x01));
    let events = (0..32).all(|sel| held(sel).is_null());
    tally.holds("selectors 0 to 31 are free", events);
    let rest = (ROOT_FREE..0x1000).all(|sel| held(sel).is_null());
    tally.holds("selectors from 35 are free", rest);
}

/// The family.
pub fn run(world: &mut World) {
    let hip = world.boot.hip;
    let cpu = world.boot.cpu;
    let tally = &mut world.tally;
    tally.holds("hip signature and checksum", HipView::new(hip.0).is_some());
    tally.equal("hip api version", hip.api_version(), abi::API_VERSION);
    tally.equal("hip selectors", hip.selector_count(), 1 << 26);
    tally.equal("hip exception selectors", hip.exception_selectors(), 32);
    tally.equal("hip user vectors", hip.user_vectors(), 192);
    let word = |at: usize| hip.0.get(at..at + 4).map(|b| [b[0], b[1], b[2], b[3]]);
    tally.equal("hip vm selectors", word(36).map(u32::from_le_bytes), Some(256));
    tally.equal("hip page size", word(44).map(u32::from_le_bytes), Some(4096));
    tally.equal("hip utcb size", word(48).map(u32::from_le_bytes), Some(4096));
    let layout: [u16; 6] = [144, 8, 1168, 16, MEMORY_OFFSET as u16, 24];
    let got: [u16; 6] = core::array::from_fn(|i| {
        let at = 8 + 2 * i;
        hip.0.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
    });
    tally.equal("hip descriptor layout", got, layout);
    tally.holds("hip names the boot cpu", hip.cpus().any(|each| each.number == cpu));
    tally.holds("hip tsc frequency", hip.tsc_khz() > 1000);
    let memory = || hip.memory();
    let kernels = memory().filter(|range| range.kind == MemoryKind::Hypervisor).count();
    tally.equal("hip one kernel region", kernels, 1);
    tally.equal(
        "hip kernel region is last",
        memory().last().map(|m| m.kind),
        Some(MemoryKind::Hypervisor),
    );
    tally.holds("hip has the root module", hip.modules().next().is_some_and(|m| m.size > 4096));
    tally.holds("hip has memory", memory().any(|m| m.kind == MemoryKind::Ram));
    tally.holds("hip has the firmware tables", hip.acpi().xsdt_rsdt != 0);
    tally.holds("hip has an io apic", hip.ioapics().next().is_some());
    tally.equal("hip is read only", rt::probe::write(abi::cap::ROOT_HIP, 1), None);
    tally.equal("utcb is writable", rt::probe::write(abi::cap::ROOT_UTCB + 0x18, 7), Some(()));
    tally.equal("text is read only", rt::probe::write(0x40_0000, 1), None);
    tally.equal("address 0 is not mapped", rt::probe::read(0), None);
    tally.equal("kernel half is not readable", rt::probe::read(0xffff_ffff_8000_0000), None);
}
