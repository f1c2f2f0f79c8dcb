//! The board as a guest sees it: stories over ports, memory and messages.

use super::bus::SERIAL;
use super::*;
use crate::clock::SECOND;

const LAPIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;

fn board(vcpus: usize) -> Board {
    Board::new(&Config {
        vcpus,
        tsc_hz: 1_000_000_000,
        epoch: 0,
        memory: Memory::default(),
        x2apic: false,
    })
}

fn events(board: &mut Board) -> Vec<Event> {
    core::iter::from_fn(|| board.take_event()).collect()
}

/// The 8259 pair as Linux sets it up, with only `irq` of the master open.
fn open_pic(board: &mut Board, irq: u8) {
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, !(1 << irq))] {
        board.port_write(port, 1, value as u8 as u32, 0);
    }
}

fn program(board: &mut Board, pin: u64, low: u64, high: u64) {
    for (half, value) in [(1, high), (0, low)] {
        assert!(board.mmio_write(IOAPIC, 4, 0x10 + 2 * pin + half, 0, 0).is_some());
        assert!(board.mmio_write(IOAPIC + 0x10, 4, value, 0, 0).is_some());
    }
}

fn start_pit(board: &mut Board, now: u64) {
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        board.port_write(port, 1, value, now);
    }
}

#[test]
fn the_timer_reaches_processor_0_through_the_virtual_wire() {
    let mut board = board(2);
    open_pic(&mut board, 0);
    start_pit(&mut board, 0);
    let at = board.next_deadline().unwrap();
    board.advance(at - 1);
    assert_eq!(events(&mut board), []);
    board.advance(at);
    assert_eq!(events(&mut board), [Event::Kick(0)]);
    assert_eq!(board.interrupt_for(0), Some(Interrupt::External));
    assert!(!board.has_pending(1));
    assert_eq!(board.acknowledge(0), Some(0x30));
    assert_eq!(board.acknowledge(0), None);
    board.port_write(0x20, 1, 0x60, at);
    let next = board.next_deadline().unwrap();
    board.advance(next);
    assert_eq!(events(&mut board), [Event::Kick(0)]);
}

#[test]
fn the_timer_reaches_a_processor_through_pin_2() {
    let mut board = board(2);
    assert!(board.mmio_write(LAPIC + 0xf0, 4, 0x1ff, 1, 0).is_some());
    program(&mut board, 2, 0x30, 1 << 24);
    start_pit(&mut board, 0);
    for tick in 1..5 {
        board.advance(board.next_deadline().unwrap());
        assert_eq!(events(&mut board), [Event::Kick(1)], "tick {tick}");
        assert_eq!(board.acknowledge(1), Some(0x30));
        assert!(board.mmio_write(LAPIC + 0xb0, 4, 0, 1, 0).is_some());
    }
}

#[test]
fn serial_output_and_input_with_interrupts() {
    let mut board = board(1);
    open_pic(&mut board, 4);
    board.port_write(SERIAL + 4, 1, 0x0b, 0);
    board.port_write(SERIAL + 1, 1, 0x01, 0);
    board.port_write(SERIAL, 1, b'h'.into(), 0);
    board.port_write(SERIAL, 1, b'i'.into(), 0);
    assert_eq!(events(&mut board), [Event::Output]);
    assert_eq!(board.take_output(), b"hi");
    assert_eq!(board.receive(b"ls\n"), 1, "no FIFO yet");
    assert_eq!(events(&mut board), [Event::Kick(0)]);
    assert_eq!(board.acknowledge(0), Some(0x34));
    assert_eq!(board.port_read(SERIAL + 5, 1, 0) & 1, 1);
    assert_eq!(board.port_read(SERIAL, 1, 0), b'l'.into());
    assert_eq!(board.unread(), 0);
}

#[test]
fn level_interrupt_of_the_sci_comes_back_until_cleared() {
    let mut board = board(1);
    program(&mut board, 9, 0x8039, 0);
    board.port_write(pm::PM1_EVENT + 2, 2, 1 << 8, 0);
    board.press_power_button();
    assert_eq!(board.acknowledge(0), Some(0x39));
    assert!(board.mmio_write(LAPIC + 0xb0, 4, 0, 0, 0).is_some());
    assert_eq!(board.acknowledge(0), Some(0x39), "still asserted");
    board.port_write(pm::PM1_EVENT, 2, 1 << 8, 0);
    assert!(board.mmio_write(LAPIC + 0xb0, 4, 0, 0, 0).is_some());
    assert_eq!(board.acknowledge(0), None);
}

#[test]
fn processors_are_started_as_linux_does() {
    let mut board = board(3);
    let ipi = |board: &mut Board, target: u64, low: u64| {
        assert!(board.mmio_write(LAPIC + 0x310, 4, target << 24, 0, 0).is_some());
        assert!(board.mmio_write(LAPIC + 0x300, 4, low, 0, 0).is_some());
        events(board)
    };
    assert_eq!(ipi(&mut board, 1, 0xc500), [Event::Init(1)]);
    assert_eq!(ipi(&mut board, 1, 0x8500), []);
    assert_eq!(ipi(&mut board, 1, 0x0699), [Event::StartUp { vcpu: 1, vector: 0x99 }]);
    assert_eq!(ipi(&mut board, 1, 0x0699), [], "the second start-up finds it running");
    assert!(board.mmio_write(LAPIC + 0xf0, 4, 0x1ff, 1, 0).is_some());
    assert_eq!(ipi(&mut board, 1, 0x00fd), [Event::Kick(1)]);
    assert_eq!(board.acknowledge(1), Some(0xfd));
    assert_eq!(ipi(&mut board, 0, 0xc_0400), [Event::Nmi(1), Event::Nmi(2)]);
    assert_eq!(ipi(&mut board, 0, 0x8_00fb), [Event::Kick(0)], "1 is busy, 2 is not enabled");
}

#[test]
fn lowest_priority_goes_to_one_listening_processor() {
    let mut board = board(3);
    for vcpu in 0..2 {
        assert!(board.mmio_write(LAPIC + 0xf0, 4, 0x1ff, vcpu, 0).is_some());
    }
    board.set_cr8(0, 3);
    program(&mut board, 4, 0x0141, 0xff << 24);
    board.port_write(SERIAL + 4, 1, 0x0b, 0);
    board.port_write(SERIAL + 1, 1, 0x02, 0);
    assert_eq!(events(&mut board), [Event::Kick(1)]);
}

#[test]
fn power_off_and_the_ways_to_reset() {
    let mut board = board(1);
    board.port_write(pm::PM1_CONTROL, 2, u32::from(pm::S5) << 10 | 1 << 13, 0);
    assert_eq!(events(&mut board), [Event::PowerOff]);
    for (port, value) in [(0xcf9, 6), (0x64, 0xfe), (0x92, 1)] {
        board.port_write(port, 1, value, 0);
        assert_eq!(events(&mut board), [Event::Reset], "port {port:#x}");
    }
}

#[test]
fn wide_accesses_are_split_and_unclaimed_ones_noted_once() {
    let mut board = board(1);
    board.port_write(SERIAL + 6, 2, 0x5a00, 0);
    assert_eq!(board.port_read(SERIAL + 7, 1, 0), 0x5a);
    assert_eq!(board.port_read(SERIAL + 7, 2, 0), 0xff5a);
    assert_eq!(board.unclaimed_total(), 0);
    for _ in 0..3 {
        assert_eq!(board.port_read(0x1234, 4, 0), u32::MAX);
    }
    board.port_write(0x1234, 1, 0, 0);
    assert_eq!(board.mmio_read(0xd000_0000, 8, 0, 0), None);
    assert_eq!(board.mmio_write(0xd000_0000, 2, 1, 0, 0), None);
    assert_eq!(board.unclaimed_total(), 6);
    let port = |size, write| Unclaimed { space: Space::Port, address: 0x1234, size, write };
    assert_eq!(board.take_unclaimed(), Some(port(4, false)));
    assert_eq!(board.take_unclaimed(), Some(port(1, true)));
    assert_eq!(board.take_unclaimed().unwrap().space, Space::Memory);
    assert!(board.take_unclaimed().unwrap().write);
    assert_eq!(board.take_unclaimed(), None);
    for address in 0..1000 {
        assert_eq!(board.mmio_read(address, 4, 0, 0), None);
    }
    assert_eq!(core::iter::from_fn(|| board.take_unclaimed()).count(), REMEMBERED - 4);
}

#[test]
fn msrs_are_those_of_the_local_apic_only() {
    let mut board = board(2);
    assert_eq!(board.read_msr(0, 0x1b, 0), Some(Ok(0xfee0_0900)));
    assert_eq!(board.read_msr(1, 0x1b, 0), Some(Ok(0xfee0_0800)));
    assert_eq!(board.read_msr(0, 0x802, 0), Some(Err(Fault)));
    assert_eq!(board.read_msr(0, 0x10, 0), None);
    assert!(board.mmio_write(LAPIC + 0x320, 4, 0x4_00ec, 0, 0).is_some());
    assert_eq!(board.write_msr(0, 0x6e0, SECOND, 0), Some(Ok(())));
    assert_eq!(board.next_deadline(), Some(SECOND));
    board.advance(SECOND);
    assert_eq!(events(&mut board), [Event::Kick(0)]);
    assert_eq!(board.acknowledge(0), Some(0xec));
    assert_eq!(board.mmio_read(LAPIC + 0x30, 4, 9, 0), None, "no such processor");
    assert_eq!(board.mmio_read(LAPIC + 0x32, 2, 0, 0), Some(0x0005));
}
