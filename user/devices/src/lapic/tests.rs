//! What Linux and the manual expect of a local APIC.

use super::*;
use crate::clock::SECOND;

const TSC: Clock = Clock::new(2_000_000_000);

fn enabled() -> Lapic {
    let mut lapic = Lapic::new(1, true, TSC, true);
    assert_eq!(lapic.write(0xf0, 0x1ff, 0), Effect::None);
    lapic
}

fn quiet(effect: Effect) {
    assert_eq!(effect, Effect::None);
}

#[test]
fn reset_state_is_what_linux_verifies() {
    let mut lapic = Lapic::new(3, false, TSC, false);
    assert_eq!(lapic.read(0x20, 0), 3 << 24);
    assert_eq!(lapic.read(0x30, 0), 0x0005_0014);
    assert_eq!(lapic.read(0xf0, 0), 0xff);
    assert_eq!(lapic.read(0xe0, 0), 0xffff_ffff);
    for offset in (0x320..=0x370).step_by(16) {
        assert_eq!(lapic.read(offset, 0), LVT_MASKED);
        quiet(lapic.write(offset, 0x31, 0));
        assert_eq!(lapic.read(offset, 0), LVT_MASKED | 0x31, "masked while software-disabled");
    }
    assert_eq!(lapic.read_msr(MSR_BASE, 0), Ok(0xfee0_0800));
    assert!(!lapic.accept(0x40, Trigger::Edge));
}

#[test]
fn priorities_decide_and_eoi_lets_the_next_through() {
    let mut lapic = enabled();
    for vector in [0x41, 0x45, 0x52] {
        assert!(lapic.accept(vector, Trigger::Edge));
    }
    assert_eq!(lapic.acknowledge(), 0x52);
    assert_eq!(lapic.read(0xa0, 0), 0x50);
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.read(0x220, 0), 0x22);
    assert_eq!(lapic.read(0x120, 0), 1 << 0x12);
    quiet(lapic.write(0xb0, 0, 0));
    assert_eq!(lapic.acknowledge(), 0x45);
    quiet(lapic.write(0xb0, 0, 0));
    quiet(lapic.write(0x80, 0x40, 0));
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.cr8(), 4);
    assert_eq!(lapic.acknowledge(), 0xff, "spurious");
    lapic.set_cr8(3);
    assert_eq!(lapic.pending(), Some(0x41));
}

#[test]
fn only_level_interrupts_tell_the_io_apic() {
    let mut lapic = enabled();
    assert!(lapic.accept(0x60, Trigger::Level));
    assert!(lapic.accept(0x61, Trigger::Edge));
    assert_eq!(lapic.acknowledge(), 0x61);
    quiet(lapic.write(0xb0, 0, 0));
    assert_eq!(lapic.acknowledge(), 0x60);
    assert_eq!(lapic.write(0xb0, 0, 0), Effect::EndOfLevel(0x60));
}

#[test]
fn one_shot_and_periodic_timers() {
    let mut lapic = enabled();
    quiet(lapic.write(0x3e0, 0x3, 0));
    quiet(lapic.write(0x320, 0xec, 0));
    quiet(lapic.write(0x380, 62_500_000, 0));
    assert_eq!(lapic.next_deadline(), Some(SECOND));
    assert_eq!(lapic.read(0x390, SECOND / 2), 31_250_000);
    lapic.advance(SECOND - 1);
    assert_eq!(lapic.pending(), None);
    lapic.advance(SECOND);
    assert_eq!(lapic.acknowledge(), 0xec);
    assert_eq!(lapic.next_deadline(), None);
    quiet(lapic.write(0xb0, 0, SECOND));
    quiet(lapic.write(0x320, 0x2_00ec, SECOND));
    quiet(lapic.write(0x3e0, 0xb, SECOND));
    quiet(lapic.write(0x380, 1_000_000, SECOND));
    for tick in 1..=100 {
        assert_eq!(lapic.next_deadline(), Some(SECOND + tick * 1_000_000));
        lapic.advance(SECOND + tick * 1_000_000);
        assert_eq!(lapic.acknowledge(), 0xec);
        quiet(lapic.write(0xb0, 0, 0));
    }
    quiet(lapic.write(0x320, LVT_MASKED | 0x2_00ec, SECOND));
    assert_eq!(lapic.next_deadline(), None);
    quiet(lapic.write(0x380, 0, SECOND));
    assert_eq!(lapic.read(0x390, SECOND), 0);
}

#[test]
fn tsc_deadline_knows_the_offset() {
    let mut lapic = enabled();
    quiet(lapic.write(0x320, 0x4_00ec, 0));
    quiet(lapic.write_msr(MSR_TSC_DEADLINE, 2_000_000_000, 0).unwrap());
    assert_eq!(lapic.next_deadline(), Some(SECOND));
    lapic.set_tsc_offset(1_000_000_000, 0);
    assert_eq!(lapic.next_deadline(), Some(SECOND / 2));
    assert_eq!(lapic.read_msr(MSR_TSC_DEADLINE, 1), Ok(2_000_000_000));
    lapic.advance(SECOND / 2);
    assert_eq!(lapic.acknowledge(), 0xec);
    assert_eq!(lapic.read_msr(MSR_TSC_DEADLINE, SECOND), Ok(0));
    quiet(lapic.write(0xb0, 0, 0));
    quiet(lapic.write_msr(MSR_TSC_DEADLINE, 1, SECOND).unwrap());
    assert_eq!(lapic.pending(), Some(0xec), "a deadline in the past fires at once");
}

#[test]
fn interprocessor_commands_become_messages() {
    let mut lapic = enabled();
    let mut send = |high: u32, low: u32| {
        quiet(lapic.write(0x310, high, 0));
        let effect = lapic.write(0x300, low, 0);
        assert_eq!(lapic.read(0x300, 0) & 1 << 12, 0);
        effect
    };
    let message = |vector, mode, destination| {
        Effect::Send(Message { vector, mode, trigger: Trigger::Edge, destination })
    };
    assert_eq!(send(2 << 24, 0xc500), message(0, Mode::Init, Destination::Physical(2)));
    assert_eq!(send(2 << 24, 0x8500), Effect::None);
    assert_eq!(send(2 << 24, 0x0699), message(0x99, Mode::StartUp, Destination::Physical(2)));
    assert_eq!(send(3 << 24, 0x08fd), message(0xfd, Mode::Fixed, Destination::Logical(3)));
    assert_eq!(send(0, 0xc_40fb), message(0xfb, Mode::Fixed, Destination::Others));
    assert_eq!(send(0, 0x4_40fb), message(0xfb, Mode::Fixed, Destination::Itself));
    assert_eq!(send(0, 0x8_4400), message(0, Mode::Nmi, Destination::All));
    assert_eq!(send(0xff << 24, 0x40fb), message(0xfb, Mode::Fixed, Destination::All));
    assert_eq!(send(2 << 24, 0x4003), Effect::None);
    assert_eq!(lapic.read(0x280, 0), 0);
    quiet(lapic.write(0x280, 0, 0));
    assert_eq!(lapic.read(0x280, 0), ESR_SEND_VECTOR);
}

#[test]
fn logical_destinations_flat_cluster_and_x2apic() {
    let mut lapic = enabled();
    quiet(lapic.write(0xd0, 0x0200_0000, 0));
    assert!(lapic.matches(Destination::Logical(0x03)));
    assert!(!lapic.matches(Destination::Logical(0x04)));
    quiet(lapic.write(0xe0, 0, 0));
    quiet(lapic.write(0xd0, 0x3200_0000, 0));
    assert!(lapic.matches(Destination::Logical(0x36)));
    assert!(lapic.matches(Destination::Logical(0xf2)));
    assert!(!lapic.matches(Destination::Logical(0x22)));
    assert!(lapic.matches(Destination::Physical(1)));
    let mut other = Lapic::new(0x23, false, TSC, true);
    quiet(other.write_msr(MSR_BASE, 0xfee0_0c00, 0).unwrap());
    assert!(other.matches(Destination::Logical(0x2_0008)));
    assert!(!other.matches(Destination::Logical(0x1_0008)));
    assert_eq!(other.read_msr(0x80d, 0), Ok(0x2_0008));
}

#[test]
fn x2apic_faults_where_the_page_forgives() {
    let mut lapic = Lapic::new(1, false, TSC, true);
    assert_eq!(lapic.read_msr(0x802, 0), Err(Fault));
    quiet(lapic.write_msr(MSR_BASE, 0xfee0_0c00, 0).unwrap());
    assert_eq!(lapic.page(), None);
    assert_eq!(lapic.read_msr(0x802, 0), Ok(1));
    for (msr, value) in [
        (0x802, 0),
        (0x80b, 1),
        (0x80e, 0),
        (0x80f, 1 << 12),
        (0x831, 0),
        (0x808, 0x100),
        (0x830, 1 << 20),
        (0x832, 1 << 32),
        (MSR_BASE, 0xfee0_0800),
        (MSR_BASE, 0xfee0_0400),
        (MSR_BASE, 0xfee0_0c01),
    ] {
        assert_eq!(lapic.write_msr(msr, value, 0), Err(Fault), "{msr:#x} {value:#x}");
    }
    quiet(lapic.write_msr(0x80f, 0x1ff, 0).unwrap());
    quiet(lapic.write_msr(0x83f, 0x77, 0).unwrap());
    assert_eq!(lapic.acknowledge(), 0x77);
    assert_eq!(
        lapic.write_msr(0x830, 5 << 32 | 0x40fb, 0).unwrap(),
        Effect::Send(Message {
            vector: 0xfb,
            mode: Mode::Fixed,
            trigger: Trigger::Edge,
            destination: Destination::Physical(5)
        })
    );
    let mut plain = Lapic::new(1, false, TSC, false);
    assert_eq!(plain.write_msr(MSR_BASE, 0xfee0_0c00, 0), Err(Fault));
}

#[test]
fn virtual_wire_and_nmi_pin() {
    let mut lapic = Lapic::new(0, true, TSC, false);
    assert_eq!(lapic.set_pin(0, true), None);
    assert!(!lapic.external());
    lapic.set_up_virtual_wire();
    assert!(lapic.external());
    assert_eq!(lapic.set_pin(1, true).unwrap().mode, Mode::Nmi);
    // Linux's check_timer() tries LINT0 as a plain fixed interrupt too.
    quiet(lapic.write(0x350, 0x31, 0));
    assert!(!lapic.external());
    assert_eq!(lapic.set_pin(0, false), None);
    assert_eq!(lapic.set_pin(0, true), None);
    assert_eq!(lapic.acknowledge(), 0x31);
    // Globally disabled, the pin is INTR of old.
    quiet(lapic.write_msr(MSR_BASE, 0xfee0_0100, 0).unwrap());
    assert!(lapic.external());
    lapic.init();
    assert_eq!(lapic.read(0x350, 0), LVT_MASKED);
}
