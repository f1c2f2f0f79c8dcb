//! Random words on every register door: no model may panic, whatever a guest writes, in whatever
//! order, at whatever time. (Overflow checks are on in test builds.)

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
}
