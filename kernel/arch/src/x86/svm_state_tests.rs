//! The VMCB speaks VMX to the monitor, both ways.

use super::*;
use crate::x86::guest_software::tests::page;
use crate::x86::svm_vmcb::misc1;

fn full_page() -> Box<SharedPage> {
    let page = page();
    for i in 5..80 {
        page.set_word(i, 0x0101_0101_0101 * i as u64);
    }
    for i in 0..8 {
        let at = offset::ES + 16 * i;
        page.write_u64(at, 0xffff_0c93_0010 | (i as u64) << 3 | 0xffff << 48);
    }
    // SS at level 3; FS unusable.
    page.write_u16(offset::SS + 2, 0xcf3);
    page.write_u16(offset::FS + 2, 0x1000);
    for table in [offset::GDTR, offset::IDTR] {
        page.write_u32(table, 0);
    }
    page.write_u64(offset::INTR_STATE, 8);
    page.write_u64(offset::INTR_INFO, 0);
    page.write_u64(offset::EFER, 0xd01);
    page
}

#[test]
fn what_goes_in_comes_out() {
    let (from, block, to) = (full_page(), page(), page());
    let mut state = SvmState::default();
    let mut software = Software::new(u64::MAX);
    state.reset(&block);
    software.load(&from, Mtd::VCPU_EXIT);
    state.load(&block, &software, &from, Mtd::VCPU_EXIT);
    assert_eq!(block.read_u64(vmcb::EFER), 0x1d01);
    assert_eq!(block.read_u8(vmcb::CPL), 3);
    software.store(&to, Mtd::VCPU_EXIT, 255, 0);
    state.store(&block, &mut software, &to, Mtd::VCPU_EXIT, 255);
    for at in (offset::RIP..offset::TSC_VAL).step_by(8) {
        if matches!(at, offset::QUAL0..=offset::CTRL0 | offset::CR8 | offset::VECT_INFO) {
            continue;
        }
        assert_eq!(to.read_u64(at), from.read_u64(at), "offset {at:#x}");
    }
    assert_eq!(to.read_u64(offset::INST_LEN), 0);
}

#[test]
fn segments_translate() {
    let data = Segment { selector: 0x10, ar: 0xc93, limit: 0xffff_ffff, base: 0 };
    assert_eq!(from_svm(to_svm(data)), data);
    let unusable = Segment { ar: 0x1093, ..data };
    assert_eq!(to_svm(unusable).ar, 0);
    assert_eq!(from_svm(to_svm(unusable)).ar, UNUSABLE);
    // A page-granular descriptor that spans one page only.
    assert_eq!(from_svm(Segment { ar: 0x893, limit: 0xfff, ..data }).ar, 0x093);
}

#[test]
fn interrupt_shadow_obeys_the_flag() {
    let (block, from, to) = (page(), page(), page());
    let mut state = SvmState::default();
    let mut software = Software::new(1);
    from.write_u32(offset::INTR_STATE, MOV_SS);
    state.load(&block, &software, &from, Mtd::STA);
    assert!(!state.takes_nmi(&block));
    state.store(&block, &mut software, &to, Mtd::STA, 10);
    assert_eq!(to.read_u32(offset::INTR_STATE), MOV_SS);
    block.write_u64(vmcb::RFLAGS, RFLAGS_IF);
    state.store(&block, &mut software, &to, Mtd::STA, 10);
    assert_eq!(to.read_u32(offset::INTR_STATE), STI);
}

#[test]
fn nmi_injection_blocks_until_iret() {
    let block = page();
    let mut state = SvmState::default();
    let mut software = Software::new(1);
    software.event = (event::VALID | event::NMI | 2, 0);
    assert_eq!(state.write_event(&block, &software), Ok(()));
    assert!(state.nmi_blocked);
    state.write_controls(&block, &software, false);
    assert_ne!(block.read_u32(vmcb::INTERCEPT_MISC1) & misc1::IRET, 0);
    software.event.0 = event::VALID | 7 << 8;
    assert_eq!(state.write_event(&block, &software), Err(Refused));
}

#[test]
fn soft_events_move_rip_first() {
    let block = page();
    let mut state = SvmState::default();
    let mut software = Software::new(1);
    block.write_u64(vmcb::RIP, 0x1000);
    software.event = (event::VALID | event::SOFTWARE | 3, 0);
    software.event_length = 1;
    assert_eq!(state.write_event(&block, &software), Ok(()));
    assert_eq!(block.read_u64(vmcb::RIP), 0x1001);
    assert_eq!(block.read_u64(vmcb::EVENT_INJECTION), 0x8000_0303);
}

#[test]
fn clean_bits_fall_with_what_changes() {
    let (block, from) = (page(), full_page());
    let mut state = SvmState::default();
    let software = Software::new(1);
    state.load(&block, &software, &from, Mtd::VCPU_EXIT);
    state.write_place(&block, 1, 0, 0x1000, 0x2000, 0x3000);
    assert_eq!(block.read_u32(vmcb::CLEAN_BITS), 0);
    state.write_place(&block, 1, 0, 0x1000, 0x2000, 0x3000);
    assert_eq!(block.read_u32(vmcb::CLEAN_BITS), clean::ALL);
    from.write_u64(offset::CR3, 0x5000);
    state.load(&block, &software, &from, Mtd::VCPU_EXIT & !Mtd::CS_SS);
    state.write_place(&block, 1, 1, 0x1000, 0x2000, 0x3000);
    assert_eq!(block.read_u32(vmcb::CLEAN_BITS), clean::ALL & !clean::CR & !clean::ASID);
}

#[test]
fn a_refused_state_comes_back_whole() {
    let (from, block) = (full_page(), page());
    let mut state = SvmState::default();
    state.reset(&block);
    state.load(&block, &Software::new(1), &from, Mtd::VCPU_EXIT);
    state.keep_copy(&block, false);
    let before = block.read_u64(vmcb::RIP);
    block.write_u64(vmcb::RIP, 0xffff_ffff_8000_0000);
    state.settle_copy(&block, true);
    assert_eq!(block.read_u64(vmcb::RIP), before);
    assert_eq!(block.read_u64(vmcb::PAT), from.read_u64(offset::PAT));
    // Accepted once, nothing is copied until something doubtful is loaded.
    state.settle_copy(&block, false);
    state.keep_copy(&block, false);
    assert_eq!(state.copy, None);
}

/// State with a waiting external interrupt 0x30, as `write_virtual_interrupt` and `write_event` leave it.
fn with_interrupt(flags: u64, window: bool) -> (Box<SharedPage>, SvmState) {
    let block = page();
    let (mut state, mut software) = (SvmState::default(), Software::new(u64::MAX));
    block.write_u64(vmcb::RFLAGS, flags);
    software.event = (event::VALID | event::EXTERNAL | 0x30, 0);
    software.interrupt_window = window;
    state.write_virtual_interrupt(&block, &software, 0);
    state.write_event(&block, &software).unwrap();
    (block, state)
}

#[test]
fn an_interrupt_that_the_guest_takes_is_a_virtual_one() {
    let (block, mut state) = with_interrupt(RFLAGS_IF, false);
    assert_eq!(block.read_u64(vmcb::EVENT_INJECTION), 0);
    let word = block.read_u64(vmcb::VIRTUAL_INTERRUPT);
    assert_eq!(word >> virtual_interrupt::VECTOR_SHIFT, 0x30);
    assert_eq!(word & virtual_interrupt::IRQ, virtual_interrupt::IRQ);
    // Not taken: it was on its way.
    assert_eq!(state.raw(&block, false, false).int_info, 0x8000_0030);
    // Taken: nothing was.
    let (block, mut state) = with_interrupt(RFLAGS_IF, false);
    block.write_u64(vmcb::VIRTUAL_INTERRUPT, word & !virtual_interrupt::IRQ);
    assert_eq!(state.raw(&block, false, false).int_info, 0);
}

#[test]
fn an_interrupt_beside_a_window_or_with_if_clear_is_injected() {
    for (flags, window) in [(RFLAGS_IF, true), (0, false)] {
        let (block, mut state) = with_interrupt(flags, window);
        assert_eq!(block.read_u64(vmcb::EVENT_INJECTION), 0x8000_0030);
        let waits = block.read_u64(vmcb::VIRTUAL_INTERRUPT) & virtual_interrupt::IRQ != 0;
        assert_eq!(waits, window);
        assert_eq!(state.raw(&block, false, false).int_info, 0);
    }
}
