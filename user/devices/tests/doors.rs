//! Random words on every register door: no model may panic, whatever a guest writes, in whatever
//! order, at whatever time. (Overflow checks are on in test builds.)

use devices::board::{Board, Config};
use devices::pic::PicPair;
use devices::pit::Pit;
use devices::rtc::{Memory, Rtc};
use devices::uart::Uart;
use proptest::prelude::*;

/// One access: which port of the device, the word, a read or a write, and how much time passes.
type Access = (u16, u8, bool, u64);

fn accesses() -> impl Strategy<Value = Vec<Access>> {
    let step = prop_oneof![0..2000u64, 0..2_000_000_000u64, any::<u64>().prop_map(|t| t >> 4)];
    proptest::collection::vec((any::<u16>(), any::<u8>(), any::<bool>(), step), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn uart(words in accesses()) {
        let mut uart = Uart::new();
        for (offset, value, write, time) in words {
            if write {
                uart.write(offset, value);
            } else {
                uart.read(offset);
            }
            if time % 7 == 0 {
                let _ = uart.receive(value);
            }
            let _ = uart.irq();
        }
    }

    #[test]
    fn pic(words in accesses()) {
        let mut pic = PicPair::new();
        for (port, value, write, time) in words {
            let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][usize::from(port % 6)];
            if write {
                pic.write(port, value);
            } else {
                pic.read(port);
            }
            pic.set_line(value % 20, time & 1 != 0);
            if pic.pending() && time & 2 != 0 {
                pic.acknowledge();
            }
        }
    }

    #[test]
    fn pit(words in accesses()) {
        let mut pit = Pit::new();
        let mut now = 0_u64;
        for (port, value, write, time) in words {
            now = now.saturating_add(time);
            let _ = pit.advance(now);
            let port = [0x40, 0x41, 0x42, 0x43, 0x61][usize::from(port % 5)];
            if write {
                pit.write(port, value, now);
            } else {
                pit.read(port, now);
            }
            if let Some(deadline) = pit.next_deadline() {
                prop_assert!(deadline > now || now == u64::MAX);
            }
        }
    }

    #[test]
    fn rtc(words in accesses(), epoch in any::<u64>()) {
        let mut rtc = Rtc::new(epoch, Memory { below_4g: epoch, above_4g: epoch });
        let mut now = 0_u64;
        for (port, value, write, time) in words {
            now = now.saturating_add(time);
            rtc.advance(now);
            // Mostly the first sixteen cells, where the registers are.
            rtc.write(0x70, if port & 1 == 0 { value & 0x0f } else { value }, now);
            if write {
                rtc.write(0x71, (port >> 8) as u8, now);
            } else {
                rtc.read(0x71, now);
            }
            if let Some(deadline) = rtc.next_deadline() {
                prop_assert!(deadline > now || now == u64::MAX);
            }
        }
    }

    /// The whole board: any port, device memory, MSRs, interrupts taken at random moments.
    #[test]
    fn board(words in accesses(), more in proptest::collection::vec(any::<u64>(), 200)) {
        let mut board = Board::new(&Config {
            vcpus: 3,
            tsc_hz: 2_000_000_000,
            epoch: 1,
            memory: Memory::default(),
            x2apic: true,
        });
        let mut now = 0_u64;
        for ((pick, value, write, time), word) in words.into_iter().zip(more) {
            now = now.saturating_add(time);
            let vcpu = usize::from(value & 3);
            let size = [1, 2, 4, 8][usize::from(value >> 2 & 3)];
            let port = PORTS[usize::from(pick) % PORTS.len()].wrapping_add(pick >> 13);
            let page = [0xfec0_0000, 0xfee0_0000, word][usize::from(pick % 3)];
            let msr = [0x1b, 0x6e0, 0x800 | u32::from(pick & 0xff)][usize::from(pick % 3)];
            match (pick >> 8 & 3, write) {
                (0, true) => board.port_write(port, size, word as u32, now),
                (0, false) => {
                    board.port_read(port, size, now);
                }
                (1, true) => {
                    // Registers are at multiples of 16: hit them more often than chance would.
                    board.mmio_write(page | u64::from(pick & 0x3f) << 4, 4, word, vcpu, now);
                }
                (1, false) => {
                    board.mmio_read(page.wrapping_add(pick.into()), size, vcpu, now);
                }
                (2, true) => {
                    let _ = board.write_msr(vcpu, msr, word >> (pick & 63), now);
                }
                (2, false) => {
                    let _ = board.read_msr(vcpu, msr, now);
                }
                _ => {
                    board.advance(now);
                    let _ = board.receive(&word.to_le_bytes());
                    board.set_cr8(vcpu, value);
                    board.set_tsc_offset(vcpu, word, now);
                    board.press_power_button();
                }
            }
            prop_assert_eq!(board.has_pending(vcpu), board.acknowledge(vcpu).is_some());
            if value & 0x40 != 0 {
                while board.take_event().is_some() {}
                board.take_output();
            }
            let _ = board.next_deadline();
        }
    }
}

/// Ports around which something lives.
const PORTS: [u16; 16] = [
    0x20, 0x40, 0x43, 0x60, 0x64, 0x70, 0x71, 0x92, 0xa0, 0x3f8, 0x3fc, 0x4d0, 0x600, 0x608, 0xcf8,
    0xcfc,
];
