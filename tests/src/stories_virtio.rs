//! Stories about guests with virtual devices.

use crate::stories::{BOOT, DIED, Line, Load, REFUSED, Story, Tier};
use crate::stories_cells as cells;

/// A shell on a virtio console: what is typed comes there, a page of text and more goes out whole, and what the guest
/// takes slowly is not lost.
pub(crate) const CONSOLE: Story = Story {
    load: Load::Manifest("tests/manifests/console.dts"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("needs a reset"),
        Line::Says("~ #"),
        Line::Type("tty"),
        Line::Says("/dev/hvc0"),
        Line::Type("seq 5000 | tail -n 4000; echo end-$?"),
        Line::Says("\n1001\r\n1002\r\n"),
        Line::Says("\n4999\r\n5000\r\nend-0"),
        Line::Type("read line; echo \"got $line\""),
        Line::Type("some words that the guest reads"),
        Line::Says("got some words that the guest reads"),
        Line::Type("poweroff -f"),
        Line::Says("powered off"),
    ],
    timeout_s: 300,
    ..BOOT
};

/// A few lives of a guest with devices; what is free is the same after each.
pub(crate) const LIVES: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/devices.dts" },
    ..cells::FEW_LIVES
};

/// To this guest's console, and to its shell.
macro_rules! look {
    ($guest:literal) => {
        Line::Times(
            1,
            &[
                Line::Says("hematite> "),
                Line::Type(concat!("guest console ", $guest)),
                Line::Says("~ #"),
            ],
        )
    };
}

/// Gives the network device an address; its checks read as `up-0`.
macro_rules! up {
    ($address:literal) => {
        Line::Times(
            1,
            &[
                Line::Type(concat!(
                    "ip addr add ",
                    $address,
                    "/24 dev eth0; ip link set eth0 up; echo up-$?"
                )),
                Line::Says("up-0"),
                Line::Says("~ #"),
            ],
        )
    };
}

/// Back to the prompt.
const BACK: Line = Line::Type("\x1d");

/// Two Linux guests: each writes its own disk over the same boot module and reads back what it wrote, they reach each
/// other over the switch, and one that was taken apart and started again has a new disk and reaches the other again.
pub(crate) const PAIR_NET_DISK: Story = Story {
    load: Load::Manifest("guests/pair.dts"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("needs a reset"),
        Line::Never("writes fail"),
        Line::Never("FAIL:"),
        Line::Says("guest right started"),
        look!("left"),
        up!("10.0.0.1"),
        Line::Type("check-disk /dev/vda"),
        Line::Says("/dev/vda: 16384 sectors, all as written"),
        BACK,
        look!("right"),
        up!("10.0.0.2"),
        // The other's writes are not seen here.
        Line::Type("head -c 19 /dev/vda; cat /sys/block/vda/serial"),
        Line::Says("A disk of Hematite."),
        Line::Type("ping -c 5 10.0.0.1"),
        Line::Says("5 packets transmitted, 5 packets received"),
        Line::Type("check-disk /dev/vda"),
        Line::Says("/dev/vda: 16384 sectors, all as written"),
        BACK,
        Line::Says("hematite> "),
        Line::Type("guest stop left; guest destroy left; guest start left"),
        Line::Says("left is READY"),
        look!("left"),
        Line::Type("head -c 19 /dev/vda"),
        Line::Says("A disk of Hematite."),
        up!("10.0.0.1"),
        Line::Type("ping -c 5 -s 1400 10.0.0.2"),
        Line::Says("5 packets transmitted, 5 packets received"),
    ],
    cpus: 2,
    timeout_s: 900,
    tier: Tier::Long,
    ..BOOT
};

/// Both reach their prompts, see their disks and reach each other: what the slow engine has time for.
pub(crate) const PAIR_NET: Story = Story {
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("needs a reset"),
        Line::Never(" stopped"),
        Line::Says("guest right started"),
        look!("left"),
        up!("10.0.0.1"),
        Line::Type("head -c 19 /dev/vda"),
        Line::Says("A disk of Hematite."),
        BACK,
        look!("right"),
        up!("10.0.0.2"),
        Line::Type("head -c 19 /dev/vda"),
        Line::Says("A disk of Hematite."),
        Line::Type("ping -c 3 10.0.0.1"),
        Line::Says("3 packets transmitted, 3 packets received"),
    ],
    ..PAIR_NET_DISK
};
