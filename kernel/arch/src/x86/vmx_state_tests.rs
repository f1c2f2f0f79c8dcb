//! State moves there and back, and costs only what must be moved.

use super::*;
use crate::x86::event::VALID;
use crate::x86::guest_software::tests::page;
use crate::x86::vmx_controls::Allowed;
use std::cell::Cell;
use std::collections::HashMap;

#[derive(Default)]
struct Fake {
    fields: HashMap<u32, u64>,
    reads: Cell<usize>,
    writes: usize,
}

impl Vmcs for Fake {
    fn read(&self, field: u32) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.fields.get(&field).copied().unwrap_or(0)
    }
    fn write(&mut self, field: u32, value: u64) {
        self.writes += 1;
        self.fields.insert(field, value);
    }
}

fn cpu() -> Capabilities {
    Capabilities {
        pin: Allowed(0x0000_007f_0000_0016),
        primary: Allowed(0xfff9_fffe_0400_6172),
        secondary: Allowed(0x0017_7fff_0000_0000),
        exit: Allowed(0x01ff_ffff_0003_6dff),
        entry: Allowed(0x0003_ffff_0000_11ff),
        cr0_fixed: [0x8000_0021, 0xffff_ffff],
        cr4_fixed: [0x2000, 0x0037_67ff],
        ..Capabilities::default()
    }
}

struct Machine {
    vmcs: Fake,
    state: VmxState,
    software: Software,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self {
            vmcs: Fake::default(),
            state: VmxState::default(),
            software: Software::new(u64::MAX),
        };
        machine.state.reset(&mut machine.vmcs, &cpu(), &mut machine.software);
        machine
    }
    fn load(&mut self, page: &SharedPage, mtd: Mtd) -> usize {
        self.vmcs.writes = 0;
        self.software.load(page, mtd);
        self.state.load(&mut self.vmcs, &cpu(), &mut self.software, page, mtd);
        self.vmcs.writes
    }
    fn write_controls(&mut self) {
        self.state.write_controls(&mut self.vmcs, &cpu(), &self.software, false, true, false);
    }
    fn store(&mut self, page: &SharedPage, wanted: Mtd, reason: u32) -> usize {
        self.vmcs.reads.set(0);
        let (vmcs, software) = (&mut self.vmcs, &mut self.software);
        self.state.store(vmcs, &cpu(), software, page, wanted, reason, 0);
        self.vmcs.reads.get()
    }
}

/// A page whose architectural words are all different, with access rights that exist.
fn full_page() -> Box<SharedPage> {
    let page = page();
    for i in 5..80 {
        page.set_word(i, 0x0101_0101_0101 * i as u64);
    }
    for i in 0..8 {
        page.write_u16(offset::ES + 16 * i + 2, 0x1a93);
    }
    for table in [offset::GDTR, offset::IDTR] {
        page.write_u32(table, 0);
    }
    page.write_u64(offset::INTR_STATE, 1 << 32 | 2);
    page.write_u64(offset::INTR_INFO, 0);
    page.write_u64(offset::EFER, 0xd01);
    page.write_u64(offset::FMASK, 0x4_7700);
    page.write_u64(offset::CR0, 0x6000_0011);
    page.write_u64(offset::CR4, 0xffff_ffff_0000_0620);
    page
}

const ENTRY_ONLY: Mtd = Mtd(Mtd::CTRL.0 | Mtd::QUAL.0 | Mtd::INJ.0);

#[test]
fn what_goes_in_comes_out() {
    let mut machine = Machine::new();
    let from = full_page();
    machine.load(&from, Mtd::VCPU_EXIT);
    machine.state.entered();
    machine.vmcs.fields.insert(field::EXIT_INSTRUCTION_LENGTH, 3);
    let to = page();
    machine.store(&to, Mtd::VCPU_EXIT & !ENTRY_ONLY, 10);
    assert_eq!(to.read_u64(offset::INST_LEN), 3);
    for at in (offset::RIP..offset::EXIT_REASON).step_by(8) {
        let skipped = [offset::TSC_VAL, offset::CR8, offset::TSC_AUX, offset::TPR_THRESHOLD];
        if (offset::QUAL0..=offset::CTRL0).contains(&at) || skipped.contains(&at) {
            continue;
        }
        if (offset::EOI_BITMAP..offset::SPEC_CTRL).contains(&at)
            || at == offset::INTR_INFO
            || at == offset::VECT_INFO
        {
            continue;
        }
        let expected = match at {
            // LME without PG: LMA is off, whatever was written.
            offset::EFER => 0x901,
            _ => from.read_u64(at),
        };
        assert_eq!(to.read_u64(at), expected, "offset {at:#x}");
    }
}

#[test]
fn a_cpuid_exit_is_cheap() {
    let mut machine = Machine::new();
    let from = full_page();
    machine.load(&from, Mtd::VCPU_EXIT);
    machine.state.entered();
    let to = page();
    let all = machine.store(&to, Mtd::VCPU_EXIT, 10);
    assert!(all <= 47, "{all} VMREADs for everything");
    // From now on the table registers are watched, and known.
    assert!(machine.state.choose_watch(&cpu()));
    machine.write_controls();
    machine.state.entered();
    let all = machine.store(&to, Mtd::VCPU_EXIT, 10);
    assert!(all <= 35, "{all} VMREADs for everything");
    // Unchanged state given back costs no VMWRITE.
    assert_eq!(machine.load(&to, Mtd::VCPU_EXIT & !Mtd::CTRL & !Mtd::PDPTE), 0);
    machine.state.entered();
    let few = Mtd::ACDB | Mtd::RIP_LEN | Mtd::QUAL;
    assert_eq!(machine.store(&to, few, 10), 2);
    assert_eq!(machine.load(&to, Mtd::ACDB | Mtd::RIP_LEN), 0);
}

#[test]
fn what_the_guest_changed_is_read_again() {
    let mut machine = Machine::new();
    let from = full_page();
    machine.load(&from, Mtd::VCPU_EXIT);
    machine.state.entered();
    machine.vmcs.fields.insert(field::GUEST_RIP, 0x1234);
    let to = page();
    machine.store(&to, Mtd::VCPU_EXIT, 12);
    assert_eq!(to.read_u64(offset::RIP), 0x1234);
    to.write_u64(offset::RIP, 0x1235);
    assert_eq!(machine.load(&to, Mtd::RIP_LEN), 1);
    assert_eq!(machine.vmcs.fields[&field::GUEST_RIP], 0x1235);
}

#[test]
fn control_registers_show_the_guests_view() {
    let mut machine = Machine::new();
    let from = full_page();
    machine.load(&from, Mtd::CR);
    assert_eq!(machine.vmcs.fields[&field::GUEST_CR0], 0x31, "NE on, CD and NW off");
    assert_eq!(machine.vmcs.fields[&field::GUEST_CR4], 0x2620, "VMXE on, reserved off");
    machine.state.entered();
    // The guest sets TS and PGE, which are its own.
    machine.vmcs.fields.insert(field::GUEST_CR0, 0x39);
    machine.vmcs.fields.insert(field::GUEST_CR4, 0x26a0);
    let to = page();
    machine.store(&to, Mtd::CR, 10);
    assert_eq!(to.read_u64(offset::CR0), 0x6000_0019);
    assert_eq!(to.read_u64(offset::CR4), 0xffff_ffff_0000_06a0);
    // Watching TS now keeps its present value in the shadow.
    to.write_u64(offset::CR0_MON, 8);
    machine.load(&to, Mtd::CTRL);
    assert_eq!(machine.vmcs.fields[&field::CR0_SHADOW] & 8, 8);
    assert_eq!(machine.vmcs.fields[&field::CR0_MASK] & 8, 8);
}

#[test]
fn long_mode_follows_paging_without_a_vmread() {
    let mut machine = Machine::new();
    let from = full_page();
    from.write_u64(offset::EFER, 0x100);
    machine.load(&from, Mtd::CR | Mtd::EFER_PAT);
    let ia32e = |m: &Machine| m.vmcs.fields[&field::ENTRY_CONTROLS] & 1 << 9;
    assert_eq!(ia32e(&machine), 0);
    machine.state.entered();
    machine.vmcs.fields.insert(field::GUEST_CR0, 0x8000_0031);
    let to = page();
    machine.store(&to, Mtd::EFER_PAT, 10);
    assert_eq!(to.read_u64(offset::EFER), 0x500);
    to.write_u64(offset::EFER, 0x501);
    machine.load(&to, Mtd::EFER_PAT);
    assert_ne!(ia32e(&machine), 0);
}

#[test]
fn windows_and_events() {
    let mut machine = Machine::new();
    let from = page();
    from.write_u32(offset::INTR_INFO, VALID | 0x30 | 1 << 12);
    machine.load(&from, Mtd::INJ | Mtd::CTRL);
    machine.write_controls();
    machine.state.write_event(&mut machine.vmcs, &machine.software);
    assert_eq!(machine.vmcs.fields[&field::ENTRY_INTERRUPT_INFO], 0x8000_0030);
    assert_ne!(machine.vmcs.fields[&field::PRIMARY_CONTROLS] & 4, 0);
    let before = machine.vmcs.writes;
    machine.write_controls();
    assert_eq!(machine.vmcs.writes, before, "nothing changed, nothing written");
}

#[test]
fn an_exception_in_a_delivery_arms_it_again() {
    let mut machine = Machine::new();
    machine.state.entered();
    for (field, value) in [
        (field::EXIT_INTERRUPT_INFO, 0x8000_0b0e),
        (field::EXIT_ERROR_CODE, 2),
        (field::VECTORING_INFO, 0x8000_0030),
        (field::EXIT_QUALIFICATION, 0x7000),
    ] {
        machine.vmcs.fields.insert(field, value);
    }
    let to = page();
    machine.store(&to, Mtd::VCPU_EXIT, 0);
    assert_eq!(to.read_u64(offset::INTR_INFO), 2 << 32 | 0x8000_0b0e);
    assert_eq!(to.read_u64(offset::VECT_INFO), 0x8000_0030);
    assert_eq!(to.read_u64(offset::QUAL0), 0x7000);
    assert_eq!(machine.software.event, (0x8000_0030, 0));
}

#[test]
fn watched_tables_are_read_again_when_the_guest_touches_them() {
    let mut machine = Machine::new();
    let from = full_page();
    machine.load(&from, Mtd::VCPU_EXIT);
    assert!(machine.state.choose_watch(&cpu()));
    assert!(!machine.state.choose_watch(&cpu()));
    machine.write_controls();
    assert_ne!(machine.vmcs.fields[&field::SECONDARY_CONTROLS] & 4, 0);
    machine.state.entered();
    // LGDT exits; nobody asked for it; it is executed unwatched.
    machine.software.asked.secondary = 0;
    assert!(machine.state.release_tables(&mut machine.software));
    assert!(machine.state.choose_watch(&cpu()));
    machine.state.entered();
    machine.vmcs.fields.insert(field::GUEST_GDTR_BASE, 0x9000);
    let to = page();
    machine.store(&to, Mtd::VCPU_EXIT, 10);
    assert_eq!(to.read_u64(offset::GDTR + 8), 0x9000);
    assert!(machine.state.choose_watch(&cpu()), "watched again");
    // The monitor's own wish is the monitor's exit.
    machine.software.asked.secondary = secondary::DESCRIPTOR_TABLE;
    assert!(!machine.state.release_tables(&mut machine.software));
}
